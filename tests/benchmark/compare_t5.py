"""A T5 of the small size: libpeft and HF PEFT on PyTorch, the same work in turn in one run (paired.py).

    python compare_t5.py [--config '{"peft_type": "LORA", ...}'] [--batch 8] [--source 128] [--target 32] [--vary] [--threads 2] [--pairs 15]

Needs torch, transformers and peft beside numpy. The model has the shape of T5-small and random weights. Same weights, same token ids, the same
initial adapter (made by libpeft, read by HF PEFT), AdamW with the same settings, no dropout, the same number of threads. With --vary texts have
from a quarter to the whole of --source and --target tokens, and HF gets them padded.
"""

import os
import statistics
import sys
import time

import paired

DEFAULT = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]}
SMALL = dict(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_decoder_layers=6, num_heads=8, dropout_rate=0.0,
             decoder_start_token_id=0)
LEARNING_RATE = 1e-3
BATCHES = 8


def batches(arguments):
    """Questions and answers. Answers end with </s>."""
    draw = paired.stream()

    def text(longest):
        length = longest if not arguments.vary else longest // 4 + draw(longest - longest // 4 + 1)
        return [2 + draw(SMALL["vocab_size"] - 2) for _ in range(length - 1)] + [1]

    return [([text(arguments.source) for _ in range(arguments.batch)], [text(arguments.target) for _ in range(arguments.batch)])
            for _ in range(BATCHES)]


def model_folder(folder):
    return os.path.join(folder, "model")


def make_model(folder):
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL)).save_pretrained(model_folder(folder))


def worker_libpeft(arguments):
    start = time.monotonic()
    peft = paired.import_libpeft()
    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, model_folder(arguments.folder))
    adapter = peft.Adapter(context, model, arguments.config, seed=7)
    adapter.save(paired.adapter_folder(arguments))
    optimizer = peft.Optimizer(context, adapter, lr=LEARNING_RATE, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    data = paired.cycle([peft.Batch(asked, targets=said) for asked, said in batches(arguments)])

    def step():
        loss = session.forward_backward(next(data))
        optimizer.step(session)
        return loss

    paired.serve(step, start)


def worker_torch(arguments):
    start = time.monotonic()
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.T5ForConditionalGeneration.from_pretrained(model_folder(arguments.folder), dtype=torch.float32)
    if arguments.config["peft_type"] != "FULL":
        import peft

        model = peft.PeftModel.from_pretrained(model, paired.adapter_folder(arguments), is_trainable=True)
    model.train()
    data = paired.cycle([{"input_ids": paired.padded(asked, 0), "attention_mask": paired.padded([[1] * len(row) for row in asked], 0),
                          "labels": paired.padded(said, -100)} for asked, said in batches(arguments)])
    paired.serve(paired.torch_step(model, LEARNING_RATE, lambda: model(**next(data)).loss), start)


def main():
    parser = paired.parser(__doc__, config=DEFAULT)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--source", type=int, default=128)
    parser.add_argument("--target", type=int, default=32)
    parser.add_argument("--vary", action="store_true")
    arguments = parser.parse_args()

    def run(folder):
        make_model(folder)
        tokens = statistics.mean(sum(map(len, asked)) + sum(map(len, said)) for asked, said in batches(arguments))
        return paired.compare(arguments, f"batches of {arguments.batch}, {tokens:.0f} tokens, {arguments.config}", (tokens, "tokens"), folder)

    return paired.main(arguments, {"libpeft": worker_libpeft, "torch": worker_torch}, run)


if __name__ == "__main__":
    sys.exit(main())
