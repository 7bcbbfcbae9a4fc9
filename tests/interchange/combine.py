"""LoRA adapters combined here and by HF PEFT's add_weighted_adapter: the factors compared, and the products where those are not unique.

    python combine.py MODEL-FOLDER

DARE drops entries at random, so only its mean is compared: with density 1 nothing is dropped, and repeated draws average out to "linear".
Needs torch, transformers and peft; the library through PEFT_LIBRARY. One line a case, last line "N passed, N failed".
"""

import pathlib
import sys
import tempfile

import numpy
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bindings" / "python"))
import libpeft
import peft

RANK = 4
WEIGHTS = [0.7, -1.2, 0.4]
CASES = [("linear", 1.0, "total"), ("cat", 1.0, "total"), ("svd", 1.0, "total"), ("ties", 0.3, "total"), ("ties", 0.6, "frequency"),
         ("magnitude_prune", 0.4, "total"), ("dare_linear", 1.0, "total"), ("dare_ties", 1.0, "frequency"), ("ties_svd", 0.3, "total"),
         ("ties_svd", 0.5, "frequency"), ("magnitude_prune_svd", 0.25, "total"), ("dare_linear_svd", 1.0, "total"), ("dare_ties_svd", 1.0, "total")]


def products(tensors, scale=1.0):
    """Name of each layer -> s B A."""
    return {name.replace(".lora_A.weight", ""): scale * tensors[name.replace("lora_A", "lora_B")].astype(numpy.float64) @ values
            for name, values in tensors.items() if ".lora_A." in name}


def there(model, names, weights, method, density, majority):
    if "combined" in model.peft_config:
        model.delete_adapter("combined")
    rank = RANK if method.endswith("svd") else None
    options = {} if density == 1.0 and "dare" not in method else {"density": density, "majority_sign_method": majority}
    model.add_weighted_adapter(names, weights, "combined", combination_type=method, svd_rank=rank, **options)
    state = peft.get_peft_model_state_dict(model, adapter_name="combined")
    config = model.peft_config["combined"]
    return products({k: v.numpy() for k, v in state.items()}, config.lora_alpha / config.r)


def largest(a, b):
    assert sorted(a) == sorted(b), (sorted(a)[:2], sorted(b)[:2])
    return max(float(numpy.abs(a[name] - b[name]).max() / max(1e-9, numpy.abs(b[name]).max())) for name in a)


def averaged(context, model, adapters, method):
    """Products of DARE's factors averaged over many seeds, A and B apart."""
    draws = [libpeft.Adapter.combine(context, model, adapters, WEIGHTS, method, density=0.5, seed=seed).tensors() for seed in range(400)]
    return {name: sum(d[name].astype(numpy.float64) for d in draws) / len(draws) for name in draws[0]}


def main():
    transformers.logging.set_verbosity_error()
    path, passed, failed = sys.argv[1], 0, 0
    context = libpeft.Context()
    base = libpeft.Model(context, path)
    hf = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    adapters, names, model = [], [], None
    with tempfile.TemporaryDirectory() as folder:
        for i in range(3):
            adapter = libpeft.Adapter(context, base, peft_type="LORA", r=RANK, lora_alpha=3 + i, target_modules=["q_proj", "down_proj"], seed=i)
            adapter.parameters = adapter.parameters + numpy.random.RandomState(i).randn(adapter.parameter_count).astype(numpy.float32) * 0.1
            adapter.save(f"{folder}/{i}")
            adapters.append(adapter)
            names.append(f"a{i}")
            if model is None:
                model = peft.PeftModel.from_pretrained(hf, f"{folder}/{i}", adapter_name=names[0])
            else:
                model.load_adapter(f"{folder}/{i}", adapter_name=names[i])
    for method, density, majority in CASES:
        result = libpeft.Adapter.combine(context, base, adapters, WEIGHTS, method, rank=RANK if method.endswith("svd") else 0, density=density,
                                         majority=majority)
        worst = largest(products(result.tensors()), there(model, names, WEIGHTS, method, density, majority))
        good = worst <= 1e-4
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {method:20} density {density:g} {majority:10} largest difference {worst:.1e}")
    mean, linear = averaged(context, base, adapters, "dare_linear"), libpeft.Adapter.combine(context, base, adapters, WEIGHTS, "linear").tensors()
    off = max(float(numpy.abs(mean[name] - linear[name]).max() / numpy.abs(linear[name]).max()) for name in mean)
    good = off < 0.35  # 400 draws of values that are doubled or dropped: 5 % of a value's size each, the worst of thousands
    passed, failed = passed + good, failed + (not good)
    print(f"{'ok  ' if good else 'FAIL'} dare_linear averages out to linear: {off:.2f}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
