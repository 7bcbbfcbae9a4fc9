"""Writes tests/data/models/tiny: one very small random model a variant, with what transformers computes for it.

Run with torch, transformers, safetensors and gguf installed: python make_tiny.py [FOLDER]
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

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

# No key says these things in GGUF files.
NOT_GGUF = ("llama-dynamic", "qwen2-window", "smollm3")

# What llama.cpp's converter calls the tensors, and what it changes on the way.
LAYER = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(path, kind, config, model):
    writer = gguf.GGUFWriter(path, kind)
    heads, head_dim = config.num_attention_heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(path.stem)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    plain = rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope["rope_type"] == "llama3":
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, None)
        writer.add_tensor("rope_freqs.weight", (plain / scaled.numpy()).astype(np.float32))
    if rope["rope_type"] == "longrope":
        _, factor = ROPE_INIT_FUNCTIONS["longrope"](config, None)
        writer.add_rope_scaling_attn_factors(factor)
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    if kind in ("gemma2", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_attention_scale(config.query_pre_attn_scalar ** -0.5)
    for name, tensor in model.state_dict().items():
        module, part = name.rsplit(".", 1)
        if module == "lm_head" and config.tie_word_embeddings:
            continue
        value = tensor.numpy().copy()
        if kind in ("llama", "smollm3") and module.endswith(("q_proj", "k_proj")):
            value = value.reshape(-1, 2, head_dim // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        if kind in ("gemma", "gemma2") and "norm" in module:
            value += 1
        if module in OUTER:
            target = OUTER[module]
        else:
            _, _, layer, rest = module.split(".", 3)
            after = "post_attention_norm" if kind == "gemma2" else "ffn_norm"
            target = f"blk.{layer}." + (after if rest == "post_attention_layernorm" else LAYER[rest])
        writer.add_tensor(f"{target}.{part}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
        if name not in NOT_GGUF:
            write_gguf(folder / f"{name}.gguf", kind, config, model)
        print(name, float(out.loss), json.loads((target / "config.json").read_text())["model_type"], transformers.__version__)


main()
