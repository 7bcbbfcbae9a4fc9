"""Makes the untrained tiny ViT that examples/recipes/vit-pretrain.yaml trains: random weights for grey pictures of 28 x 28 pixels and ten classes.

    python3 make_tiny_vit.py FOLDER        (needs numpy)
"""
import json
import pathlib
import struct
import sys

import numpy as np

WIDTH, LAYERS, HEADS, MLP, SIDE, PATCH, CLASSES = 64, 4, 4, 192, 28, 4, 10
NAMES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]  # Fashion-MNIST's, in its order


def weights(rng):
    def normal(*shape, scale=0.02):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(name, rows, cols):
        out[name + ".weight"] = normal(rows, cols, scale=(1.0 / cols) ** 0.5)
        out[name + ".bias"] = np.zeros(rows, np.float32)

    def norm(name):
        out[name + ".weight"], out[name + ".bias"] = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    patches = (SIDE // PATCH) ** 2
    out = {"vit.embeddings.cls_token": normal(1, 1, WIDTH), "vit.embeddings.position_embeddings": normal(1, 1 + patches, WIDTH)}
    projection = "vit.embeddings.patch_embeddings.projection"
    out[projection + ".weight"] = normal(WIDTH, 1, PATCH, PATCH, scale=1.0 / PATCH)
    out[projection + ".bias"] = np.zeros(WIDTH, np.float32)
    for i in range(LAYERS):
        p = f"vit.encoder.layer.{i}."
        norm(p + "layernorm_before")
        for part in ("query", "key", "value"):
            linear(p + "attention.attention." + part, WIDTH, WIDTH)
        linear(p + "attention.output.dense", WIDTH, WIDTH)
        norm(p + "layernorm_after")
        linear(p + "intermediate.dense", MLP, WIDTH)
        linear(p + "output.dense", WIDTH, MLP)
    norm("vit.layernorm")
    linear("classifier", CLASSES, WIDTH)
    return out


def save(path, tensors):
    header, offset = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "intermediate_size": MLP, "hidden_act": "gelu", "image_size": SIDE, "patch_size": PATCH, "num_channels": 1,
              "qkv_bias": True, "layer_norm_eps": 1e-6, "initializer_range": 0.02, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
              "id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_rescale": True,
                 "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5], "image_std": [0.5]}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
    tensors = weights(np.random.default_rng(7))
    save(folder / "model.safetensors", tensors)
    print(f"{sum(t.size for t in tensors.values()):,} parameters in {folder}")


if __name__ == "__main__":
    main()
