"""Hard prompts from Python."""

import os
import pathlib

import numpy
import pytest

import libpeft as peft

DATA = pathlib.Path(os.environ.get("PEFT_TEST_DATA", pathlib.Path(__file__).resolve().parents[3] / "tests" / "data"))

FILE = """
data: {test: none.csv}
labels: [account, billing, shipping]
template: "{text}:"
prompts:
  - name: words
    verbalizers: {account: account, billing: [bills, an invoice], shipping: parcel}
  - {name: shots, shots: 1, seeds: [0, 1]}
"""


def test_prompts(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text(FILE)
    files = {"data.test": DATA / "prompts" / "test.csv", "data.train": DATA / "prompts" / "train.csv"}
    with peft.Context(threads=1) as context:
        model = peft.Model(context, DATA / "models" / "gpt2")
        session = peft.Session(context, model)
        prompts = peft.Prompts(context, path, **files)
        assert len(prompts) == 2 and prompts.label_names == ["account", "billing", "shipping"]
        assert prompts[1] == {"name": "shots", "kind": "answers", "shots": 1, "seeds": 2, "calibrated": False}
        assert prompts.render(model, 0, row=3) == "where is my parcel, !:"
        result = prompts.run(session, 0, samples=10)
        assert result["scores"].shape == (7, 3) and (result["scores"].argmax(1) == result["predictions"]).all()
        assert result["accuracy"] == pytest.approx((result["labels"] == result["predictions"]).mean())
        assert result["accuracy_low"] <= result["accuracy"] <= result["accuracy_high"] and result["texts"] is None
        plain = prompts.run(session, 0, samples=10, no_cache=1)
        numpy.testing.assert_allclose(plain["scores"], result["scores"], rtol=1e-5, atol=1e-5)
        assert prompts.run(session, 1, seed=1, samples=0)["seed"] == 1
        with pytest.raises(peft.ArgumentError):
            prompts.run(session, 1, seed=2)
        with pytest.raises(peft.FormatError, match="did you mean"):
            peft.Prompts(context, path, temlate="x")
