"""Makes the untrained tiny Llama that examples/recipes/tiny-pretrain.yaml trains: random weights and a tokenizer of single bytes.

    python3 make_tiny.py FOLDER        (needs numpy)
"""
import json
import pathlib
import struct
import sys

import numpy as np

WIDTH, LAYERS, HEADS, KV_HEADS, MLP, POSITIONS = 96, 4, 4, 2, 256, 256
HEAD_DIM = WIDTH // HEADS
END = "<|endoftext|>"


def byte_letters():
    """The printable stand-in of every byte, as GPT-2 and all byte-level tokenizers spell them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + extra)
            extra += 1
    return letters


def tokenizer():
    vocab = {letter: byte for byte, letter in byte_letters().items()}
    vocab[END] = 256
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 256, "content": END, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": []},
    }


def weights(rng):
    def normal(*shape, scale=0.05):
        return (rng.standard_normal(shape) * scale).astype(np.float32)
    out = {"model.embed_tokens.weight": normal(257, WIDTH), "model.norm.weight": np.ones(WIDTH, np.float32)}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = np.ones(WIDTH, np.float32)
        out[p + "post_attention_layernorm.weight"] = np.ones(WIDTH, np.float32)
        out[p + "self_attn.q_proj.weight"] = normal(WIDTH, WIDTH, scale=0.1)
        out[p + "self_attn.k_proj.weight"] = normal(KV_HEADS * HEAD_DIM, WIDTH, scale=0.1)
        out[p + "self_attn.v_proj.weight"] = normal(KV_HEADS * HEAD_DIM, WIDTH, scale=0.1)
        out[p + "self_attn.o_proj.weight"] = normal(WIDTH, WIDTH, scale=0.1 / (2 * LAYERS) ** 0.5)
        out[p + "mlp.gate_proj.weight"] = normal(MLP, WIDTH, scale=0.1)
        out[p + "mlp.up_proj.weight"] = normal(MLP, WIDTH, scale=0.1)
        out[p + "mlp.down_proj.weight"] = normal(WIDTH, MLP, scale=0.06 / (2 * LAYERS) ** 0.5)
    return out


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(tensors[name].tobytes())


folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": POSITIONS, "vocab_size": 257,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 256,
    "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
}
(folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
(folder / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False))
(folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "model_max_length": POSITIONS, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")
write_safetensors(folder / "model.safetensors", weights(np.random.default_rng(1)))
