"""The runs of encoder_results.py through transformers and HF PEFT.

    python encoder_results_hf.py MODEL DATA.csv [the options of encoder_results.py]

Needs torch, transformers and peft beside libpeft, which gives every run what libpeft's own has: the same rows and token ids in the same order and
batches, the same initial adapter and output layer (a folder that PEFT reads), the same learning rates. No dropout on either side. Batches are padded
to their longest row. HF PEFT has no bottleneck adapters: those are a few lines of torch below, with adapter-hub's names and formula.
"""

import json
import os
import tempfile
import time

import numpy
import peft as hf_peft
import torch
import transformers
from safetensors.torch import load_file

import libpeft as peft

import encoder_results as own


class Bottleneck(torch.nn.Module):
    """Pfeiffer's adapter in a post-norm layer: LN(up(relu(down(z))) + h + x) with z = LN(h + x)."""

    def __init__(self, layer, size):
        super().__init__()
        width = layer.dense.out_features
        self.adapter_down = torch.nn.Sequential(torch.nn.Linear(width, size), torch.nn.ReLU())
        self.adapter_up = torch.nn.Linear(size, width)
        layer.adapters = torch.nn.ModuleDict({"task": self})
        layer.forward = lambda hidden, residual: self.run(layer, hidden, residual)

    def run(self, layer, hidden, residual):
        out = layer.dense(hidden) + residual
        return layer.LayerNorm(self.adapter_up(self.adapter_down(layer.LayerNorm(out))) + out)


def hf_model(path, method, folder):
    """The model with what the folder (written by libpeft) adds, and its trained parameters."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    kind = own.METHODS[method][2]["peft_type"]
    if kind == "PREFIX_TUNING":  # PEFT does not load prompts for training, but trains what it has loaded
        model = hf_peft.PeftModel.from_pretrained(model, folder)
        model.peft_config["default"].inference_mode = False
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("prompt_encoder" in name or "modules_to_save" in name)
    elif kind not in ("FULL", "BOTTLENECK"):
        model = hf_peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
    else:
        state = load_file(os.path.join(folder, "adapter_model.safetensors"))
        if kind == "BOTTLENECK":
            for layer in model.bert.encoder.layer:
                Bottleneck(layer.output, model.config.hidden_size // 16)
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in state)
    return model, [p for p in model.parameters() if p.requires_grad]


def tensors(batch):
    rows = [ids for ids, *_ in batch.sequences()]
    ids = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(numpy.asarray(row, numpy.int64))
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}, torch.from_numpy(batch.sequence_labels.astype(numpy.int64))


def run(context, model, files, method, seed, epochs, folder, path, size=32, length=128):
    title, lr, config = own.METHODS[method]
    saved = os.path.join(folder, f"start-{method}")
    with peft.Adapter(context, model, {**config, "task_type": "SEQ_CLS"}, seed=seed) as adapter:
        adapter.save(saved)
    train = peft.Dataset(context, model, files[0], batch_size=size, max_length=length, seed=seed)
    test = peft.Dataset(context, model, files[1], batch_size=64, max_length=length, shuffle=0)
    steps = train.batches * epochs
    schedule = peft.Schedule("linear", lr, warmup_steps=steps // 10, total_steps=steps)
    torch_model, trained = hf_model(path, method, saved)
    spared = {id(p) for n, p in torch_model.named_parameters() if n.endswith("bias") or "LayerNorm" in n}
    optimizer = torch.optim.AdamW([{"params": [p for p in trained if id(p) not in spared], "weight_decay": 0.01},
                                   {"params": [p for p in trained if id(p) in spared], "weight_decay": 0.0}], lr=lr)
    torch_model.train()
    started, step = time.monotonic(), 0
    for _ in range(epochs):
        for batch in train:
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            inputs, labels = tensors(batch)
            optimizer.zero_grad(set_to_none=True)
            loss = torch_model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            step += 1
    seconds = time.monotonic() - started
    torch_model.eval()
    labels, answers = [], []
    with torch.no_grad():
        for batch in test:
            inputs, truth = tensors(batch)
            labels.append(truth.numpy())
            answers.append(torch_model(**inputs).logits.argmax(1).numpy())
    labels, answers = numpy.concatenate(labels).astype(numpy.int32), numpy.concatenate(answers).astype(numpy.int32)
    scores = peft.metrics.classes(context, labels, answers, 2)
    result = {"method": method, "title": title, "seed": seed, "lr": lr, "accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"],
              "matthews": scores["matthews"], "loss": loss.item(), "steps": steps, "seconds": seconds,
              "examples_per_second": len(train) * epochs / seconds, "train": len(train), "test": len(test)}
    for thing in (train, test):
        thing.close()
    return result


def main():
    args = own.arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    results = own.resumed(args.out)
    with tempfile.TemporaryDirectory() as folder, peft.Context() as context:
        files = own.split(args.data, args.source, args.train, args.test, folder)
        model = peft.Model(context, args.model, task="SEQ_CLS", num_labels=2)
        for seed in args.seeds:
            for method in args.methods:
                if any(r["seed"] == seed and r["method"] == method for r in results):
                    continue
                results.append(run(context, model, files, method, seed, args.epochs, folder, args.model, args.batch, args.max_length))
                last = results[-1]
                print(f"{method:12} seed {seed}: accuracy {last['accuracy']:.3f}, loss {last['loss']:.3f}, {last['seconds']:.0f} s", flush=True)
                if args.out:
                    with open(args.out, "w", encoding="utf-8") as file:
                        json.dump(results, file, indent=1)
                        file.write("\n")


if __name__ == "__main__":
    main()
