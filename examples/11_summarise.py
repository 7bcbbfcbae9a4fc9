"""11_summarise.py: a T5 learns from a handful of pairs to write headlines, and beam search writes them.

    python 11_summarise.py MODEL PAIRS.jsonl OUTPUT-FOLDER [EPOCHS]

MODEL is a Hugging Face folder or GGUF file of a T5; PAIRS.jsonl has rows {"article": ..., "summary": ...}, of which every sixth is kept to be judged
by. With what the repository carries: examples/data/tiny-t5 examples/data/news.jsonl headlines. That T5 has 200,000 parameters: it learns which sentence tells
the news and how a headline goes, and mixes up places and things.
"""

import json
import os
import sys
import tempfile

import libpeft as peft

if len(sys.argv) < 4:
    sys.exit(__doc__)
model_path, pairs_path, output = sys.argv[1:4]
epochs = int(sys.argv[4]) if len(sys.argv) > 4 else 40

with open(pairs_path, encoding="utf-8") as file:
    lines = [line for line in file if line.strip()]
unseen = [json.loads(line) for line in lines[::6]]

with tempfile.TemporaryDirectory() as folder, peft.Context() as context:
    train_path = os.path.join(folder, "train.jsonl")
    with open(train_path, "w", encoding="utf-8") as file:
        file.writelines(line for i, line in enumerate(lines) if i % 6)

    # The encoder reads the article, the decoder learns the summary.
    model = peft.Model(context, model_path)
    train = peft.Dataset(context, model, train_path, format="prompt_completion", prompt_key="article", completion_key="summary", batch_size=8,
                         max_length=512)
    print(train.report, end="")
    adapter = peft.Adapter(context, model, peft_type="LORA", task_type="SEQ_2_SEQ_LM", r=8, lora_alpha=16, target_modules="all-linear", seed=42)
    optimizer = peft.Optimizer(context, adapter, max_grad_norm=1.0)
    steps = epochs * train.batches
    schedule = peft.Schedule("linear", 5e-3, warmup_steps=steps // 20, total_steps=steps)
    session = peft.Session(context, model, adapter)
    step = 0
    for epoch in range(epochs):
        for batch in train:
            loss = session.forward_backward(batch)
            optimizer.lr = schedule(step)
            optimizer.step(session)
            step += 1
        if (epoch + 1) % max(1, epochs // 5) == 0:
            print(f"epoch {epoch + 1}: loss {loss:.4f}")

    # Four beams: the text whose words are the most likely together, not one after another.
    same = 0
    for i, pair in enumerate(unseen):
        written = session.generate(pair["article"], num_beams=4, max_new_tokens=40)
        same += written.strip() == pair["summary"]
        if i < 4:
            print(f"\narticle: {pair['article']}\nsummary: {pair['summary']}\nwritten: {written}")
    print(f"\n{same} of {len(unseen)} unseen summaries word for word")
    adapter.save(output)
    print("saved to", output)
