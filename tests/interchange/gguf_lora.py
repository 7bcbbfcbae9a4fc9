"""LoRA adapters in GGUF, run by llama.cpp: logits of base and adapter there against ours.

    python gguf_lora.py MODEL.gguf...

Needs numpy and llama-cpp-python; the library through PEFT_LIBRARY. Models in F32: llama.cpp rounds activations to the type of the weights, and its
cache is set to F32 here; what is left is its table of GELU values (GPT-2: 2e-3). Last line "N passed, N failed".
"""

import pathlib
import sys
import tempfile

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bindings" / "python"))
import libpeft
import llama_cpp

TOKENS = [5, 9, 40, 7, 33, 21, 12, 3]
LLAMA = ["q_proj", "k_proj", "v_proj", "down_proj"]
CASES = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 4, "lora_alpha": 3, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 6, "rank_pattern": {"0.self_attn.q_proj": 2}, "alpha_pattern": {"1.self_attn.q_proj": 11}},
    "pissa": {"r": 2, "lora_alpha": 4, "init_lora_weights": "pissa"},
}


def theirs(path, adapter):
    model = llama_cpp.Llama(str(path), lora_path=str(adapter), n_ctx=32, logits_all=True, verbose=False, n_threads=1, n_batch=32, type_k=0, type_v=0)
    model.eval(TOKENS)
    return numpy.array(model.scores[: len(TOKENS)], dtype=numpy.float32)


def ours(context, model, adapter=None):
    return libpeft.Session(context, model, adapter or (), inference=1).logits(libpeft.Batch([TOKENS], labels=None))


def targets(model):
    names = [m["name"] for m in model.modules()]
    return LLAMA if any(n.endswith("q_proj") for n in names) else ["c_attn", "c_proj", "c_fc"]


def trained(context, model, config):
    adapter = libpeft.Adapter(context, model, {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": targets(model), **config}, seed=3)
    values = numpy.random.default_rng(7)
    adapter.parameters = adapter.parameters + 0.05 * values.standard_normal(adapter.parameters.shape).astype(numpy.float32)
    return adapter


def main():
    context = libpeft.Context()
    passed = failed = 0
    for path in map(pathlib.Path, sys.argv[1:]):
        model = libpeft.Model(context, path)
        base_here = ours(context, model)
        for name, config in CASES.items():
            adapter = trained(context, model, config)
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder) / "adapter.gguf"
                adapter.export_gguf(file)
                back = libpeft.Adapter.import_gguf(context, model, file)
                here, there, again = ours(context, model, adapter), theirs(path, file), ours(context, model, back)
            most = numpy.abs(here - base_here).max()
            worst = numpy.abs(here - there).max()
            good = most > 0.1 and worst <= 5e-3 and numpy.abs(here - again).max() <= 1e-4
            passed, failed = passed + good, failed + (not good)
            print(f"{'ok  ' if good else 'FAIL'} {path.name:22} {name:10} change {most:.2f}, logits differ by {worst:.1e}, "
                  f"read back by {numpy.abs(here - again).max():.1e}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
