import pathlib

import pytest

import libpeft as peft

DATA = pathlib.Path(__file__).resolve().parents[3] / "tests" / "data"


@pytest.fixture
def context():
    with peft.Context(threads=2) as made:
        yield made


@pytest.fixture
def model(context):
    return peft.Model(context, DATA / "models" / "llama-gqa")
