"""Writes tests/data/train/transfer.safetensors: layer-wise learning rates and gradual unfreezing with torch parameter groups.

Run with torch, transformers, peft and safetensors installed: python make_transfer.py. Of each trained tensor the first values are kept.
"""
import pathlib

import peft
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent / "models" / "bert"
LENGTHS, CLASSES, LAYERS, KEPT = (9, 3, 21, 7), 3, 2, 64
LR, EPS, DECAY_WEIGHTS = 4e-3, 1e-4, 0.1


def depth(name):
    """Steps below the head: 0 pooler and head, 1 the top layer, ..., one more than there are layers for embeddings."""
    if ".embeddings." in name:
        return LAYERS + 1
    parts = name.split(".")
    return LAYERS - int(parts[parts.index("layer") + 1]) if "layer" in parts else 0


def groups(model, decay):
    result = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = name.endswith("bias") or "LayerNorm" in name
            result.append({"params": [parameter], "lr": LR * decay ** depth(name), "weight_decay": 0.0 if spared else DECAY_WEIGHTS})
    return result


def make(seed):
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification.from_pretrained(MODEL, num_labels=CLASSES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier.", "bert.pooler.")):
                parameter.normal_(std=0.2)
    return model.train()


def run(model, decay, layers_at, steps, batch):
    """`layers_at(step)`: top layers that are trained, None: everything."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(groups(model, decay), eps=EPS)
    losses = []
    for step in range(steps):
        top = layers_at(step)
        for name, parameter in trained:
            parameter.requires_grad_(top is None or depth(name) <= top)
        optimizer.zero_grad(set_to_none=True)
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": torch.tensor(losses), **{f"final.{n}": p.detach().flatten()[:KEPT].clone() for n, p in trained}}


def main():
    torch.manual_seed(5)
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(4, 224, (length,))
        mask[row, :length] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 2, 1, 2])}
    out = {"ids": ids[mask.bool()].int(), "classes": batch["labels"].int()}
    model = make(1)
    out.update({f"start.{n}": p.detach().clone() for n, p in model.named_parameters() if n.startswith(("classifier.", "bert.pooler."))})
    out.update({f"decay.{n}": v for n, v in run(model, 0.5, lambda step: None, 5, batch).items()})
    out.update({f"unfreeze.{n}": v for n, v in run(make(1), 0.8, lambda step: step // 2, 8, batch).items()})
    torch.manual_seed(9)
    lora = peft.get_peft_model(make(1), peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "output.dense"], modules_to_save=["pooler"]))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    named = {n: p for n, p in lora.named_parameters() if p.requires_grad}
    out.update({f"lora.start.{n}": p.detach().clone() for n, p in named.items()})
    out.update({f"lora.{n}": v for n, v in run(lora, 0.5, lambda step: None if step > 2 else step // 2, 5, batch).items()})
    # Names as libpeft has them in memory: without the name of the adapter.
    out = {n.replace(".default", ""): v.contiguous() for n, v in out.items()}
    save_file(out, HERE / "transfer.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
