"""libpeft and HF PEFT on PyTorch, the same work in turn in one run.

    python compare_hf.py MODEL.gguf [--config '{"peft_type": "LORA", ...}'] [--batch 1] [--length 512] [--threads 2] [--pairs 15]

Needs torch, transformers, peft and gguf beside numpy. Both sides run in a process of their own that stays alive and sleeps while the
other works: A B B A A B B A ... . Same weights (PyTorch gets the file's values as float32), same token ids, the same initial adapter
(made by libpeft, read by HF PEFT), AdamW with the same settings, the same number of threads. The first five losses must agree.
Printed: medians, the median of the ratios pair by pair with quartiles, and the peak memory of each process.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
LEARNING_RATE = 1e-3


def peak_gib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def token_ids(vocabulary, batch, length):
    """A fixed pseudo-random text, equal on both sides."""
    state, rows = 12345, []
    for _ in range(batch):
        row = []
        for _ in range(length):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            row.append(state >> 33)
        rows.append([value % vocabulary for value in row])
    return rows


def worker_libpeft(arguments):
    sys.path.insert(0, str(HERE.parents[1] / "bindings" / "python"))
    start = time.monotonic()
    import libpeft as peft

    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, arguments.model)
    adapter = peft.Adapter(context, model, json.loads(arguments.config), seed=7)
    adapter.save(arguments.adapter)
    optimizer = peft.Optimizer(context, adapter, lr=LEARNING_RATE, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    batch = peft.Batch(token_ids(model.info["vocab_size"], arguments.batch, arguments.length))

    def step():
        loss = session.forward_backward(batch)
        optimizer.step(session)
        return loss

    serve(step, start)


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


def worker_hf(arguments):
    start = time.monotonic()
    import torch

    torch.set_num_threads(arguments.threads)
    model = hf_model(arguments.model)
    kind = json.loads(arguments.config)["peft_type"]
    if kind == "FULL":
        model.train()
    else:
        import peft

        model = peft.PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    ids = torch.tensor(token_ids(model.config.vocab_size, arguments.batch, arguments.length))

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    serve(step, start)


def serve(step, start):
    """Does as many steps as each line of standard input says; answers with seconds and losses."""
    loss = step()
    print(json.dumps({"first_step": time.monotonic() - start, "losses": [loss], "peak": peak_gib()}), flush=True)
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(int(line)):
            began = time.monotonic()
            losses.append(step())
            seconds.append(time.monotonic() - began)
        print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak_gib()}), flush=True)


class Side:
    def __init__(self, name, arguments, environment):
        command = [sys.executable, __file__, arguments.model, "--worker", name, "--config", arguments.config, "--adapter", arguments.adapter,
                   "--batch", str(arguments.batch), "--length", str(arguments.length), "--threads", str(arguments.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        answer = self.read()
        self.losses, self.first_step, self.peak, self.seconds = answer["losses"], answer["first_step"], answer["peak"], []

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended with {self.process.wait()}")
        return json.loads(line)

    def steps(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer = self.read()
        self.losses += answer["losses"]
        self.peak = answer["peak"]
        self.seconds.append(statistics.median(answer["seconds"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--config", default=json.dumps(DEFAULT))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2, help="steps of one turn")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--adapter", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return {"libpeft": worker_libpeft, "hf": worker_hf}[arguments.worker](arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments.adapter = folder
        ours = Side("libpeft", arguments, {})
        # Idle OpenMP threads must sleep, not spin, while the other side works.
        theirs = Side("hf", arguments, {"OMP_NUM_THREADS": str(arguments.threads), "KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "passive"})
        ours.steps(2), theirs.steps(2)
        ours.seconds.clear(), theirs.seconds.clear()
        for pair in range(arguments.pairs):
            for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
                side.steps(arguments.steps)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours.losses[:5], theirs.losses[:5]))
    ratios = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds))
    tokens = arguments.batch * arguments.length
    print(f"{arguments.batch} x {arguments.length} tokens, {arguments.threads} threads, {arguments.config}")
    print("first five losses   libpeft " + " ".join(f"{v:.6f}" for v in ours.losses[:5]))
    print("                    HF PEFT " + " ".join(f"{v:.6f}" for v in theirs.losses[:5]) + f"   largest relative difference {worst:.1e}")
    for name, side in (("libpeft", ours), ("HF PEFT", theirs)):
        middle = statistics.median(side.seconds)
        print(f"{name}  {middle:.3f} s/step  {tokens / middle:.0f} tokens/s  peak {side.peak:.2f} GiB  start to first step {side.first_step:.1f} s")
    quarter = len(ratios) // 4
    print(f"HF PEFT / libpeft: time {statistics.median(ratios):.2f} (quartiles {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}, {len(ratios)} pairs), "
          f"memory {theirs.peak / ours.peak:.2f}")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
