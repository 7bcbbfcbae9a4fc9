"""libpeft and PyTorch on a Vision Transformer, the same work in turn in one run.

    python compare_vit.py [--model FOLDER] [--methods linear vpt-deep lora full] [--batch 8] [--prompts 50] [--threads 2] [--pairs 9]

Needs torch, transformers, peft and safetensors beside numpy. FOLDER is a ViT that transformers wrote; without it a random one of the shape of ViT-B/16 (224 x 224
pixels, 86 million parameters) is made. Both sides run in a process of their own that stays alive and sleeps while the other works: A B B A A B B A ... . Same
weights, same pictures, the same initial adapter (made by libpeft), AdamW with the same settings, the same number of threads. The first losses must agree. Printed for each
method: medians, the median of the ratios pair by pair with quartiles, and the peak memory of each process.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CLASSES = 10
METHODS = {
    "linear": ({"peft_type": "FULL", "trainable": "head"}, 1e-2),
    "vpt-deep": ({"peft_type": "VPT", "deep": True}, 1e-2),
    "lora": ({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}, 1e-3),
    "full": ({"peft_type": "FULL"}, 1e-5),
}


def peak_gib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def pictures(batch, channels, height, width):
    """Fixed pseudo-random pictures and classes, equal on both sides."""
    import numpy

    rng = numpy.random.default_rng(5)
    return rng.standard_normal((batch, channels, height, width), numpy.float32), [i % CLASSES for i in range(batch)]


def make_model(folder):
    import torch
    import transformers

    torch.manual_seed(3)
    config = transformers.ViTConfig(num_labels=CLASSES)
    transformers.ViTForImageClassification(config).save_pretrained(folder)


def worker_libpeft(arguments):
    sys.path.insert(0, str(HERE.parents[1] / "bindings" / "python"))
    start = time.monotonic()
    import libpeft as peft

    config, rate = METHODS[arguments.method]
    if config["peft_type"] == "VPT":
        config = {**config, "num_virtual_tokens": arguments.prompts}
    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, arguments.model)
    adapter = peft.Adapter(context, model, config, seed=7)
    if config["peft_type"] != "FULL":
        adapter.save(arguments.adapter)
    optimizer = peft.Optimizer(context, adapter, lr=rate, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    info = model.image_info
    planes, labels = pictures(arguments.batch, info["channels"], info["image_height"], info["image_width"])
    batch = peft.ImageBatch(context, model, planes, labels)

    def step():
        loss = session.forward_backward(batch)
        optimizer.step(session)
        return loss

    serve(step, start)


def worker_torch(arguments):
    start = time.monotonic()
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(arguments.threads)
    config, rate = METHODS[arguments.method]
    model = transformers.ViTForImageClassification.from_pretrained(arguments.model)
    planes, labels = pictures(arguments.batch, model.config.num_channels, model.config.image_size, model.config.image_size)
    planes, labels = torch.from_numpy(planes), torch.tensor(labels)
    forward = lambda: model(pixel_values=planes).logits
    if config["peft_type"] == "LORA":
        import peft

        model = peft.PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
    elif config["peft_type"] == "VPT":
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        saved = load_file(os.path.join(arguments.adapter, "adapter_model.safetensors"))
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
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(forward(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    serve(step, start)


def serve(step, start):
    """Does as many steps as each line of standard input says; answers with seconds and losses."""
    loss = step()
    print(json.dumps({"first_step": time.monotonic() - start, "losses": [loss], "peak": peak_gib()}), flush=True)
    for line in sys.stdin:
        seconds, losses, cpu = [], [], time.process_time()
        for _ in range(int(line)):
            began = time.monotonic()
            losses.append(step())
            seconds.append(time.monotonic() - began)
        cpu = (time.process_time() - cpu) / len(seconds)
        print(json.dumps({"seconds": seconds, "cpu": cpu, "losses": losses, "peak": peak_gib()}), flush=True)


class Side:
    def __init__(self, name, method, arguments, environment):
        command = [sys.executable, __file__, "--model", arguments.model, "--worker", name, "--method", method, "--adapter", arguments.adapter,
                   "--batch", str(arguments.batch), "--threads", str(arguments.threads), "--prompts", str(arguments.prompts)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        answer = self.read()
        self.losses, self.first_step, self.peak, self.seconds, self.cpu = answer["losses"], answer["first_step"], answer["peak"], [], []

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended with {self.process.wait()}")
        return json.loads(line)

    def steps(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer = self.read()
        self.losses += answer["losses"]
        self.peak = answer["peak"]
        self.seconds.append(statistics.median(answer["seconds"]))
        self.cpu.append(answer["cpu"])


def compare(method, arguments):
    with tempfile.TemporaryDirectory() as folder:
        arguments.adapter = folder
        ours = Side("libpeft", method, arguments, {})
        # Idle OpenMP threads must sleep, not spin, while the other side works.
        theirs = Side("torch", method, arguments, {"OMP_NUM_THREADS": str(arguments.threads), "KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "passive"})
        for pair in range(arguments.pairs):
            for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
                side.steps(arguments.steps)
        for side in (ours, theirs):
            side.process.stdin.close()
            side.process.wait()
    count = min(5, len(ours.losses))
    worst = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(ours.losses[:count], theirs.losses[:count]))
    ratios = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds))
    print(f"{method}: {arguments.batch} pictures, {arguments.threads} threads")
    print("  first losses  libpeft " + " ".join(f"{v:.6f}" for v in ours.losses[:count]))
    print("                PyTorch " + " ".join(f"{v:.6f}" for v in theirs.losses[:count]) + f"   largest relative difference {worst:.1e}")
    for name, side in (("libpeft", ours), ("PyTorch", theirs)):
        middle = statistics.median(side.seconds)
        print(f"  {name}  {middle:.3f} s/step  {arguments.batch / middle:.2f} images/s  {statistics.median(side.cpu):.3f} s of CPU  peak {side.peak:.2f} GiB  start to first step {side.first_step:.1f} s")
    quarter = len(ratios) // 4
    print(f"  PyTorch / libpeft: time {statistics.median(ratios):.2f} (quartiles {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}, {len(ratios)} pairs), "
          f"memory {theirs.peak / ours.peak:.2f}", flush=True)
    return worst < 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="steps of one turn")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--adapter", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return {"libpeft": worker_libpeft, "torch": worker_torch}[arguments.worker](arguments)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            arguments.model = os.path.join(folder, "vit")
            make_model(arguments.model)
        return 0 if all([compare(method, arguments) for method in arguments.methods]) else 1


if __name__ == "__main__":
    sys.exit(main())
