"""Writes metrics.json: predictions and what scikit-learn, SciPy, seqeval and SQuAD's rules say of them.

    pip install scikit-learn scipy seqeval; python make_metrics.py
"""
import collections
import json
import os
import random
import re
import string
import warnings

import numpy
from scipy import stats
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn import metrics as m

warnings.simplefilter("ignore")
random.seed(7)
rng = numpy.random.default_rng(7)
out = {"classes": [], "multi_label": [], "values": [], "entities": [], "answers": []}

for classes, count, skill in [(2, 40, 0.8), (3, 60, 0.6), (5, 30, 0.4), (7, 12, 0.3), (2, 10, 0.0), (2, 10, 1.0), (4, 25, 0.5)]:
    labels = rng.integers(0, classes, count)
    guess = numpy.where(rng.random(count) < skill, labels, rng.integers(0, classes, count))
    if classes == 4:
        guess[:] = 1  # one answer for all
    ignored = rng.random(count) < 0.1
    kept, said = labels[~ignored], guess[~ignored]
    p, r, f, _ = m.precision_recall_fscore_support(kept, said, average="macro", zero_division=0)
    out["classes"].append({
        "classes": classes, "labels": numpy.where(ignored, -100, labels).tolist(), "predictions": guess.tolist(), "count": int(len(kept)),
        "accuracy": m.accuracy_score(kept, said), "macro_precision": p, "macro_recall": r, "macro_f1": f,
        "micro_f1": m.f1_score(kept, said, average="micro"), "weighted_f1": m.f1_score(kept, said, average="weighted"),
        "matthews": m.matthews_corrcoef(kept, said), "confusion": m.confusion_matrix(kept, said, labels=range(classes)).ravel().tolist(),
        "f1": m.f1_score(kept, said, average=None, labels=range(classes), zero_division=0).tolist()})

for classes, count in [(3, 20), (6, 35)]:
    targets = (rng.random((count, classes)) < 0.3).astype(int)
    targets[:, 0] = 0
    logits = rng.normal(size=(count, classes)).round(3) + targets
    said = (logits > 0).astype(int)
    out["multi_label"].append({
        "classes": classes, "targets": targets.ravel().tolist(), "logits": logits.ravel().tolist(), "accuracy": m.accuracy_score(targets, said),
        **{f"{a}_f1": m.f1_score(targets, said, average=a, zero_division=0) for a in ("macro", "micro", "weighted")}})

for count, noise in [(30, 0.5), (50, 2.0), (8, 0.1)]:
    a = rng.normal(size=count).round(1).astype(numpy.float32)  # rounded: ties
    b = (a + noise * rng.normal(size=count)).round(1).astype(numpy.float32)
    x, y = a.astype(float), b.astype(float)
    out["values"].append({"targets": x.tolist(), "predictions": y.tolist(), "pearson": stats.pearsonr(x, y)[0], "spearman": stats.spearmanr(x, y)[0],
                          "mse": m.mean_squared_error(x, y), "mae": m.mean_absolute_error(x, y), "r2": m.r2_score(x, y)})

names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER"]
for count, used in [(12, 3), (20, 5), (30, 7)]:
    gold = [[random.randrange(used) for _ in range(random.randint(1, 9))] for _ in range(count)]
    guess = [[t if random.random() < 0.8 else random.randrange(used) for t in s] for s in gold]
    y, z = ([[names[t] for t in s] for s in what] for what in (gold, guess))
    out["entities"].append({"names": names[:used], "labels": gold, "predictions": guess, "precision": precision_score(y, z), "recall": recall_score(y, z),
                            "f1": f1_score(y, z)})


def words(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(a, b):
    a, b = words(a), words(b)
    if not a or not b:
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


for guess, answers in [("The Eiffel Tower", ["Eiffel tower"]), ("in  Paris, France", ["Paris", "Paris France", "London"]), ("", []), ("something", []),
                       ("1,000 men", ["1000"]), ("\u00c9COLE normale", ["\u00e9cole Normale"]), ("a", ["the"]), ("the the cat cat", ["cat", "cat cat dog"]),
                       ("O'Neill-Smith", ["ONeillSmith"]), ("wrong", ["right"])]:
    right = answers or [""]
    out["answers"].append({"prediction": guess, "answers": answers, "exact": float(any(words(guess) == words(a) for a in right)),
                           "f1": max(f1(guess, a) for a in right)})

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics.json"), "w") as file:
    json.dump(out, file, indent=None, separators=(",", ":"), default=float)
    file.write("\n")
