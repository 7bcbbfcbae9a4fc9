"""Training a classifier on sentences of mixed lengths: libpeft and HF PEFT on PyTorch, the same work in turn in one run.

    python compare_encoder.py MODEL [--config '{"peft_type": "FULL"}'] [--batch 32] [--shortest 8] [--longest 63] [--threads 2] [--pairs 15]

MODEL is a Hugging Face folder of a BERT-class encoder. Needs torch, transformers and peft beside numpy. Both sides run in a process of their own
that stays alive and sleeps while the other works: A B B A A B B A ... . Same weights, same token ids and classes, the same initial adapter or
head (made by libpeft, read by the other side), AdamW with the same settings, no dropout, the same number of threads. HF gets each batch padded to
its longest sentence, with an attention mask, as its collators make it. The first five losses must agree. Printed: medians, the median of the
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
DEFAULT = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}
LEARNING_RATE = 1e-3
CLASSES, BATCHES = 2, 8


def peak_gib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def batches(arguments, vocabulary):
    """Fixed pseudo-random sentences and classes, equal on both sides."""
    state = 12345

    def draw(count):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % count

    result = []
    for _ in range(BATCHES):
        rows = []
        for _ in range(arguments.batch):
            length = arguments.shortest + draw(arguments.longest - arguments.shortest + 1)
            rows.append([1000 % vocabulary + draw(vocabulary - 1000 % vocabulary) for _ in range(length)])
        result.append((rows, [draw(CLASSES) for _ in rows]))
    return result


def worker_libpeft(arguments):
    sys.path.insert(0, str(HERE.parents[1] / "bindings" / "python"))
    start = time.monotonic()
    import libpeft as peft

    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, arguments.model, task="SEQ_CLS", num_labels=CLASSES)
    adapter = peft.Adapter(context, model, json.loads(arguments.config), seed=7)
    adapter.save(arguments.adapter)
    optimizer = peft.Optimizer(context, adapter, lr=LEARNING_RATE, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    data = [peft.Batch(rows, labels=None, sequence_labels=classes) for rows, classes in batches(arguments, model.info["vocab_size"])]
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
    from safetensors.torch import load_file

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=CLASSES, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(model.config, name, 0.0)
    if json.loads(arguments.config)["peft_type"] == "FULL":
        state = load_file(os.path.join(arguments.adapter, "adapter_model.safetensors"))
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and not missing, (missing, unexpected)
    else:
        import peft

        model = peft.PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    data = []
    for rows, classes in batches(arguments, model.config.vocab_size):
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        data.append({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(classes)})
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
        command = [sys.executable, __file__, arguments.model, "--worker", name, "--config", arguments.config, "--adapter", arguments.adapter]
        for key in ("batch", "shortest", "longest", "threads"):
            command += [f"--{key}", str(getattr(arguments, key))]
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
        self.seconds.append(statistics.mean(answer["seconds"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--config", default=json.dumps(DEFAULT))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=63)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2, help="steps of one turn")
    parser.add_argument("--record", help="file for the numbers as JSON")
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
        ours.steps(4), theirs.steps(4)
        ours.seconds.clear(), theirs.seconds.clear()
        for pair in range(arguments.pairs):
            for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
                side.steps(arguments.steps)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours.losses[:5], theirs.losses[:5]))
    ratios = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds))
    quarter = len(ratios) // 4
    result = {"config": arguments.config, "batch": arguments.batch, "lengths": [arguments.shortest, arguments.longest], "threads": arguments.threads,
              "pairs": len(ratios), "loss_difference": worst, "time_ratio": statistics.median(ratios),
              "time_ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]], "memory_ratio": theirs.peak / ours.peak, "sides": {}}
    print(f"batches of {arguments.batch} sentences of {arguments.shortest} to {arguments.longest} tokens, {arguments.threads} threads, {arguments.config}")
    print("first five losses   libpeft " + " ".join(f"{v:.6f}" for v in ours.losses[:5]))
    print("                    HF PEFT " + " ".join(f"{v:.6f}" for v in theirs.losses[:5]) + f"   largest relative difference {worst:.1e}")
    for name, side in (("libpeft", ours), ("HF PEFT", theirs)):
        middle = statistics.median(side.seconds)
        result["sides"][name] = {"examples_per_second": arguments.batch / middle, "peak_gib": side.peak, "first_step": side.first_step}
        print(f"{name}  {middle:.3f} s/step  {arguments.batch / middle:.1f} examples/s  peak {side.peak:.2f} GiB  start to first step {side.first_step:.1f} s")
    print(f"HF PEFT / libpeft: time {statistics.median(ratios):.2f} (quartiles {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}, {len(ratios)} pairs), "
          f"memory {theirs.peak / ours.peak:.2f}")
    if arguments.record:
        with open(arguments.record, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
