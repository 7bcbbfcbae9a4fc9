"""07_tag.py: find names in sentences: CoNLL columns in, entity F1, an adapter and tagged words out.

    python 07_tag.py MODEL TRAIN.conll TEST.conll OUTPUT-FOLDER [EPOCHS]

MODEL is a Hugging Face folder of an encoder. The files have a word and its tag (B-PER, I-PER, O, ...) a line and blank lines between
sentences; tags are collected from TRAIN.
"""

import sys

import numpy

import libpeft as peft

if len(sys.argv) < 5:
    sys.exit(__doc__)
model_path, train_path, test_path, output = sys.argv[1:5]
epochs = int(sys.argv[5]) if len(sys.argv) > 5 else 3


def tags_of(path):
    """The tags of a file: the model must know how many there are before the data set can be read with its tokenizer."""
    with open(path, encoding="utf-8") as file:
        return sorted({line.split()[-1] for line in file if line.strip() and not line.startswith("-DOCSTART-")})


with peft.Context() as context:
    names = tags_of(train_path)
    model = peft.Model(context, model_path, task="TOKEN_CLS", num_labels=len(names))
    train = peft.Dataset(context, model, train_path, format="token_cls", label_names=names, batch_size=16)
    test = peft.Dataset(context, model, test_path, format="token_cls", label_names=names, batch_size=32, shuffle=0)
    print(train.report, end="")
    adapter = peft.Adapter(context, model, peft_type="LORA", task_type="TOKEN_CLS", r=8, lora_alpha=16, target_modules=["query", "value"], seed=42)
    optimizer = peft.Optimizer(context, adapter)
    steps = epochs * train.batches
    schedule = peft.Schedule("linear", 3e-3, warmup_steps=steps // 10, total_steps=steps)
    session = peft.Session(context, model, adapter)
    step = 0
    for epoch in range(epochs):
        losses = []
        for batch in train:
            losses.append(session.forward_backward(batch))
            optimizer.lr = schedule(step)
            optimizer.step(session)
            step += 1
        print(f"epoch {epoch + 1}: loss {numpy.mean(losses):.4f}")

    # Judged on the first token of each word: the others have the label -100 and do not count.
    labels, answers, offsets = [], [], [0]
    for batch in test:
        labels.append(batch.labels)
        answers.append(session.logits(batch).argmax(1))
        offsets += [offsets[-1] + int(o) for o in batch.offsets[1:] - batch.offsets[0]]
    scores = peft.metrics.entities(context, numpy.concatenate(labels), numpy.concatenate(answers), offsets, names)
    print(f"entities: precision {scores['precision']:.3f}, recall {scores['recall']:.3f}, F1 {scores['f1']:.3f} "
          f"({scores['correct']} of {scores['entities']} found, {scores['predicted']} predicted)")

    # The first test sentence as the model reads it.
    test.seek(0, 0)
    batch = test.next()
    answer = session.logits(batch).argmax(1)
    first = [(model.tokenizer.id_to_token(int(token)), names[answer[i]]) for i, (token, label) in enumerate(zip(*batch.sequences()[0])) if label != -100]
    print(" ".join(f"{word}/{tag}" for word, tag in first))
    adapter.save(output)
    print("saved to", output)
