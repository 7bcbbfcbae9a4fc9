"""Embeddings and what they learn from pairs, by torch: means of BERT's last hidden states, in-batch negatives (cosines times 20, cross entropy, as
sentence-transformers' MultipleNegativesRankingLoss), squared differences of cosines and scores. Writes pairs.json."""

import json
import pathlib

import torch
from transformers import AutoTokenizer, BertModel

HERE = pathlib.Path(__file__).parent
GROUPS = [["is it by the sea", "it is by the sea .", "the return of the king"], ["who is the king ?", "the king is in it"],
          ["return it", "the return", "a sea", "of all in it"]]
SCORES = [0.9, 0.2, -0.1]


def main():
    tokenizer = AutoTokenizer.from_pretrained(HERE / "bert-tiny")
    model = BertModel.from_pretrained(HERE / "bert-tiny").eval()
    query = model.encoder.layer[0].attention.self.query.weight
    groups = [torch.cat([model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0, keepdim=True) for text in group])
              for group in GROUPS]
    unit = [torch.nn.functional.normalize(g, dim=1) for g in groups]
    anchors, others = torch.stack([g[0] for g in unit]), torch.cat([g[1:] for g in unit])
    right, at = [], 0
    for g in unit:
        right.append(at)
        at += len(g) - 1
    ranking = torch.nn.functional.cross_entropy(anchors @ others.T * 20.0, torch.tensor(right))
    cosines = torch.stack([g[0] @ g[1] for g in unit])
    scored = ((cosines - torch.tensor(SCORES)) ** 2).mean()
    result = {"groups": GROUPS, "scores": SCORES, "embeddings": [[round(x, 7) for x in row] for row in torch.cat(groups).tolist()],
              "cosines": cosines.tolist(), "ranking": ranking.item(), "scored": scored.item(), "found": [bool(i == j) for i, j in zip(
                  (anchors @ others.T).argmax(1).tolist(), right)]}
    for name, loss in (("ranking", ranking), ("scored", scored)):
        result[name + "_query_grad"] = [round(x, 8) for x in torch.autograd.grad(loss, query, retain_graph=True)[0].flatten().tolist()[:64]]
    (HERE / "pairs.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
