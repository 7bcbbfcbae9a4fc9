"""Makes t5-tiny (a T5 1.1 with random weights) as a Hugging Face folder and as t5-tiny.F32.gguf, and prints what transformers generates
from it; tests/unit/train/seq2seq.c has these ids. Needs torch, transformers and gguf."""

import pathlib

import gguf
import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration

here = pathlib.Path(__file__).parent
torch.manual_seed(20)
config = T5Config(vocab_size=48, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
                  relative_attention_num_buckets=8, dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=False)
model = T5ForConditionalGeneration(config).eval()
model.lm_head.weight = torch.nn.Parameter(torch.randn(48, 16))
for name, parameter in model.named_parameters():
    scale = 0.3 if "layer_norm" in name else 1.5 if "relative" in name else 0.35 if "lm_head" in name else 0.45
    parameter.data = torch.randn_like(parameter) * scale + (1.0 if "layer_norm" in name else 0.0)

folder = here / "t5-tiny"
folder.mkdir(exist_ok=True)
tensors = {k: v.contiguous() for k, v in model.state_dict().items() if "embed_tokens" not in k}
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
(folder / "config.json").write_text(
    '{"architectures": ["T5ForConditionalGeneration"], "d_ff": 24, "d_kv": 4, "d_model": 16, "decoder_start_token_id": 0,\n'
    ' "eos_token_id": 39, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": true, "layer_norm_epsilon": 1e-06,\n'
    ' "model_type": "t5", "num_decoder_layers": 2, "num_heads": 3, "num_layers": 2, "pad_token_id": 0,\n'
    ' "relative_attention_num_buckets": 8, "tie_word_embeddings": false, "vocab_size": 48}\n')
model = T5ForConditionalGeneration.from_pretrained(folder).eval()

inner = {"SelfAttention.q": "attn_q", "SelfAttention.k": "attn_k", "SelfAttention.v": "attn_v", "SelfAttention.o": "attn_o",
         "SelfAttention.relative_attention_bias": "attn_rel_b", "EncDecAttention.q": "cross_attn_q", "EncDecAttention.k": "cross_attn_k",
         "EncDecAttention.v": "cross_attn_v", "EncDecAttention.o": "cross_attn_o", "DenseReluDense.wi_0": "ffn_gate",
         "DenseReluDense.wi_1": "ffn_up", "DenseReluDense.wo": "ffn_down"}
norms = {("enc", "0"): "attn_norm", ("enc", "1"): "ffn_norm", ("dec", "0"): "attn_norm", ("dec", "1"): "cross_attn_norm",
         ("dec", "2"): "ffn_norm"}


def gguf_name(name):
    if name == "shared.weight":
        return "token_embd.weight"
    if name == "lm_head.weight":
        return "output.weight"
    stack = name[:3]
    if name.endswith("final_layer_norm.weight"):
        return f"{stack}.output_norm.weight"
    _, _, block, _, part, rest = name.split(".", 5)
    rest = rest.removesuffix(".weight")
    return f"{stack}.blk.{block}.{norms[stack, part] if rest == 'layer_norm' else inner[rest]}.weight"


writer = gguf.GGUFWriter(here / "t5-tiny.F32.gguf", "t5")
writer.add_context_length(512)
writer.add_embedding_length(16)
writer.add_feed_forward_length(24)
writer.add_block_count(2)
writer.add_head_count(3)
writer.add_key_length(4)
writer.add_value_length(4)
writer.add_relative_attn_buckets_count(8)
writer.add_layer_norm_eps(1e-6)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_decoder_start_token_id(0)
writer.add_eos_token_id(39)
writer.add_pad_token_id(0)
for name, tensor in tensors.items():
    writer.add_tensor(gguf_name(name), tensor.numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

torch.manual_seed(3)
prompts = [torch.randint(2, 48, (n,)).tolist() for n in (6, 3, 11, 1, 5)]
settings = [dict(num_beams=1), dict(num_beams=3), dict(num_beams=4, length_penalty=0.0), dict(num_beams=4, length_penalty=2.5),
            dict(num_beams=2, repetition_penalty=1.4)]
for prompt in prompts:
    for setting in settings:
        ids = torch.tensor([prompt])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, **setting)[0].tolist()[1:]
        print(prompt, setting, out[: out.index(39)] if 39 in out else out)
