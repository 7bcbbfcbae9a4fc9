"""The wrapper classes at work on a tiny model."""

import gc
import os
import signal
import threading
import time

import numpy
import pytest

import libpeft as peft

SEQUENCES = [[5, 9, 40, 7, 33, 21], [100, 12, 200, 31]]


def make(context, model, **keys):
    adapter = peft.Adapter(context, model, {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], **keys}, seed=1)
    return adapter, peft.Optimizer(context, adapter, lr=1e-2), peft.Session(context, model, adapter)


def test_training_lowers_the_loss_and_the_adapter_comes_back(context, model, tmp_path):
    adapter, optimizer, session = make(context, model)
    batch = peft.Batch(SEQUENCES)
    before, count = session.eval(batch)
    assert count == 8
    for _ in range(20):
        session.forward_backward(batch)
        stats = optimizer.step(session)
        assert stats["tokens"] == 8 and stats["grad_norm"] > 0
    after, _ = session.eval(batch)
    assert after < before - 0.1
    adapter.save(tmp_path / "adapter")
    again = peft.Adapter.load(context, model, tmp_path / "adapter")
    numpy.testing.assert_array_equal(again.parameters, adapter.parameters)
    assert set(again.tensors()) == set(adapter.tensors())
    other = peft.Session(context, model, again)
    numpy.testing.assert_array_equal(other.logits(batch), session.logits(batch))
    merged = peft.Session(context, model.merge([adapter]))
    numpy.testing.assert_allclose(merged.logits(batch), session.logits(batch), atol=2e-4)


def test_slices_and_threads_give_the_same_bits(model, context):
    results = []
    for threads, budget in ((1, None), (2, None), (2, 1)):
        with peft.Context(threads=threads) as own:
            here = peft.Model(own, model.info["name"] if os.path.isdir(model.info["name"]) else _path())
            adapter, optimizer, session = make(own, here)
            batch = peft.Batch(SEQUENCES)
            for _ in range(3):
                if budget is None:
                    session.forward_backward(batch)
                else:
                    session.begin(batch)
                    while not session.advance(budget):
                        pass
                optimizer.step(session)
            results.append(adapter.parameters)
    for other in results[1:]:
        numpy.testing.assert_array_equal(results[0], other)


def _path():
    from conftest import DATA

    return DATA / "models" / "llama-gqa"


def test_own_loss(context, model):
    adapter = peft.Adapter(context, model, peft_type="LORA", r=4, target_modules="all-linear", seed=1)
    session = peft.Session(context, model, adapter, own_loss=True)
    optimizer = peft.Optimizer(context, adapter, lr=1e-2)
    batch = peft.Batch(SEQUENCES, labels=None)
    margins = []
    for _ in range(8):
        session.forward(batch)
        logits = session.output()
        gradient = numpy.zeros_like(logits)
        gradient[-1, 7], gradient[-1, 8] = -1, 1
        margins.append(logits[-1, 7] - logits[-1, 8])
        session.set_output_grad(gradient)
        session.backward()
        optimizer.step(session)
    assert margins[-1] > margins[0] + 0.1


def test_gradients_as_flat_arrays(context, model):
    adapter, optimizer, session = make(context, model)
    batch = peft.Batch(SEQUENCES)
    session.forward_backward(batch)
    gradient = session.gradients(adapter)
    assert gradient.shape == (adapter.parameter_count,) and numpy.abs(gradient).max() > 0
    start = adapter.parameters
    session.set_gradients(adapter, numpy.zeros_like(gradient))
    optimizer.step(session)
    numpy.testing.assert_array_equal(adapter.parameters, start)


def test_errors_carry_the_sentence(context, model, tmp_path):
    with pytest.raises(peft.FileError, match="nowhere"):
        peft.Model(context, tmp_path / "nowhere")
    with pytest.raises(peft.MismatchError, match="q_proj"):
        peft.Adapter(context, model, peft_type="LORA", target_modules=["q_porj"])
    with pytest.raises(peft.PeftError):
        peft.Adapter(context, model, peft_type="NO_SUCH_METHOD")
    with pytest.raises(TypeError, match="unknown option"):
        peft.Optimizer(context, make(context, model)[0], learning_rate=1)
    session = make(context, model)[2]
    with pytest.raises(peft.ArgumentError):
        session.forward(peft.Batch([[5, 10**6]]))
    with pytest.raises(peft.StateError):
        session.backward()
    with pytest.raises(TypeError, match="float32"):
        make(context, model)[0].parameters = numpy.zeros(3)
    session.close()
    with pytest.raises(peft.StateError, match="closed"):
        session.zero_grad()


def test_objects_may_go_in_any_order():
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        context = peft.Context(threads=1)
        model = peft.Model(context, _path())
        adapter, optimizer, session = make(context, model)
        objects = [context, model, adapter, optimizer, session]
        del context, model, adapter, optimizer, session
        for index in order:
            objects[index] = None
            gc.collect()


def test_ctrl_c_stops_a_running_pass(context, model):
    _, _, session = make(context, model)
    batch = peft.Batch([list(range(3, 60))] * 8)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        while time.monotonic() - start < 20:
            session.forward_backward(batch)
            session.zero_grad()
    timer.cancel()
    assert time.monotonic() - start < 10
    try:
        session.zero_grad()
    except peft.CancelledError:
        session.zero_grad()
    assert session.eval(batch)[1] == 8 * 56  # the session still works


