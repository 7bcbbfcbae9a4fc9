"""Writes the little newspaper that tiny-t5 has read and the summarising example learns from: made-up reports of four sentences, of which one
says what happened, and what each comes to in a few words. In TEXT the reports have lists of key words, as newspapers do not: a small model learns
from them to find again what was said before.

    python3 make_news.py TEXT ROWS.jsonl [--reports 6000] [--seed 1]

TEXT gets the reports, one a line; ROWS.jsonl gets {"article", "summary"} of reports that are not among them.
"""
import argparse
import json
import random

PLACES = "Ashford Brook Carrow Dunmore Elston Fairview Granton Hexham Ivydale Kelso Larkhill Milton Norwood Oakley Penrith Redcar".split()
PEOPLE = "Anna Boris Clara David Edith Felix Greta Henry Irene Jonas Karin Louis Maria Nils Olga Peter".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
EVENTS = [
    ("The town of {place} opened a new {thing} on {day}.", "{place} opens a new {thing}", "bridge library school station market park".split()),
    ("A fire damaged the {thing} in {place} on {day}.", "fire damages the {thing} in {place}", "mill church bakery theatre harbour factory".split()),
    ("{name} of {place} won the {thing} race on {day}.", "{name} wins the {thing} race", "bicycle horse boat ski marathon sledge".split()),
    ("A storm closed the {thing} near {place} on {day}.", "storm closes the {thing} near {place}", "road airport tunnel railway beach canal".split()),
    ("{name} was elected head of the {thing} of {place} on {day}.", "{name} leads the {thing} of {place}", "council hospital museum college orchestra choir".split()),
    ("Thieves took {thing} from a shop in {place} on {day}.", "thieves take {thing} in {place}", "watches bread paintings books shoes tools".split()),
]
AROUND = [
    "It was the talk of the whole valley.", "Many people came to see it.", "The weather was fine.", "Nobody was hurt.", "The mayor said a few words.",
    "Work will go on until the summer.", "{name} told the newspaper that it came as a surprise.", "The neighbours had waited a long time for it.",
    "There had been nothing like it for years.", "Children were given the day off.", "The police asked everybody to stay calm.",
    "It cost more than the council had hoped.", "Trains were late all day.", "{name} wrote a letter about it.", "Nobody can say what will come next.",
]


SECTIONS = "building fire race storm vote crime".split()


def report(rng, key_words=False):
    section = rng.randrange(len(EVENTS))
    sentence, summary, things = EVENTS[section]
    words = {"place": rng.choice(PLACES), "name": rng.choice(PEOPLE), "day": rng.choice(DAYS), "thing": rng.choice(things)}
    around = [line.format(name=rng.choice(PEOPLE)) for line in rng.sample(AROUND, 3)]
    around.insert(rng.randrange(3), sentence.format(**words))
    if key_words:
        named = [words[key] for key in ("name", "place", "thing", "day") if "{" + key + "}" in sentence]
        rng.shuffle(named)
        around.append("Key words: " + " ".join(named) + (" " + SECTIONS[section] if rng.random() < 0.5 else "") + ".")
    return {"article": " ".join(around), "summary": summary.format(**words)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("rows")
    parser.add_argument("--reports", type=int, default=6000)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with open(args.text, "w", encoding="utf-8") as file:
        for _ in range(args.reports):
            file.write(report(rng, True)["article"] + "\n")
    with open(args.rows, "w", encoding="utf-8") as file:
        for _ in range(args.pairs):
            file.write(json.dumps(report(rng)) + "\n")
