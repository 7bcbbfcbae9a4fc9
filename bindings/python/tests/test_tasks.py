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
