"""Writes expected.json: scores of the prompts of tests/unit/data/data_prompts.c for the rows of test.csv, by transformers in double precision after the
logits.

    python3 make.py
"""
import csv
import itertools
import json
import math
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
LABELS = ["account", "billing", "shipping"]
ROWS = [row["text"] for row in csv.DictReader(open(HERE / "test.csv", encoding="utf-8"))]


def load(kind, name):
    path = HERE.parent / "models" / name
    return AutoTokenizer.from_pretrained(path), kind.from_pretrained(path, dtype=torch.float32).eval()


def log_mean_exp(values):
    return math.log(sum(math.exp(v) for v in values) / len(values))


def causal(name):
    tok, model = load(AutoModelForCausalLM, name)

    def nll(prompt, answers):
        """(-log p, tokens) of each answer, from the first token that the texts do not share."""
        start = tok(prompt)["input_ids"]
        whole = [tok(prompt + answer)["input_ids"] for answer in answers]
        same = min(next(i for i, (a, b) in enumerate(itertools.zip_longest(start, ids)) if a != b) for ids in whole)
        result = []
        for ids in whole:
            with torch.no_grad():
                logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            result.append((-sum(logp[i - 1, ids[i]].item() for i in range(same, len(ids))), len(ids) - same))
        return result

    def token(prompt, answers):
        return [-a / b for a, b in nll(prompt, answers)]

    def calibrated(text):
        def scores(value):
            return torch.tensor(token("Say.\n\n" + value + " is", [" " + label for label in LABELS]), dtype=torch.float64)
        q = torch.stack([scores(value).softmax(0) for value in ("N/A", "", "[MASK]")]).mean(0)
        return (scores(text) - q.log()).tolist()

    words = [" account", " bills", " an invoice", " parcel"]
    zero = [token(text + ":", words) for text in ROWS]
    return {
        "words": [[s[0], log_mean_exp(s[1:3]), s[3]] for s in zero],
        "sum": [[-a for a, _ in nll(text + ":", [" " + label for label in LABELS])] for text in ROWS],
        "blank": [[-a / len(label) for label, (a, _) in zip(LABELS, nll(text + "? ", LABELS))] for text in ROWS],
        "calibrated": [calibrated(text) for text in ROWS],
    }


def seq2seq(name):
    tok, model = load(AutoModelForSeq2SeqLM, name)

    def score(text, answer):
        with torch.no_grad():
            return -model(input_ids=torch.tensor([tok(text)["input_ids"]]), labels=torch.tensor([tok(answer)["input_ids"]])).loss.item()

    return {"words": [[score(t + ":", "account"), log_mean_exp([score(t + ":", "bills"), score(t + ":", "an invoice")]), score(t + ":", "parcel")]
                      for t in ROWS]}


def cloze(name):
    tok, model = load(AutoModelForMaskedLM, name)

    def scores(text, blank):
        ids = tok(text)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, ids.index(tok.mask_token_id)]

        def word(w):
            for form in ([" " + w, w] if blank else [w]):
                found = tok(form, add_special_tokens=False)["input_ids"]
                if len(found) == 1:
                    return logits[found[0]].item()
            raise ValueError(w)
        return [word("a"), (word("b") + word("c")) / 2, word("d")]

    mask = tok.mask_token
    return {"middle": [scores(f"{t} is {mask} .", True) for t in ROWS], "start": [scores(f"{mask}: {t}", False) for t in ROWS]}


expected = {name: causal(name) for name in ("llama-gqa", "gpt2", "qwen2")}
expected |= {name: seq2seq(name) for name in ("t5-v10", "t5-v11")}
expected |= {name: cloze(name) for name in ("bert", "roberta", "distilbert")}
rounded = {m: {p: [[round(s, 6) for s in row] for row in rows] for p, rows in prompts.items()} for m, prompts in expected.items()}
(HERE / "expected.json").write_text(json.dumps(rounded) + "\n")
