"""Labelled data from file to metric."""

import os

import numpy
import pytest

import libpeft as peft

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "tests", "data", "tasks")


def test_classes(tmp_path):
    with peft.Context() as context:
        model = peft.Model(context, os.path.join(DATA, "bert-tiny"), task="SEQ_CLS", num_labels=3)
        data = peft.Dataset(context, model, os.path.join(DATA, "tickets.csv"), batch_size=60)
        assert data.label_names == ["account", "billing", "shipping"] and data.label_examples == [20, 20, 20]
        adapter = peft.Adapter(context, model, peft_type="FULL")
        session = peft.Session(context, model, adapter, label_smoothing=0.05)
        optimizer = peft.Optimizer(context, adapter, lr=5e-3)
        for _ in range(25):
            for batch in data:
                session.forward_backward(batch)
                optimizer.step(session)
        batch = data.next()
        answers = session.logits(batch).argmax(1)
        scores = peft.metrics.classes(context, batch.sequence_labels, answers, 3)
        assert scores["accuracy"] > 0.9 and scores["confusion"].sum() == 60
        right = batch.sequence_labels == answers
        interval = peft.metrics.bootstrap(context, lambda i: right[i].mean(), len(right), 200)
        assert interval["low"] <= scores["accuracy"] == interval["value"] <= interval["high"]
        with pytest.raises(ZeroDivisionError):
            peft.metrics.bootstrap(context, lambda i: 1 / 0, 3, 10)


def test_answers_to_choose_among(tmp_path):
    """One question, three answers: an encoder-decoder model reads it once, a causal model three times, and both rank."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "two and two is", "kind": "b"}\n{"text": "red is", "kind": "a"}\n')
    models = os.path.join(DATA, "..", "models")
    options = dict(format="choices", input_template="{text}", verbalizers=[" yes", " no {text}", " so"], label_key="kind", label_names=["a", "b", "c"],
                   batch_size=2, shuffle=0)
    with peft.Context() as context:
        for name in ("t5-v11", "llama-gqa"):
            model = peft.Model(context, os.path.join(models, name))
            batch = peft.Dataset(context, model, path, **options).next()
            assert list(batch.sequence_labels) == [1, 0]
            session = peft.Session(context, model)
            nll, tokens = session.score(batch)
            best, losses = session.rank(batch)
            mean = (nll / tokens).reshape(2, 3)
            assert list(best) == list(mean.argmin(1))
            expected = mean[[0, 1], [1, 0]] + numpy.log(numpy.exp(-mean).sum(1))
            assert losses == pytest.approx(expected)


def test_other_measures():
    with peft.Context() as context:
        targets, guess = numpy.float32([[1, 0], [0, 1]]), numpy.float32([[2, -1], [1, 3]])
        assert peft.metrics.multi_label(context, targets, guess)["accuracy"] == 0.5
        assert peft.metrics.values(context, numpy.float32([1, 2, 3]), numpy.float32([2, 4, 6]))["pearson"] == pytest.approx(1)
        scores = peft.metrics.entities(context, [1, 2, 0, 1], [1, 2, 0, 0], [0, 2, 4], ["O", "B-X", "I-X"])
        assert scores["entities"] == 2 and scores["correct"] == 1 and scores["f1"] == pytest.approx(2 / 3)
        assert peft.metrics.answer(context, "the Cat.", ["cat"]) == (1.0, 1.0)
        with pytest.raises(ValueError):
            peft.metrics.classes(context, [1, 2], [1], 3)


def test_evaluation():
    with peft.Context() as context:
        path = os.path.join(DATA, "tickets.csv")
        names = peft.Dataset.labels(context, path, "classification").label_names
        model = peft.Model(context, os.path.join(DATA, "bert-tiny"), task="SEQ_CLS", label_names=names)
        assert model.config["label2id"] == {"account": 0, "billing": 1, "shipping": 2}
        data = peft.Dataset(context, model, path, batch_size=7)
        adapter = peft.Adapter(context, model, peft_type="LORA", r=2, target_modules=["query"])
        session = peft.Session(context, model, adapter, class_weights=data.balanced_weights())
        found = peft.Evaluation(session, data)
        assert len(found) == 60 and found.metric_names[0] == "accuracy" and found.label_names == names
        assert found.confusion().sum() == 60 and set(found.metrics()) == set(found.metric_names)
        interval = found.metric("accuracy", samples=100)
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert "label by prediction" in found.report()
        new = peft.Dataset(context, model, path, unlabelled=1, shuffle=0)
        rows = list(peft.Evaluation(session, new))
        assert len(rows) == 60 and rows[3]["row"] == 3 and rows[3]["prediction"] in rows[3]["scores"]
        assert peft.greater_is_better("macro_f1") and peft.greater_is_better("loss") is False and peft.greater_is_better("x") is None
        with pytest.raises(peft.ArgumentError, match="there are: accuracy"):
            found.metric("pearson")


def test_embeddings(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("anchor,positive\nis it by the sea,it is by the sea\nreturn it,the return\n")
    with peft.Context() as context:
        model = peft.Model(context, os.path.join(DATA, "bert-tiny"), task="FEATURE_EXTRACTION")
        data = peft.Dataset(context, model, path, "pairs", batch_size=2)
        session = peft.Session(context, model)
        batch = data.next()
        found = session.embed(batch)
        assert found.shape == (4, 32) and numpy.allclose((found ** 2).sum(1), 1, atol=1e-5)
        hidden, at = session.logits(batch), batch.offsets
        assert numpy.allclose(session.embed(batch, normalize=False)[1], hidden[at[1]:at[2]].mean(0), atol=1e-5)
