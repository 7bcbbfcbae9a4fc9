"""Questions about a text, by transformers: windows, places of answers, loss, gradients of the head, and the answers that its example's post-processing
takes from the logits. Writes answers.jsonl (the data) and answers.json (what is expected of it)."""

import json
import pathlib

import numpy
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering

HERE = pathlib.Path(__file__).parent
MAX_LENGTH, STEP, N_BEST, MOST_TOKENS = 40, 12, 20, 30

QUESTIONS = [
    ("where is omar ?", "Maria lives in Oslo, omar is in Paris and by the sea. É", "Paris"),
    ("who is in it?", "the return of the king is by tolkien. é à the end of the text is here, and it is for maria alone", "maria alone"),
    ("what ?", "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 and the answer is forty-two. "
               "more of the same: a b c d e f g h i j k l m n o p q r s t", "forty-two"),
    ("is it ?", "there is nothing here", None),
    ("how ?", "日本 (nihon) is an example of it", "日本"),
]


def main():
    tokenizer = AutoTokenizer.from_pretrained(HERE / "bert-tiny")
    rows, windows = [], []
    for number, (question, context, answer) in enumerate(QUESTIONS):
        start = context.index(answer) if answer else None
        rows.append({"id": f"q{number}", "question": question, "context": context,
                     "answers": {"text": [answer] if answer else [], "answer_start": [start] if answer else []}})
        asked = len(tokenizer(question)["input_ids"]) + 1  # [CLS] question [SEP] ... [SEP]
        encoded = tokenizer(question, context, truncation="only_second", max_length=MAX_LENGTH, stride=MAX_LENGTH - asked - STEP,
                            return_overflowing_tokens=True, return_offsets_mapping=True)
        for i, ids in enumerate(encoded["input_ids"]):
            offsets, sources = encoded["offset_mapping"][i], encoded.sequence_ids(i)
            span = [0, 0]
            if answer:
                first, last = sources.index(1), len(sources) - 1 - sources[::-1].index(1)
                end = start + len(answer)
                if offsets[first][0] <= start and offsets[last][1] >= end:
                    while first < len(offsets) and sources[first] == 1 and offsets[first][0] <= start:
                        first += 1
                    while sources[last] == 1 and offsets[last][1] >= end:
                        last -= 1
                    span = [first - 1, last + 1]
            windows.append({"question": number, "ids": ids, "types": encoded["token_type_ids"][i], "start": span[0], "end": span[1],
                            "offsets": [list(o) if s == 1 else None for o, s in zip(offsets, sources)]})
    torch.manual_seed(5)
    model = BertForQuestionAnswering.from_pretrained(HERE / "bert-tiny").eval()
    with torch.no_grad():
        model.qa_outputs.weight.normal_(0, 0.5)
        model.qa_outputs.bias.normal_(0, 0.5)
    length = max(len(w["ids"]) for w in windows)

    def padded(key):
        return torch.tensor([w[key] + [0] * (length - len(w["ids"])) for w in windows])

    mask = torch.tensor([[1] * len(w["ids"]) + [0] * (length - len(w["ids"])) for w in windows])
    out = model(input_ids=padded("ids"), token_type_ids=padded("types"), attention_mask=mask)
    # Padding has no score: rows of a ragged batch are only the tokens. (transformers leaves this to the training to learn.)
    hide = (1 - mask) * -1e30
    starts, ends = out.start_logits + hide, out.end_logits + hide
    loss = (torch.nn.functional.cross_entropy(starts, torch.tensor([w["start"] for w in windows]))
            + torch.nn.functional.cross_entropy(ends, torch.tensor([w["end"] for w in windows]))) / 2
    loss.backward()
    answers = []
    for number, (question, context, _) in enumerate(QUESTIONS):
        found, none = [], numpy.inf
        for i, w in enumerate(windows):
            if w["question"] != number:
                continue
            s, e = starts[i].detach().numpy(), ends[i].detach().numpy()
            none = min(none, float(s[0] + e[0]))
            for a in numpy.argsort(s)[-1 : -N_BEST - 1 : -1].tolist():
                for b in numpy.argsort(e)[-1 : -N_BEST - 1 : -1].tolist():
                    if a >= len(w["ids"]) or b >= len(w["ids"]) or w["offsets"][a] is None or w["offsets"][b] is None:
                        continue
                    if b < a or b - a + 1 > MOST_TOKENS:
                        continue
                    found.append((float(s[a] + e[b]), w["offsets"][a][0], w["offsets"][b][1]))
        score, begin, end = max(found)
        answers.append({"text": context[begin:end], "start": begin, "score": score, "none": none})
    with open(HERE / "answers.jsonl", "w", encoding="utf-8") as out_file:
        for row in rows:
            out_file.write(json.dumps(row, ensure_ascii=False) + "\n")
    expected = {"max_length": MAX_LENGTH, "step": STEP,
                "windows": [{k: w[k] for k in ("question", "ids", "types", "start", "end")} for w in windows], "loss": loss.item(),
                "weight": model.qa_outputs.weight.flatten().tolist(), "bias": model.qa_outputs.bias.tolist(),
                "weight_grad": model.qa_outputs.weight.grad.flatten().tolist(), "bias_grad": model.qa_outputs.bias.grad.tolist(),
                "query_grad_norm": model.bert.encoder.layer[0].attention.self.query.weight.grad.norm().item(), "answers": answers}
    (HERE / "answers.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
