"""Multiple choice by transformers on tiny encoders: scores, loss and gradients for questions with different numbers of answers. Writes choices.json."""

import json
import pathlib

import torch
from transformers import AutoModelForMultipleChoice

HERE = pathlib.Path(__file__).parent
MODELS = ["tasks/bert-tiny", "models/roberta", "models/distilbert", "models/encoders/electra", "models/encoders/albert"]
FIRST = {"bert": "bert.pooler.dense", "roberta": "roberta.pooler.dense", "distilbert": "pre_classifier", "electra": "sequence_summary.summary",
         "albert": "albert.pooler"}
CHOICES, RIGHT, LENGTHS = [3, 2, 4], [1, 0, 3], [7, 5, 9, 4, 6, 8, 3, 10, 5]


def short(tensor, digits):
    return [round(x, digits) for x in tensor.flatten().tolist()]


def main():
    cases = []
    for name in MODELS:
        folder = HERE.parent / name
        if not folder.exists():
            continue
        torch.manual_seed(11)
        model = AutoModelForMultipleChoice.from_pretrained(folder, ignore_mismatched_sizes=True).eval()
        kind = model.config.model_type
        first, low = FIRST[kind], 5
        state = dict(model.named_modules())
        with torch.no_grad():
            for module in (first, "classifier"):
                for part in (state[module].weight, state[module].bias):
                    part.copy_(torch.round(torch.randn(part.shape) * 200) / 1000)
        generator = torch.Generator().manual_seed(3)
        texts = [torch.randint(low, model.config.vocab_size, (n,), generator=generator) for n in LENGTHS]
        scores, loss, at = [], 0.0, 0
        for count, right in zip(CHOICES, RIGHT):
            one = torch.cat([model(input_ids=t[None, None]).logits.flatten() for t in texts[at : at + count]])
            loss = loss + torch.nn.functional.cross_entropy(one[None], torch.tensor([right])) / len(CHOICES)
            scores += one.tolist()
            at += count
        loss.backward()
        cases.append({"model": name, "first": first, "ids": [t.tolist() for t in texts], "choices": CHOICES, "right": RIGHT, "scores": scores,
                      "loss": loss.item(), "first_weight": short(state[first].weight, 3), "first_bias": short(state[first].bias, 3),
                      "weight": short(state["classifier"].weight, 3), "bias": short(state["classifier"].bias, 3),
                      "weight_grad": short(state["classifier"].weight.grad, 8), "first_bias_grad": short(state[first].bias.grad, 8)})
    (HERE / "choices.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
