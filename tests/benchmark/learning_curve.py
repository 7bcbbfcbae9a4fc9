"""Learning from a few examples on a masked language model: accuracy after k labelled sentences, as a table, CSV and SVG.

    python learning_curve.py MODEL TRAIN.csv TEST.csv [--k 8 32 128] [--seeds 1 2 3] [--examples 200] [--steps 40] [--out curve]

MODEL is a Hugging Face folder with an output layer for words (examples/recipes/mlm-pretrain.yaml makes one), the files have the columns text and
label (0, 1), as examples/data/make_reviews.py writes them. Every seed draws its own balanced examples; larger k contain smaller ones. All trained methods take
the same steps of 8 examples with the same schedule; learning rates are those of the table below and were not searched.

  prompt     nothing trained: "TEXT it was [MASK] ." and the likelier of "terrible" and "great"
  shots      the same with as many of the examples, filled in, in front as fit into 256 tokens
  warp       WARP: rows of a prompt and one vector a class, which start from those words
  ptuning    P-Tuning: rows that a small network computes stand in the template; the answer is a word
  lora, full a new output layer over the first token
"""

import argparse
import csv
import json
import random
import statistics

import numpy

import libpeft as peft

WORDS = ("terrible", "great")
ROWS = 4  # of trained prompts, before "it was"
TITLES = {"prompt": "cloze prompt, nothing trained", "shots": "cloze prompt, examples in front", "warp": "WARP", "ptuning": "P-Tuning, template",
          "lora": "LoRA and a new head", "full": "full fine-tuning and a new head"}
COLOURS = {"prompt": "#888888", "shots": "#bbaa33", "warp": "#cc3311", "ptuning": "#ee7733", "lora": "#0077bb", "full": "#009988"}
TRAINED = {
    "warp": ("MASKED_LM", 1e-2, {"peft_type": "WARP", "num_virtual_tokens": ROWS, "num_labels": 2, "label_words": list(WORDS), "prompt_init": "the movie was just"}),
    "ptuning": ("MASKED_LM", 3e-3, {"peft_type": "P_TUNING", "num_virtual_tokens": ROWS, "prompt_position": "template", "encoder_hidden_size": 128}),
    "lora": ("SEQ_CLS", 2e-3, {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}),
    "full": ("SEQ_CLS", 1e-4, {"peft_type": "FULL"}),
}


class Bench:
    def __init__(self, context, path):
        self.context = context
        self.models = {"MASKED_LM": peft.Model(context, path, task="MASKED_LM"), "SEQ_CLS": peft.Model(context, path, task="SEQ_CLS", num_labels=2)}
        self.tokenizer = self.models["MASKED_LM"].tokenizer
        self.words = [self.tokenizer.token_to_id(word) for word in WORDS]
        self.mask = self.tokenizer.token_to_id("[MASK]")
        self.ends = [int(i) for i in self.tokenizer.encode("")]
        self.tail = [int(i) for i in self.tokenizer.encode("it was [MASK] .", add_special=False, parse_special=True)]

    def ids(self, text, most=64):
        return [int(i) for i in self.tokenizer.encode(text, add_special=False)][:most]

    def cloze(self, text, rows=0, front=()):
        """Ids and, for each, the row of the prompt that takes its place."""
        head, body = [self.ends[0], *front], self.ids(text)
        ids = head + body + [self.mask] * rows + self.tail + [self.ends[-1]]
        index = [-1] * (len(head) + len(body)) + list(range(rows)) + [-1] * (len(self.tail) + 1)
        return ids, index

    def batch(self, rows, method, label=None, front=()):
        """`label`: the word to look for instead of the right one."""
        if method in ("lora", "full"):
            return peft.Batch([[self.ends[0], *self.ids(text), self.ends[-1]] for text, _ in rows], labels=None, sequence_labels=[c for _, c in rows])
        trained = ROWS if method in ("warp", "ptuning") else 0
        made = [self.cloze(text, trained, front) for text, _ in rows]
        index = [i for _, i in made] if trained else None
        places = [len(ids) - 1 - len(self.tail) + self.tail.index(self.mask) for ids, _ in made]
        if method == "warp":
            return peft.Batch([ids for ids, _ in made], labels=None, sequence_labels=[c for _, c in rows], prompt_index=index, mask_positions=places)
        labels = [[-100] * len(ids) for ids, _ in made]
        for row, place, (_, right) in zip(labels, places, rows):
            row[place] = self.words[right if label is None else label]
        return peft.Batch([ids for ids, _ in made], labels=labels, prompt_index=index)

    def accuracy(self, session, rows, method, front=()):
        right = 0
        for at in range(0, len(rows), 20):
            part = rows[at:at + 20]
            if method in ("warp", "lora", "full"):
                answers = session.logits(self.batch(part, method)).argmax(1)
            else:
                answers = numpy.argmin([session.score(self.batch(part, method, label, front))[0] for label in (0, 1)], axis=0)
            right += sum(int(a) == c for a, (_, c) in zip(answers, part))
        return right / len(rows)

    def shots(self, rows):
        front = []
        for text, label in rows:
            one = self.cloze(text)[0][1:-1]
            one[one.index(self.mask)] = self.words[label]
            if len(front) + len(one) > 256:
                break
            front += one
        return front

    def run(self, method, rows, test, seed, steps):
        if method not in TRAINED:
            with peft.Session(self.context, self.models["MASKED_LM"], inference=1) as session:
                return self.accuracy(session, test, method, self.shots(rows) if method == "shots" else ())
        task, lr, config = TRAINED[method]
        model = self.models[task]
        adapter = peft.Adapter(self.context, model, {**config, **({"task_type": task} if task == "SEQ_CLS" else {})}, seed=seed)
        optimizer = peft.Optimizer(self.context, adapter, lr=lr, weight_decay=0.01)
        schedule = peft.Schedule("linear", lr, warmup_steps=steps // 10, total_steps=steps)
        session = peft.Session(self.context, model, adapter, seed=seed)
        order, queue = random.Random(seed), []
        for step in range(steps):
            while len(queue) < 8:
                queue += order.sample(rows, len(rows))
            part, queue = queue[:8], queue[8:]
            optimizer.lr = schedule(step)
            session.forward_backward(self.batch(part, method))
            optimizer.step(session)
        accuracy = self.accuracy(session, test, method)
        for thing in (session, optimizer, adapter):
            thing.close()
        return accuracy


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["text"], int(row["label"])) for row in csv.DictReader(file)]


