"""A Vision Transformer: libpeft and PyTorch, the same work in turn in one run (paired.py).

    python compare_vit.py [--model FOLDER] [--methods linear vpt-deep lora full] [--batch 8] [--prompts 50] [--threads 2] [--pairs 9]

Needs torch, transformers, peft and safetensors beside numpy. FOLDER is a ViT that transformers wrote; without it a random one of the shape of
ViT-B/16 (224 x 224 pixels, 86 million parameters) is made. Same weights, same pictures, the same initial adapter (made by libpeft), AdamW with the
same settings, the same number of threads.
"""

import os
import sys
import time

import paired

CLASSES = 10
METHODS = {
    "linear": ({"peft_type": "FULL", "trainable": "head"}, 1e-2),
    "vpt-deep": ({"peft_type": "VPT", "deep": True}, 1e-2),
    "lora": ({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}, 1e-3),
    "full": ({"peft_type": "FULL"}, 1e-5),
}


def pictures(batch, channels, height, width):
    """Fixed random pictures and classes, equal on both sides."""
    import numpy

    rng = numpy.random.default_rng(5)
    return rng.standard_normal((batch, channels, height, width), numpy.float32), [i % CLASSES for i in range(batch)]


def model_folder(arguments):
    return arguments.model or os.path.join(arguments.folder, "vit")


def make_model(folder):
    import torch
    import transformers

    torch.manual_seed(3)
    config = transformers.ViTConfig(num_labels=CLASSES)
    transformers.ViTForImageClassification(config).save_pretrained(os.path.join(folder, "vit"))


def worker_libpeft(arguments):
    start = time.monotonic()
    peft = paired.import_libpeft()
    config, rate = METHODS[arguments.method]
    if config["peft_type"] == "VPT":
        config = {**config, "num_virtual_tokens": arguments.prompts}
    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, model_folder(arguments))
    adapter = peft.Adapter(context, model, config, seed=7)
    if config["peft_type"] != "FULL":
        adapter.save(paired.adapter_folder(arguments))
    optimizer = peft.Optimizer(context, adapter, lr=rate, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    info = model.image_info
    planes, labels = pictures(arguments.batch, info["channels"], info["image_height"], info["image_width"])
    batch = peft.ImageBatch(context, model, planes, labels)

    def step():
        loss = session.forward_backward(batch)
        optimizer.step(session)
        return loss

    paired.serve(step, start)


def worker_torch(arguments):
    start = time.monotonic()
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(arguments.threads)
    config, rate = METHODS[arguments.method]
    model = transformers.ViTForImageClassification.from_pretrained(model_folder(arguments))
    planes, labels = pictures(arguments.batch, model.config.num_channels, model.config.image_size, model.config.image_size)
    planes, labels = torch.from_numpy(planes), torch.tensor(labels)
    forward = lambda: model(pixel_values=planes).logits
    if config["peft_type"] == "LORA":
        import peft

        model = peft.PeftModel.from_pretrained(model, paired.adapter_folder(arguments), is_trainable=True)
    elif config["peft_type"] == "VPT":
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        saved = load_file(os.path.join(paired.adapter_folder(arguments), "adapter_model.safetensors"))
        first, deep = (torch.nn.Parameter(saved[n]) for n in ("prompt_embeddings", "deep_prompt_embeddings"))
        model.prompts = torch.nn.ParameterList([first, deep])

        def forward():
            x = model.vit.embeddings(planes)
            for index, layer in enumerate(model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer):
                prompts = (first if index == 0 else deep[index - 1:index]).expand(len(x), -1, -1)
                x = layer(torch.cat([x[:, :1], prompts, x[:, 1 + (0 if index == 0 else arguments.prompts):]], 1))
                x = x[0] if isinstance(x, tuple) else x
            return model.classifier(model.vit.layernorm(x)[:, 0])
    elif config.get("trainable") == "head":
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
    model.train()
    paired.serve(paired.torch_step(model, rate, lambda: torch.nn.functional.cross_entropy(forward(), labels)), start)


def main():
    parser = paired.parser(__doc__, pairs=9, steps=1)
    parser.add_argument("--model")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--method", help="of a worker")
    arguments = parser.parse_args()

    def run(folder):
        if arguments.model is None:
            make_model(folder)
        return all([paired.compare(arguments, f"{method}: {arguments.batch} pictures", (arguments.batch, "images"), folder,
                                   extra=("--method", method), warm_up=1, tolerance=1e-3) for method in arguments.methods])

    return paired.main(arguments, {"libpeft": worker_libpeft, "torch": worker_torch}, run)


if __name__ == "__main__":
    sys.exit(main())