def test_exceptions_in_callbacks_come_out(context, model):
    session = peft.Session(context, model, inference=1)

    def fail(_text):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        session.generate([5, 9, 40], on_text=fail, max_new_tokens=30, ignore_eos=1)
    lines = []
    with peft.Context(log=lambda level, line: lines.append(line), log_level=4) as talking:
        peft.Model(talking, _path())
    assert all(isinstance(line, str) for line in lines)


def test_tokenizer_and_generation(context, model):
    tokenizer = model.tokenizer
    ids = tokenizer.encode("to be or not to be")
    assert ids.dtype == numpy.int32 and len(ids) > 0
    assert "to be or not" in tokenizer.decode(ids, skip_special=True)
    session = peft.Session(context, model, inference=1)
    first = session.generate(ids, max_new_tokens=5, ignore_eos=1)
    second = session.generate(ids, max_new_tokens=5, ignore_eos=1)
    numpy.testing.assert_array_equal(first, second)
    # Greedy generation picks the largest logit at each step.
    logits = session.logits(peft.Batch([ids], labels=None), last=True)
    assert int(logits[0].argmax()) == int(first[0])


def test_checkpoint_resumes_bit_equal(context, model, tmp_path):
    batch = peft.Batch(SEQUENCES)
    adapter, optimizer, session = make(context, model, lora_dropout=0.1)
    for step in range(6):
        session.forward_backward(batch)
        optimizer.step(session)
        if step == 2:
            session.save_checkpoint(optimizer, tmp_path / "checkpoint", state='{"step": 3}')
    want = adapter.parameters
    adapter, optimizer, session = make(context, model, lora_dropout=0.1)
    assert session.load_checkpoint(optimizer, tmp_path / "checkpoint") == '{"step": 3}'
    for _ in range(3):
        session.forward_backward(batch)
        optimizer.step(session)
    numpy.testing.assert_array_equal(adapter.parameters, want)


def test_dataset_from_tokens(context, model):
    data = peft.Dataset(context, model, batch_size=2, shuffle=0)
    for sequence in SEQUENCES + [[3, 4, 5]]:
        data.add(sequence)
    assert len(data) == 3 and data.batches == 2
    seen = [tuple(ids) for batch in data for ids, _ in batch.sequences()]
    assert seen == [tuple(s) for s in SEQUENCES + [[3, 4, 5]]]
    data.seek(1, 1)
    assert data.position == (1, 1)


def test_memory_is_known_before_it_is_taken(context, model):
    adapter, _, _ = make(context, model)
    info = peft.Session.memory(context, model, adapter, max_rows=64, max_sequences=2)
    assert info["activations"] >= info["activations_lower_bound"] > 0
    before = context.memory()["bytes"]
    session = peft.Session(context, model, adapter, max_rows=64, max_sequences=2)
    assert context.memory()["bytes"] - before >= info["activations"] + info["gradients"]
    session.close()


def test_encoder_decoder_models_choose_and_write(context):
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "tests", "data", "models", "t5-tiny")
    model = peft.Model(context, folder)
    adapter = peft.Adapter(context, model, {"peft_type": "IA3"}, seed=1)
    session = peft.Session(context, model, adapter, loss="tfew")
    optimizer = peft.Optimizer(context, adapter, kind="adafactor", lr=0.05)
    batch = peft.Batch([[14, 4, 35, 30], [7, 29, 20]], sequence_labels=[1, 0], targets=[[5, 39], [9, 3, 39], [12, 39], [8, 8, 39]],
                       target_source=[0, 0, 1, 1])
    before, count = session.eval(batch)
    assert count == 2
    for _ in range(30):
        session.forward_backward(batch)
        optimizer.step(session)
    assert session.eval(batch)[0] < before - 0.1
    nll, tokens = session.score(batch)
    assert list(tokens) == [2, 3, 2, 3]
    assert (nll / tokens).reshape(2, 2).argmin(axis=1).tolist() == [1, 0]
    assert session.logits(batch).shape == (10, 48)
    plain = peft.Session(context, model)
    assert plain.generate([40, 11, 19], num_beams=3, max_new_tokens=10).tolist() == [41, 17, 41, 25]


def test_unfreezing_and_rates_by_layer(context, model):
    plan = peft.Unfreezing(2, first_layers=1)
    assert [plan(step) for step in range(5)] == [1, 1, 2, 2, 3]
    adapter = peft.Adapter(context, model, {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}, seed=1)
    optimizer = peft.Optimizer(context, adapter, lr=1e-2, layer_lr_decay=0.5)
    names, session, batch = list(adapter.tensors()), peft.Session(context, model, adapter), peft.Batch(SEQUENCES)
    low, high = (next(i for i, name in enumerate(names) if f"layers.{layer}." in name) for layer in (0, 1))
    assert (optimizer.lr_scale(low), optimizer.lr_scale(high)) == (0.25, 0.5)
    optimizer.set_lr_scale(low, 2.0)
    assert optimizer.lr_scale(low) == 2.0
    before = adapter.tensors()
    for step in range(2):
        adapter.top_layers = plan(step)
        session.forward_backward(batch)
        optimizer.step(session)
    after = adapter.tensors()
    assert adapter.top_layers == 1
    for name in names:
        assert numpy.array_equal(before[name], after[name]) == ("layers.0." in name)
    with pytest.raises(peft.PeftError):
        adapter.top_layers = 0