def draw(rows, k, seed):
    """k examples, as many of each class, in turn; those of a smaller k come first."""
    rows = random.Random(seed).sample(rows, len(rows))
    classes = [[row for row in rows if row[1] == c] for c in (0, 1)]
    return [classes[i % 2][i // 2] for i in range(k)]


def mean(results, method, k):
    values = [r["accuracy"] for r in results if r["method"] == method and r["k"] == k]
    return (100 * statistics.mean(values), 100 * min(values), 100 * max(values)) if values else None


def table(results, ks):
    lines = ["| method | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "---|" * len(ks)]
    for method, title in TITLES.items():
        cells = [mean(results, method, k) for k in ks]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join("" if c is None else f"{c[0]:.1f} ({c[1]:.1f} to {c[2]:.1f})" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def drawing(results, ks):
    """Accuracy over k, k doubled from place to place."""
    left, top, width, height = 50, 20, 420, 260
    low, high = 40.0, 90.0

    def x(k):
        return left + width * (numpy.log2(k) - numpy.log2(ks[0])) / max(1e-9, numpy.log2(ks[-1]) - numpy.log2(ks[0]))

    def y(value):
        return top + height * (high - min(max(value, low), high)) / (high - low)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="720" height="330" font-family="sans-serif" font-size="12">',
           '<rect width="720" height="330" fill="white"/>']
    for value in range(int(low), int(high) + 1, 10):
        out.append(f'<path d="M{left} {y(value):.1f}h{width}" stroke="#ddd"/><text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value} %</text>')
    for k in ks:
        out.append(f'<text x="{x(k):.1f}" y="{top + height + 18}" text-anchor="middle">{k}</text>')
    out.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">labelled examples</text>')
    for place, (method, title) in enumerate(TITLES.items()):
        points = [(k, mean(results, method, k)) for k in ks]
        points = [(x(k), y(c[0]), y(c[1]), y(c[2])) for k, c in points if c]
        if not points:
            continue
        colour = COLOURS[method]
        out.append(f'<path d="M' + "L".join(f"{p[0]:.1f} {p[1]:.1f}" for p in points) + f'" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<path d="M{p[0]:.1f} {p[2]:.1f}V{p[3]:.1f}" stroke="{colour}" opacity="0.5"/><circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="3" fill="{colour}"/>' for p in points]
        out.append(f'<path d="M{left + width + 15} {top + 12 + 20 * place}h16" stroke="{colour}" stroke-width="2"/>'
                   f'<text x="{left + width + 36}" y="{top + 16 + 20 * place}">{title}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--k", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--examples", type=int, default=200, help="of TEST")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="writes OUT.json, OUT.csv, OUT.svg")
    args = parser.parse_args()
    results = []
    train, test = read(args.train), read(args.test)[: args.examples]
    with peft.Context(threads=args.threads) as context:
        bench = Bench(context, args.model)
        for seed in args.seeds:
            for k in args.k:
                rows = draw(train, k, seed)
                for method in args.methods:
                    if method == "prompt" and results and any(r["method"] == method for r in results):
                        accuracy = next(r["accuracy"] for r in results if r["method"] == method)  # learns nothing
                    else:
                        accuracy = bench.run(method, rows, test, seed, args.steps)
                    results.append({"method": method, "k": k, "seed": seed, "accuracy": accuracy})
                    print(f"{method:8} k {k:4} seed {seed}: {100 * accuracy:.1f}", flush=True)
                if args.out:
                    with open(args.out + ".json", "w", encoding="utf-8") as file:
                        json.dump(results, file, indent=1)
                        file.write("\n")
                    with open(args.out + ".csv", "w", encoding="utf-8") as file:
                        file.write("method,k,seed,accuracy\n" + "".join(f"{r['method']},{r['k']},{r['seed']},{r['accuracy']}\n" for r in results))
                    with open(args.out + ".svg", "w", encoding="utf-8") as file:
                        file.write(drawing(results, args.k))
    print(table(results, args.k), end="")


if __name__ == "__main__":
    main()
