"""libpeft and PyTorch doing the same work in turn in one run: what the compare_*.py programs share.

Each side runs in a process of its own that stays alive and sleeps while the other works: A B B A A B B A ... , because shared machines change their
speed from minute to minute and only neighbours in time can be compared. A program defines one function a side that builds the model and returns
nothing but calls serve(); main() here starts them, checks that the first losses agree, and prints medians by the clock and of processor time, the
median of the ratios pair by pair with quartiles, and the peak memory of each process.
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


def import_libpeft():
    sys.path.insert(0, str(HERE.parents[1] / "bindings" / "python"))
    import libpeft

    return libpeft


def stream(state=12345):
    """draw(count): fixed pseudo-random whole numbers below `count`, equal on both sides."""

    def draw(count):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % count

    return draw


def cycle(batches):
    while True:
        yield from batches


def padded(rows, value):
    """Rows of ids as one PyTorch rectangle."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def parser(description, **defaults):
    """The options that every comparison has; `defaults` are those of config, pairs and steps."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--config", type=json.loads, default=defaults.get("config"), help="adapter_config.json of the method, as JSON")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--pairs", type=int, default=defaults.get("pairs", 15))
    result.add_argument("--steps", type=int, default=defaults.get("steps", 2), help="steps of one turn")
    result.add_argument("--record", help="file for the numbers as JSON")
    for hidden in ("--worker", "--folder"):
        result.add_argument(hidden, help=argparse.SUPPRESS)
    return result


def adapter_folder(arguments):
    """Where libpeft's side leaves the adapter as it was made, for the other side to begin with."""
    return os.path.join(arguments.folder, "adapter")


def peak_gib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def serve(step, start):
    """A side at work: does as many steps as each line of standard input says; answers with seconds a step and losses."""
    loss = step()
    print(json.dumps({"first_step": time.monotonic() - start, "losses": [loss], "peak": peak_gib()}), flush=True)
    for line in sys.stdin:
        began, worked = time.monotonic(), time.process_time()
        losses = [step() for _ in range(int(line))]
        print(json.dumps({"seconds": (time.monotonic() - began) / len(losses), "processor": (time.process_time() - worked) / len(losses),
                          "losses": losses, "peak": peak_gib()}), flush=True)


def torch_step(model, lr, loss_of):
    """One AdamW step of a PyTorch model; loss_of() is its forward pass."""
    import torch

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


class Side:
    def __init__(self, name, folder, extra, environment):
        command = [sys.executable, *sys.argv, *extra, "--worker", name, "--folder", folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        answer = self.read()
        self.losses, self.first_step, self.peak = answer["losses"], answer["first_step"], answer["peak"]
        self.seconds, self.processor = [], []

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended with {self.process.wait()}")
        return json.loads(line)

    def steps(self, count, counted=True):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer = self.read()
        self.losses += answer["losses"]
        self.peak = answer["peak"]
        if counted:
            self.seconds.append(answer["seconds"])
            self.processor.append(answer["processor"])

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def ratios_of(ours, theirs):
    """Median and quartiles of theirs / ours, pair by pair."""
    ratios = sorted(b / a for a, b in zip(ours, theirs))
    quarter = len(ratios) // 4
    return statistics.median(ratios), ratios[quarter], ratios[-1 - quarter]


def compare(arguments, title, units, folder, extra=(), warm_up=4, tolerance=1e-4):
    """Runs both sides and prints. `units` are what a step works through, (count, name); `extra` goes to the workers' command line.
    True when the first losses agree."""
    ours = Side("libpeft", folder, extra, {})
    # Idle OpenMP threads must sleep, not spin, while the other side works.
    theirs = Side("torch", folder, extra, {"OMP_NUM_THREADS": str(arguments.threads), "KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "passive"})
    sides = (("libpeft", ours), ("PyTorch", theirs))
    for _, side in sides:
        if warm_up > 0:
            side.steps(warm_up, counted=False)
    for pair in range(arguments.pairs):
        for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            side.steps(arguments.steps)
    ours.end(), theirs.end()

    count, unit = units
    shown = min(5, len(ours.losses))
    worst = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(ours.losses[:shown], theirs.losses[:shown]))
    by_clock, by_processor = ratios_of(ours.seconds, theirs.seconds), ratios_of(ours.processor, theirs.processor)
    result = {"title": title, "threads": arguments.threads, "pairs": arguments.pairs, "loss_difference": worst, "time_ratio": by_clock,
              "processor_ratio": by_processor, "memory_ratio": theirs.peak / ours.peak, "sides": {}}
    print(f"{title}, {arguments.threads} threads")
    for name, side in sides:
        print(f"  first losses  {name} " + " ".join(f"{v:.6f}" for v in side.losses[:shown]))
    print(f"  largest relative difference {worst:.1e}")
    for name, side in sides:
        middle, worked = statistics.median(side.seconds), statistics.median(side.processor)
        result["sides"][name] = {"seconds": middle, "processor_seconds": worked, "peak_gib": side.peak, "first_step": side.first_step}
        print(f"  {name}  {middle:.3f} s/step ({worked:.3f} s of processors)  {count / middle:.1f} {unit}/s  peak {side.peak:.2f} GiB  "
              f"start to end of first step {side.first_step:.1f} s")
    print(f"  PyTorch / libpeft: time {by_clock[0]:.2f} (quartiles {by_clock[1]:.2f} to {by_clock[2]:.2f}, {arguments.pairs} pairs), processor time "
          f"{by_processor[0]:.2f} ({by_processor[1]:.2f} to {by_processor[2]:.2f}), memory {theirs.peak / ours.peak:.2f}", flush=True)
    if arguments.record:
        with open(arguments.record, "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    return worst < tolerance


def main(arguments, workers, run):
    """A worker's life, or the comparison: run(folder) in a folder of its own."""
    if arguments.worker:
        return workers[arguments.worker](arguments)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run(folder) else 1
