"""Adapters both ways between libpeft and HF PEFT: trained here and loaded there, trained there and loaded here, logits compared.

    python hf_peft.py MODEL-FOLDER [NAME...]

Causal language models, and encoders as sequence classifiers with a head that comes with the adapter.

Needs torch, transformers and peft; the library through PEFT_LIBRARY. One line a case, last line "N passed, N failed".
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bindings" / "python"))
import libpeft
import peft

CASES = {
    "lora": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "lora-all-linear": {"peft_type": "LORA", "r": 3, "target_modules": "all-linear"},
    "lora-rs": {"peft_type": "LORA", "r": 4, "use_rslora": True, "target_modules": ["k_proj", "up_proj"]},
    "lora-dora": {"peft_type": "LORA", "r": 4, "use_dora": True, "target_modules": ["q_proj", "down_proj"]},
    "lora-patterns": {"peft_type": "LORA", "r": 4, "target_modules": r".*\.(q|o)_proj", "rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 5}},
    "lora-layers": {"peft_type": "LORA", "r": 4, "target_modules": ["v_proj"], "layers_to_transform": [1]},
    "lora-embedding": {"peft_type": "LORA", "r": 4, "target_modules": ["embed_tokens", "v_proj"]},
    "lora-pissa": {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "init_lora_weights": "pissa", "target_modules": ["q_proj", "down_proj"]},
    "lora-pissa-rs": {"peft_type": "LORA", "r": 4, "use_rslora": True, "init_lora_weights": "pissa", "target_modules": ["v_proj"]},
    "lora-orthogonal": {"peft_type": "LORA", "r": 4, "init_lora_weights": "orthogonal", "target_modules": ["q_proj", "v_proj"]},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5},
    "prefix-projection": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 24},
    "p-tuning-mlp": {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "encoder_hidden_size": 24},
    "p-tuning-lstm": {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "encoder_hidden_size": 24, "encoder_reparameterization_type": "LSTM"},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "ln-tuning": {"peft_type": "LN_TUNING", "target_modules": ["input_layernorm", "norm"]},
    "vera": {"peft_type": "VERA", "r": 8, "target_modules": ["q_proj", "v_proj"]},
    "vera-bare": {"peft_type": "VERA", "r": 8, "save_projection": False, "projection_prng_key": 7, "target_modules": ["q_proj", "down_proj"]},
    "loha": {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "lokr": {"peft_type": "LOKR", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "lokr-both": {"peft_type": "LOKR", "r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 8, "init_weights": "lycoris", "target_modules": ["q_proj", "up_proj"]},
    "oft": {"peft_type": "OFT", "oft_block_size": 8, "r": 0, "target_modules": ["q_proj", "v_proj"]},
    "oft-exact": {"peft_type": "OFT", "oft_block_size": 0, "r": 4, "use_cayley_neumann": False, "target_modules": ["q_proj", "v_proj"]},
    "oft-shared": {"peft_type": "OFT", "oft_block_size": 4, "r": 0, "block_share": True, "num_cayley_neumann_terms": 3, "target_modules": ["q_proj", "o_proj"]},
    "oft-coft": {"peft_type": "OFT", "oft_block_size": 8, "r": 0, "coft": True, "eps": 0.01, "target_modules": ["q_proj", "v_proj"]},
    "adalora-pruned": {"peft_type": "ADALORA", "init_r": 3, "target_r": 1, "total_step": 4, "tfinal": 1, "target_modules": ["q_proj", "v_proj"]},
    "adalora": {"peft_type": "ADALORA", "init_r": 6, "target_r": 4, "total_step": 100, "target_modules": ["q_proj", "v_proj"]},
}
QUERY = {"distilbert": ["q_lin", "v_lin"], "albert": ["query", "ffn"]}
DOWN = {"distilbert": "ffn.lin2", "albert": "ffn_output"}
NORM = {"distilbert": "output_layer_norm", "albert": "full_layer_layer_norm"}


def encoder_cases(kind):
    query, down, norm = QUERY.get(kind, ["query", "value"]), DOWN.get(kind, "output.dense"), NORM.get(kind, "output.LayerNorm")
    cases = {
        "lora": {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": query},
        "lora-all-linear": {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"},
        "lora-dora": {"peft_type": "LORA", "r": 2, "use_dora": True, "target_modules": query},
        "ia3": {"peft_type": "IA3", "target_modules": [query[0], down], "feedforward_modules": [down]},
        "ln-tuning": {"peft_type": "LN_TUNING", "target_modules": [norm]},
        "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5},
        "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5},
        "prefix-projection": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 24},
        "p-tuning-mlp": {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "encoder_hidden_size": 24},
    }
    widths = {"electra": 6, "albert": 6, "distilbert": 8}  # PEFT takes hidden_size as the width of embeddings
    for name in ("prompt", "p-tuning-mlp"):
        cases[name].update({"token_dim": widths[kind]} if kind in widths else {})
    # transformers has no past_key_values for these; PEFT's all-linear takes DistilBERT's pre_classifier, which it then cannot train whole
    missing = {"distilbert": ("prefix", "prefix-projection", "lora-all-linear"), "albert": ("prefix", "prefix-projection")}
    return {name: config for name, config in cases.items() if name not in missing.get(kind, ())}


SEQUENCES = [[5, 9, 40, 7, 33, 21], [100, 12, 200, 31]]


class Causal:
    task, auto, sequences = "CAUSAL_LM", transformers.AutoModelForCausalLM, SEQUENCES

    @staticmethod
    def batch():
        return libpeft.Batch(SEQUENCES)

    @staticmethod
    def rows(config):
        return config["num_virtual_tokens"] if config["peft_type"] in ("PROMPT_TUNING", "P_TUNING") else 0


class Classes:
    task, auto, sequences = "SEQ_CLS", transformers.AutoModelForSequenceClassification, [[5, 9, 14, 7, 3, 21], [10, 12, 20, 11]]

    @staticmethod
    def batch():
        return libpeft.Batch(Classes.sequences, labels=None, sequence_labels=[2, 0])

    @staticmethod
    def rows(config):
        return 0


def one_label(path, folder):
    """The model with one class a sequence, whatever it was made for: what both sides are trained with here."""
    shutil.copytree(path, folder, dirs_exist_ok=True)
    file = pathlib.Path(folder) / "config.json"
    config = json.loads(file.read_text())
    config.pop("problem_type", None)
    file.write_text(json.dumps(config))
    return folder


def hf_logits(kind, model, virtual=0):
    rows = []
    with torch.no_grad():
        for sequence in kind.sequences:
            logits = model(input_ids=torch.tensor([sequence])).logits
            rows.append((logits[0] if logits.ndim == 3 else logits).numpy()[virtual:])
    return numpy.concatenate(rows)


def libpeft_logits(kind, context, model, adapter, virtual=0):
    session = libpeft.Session(context, model, adapter, inference=1)
    return numpy.concatenate([session.logits(libpeft.Batch([sequence], labels=None))[virtual:] for sequence in kind.sequences])


def here_to_there(kind, context, path, config, folder):
    model = libpeft.Model(context, path, kind.task)
    adapter = libpeft.Adapter(context, model, {"task_type": kind.task, **config}, seed=3)
    optimizer = libpeft.Optimizer(context, adapter, lr=0.05)
    session = libpeft.Session(context, model, adapter)
    for _ in range(4):
        session.forward_backward(kind.batch())
        optimizer.step(session)
    adapter.save(folder)
    ours = libpeft_logits(kind, context, model, adapter, kind.rows(config))
    theirs = peft.PeftModel.from_pretrained(kind.auto.from_pretrained(path), folder).eval()
    return numpy.abs(ours - hf_logits(kind, theirs, kind.rows(config))).max()


def there_to_here(kind, context, path, config, folder):
    torch.manual_seed(5)
    kinds = {k: v for k, v in config.items() if k != "peft_type"}
    model = peft.get_peft_model(kind.auto.from_pretrained(path), peft.get_peft_config({"peft_type": config["peft_type"], "task_type": kind.task, **kinds}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    ours_model = libpeft.Model(context, path, kind.task)
    adapter = libpeft.Adapter.load(context, ours_model, folder)
    ours = libpeft_logits(kind, context, ours_model, adapter, kind.rows(config))
    return numpy.abs(ours - hf_logits(kind, model, kind.rows(config))).max()


def main():
    with tempfile.TemporaryDirectory() as folder:
        return run_all(one_label(sys.argv[1], folder), sys.argv[2:])


def run_all(path, wanted):
    passed = failed = skipped = 0
    transformers.logging.set_verbosity_error()
    context = libpeft.Context()
    model_type = json.loads((pathlib.Path(path) / "config.json").read_text())["model_type"]
    encoder = model_type in ("bert", "roberta", "distilbert", "electra", "albert")
    kind = Classes if encoder else Causal
    for name, config in (encoder_cases(model_type) if encoder else CASES).items():
        if wanted and name not in wanted:
            continue
        for way, run in (("here to there", here_to_there), ("there to here", there_to_here)):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    worst = run(kind, context, path, config, folder)
                except libpeft.UnsupportedError as error:
                    skipped += 1
                    print(f"skip {name:18} {way}: {error}")
                    continue
                except Exception as error:  # noqa: BLE001 - each case on its own
                    failed += 1
                    print(f"FAIL {name:18} {way}: {type(error).__name__}: {str(error)[:300]}")
                    continue
            good = worst <= 1e-4
            passed, failed = passed + good, failed + (not good)
            print(f"{'ok  ' if good else 'FAIL'} {name:18} {way}: largest difference of logits {worst:.1e}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
