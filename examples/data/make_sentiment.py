"""Writes sentiment.csv and sentiment-train.csv: sentences of product reviews with what readers thought of them, negative or positive.

    python3 make_sentiment.py vaderSentiment-0.5.zip

They are a sample of the ground truth of VADER (C.J. Hutto and E. Gilbert, ICWSM 2014; PyPI package vaderSentiment 0.5, MIT licence, copyright (c) 2014 C.J.
Hutto): amazonReviewSnippets_GroundTruth.txt, mean ratings from -4 to 4 of twenty readers; sentences of 30 to 120 bytes rated beyond -1 or 1.5.
"""
import csv
import io
import random
import sys
import tarfile
import zipfile

package = zipfile.ZipFile(sys.argv[1])
archive = next(name for name in package.namelist() if name.endswith("hutto_ICWSM_2014.tar.gz"))
files = tarfile.open(fileobj=io.BytesIO(package.read(archive)))
member = next(m for m in files.getmembers() if m.name.endswith("amazonReviewSnippets_GroundTruth.txt"))
rows = {"negative": [], "positive": []}
for line in files.extractfile(member).read().decode("utf-8", "replace").splitlines():
    _, score, text = line.split("\t")
    text = " ".join(text.split())
    if not 30 <= len(text.encode()) <= 120 or "\ufffd" in text:
        continue
    if float(score) <= -1.0:
        rows["negative"].append((text, "negative"))
    elif float(score) >= 1.5:
        rows["positive"].append((text, "positive"))
rng = random.Random(1)
for label in rows:
    rng.shuffle(rows[label])
for name, first, count in [("sentiment.csv", 0, 60), ("sentiment-train.csv", 60, 16)]:
    chosen = [row for label in rows for row in rows[label][first:first + count]]
    rng.shuffle(chosen)
    with open(name, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(chosen)
