"""Makes the files of this folder that other programs' writers must have written (kquants.safetensors and the
qwen2 GGUF files are made by llama.cpp's quantisers and converter from a tiny random model).

    python make.py        needs torch, safetensors, numpy
"""
import json
import os
import torch
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))


def values(dtype, *shape):
    count = 1
    for n in shape:
        count *= n
    numbers = (torch.arange(count, dtype=torch.int64) * 7 + 3) % 11
    return (numbers % 2 == 0).reshape(shape) if dtype == torch.bool else numbers.to(dtype).reshape(shape)


mixed = {
    "z.weight": values(torch.float32, 2, 3),
    "a.weight": values(torch.float32, 4),
    "half": values(torch.float16, 3, 1),
    "brain": values(torch.bfloat16, 5),
    "ids": values(torch.int64, 2),
    "double": values(torch.float64, 2),
    "word": values(torch.int32, 3),
    "short": values(torch.int16, 3),
    "byte": values(torch.uint8, 3),
    "signed": values(torch.int8, 2),
    "flags": values(torch.bool, 3),
    "scalar": values(torch.float32),
    "empty": values(torch.float32, 0, 4),
    "caf\u00e9 \"quoted\" \\ tab\t": values(torch.float32, 1),
}
save_file(mixed, os.path.join(here, "mixed.safetensors"), metadata={"format": "pt"})
save_file({"w": values(torch.float8_e4m3fn, 4), "x": values(torch.float32, 2)},
          os.path.join(here, "float8.safetensors"))

numbers = [0.0, -0.0, 1.0, 2.5, 1e-05, 0.0001, 1e-4 / 3, 1e15, 1e16, 1.5e16, 123456789012345.6, 1e22, 1e100, 5e-324, 0.1,
           1 / 3, 2e-308, 1.7976931348623157e308, -2.0, 100.0, 1e-7, 12345.678, 0.30000000000000004, 1e23, 9007199254740993.0]
tree = {
    "numbers": numbers, "empty_list": [], "empty": {}, "null": None, "yes": True, "no": False, "int": -17,
    "text": "tab\t \"quote\" \\ / caf\u00e9 \U0001f600 \x7f \x01", "nested": {"b": [1, [2, {"c": 3}]], "a": "x"},
    "B": 1, "a": 2, "\u00e9": 3,
}
with open(os.path.join(here, "python.json"), "w") as file:
    json.dump(tree, file, indent=2, sort_keys=True)
with open(os.path.join(here, "python_line.json"), "w") as file:
    json.dump(tree, file)
