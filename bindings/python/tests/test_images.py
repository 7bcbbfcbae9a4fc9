"""Pictures from file to class."""

import json
import os

import numpy
import pytest

import libpeft as peft

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "tests", "data")
PICTURE = os.path.join(DATA, "images", "photo.ppm")


def pixels_of_ppm():
    with open(PICTURE, "rb") as file:
        data = file.read()
    height, width = 21, 30
    return numpy.frombuffer(data[-height * width * 3:], numpy.uint8).reshape(height, width, 3)


def test_processor():
    with peft.Context() as context:
        model = peft.Model(context, os.path.join(DATA, "models", "vision", "vit"))
        assert model.image_info["channels"] == 3 and model.image_info["patch_width"] == 4
        processor = peft.ImageProcessor(context, model)
        planes = processor(PICTURE)
        assert planes.shape == (3, 12, 12) and planes.dtype == numpy.float32
        with open(PICTURE, "rb") as file:
            assert (processor(file.read()) == planes).all()
        assert (processor(pixels_of_ppm()) == planes).all()
        assert (processor(PICTURE, flip=1.0) == planes[:, :, ::-1]).all()
        a, b = (processor(PICTURE, random_resized_crop=True, seed=s) for s in (1, 2))
        assert (a != b).any() and (a == processor(PICTURE, random_resized_crop=True, seed=1)).all()
        large = peft.ImageProcessor(context, model, json.dumps({"size": {"height": 300, "width": 310}}))
        assert large(PICTURE).shape == (3, 300, 310)
        with pytest.raises(peft.FormatError):
            processor(b"no picture")
        with pytest.raises(TypeError):
            processor(numpy.zeros((4, 4), numpy.float32))


def test_training(tmp_path):
    rng = numpy.random.default_rng(1)
    for label, colour in (("red", (220, 40, 40)), ("blue", (30, 60, 210))):
        (tmp_path / label).mkdir()
        for i in range(6):
            pixels = numpy.clip(numpy.full((14, 17, 3), colour) + rng.integers(-30, 30, (14, 17, 3)), 0, 255).astype(numpy.uint8)
            (tmp_path / label / f"{i}.ppm").write_bytes(b"P6 17 14 255\n" + pixels.tobytes())
    with peft.Context() as context:
        model = peft.Model(context, os.path.join(DATA, "models", "vision", "vit"), task="IMAGE_CLS", num_labels=2)
        data = peft.Dataset(context, model, tmp_path, format="images", batch_size=6, image_flip=0.5)
        assert data.label_names == ["blue", "red"] and data.label_examples == [6, 6]
        adapter = peft.Adapter(context, model, peft_type="VPT", num_virtual_tokens=4, deep=True)
        session = peft.Session(context, model, adapter)
        optimizer = peft.Optimizer(context, adapter, lr=3e-2)
        for _ in range(10):
            for batch in data:
                session.forward_backward(batch)
                optimizer.step(session)
        processor = peft.ImageProcessor(context, model)
        pictures = [processor(tmp_path / label / "0.ppm") for label in ("red", "blue")]
        answers = session.logits(peft.ImageBatch(context, model, pictures)).argmax(1)
        assert [data.label_names[a] for a in answers] == ["red", "blue"]
        batch = peft.ImageBatch(context, model, pictures + [processor(tmp_path / "red" / "1.ppm")[:, :8, :]], labels=[1, 0, 1])
        assert session.eval(batch)[1] == 3  # pictures of two sizes
        with pytest.raises(ValueError):
            peft.ImageBatch(context, model, [pictures[0][:1]])
