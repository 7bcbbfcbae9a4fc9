"""A classifier of sentences of mixed lengths: libpeft and HF PEFT on PyTorch, the same work in turn in one run (paired.py).

    python compare_encoder.py MODEL [--config '{"peft_type": "FULL"}'] [--batch 32] [--shortest 8] [--longest 63] [--threads 2] [--pairs 15]

MODEL is a Hugging Face folder of a BERT-class encoder. Needs torch, transformers and peft beside numpy. Same weights, same token ids and classes,
the same initial adapter or head (made by libpeft, read by the other side), AdamW with the same settings, no dropout, the same number of threads.
HF gets each batch padded to its longest sentence, with an attention mask, as its collators make it.
"""

import os
import sys
import time

import paired

DEFAULT = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}
LEARNING_RATE = 1e-3
CLASSES, BATCHES = 2, 8


def batches(arguments, vocabulary):
    draw = paired.stream()
    result = []
    for _ in range(BATCHES):
        rows = []
        for _ in range(arguments.batch):
            length = arguments.shortest + draw(arguments.longest - arguments.shortest + 1)
            rows.append([1000 % vocabulary + draw(vocabulary - 1000 % vocabulary) for _ in range(length)])
        result.append((rows, [draw(CLASSES) for _ in rows]))
    return result


def worker_libpeft(arguments):
    start = time.monotonic()
    peft = paired.import_libpeft()
    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, arguments.model, task="SEQ_CLS", num_labels=CLASSES)
    adapter = peft.Adapter(context, model, arguments.config, seed=7)
    adapter.save(paired.adapter_folder(arguments))
    optimizer = peft.Optimizer(context, adapter, lr=LEARNING_RATE, max_grad_norm=0.0, decay_all=1)
    session = peft.Session(context, model, adapter)
    data = paired.cycle([peft.Batch(rows, labels=None, sequence_labels=classes)
                         for rows, classes in batches(arguments, model.info["vocab_size"])])

    def step():
        loss = session.forward_backward(next(data))
        optimizer.step(session)
        return loss

    paired.serve(step, start)


def worker_torch(arguments):
    start = time.monotonic()
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=CLASSES, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(model.config, name, 0.0)
    if arguments.config["peft_type"] == "FULL":
        state = load_file(os.path.join(paired.adapter_folder(arguments), "adapter_model.safetensors"))
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and not missing, (missing, unexpected)
    else:
        import peft

        model = peft.PeftModel.from_pretrained(model, paired.adapter_folder(arguments), is_trainable=True)
    model.train()
    data = paired.cycle([{"input_ids": paired.padded(rows, 0), "attention_mask": paired.padded([[1] * len(row) for row in rows], 0),
                          "labels": torch.tensor(classes)} for rows, classes in batches(arguments, model.config.vocab_size)])
    paired.serve(paired.torch_step(model, LEARNING_RATE, lambda: model(**next(data)).loss), start)


def main():
    parser = paired.parser(__doc__, config=DEFAULT)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=63)
    arguments = parser.parse_args()
    title = f"batches of {arguments.batch} sentences of {arguments.shortest} to {arguments.longest} tokens, {arguments.config}"
    return paired.main(arguments, {"libpeft": worker_libpeft, "torch": worker_torch},
                       lambda folder: paired.compare(arguments, title, (arguments.batch, "examples"), folder))


if __name__ == "__main__":
    sys.exit(main())
