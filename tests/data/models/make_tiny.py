"""Writes tests/data/models/tiny: one very small random model a variant, with what transformers computes for it.

Run with torch, transformers and safetensors installed: python make_tiny.py [FOLDER]
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

COMMON = dict(vocab_size=41, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)
FOUR = [1.0, 1.5]
VARIANTS = {
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    "llama-llama3": ("llama", dict(head_dim=8, rope_parameters=dict(rope_type="llama3", rope_theta=1e4, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8))),
    "llama-dynamic": ("llama", dict(max_position_embeddings=8, head_dim=8, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0))),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)),
    "qwen3-bias": ("qwen3", dict(head_dim=6, attention_bias=True)),
    "smollm3": ("smollm3", dict(no_rope_layer_interval=2)),
    "gemma": ("gemma", dict(head_dim=8)),
    "gemma2": ("gemma2", dict(head_dim=8, query_pre_attn_scalar=12, sliding_window=3, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    "phi3": ("phi3", dict(sliding_window=4, rope_parameters=dict(rope_type="longrope", rope_theta=1e4, short_factor=FOUR, long_factor=[2.0, 3.0], original_max_position_embeddings=8))),
}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "tiny")
    for number, (name, (kind, extra)) in enumerate(VARIANTS.items()):
        torch.manual_seed(number)
        config = CONFIG_MAPPING[kind](**{**COMMON, **extra})
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for tensor_name, tensor in model.named_parameters():
                tensor.normal_(0, 0.3 if "norm" in tensor_name or tensor.ndim == 1 else 0.25)
                if "norm" in tensor_name and "gemma" not in kind:
                    tensor += 1
            ids = torch.randint(3, 41, (2, 11))
            out = model(input_ids=ids, labels=ids, output_hidden_states=True)
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(target)
        (target / "generation_config.json").unlink(missing_ok=True)
        expected = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(),
                    "logits": out.logits.contiguous(), "loss": out.loss.reshape(1)}
        expected.update({f"hidden.{i}": h.contiguous() for i, h in enumerate(out.hidden_states)})
        save_file(expected, folder / f"{name}.expected.safetensors")
        print(name, float(out.loss), json.loads((target / "config.json").read_text())["model_type"], transformers.__version__)


main()
