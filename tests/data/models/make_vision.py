"""Tiny ViT and DeiT models with random weights, and what transformers makes of pictures.

    python make_vision.py        (torch, transformers 5, safetensors)

vision/<name>/ is a model folder; vision/<name>.expected.safetensors holds pixel_values [B, C, H, W], and any of labels, logits,
loss, grad.<file name of a tensor> (all parameters trained), last_hidden_state, pooler_output; large.pixel_values and large.logits are
the same for another resolution, with interpolated positions. bottleneck.<kind>.* are logits and gradients with adapters whose
formula is written out here.
"""
import os

import torch
from safetensors.torch import save_file
from transformers import (DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, ViTConfig,
                          ViTForImageClassification, ViTModel)

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vision")
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=12, patch_size=4,
             attn_implementation="eager")


def stir(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (0.3 if p.ndim > 1 else 0.2) + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.eval()


def file_names(model, folder):
    """Gradients under the names that save_pretrained gives to the tensors."""
    from safetensors import safe_open
    with safe_open(os.path.join(folder, "model.safetensors"), "pt") as f:
        stored = {k: f.get_tensor(k) for k in f.keys()}
    names = {}
    for own, p in model.named_parameters():
        names[own] = next(k for k, v in stored.items() if v.shape == p.shape and torch.equal(v, p.detach()))
    return names


def train(model, folder, pixels, labels, out):
    names = file_names(model, folder)
    r = model(pixel_values=pixels, labels=labels)
    r.loss.backward()
    out["labels"], out["logits"], out["loss"] = labels, r.logits, r.loss.reshape(1)
    for own, p in model.named_parameters():
        if p.grad is not None:
            out["grad." + names[own]] = p.grad.clone()
    model.zero_grad()


def bottleneck(model, kind, pixels, labels, out):
    """Adapters on ViT, as adapter-hub places them."""
    g = torch.Generator().manual_seed(11)
    d, m = model.config.hidden_size, 3
    act = {"double_seq_bn": torch.nn.functional.silu, "seq_bn": torch.relu, "par_bn": torch.relu}[kind]
    params = {}

    def make(place):
        for leaf, shape in (("adapter_down.0.weight", (m, d)), ("adapter_down.0.bias", (m,)), ("adapter_up.weight", (d, m)), ("adapter_up.bias", (d,))):
            params[f"{place}.adapters.task.{leaf}"] = (torch.randn(shape, generator=g) * 0.3).requires_grad_()

        def a(z):
            p = lambda leaf: params[f"{place}.adapters.task.{leaf}"]
            h = act(z @ p("adapter_down.0.weight").T + p("adapter_down.0.bias"))
            return h @ p("adapter_up.weight").T + p("adapter_up.bias")
        return a

    x = model.vit.embeddings(pixels)
    for i, layer in enumerate(model.vit.layers):
        attention = make(f"vit.encoder.layer.{i}.attention_adapters") if kind == "double_seq_bn" else None
        output = make(f"vit.encoder.layer.{i}.output.output_adapters")
        h = layer.attention(layer.layernorm_before(x))[0]
        x = (h + attention(h) if attention else h) + x
        h = layer.mlp(layer.layernorm_after(x))
        x = {"double_seq_bn": lambda: h + output(h), "seq_bn": lambda: h + output(h + x), "par_bn": lambda: h + 4.0 * output(x)}[kind]() + x
    logits = model.classifier(model.vit.layernorm(x)[:, 0])
    torch.nn.functional.cross_entropy(logits, labels).backward()
    out[f"bottleneck.{kind}.logits"] = logits
    for name, p in params.items():
        out[f"bottleneck.{kind}.init.{name}"] = p.detach().clone()
        out[f"bottleneck.{kind}.grad.{name}"] = p.grad.clone()
    model.zero_grad()


def write(name, out):
    save_file({k: v.detach().contiguous() for k, v in out.items()}, os.path.join(HERE, name + ".expected.safetensors"))


def main():
    g = torch.Generator().manual_seed(5)
    pixels = torch.randn(3, 3, 12, 12, generator=g)
    large = torch.randn(2, 3, 20, 16, generator=g)
    labels = torch.tensor([2, 0, 1])

    model = stir(ViTForImageClassification(ViTConfig(num_labels=3, qkv_bias=False, **SMALL)), 1)
    folder = os.path.join(HERE, "vit")
    model.save_pretrained(folder)
    out = {"pixel_values": pixels, "large.pixel_values": large,
           "large.logits": model(pixel_values=large, interpolate_pos_encoding=True).logits}
    train(model, folder, pixels, labels, out)
    for kind in ("double_seq_bn", "seq_bn", "par_bn"):
        bottleneck(model, kind, pixels, labels, out)
    write("vit", out)

    model = stir(ViTForImageClassification(ViTConfig(num_labels=3, use_mean_pooling=True, **SMALL)), 6)
    model.save_pretrained(os.path.join(HERE, "vit-mean"))
    write("vit-mean", {"pixel_values": pixels, "logits": model.classifier(model.vit(pixels).last_hidden_state[:, 1:].mean(1))})

    model = stir(ViTModel(ViTConfig(num_channels=1, pooler_act="tanh", **SMALL)), 2)
    model.save_pretrained(os.path.join(HERE, "vit-pooler"))
    grey = torch.randn(2, 1, 12, 12, generator=g)
    r = model(pixel_values=grey)
    write("vit-pooler", {"pixel_values": grey, "last_hidden_state": r.last_hidden_state, "pooler_output": r.pooler_output})

    model = stir(DeiTForImageClassification(DeiTConfig(num_labels=3, **SMALL)), 3)
    folder = os.path.join(HERE, "deit")
    model.save_pretrained(folder)
    out = {"pixel_values": pixels, "large.pixel_values": large,
           "large.logits": model(pixel_values=large, interpolate_pos_encoding=True).logits}
    train(model, folder, pixels, labels, out)
    write("deit", out)

    model = stir(DeiTForImageClassificationWithTeacher(DeiTConfig(num_labels=3, **SMALL)), 4)
    model.save_pretrained(os.path.join(HERE, "deit-teacher"))
    write("deit-teacher", {"pixel_values": pixels, "logits": model(pixel_values=pixels).logits})


main()
