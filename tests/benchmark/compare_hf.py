"""A causal language model from a GGUF file: libpeft and HF PEFT on PyTorch, the same work in turn in one run (paired.py).

    python compare_hf.py MODEL.gguf [--config '{"peft_type": "LORA", ...}'] [--batch 1] [--length 512] [--threads 2] [--pairs 15]

Needs torch, transformers, peft and gguf beside numpy. Same weights (PyTorch gets the file's values as float32), same token ids, the same initial
adapter (made by libpeft, read by HF PEFT), AdamW with the same settings, the same number of threads.
"""

import sys
import time

import paired

DEFAULT = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
LEARNING_RATE = 1e-3


def token_ids(vocabulary, batch, length):
    draw = paired.stream()
    return [[draw(vocabulary) for _ in range(length)] for _ in range(batch)]


def worker_libpeft(arguments):
    start = time.monotonic()
    peft = paired.import_libpeft()
    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, arguments.model)
    adapter = peft.Adapter(context, model, arguments.config, seed=7)
    adapter.save(paired.adapter_folder(arguments))
    optimizer = peft.Optimizer(context, adapter, lr=LEARNING_RATE, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    batch = peft.Batch(token_ids(model.info["vocab_size"], arguments.batch, arguments.length))

    def step():
        loss = session.forward_backward(batch)
        optimizer.step(session)
        return loss

    paired.serve(step, start)


def hf_model(path):
    """The GGUF file's weights as a transformers model in float32."""
    import gguf
    import numpy
    import torch
    import transformers

    reader = gguf.GGUFReader(path)
    keys = {name: field for name, field in reader.fields.items()}

    def value(name, fallback=None):
        return keys[name].contents() if name in keys else fallback

    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    config = transformers.LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0], hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"), num_hidden_layers=value("llama.block_count"), num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"), rope_theta=value("llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in tensors)
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = {"rope_type": "default", "rope_theta": value("llama.rope.freq_base", 10000.0)}
    model = transformers.LlamaForCausalLM(config)

    def in_order(matrix, count):
        """Rows of each head back from GGUF's interleaved order."""
        rows = matrix.shape[0] // count
        return matrix.reshape(count, rows // 2, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)

    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    state = {}
    for name, array in tensors.items():
        if name == "token_embd.weight":
            state["model.embed_tokens.weight"] = array
        elif name == "output_norm.weight":
            state["model.norm.weight"] = array
        elif name == "output.weight":
            state["lm_head.weight"] = array
        else:
            _, layer, part, _ = name.split(".")
            if part == "attn_q":
                array = in_order(array, heads)
            if part == "attn_k":
                array = in_order(array, kv_heads)
            state[f"model.layers.{layer}.{names[part]}.weight"] = array
    missing, unexpected = model.load_state_dict({k: torch.from_numpy(numpy.ascontiguousarray(v, dtype=numpy.float32)) for k, v in state.items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def worker_torch(arguments):
    start = time.monotonic()
    import torch

    torch.set_num_threads(arguments.threads)
    model = hf_model(arguments.model)
    if arguments.config["peft_type"] != "FULL":
        import peft

        model = peft.PeftModel.from_pretrained(model, paired.adapter_folder(arguments), is_trainable=True)
    model.train()
    ids = torch.tensor(token_ids(model.config.vocab_size, arguments.batch, arguments.length))
    paired.serve(paired.torch_step(model, LEARNING_RATE, lambda: model(input_ids=ids, labels=ids).loss), start)


def main():
    parser = paired.parser(__doc__, config=DEFAULT)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=512)
    arguments = parser.parse_args()
    title = f"{arguments.batch} x {arguments.length} tokens, {arguments.config}"
    return paired.main(arguments, {"libpeft": worker_libpeft, "torch": worker_torch},
                       lambda folder: paired.compare(arguments, title, (arguments.batch * arguments.length, "tokens"), folder, warm_up=2))


if __name__ == "__main__":
    sys.exit(main())
