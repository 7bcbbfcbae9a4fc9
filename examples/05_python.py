"""05_python.py: fine-tune a LoRA adapter from Python, driving every step.

    python 05_python.py MODEL DATA OUTPUT-FOLDER [STEPS]
"""

import sys

import libpeft as peft

if len(sys.argv) < 4:
    sys.exit(__doc__)
model_path, data_path, output = sys.argv[1:4]
steps = int(sys.argv[4]) if len(sys.argv) > 4 else 30

with peft.Context() as context:
    model = peft.Model(context, model_path)
    adapter = peft.Adapter(context, model, peft_type="LORA", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], seed=42)
    print(adapter.report, end="")
    data = peft.Dataset(context, model, data_path, max_length=min(128, model.info["max_position_embeddings"]))
    print(data.report, end="")
    optimizer = peft.Optimizer(context, adapter)
    schedule = peft.Schedule("cosine", 1e-3, warmup_steps=steps // 10, total_steps=steps)
    session = peft.Session(context, model, adapter)
    step = 0
    while step < steps:
        for batch in data:
            loss = session.forward_backward(batch)
            optimizer.lr = schedule(step)
            stats = optimizer.step(session)
            step += 1
            print(f"step {step}: loss {loss:.4f}, gradient norm {stats['grad_norm']:.3f}")
            if step == steps:
                break
    adapter.save(output)
    print("saved to", output)
