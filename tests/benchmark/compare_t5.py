"""LoRA on a T5: libpeft and HF PEFT on PyTorch, the same work in turn in one run.

    python compare_t5.py [--config '{"peft_type": "LORA", ...}'] [--batch 8] [--source 128] [--target 32] [--vary] [--threads 2] [--pairs 15]

Needs torch, transformers and peft beside numpy. The model has the shape of T5-small and random weights. Both sides run in a process of their own that
stays alive and sleeps while the other works: A B B A A B B A ... . Same weights, same token ids, the same initial adapter (made by libpeft, read by HF
PEFT), AdamW with the same settings, no dropout, the same number of threads. With --vary texts have from a quarter to the whole of --source and
--target tokens, and HF gets them padded. The first five losses must agree. Printed: medians by the clock and of processor time, the median of the
ratios pair by pair with quartiles, and the peak memory of each process. --record writes them as JSON.
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
DEFAULT = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]}
SMALL = dict(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_decoder_layers=6, num_heads=8, dropout_rate=0.0,
             decoder_start_token_id=0)
LEARNING_RATE = 1e-3
BATCHES = 8


def peak_gib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def batches(arguments):
    """Fixed pseudo-random questions and answers, equal on both sides. Answers end with </s>."""
    state = 12345

    def draw(count):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % count

    def text(longest):
        length = longest if not arguments.vary else longest // 4 + draw(longest - longest // 4 + 1)
        return [2 + draw(SMALL["vocab_size"] - 2) for _ in range(length - 1)] + [1]

    return [([text(arguments.source) for _ in range(arguments.batch)], [text(arguments.target) for _ in range(arguments.batch)])
            for _ in range(BATCHES)]


def make_model(folder):
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL)).save_pretrained(folder)


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
    data = [peft.Batch(asked, targets=said) for asked, said in batches(arguments)]
    done = 0

    def step():
        nonlocal done
        loss = session.forward_backward(data[done % BATCHES])
        optimizer.step(session)
        done += 1
        return loss

    serve(step, start)


def worker_hf(arguments):
    start = time.monotonic()
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.T5ForConditionalGeneration.from_pretrained(arguments.model, dtype=torch.float32)
    if json.loads(arguments.config)["peft_type"] != "FULL":
        import peft

        model = peft.PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.0)

    def padded(rows, value):
        longest = max(map(len, rows))
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    data = [{"input_ids": padded(asked, 0), "attention_mask": padded([[1] * len(row) for row in asked], 0), "labels": padded(said, -100)}
            for asked, said in batches(arguments)]
    done = 0

    def step():
        nonlocal done
        optimizer.zero_grad(set_to_none=True)
        loss = model(**data[done % BATCHES]).loss
        loss.backward()
        optimizer.step()
        done += 1
        return loss.item()

    serve(step, start)


def serve(step, start):
    """Does as many steps as each line of standard input says; answers with seconds, processor seconds and losses."""
    loss = step()
    print(json.dumps({"first_step": time.monotonic() - start, "losses": [loss], "peak": peak_gib()}), flush=True)
    for line in sys.stdin:
        began, worked, losses = time.monotonic(), time.process_time(), [step() for _ in range(int(line))]
        print(json.dumps({"seconds": (time.monotonic() - began) / len(losses), "processor": (time.process_time() - worked) / len(losses),
                          "losses": losses, "peak": peak_gib()}), flush=True)


class Side:
    def __init__(self, name, arguments, environment):
        command = [sys.executable, __file__, "--worker", name, "--model", arguments.model, "--config", arguments.config, "--adapter", arguments.adapter]
        for key in ("batch", "source", "target", "threads"):
            command += [f"--{key}", str(getattr(arguments, key))]
        if arguments.vary:
            command.append("--vary")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        answer = self.read()
        self.losses, self.first_step, self.peak = answer["losses"], answer["first_step"], answer["peak"]
        self.seconds, self.processor = [], []

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
        self.seconds.append(answer["seconds"])
        self.processor.append(answer["processor"])


def ratios_of(theirs, ours):
    ratios = sorted(b / a for a, b in zip(ours, theirs))
    quarter = len(ratios) // 4
    return statistics.median(ratios), ratios[quarter], ratios[-1 - quarter]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=json.dumps(DEFAULT))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--source", type=int, default=128)
    parser.add_argument("--target", type=int, default=32)
    parser.add_argument("--vary", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2, help="steps of one turn")
    parser.add_argument("--record", help="file for the numbers as JSON")
    for hidden in ("--worker", "--adapter", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return {"libpeft": worker_libpeft, "hf": worker_hf}[arguments.worker](arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments.model, arguments.adapter = os.path.join(folder, "model"), os.path.join(folder, "adapter")
        make_model(arguments.model)
        ours = Side("libpeft", arguments, {})
        # Idle OpenMP threads must sleep, not spin, while the other side works.
        theirs = Side("hf", arguments, {"OMP_NUM_THREADS": str(arguments.threads), "KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "passive"})
        ours.steps(4), theirs.steps(4)
        for side in (ours, theirs):
            side.seconds.clear(), side.processor.clear()
        for pair in range(arguments.pairs):
            for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
                side.steps(arguments.steps)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours.losses[:5], theirs.losses[:5]))
    tokens = statistics.mean(sum(map(len, asked)) + sum(map(len, said)) for asked, said in batches(arguments))
    by_clock, by_processor = ratios_of(theirs.seconds, ours.seconds), ratios_of(theirs.processor, ours.processor)
    result = {"config": arguments.config, "batch": arguments.batch, "source": arguments.source, "target": arguments.target, "vary": arguments.vary,
              "threads": arguments.threads, "pairs": arguments.pairs, "loss_difference": worst, "time_ratio": by_clock, "processor_ratio": by_processor,
              "memory_ratio": theirs.peak / ours.peak, "sides": {}}
    print(f"batches of {arguments.batch}, {tokens:.0f} tokens, {arguments.threads} threads, {arguments.config}")
    print("first five losses   libpeft " + " ".join(f"{v:.6f}" for v in ours.losses[:5]))
    print("                    HF PEFT " + " ".join(f"{v:.6f}" for v in theirs.losses[:5]) + f"   largest relative difference {worst:.1e}")
    for name, side in (("libpeft", ours), ("HF PEFT", theirs)):
        middle, worked = statistics.median(side.seconds), statistics.median(side.processor)
        result["sides"][name] = {"seconds": middle, "processor_seconds": worked, "peak_gib": side.peak, "first_step": side.first_step}
        print(f"{name}  {middle:.3f} s/step ({worked:.3f} s of processors)  {tokens / middle:.0f} tokens/s  peak {side.peak:.2f} GiB  "
              f"start to first step {side.first_step:.1f} s")
    print(f"HF PEFT / libpeft: time {by_clock[0]:.2f} (quartiles {by_clock[1]:.2f} to {by_clock[2]:.2f}, {arguments.pairs} pairs), processor time "
          f"{by_processor[0]:.2f} ({by_processor[1]:.2f} to {by_processor[2]:.2f}), memory {theirs.peak / ours.peak:.2f}")
    if arguments.record:
        pathlib.Path(arguments.record).write_text(json.dumps(result, indent=1) + "\n")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
