"""What a step of other methods costs beside LoRA's on q_proj and v_proj, each pair in turn in one run: A B B A A B B A ... .

    python methods_cost.py MODEL [--length 512] [--threads 2] [--pairs 9]

MODEL is a causal language model, a GGUF file or a Hugging Face folder. One process holds a session a method over one model and runs them one step at
a time. Needs libpeft and NumPy only. Printed: medians by the clock and of processor time, and the median of the ratios pair by pair with quartiles.
"""

import argparse
import statistics
import sys
import time

import paired

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
METHODS = {
    "(IA)3": {"peft_type": "IA3"},
    "prompt tuning, 20 tokens": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20},
    "prefix tuning, 20 tokens": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20},
    "LoRA, all linear layers": {**LORA, "target_modules": "all-linear"},
}


class Work:
    def __init__(self, peft, context, model, config, batch):
        self.adapter = peft.Adapter(context, model, config, seed=7)
        self.optimizer = peft.Optimizer(context, self.adapter, lr=1e-4)
        self.session = peft.Session(context, model, self.adapter)
        self.batch, self.seconds, self.processor = batch, [], []
        self.step()
        self.seconds.clear(), self.processor.clear()

    def step(self):
        began, worked = time.monotonic(), time.process_time()
        self.session.forward_backward(self.batch)
        self.optimizer.step(self.session)
        self.seconds.append(time.monotonic() - began)
        self.processor.append(time.process_time() - worked)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    peft = paired.import_libpeft()
    context = peft.Context(threads=arguments.threads)
    model = peft.Model(context, arguments.model)
    draw = paired.stream()
    batch = peft.Batch([[draw(model.info["vocab_size"]) for _ in range(arguments.length)]])
    print(f"1 x {arguments.length} tokens, {arguments.threads} threads, {arguments.pairs} pairs; ratios to LoRA on q_proj and v_proj")
    for name, config in METHODS.items():
        lora, other = (Work(peft, context, model, c, batch) for c in (LORA, config))
        for pair in range(arguments.pairs):
            for side in (lora, other) if pair % 2 == 0 else (other, lora):
                side.step()
        by_clock, by_processor = paired.ratios_of(lora.seconds, other.seconds), paired.ratios_of(lora.processor, other.processor)
        print(f"{name:26} {statistics.median(other.seconds):.3f} s (LoRA {statistics.median(lora.seconds):.3f} s)   time {by_clock[0]:.3f} "
              f"({by_clock[1]:.3f} to {by_clock[2]:.3f})   processor time {by_processor[0]:.3f} ({by_processor[1]:.3f} to {by_processor[2]:.3f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
