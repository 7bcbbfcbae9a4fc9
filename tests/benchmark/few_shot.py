"""Few-shot training against in-context learning: `peft compare` for k labelled examples, k in 4 .. 64, as a Markdown table.

    python3 tests/benchmark/few_shot.py PEFT --model SmolLM2-135M-Instruct.Q4_1.gguf --data vaderSentiment-0.5.zip
    python3 tests/benchmark/few_shot.py PEFT --tiny

The first is sentences of product reviews, negative or positive (examples/data/make_sentiment.py says whose): the prompts of examples/recipes/prompts.yaml
without and with k solved examples in front, against LoRA and prompt tuning on the same k, each trained for --steps steps of --batch examples. Every method is
asked about the same 120 sentences, of which none is among the k; larger k contain smaller ones. The second is the T5 of the repository and its made-up reports:
T-Few, LoRA, prompt tuning, the prompt alone.
"""
import argparse
import csv
import io
import pathlib
import random
import subprocess
import tarfile
import tempfile
import zipfile

TOP = pathlib.Path(__file__).resolve().parents[2]


def review_rows(package):
    """All rows that make_sentiment.py samples from, by class and in its order."""
    archive = zipfile.ZipFile(package)
    name = next(n for n in archive.namelist() if n.endswith("hutto_ICWSM_2014.tar.gz"))
    files = tarfile.open(fileobj=io.BytesIO(archive.read(name)))
    member = next(m for m in files.getmembers() if m.name.endswith("amazonReviewSnippets_GroundTruth.txt"))
    rows = {"negative": [], "positive": []}
    for line in files.extractfile(member).read().decode("utf-8", "replace").splitlines():
        _, score, text = line.split("\t")
        text = " ".join(text.split())
        if not 30 <= len(text.encode()) <= 120 or "\ufffd" in text:
            continue
        if float(score) <= -1.0:
            rows["negative"].append(text)
        elif float(score) >= 1.5:
            rows["positive"].append(text)
    rng = random.Random(1)
    for label in rows:
        rng.shuffle(rows[label])
    return rows


def file_rows(path):
    rows = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["label"], []).append(row["text"])
    return rows


def write(path, rows, count):
    """`count` rows, as many of each class as can be."""
    labels, chosen = sorted(rows), []
    for i in range(count):
        label = labels[i % len(labels)]
        if i // len(labels) < len(rows[label]):
            chosen.append((rows[label][i // len(labels)], label))
    random.Random(2).shuffle(chosen)
    with open(path, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(chosen)
    return len(chosen)


REVIEWS = """
model: {model}
data:
  format: choices
  train: {train}
  validation: {test}
  label_names: [negative, positive]
  input_template: "Review: {{text}}\\nSentiment:"
  verbalizers: [" negative", " positive"]
  max_length: 256
train: {{max_steps: {steps}, batch_size: {batch}, lr_scheduler: linear, warmup: 0.06, seed: 1, threads: {threads}}}
compare:
{entries}
"""
REPORTS = """
model: {model}
data:
  format: choices
  train: {train}
  validation: {test}
  label_names: [building, crime, fire, race, storm, vote]
  input_template: "{{text}} This is about <extra_id_0>"
  verbalizers: ["<extra_id_0> a building", "<extra_id_0> thieves", "<extra_id_0> a fire", "<extra_id_0> a race", "<extra_id_0> a storm", "<extra_id_0> a vote"]
  max_length: 256
train: {{max_steps: {steps}, batch_size: {batch}, lr_scheduler: linear, warmup: 0.06, seed: 1, threads: {threads}}}
compare:
{entries}
"""
REVIEW_PROMPTS = """
data: {{train: {train}, test: {test}}}
verbalizers: {{negative: negative, positive: positive}}
prompts:
  - name: plain
    template: "Review: {{text}}\\nSentiment:"
    shots: {shots}
    seeds: {seeds}
  - name: calibrated
    template: "Review: {{text}}\\nSentiment:"
    shots: {shots}
    seeds: {seeds}
    calibrate: contextual
"""
TFEW = "adapter: {method: ia3, target_modules: [k, v, wo], feedforward_modules: [wo]}, train.loss: tfew, optimizer: adafactor, " \
       "adafactor_scale_parameter: true, lr: 3e-3"


def entries_of(options, k, prompts, first):
    if options.tiny:
        found = ["- base"] if first else []
        found += [f"- {{name: T-Few, {TFEW}}}",
                  "- {name: LoRA, adapter: {method: lora, r: 8, target_modules: [q, v]}, lr: 3e-3}",
                  "- {name: prompt tuning, adapter: {method: prompt_tuning, num_virtual_tokens: 16}, lr: 0.1}"]
    else:
        found = ["- base"] if first and options.methods != "icl" else []
        found += [f"- {{name: ICL, icl: {prompts}, prompt: plain, shots: {k}}}",
                  f"- {{name: 'ICL, calibrated', icl: {prompts}, prompt: calibrated, shots: {k}}}",
                  "- {name: LoRA, adapter: {method: lora, r: 8, target_modules: [q_proj, v_proj]}, lr: 2e-3}",
                  "- {name: prompt tuning, adapter: {method: prompt_tuning, num_virtual_tokens: 16, prompt_tuning_init: SAMPLE_VOCAB}, lr: 3e-2}"]
        found = [line for line in found if options.methods == "all" or "icl:" in line]
    return "\n".join("  " + line for line in found)


def size(text):
    value = float(text or 0)
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB" if value >= 1e3 else f"{value:.0f} B"


def number(text, form):
    return form.format(float(text)) if text else "-"


def print_row(k, row):
    if row["reason"]:
        print(f"| {k} | {row['name']} | {row['reason'][:80]} |", flush=True)
        return
    print(f"| {k} | {row['name']} | {float(row['value']):.3f} | {float(row['low']):.3f} to {float(row['high']):.3f} | {int(row['trained_parameters'] or 0):,} | "
          f"{size(row['bytes_on_disk'])} | {number(row['training_flops'], '{:.1e}')} | {number(row['training_flops_counted'], '{:.1e}')} | "
          f"{number(row['training_seconds'], '{:.1f}')} | {number(row['inference_flops_uncached'], '{:.1e}')} | {number(row['inference_flops_counted'], '{:.1e}')} | "
          f"{number(row['ms_per_example'], '{:.1f}')} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peft")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--shots", default="4,8,16,32,64")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--icl-seeds", type=int, default=3, help="choices of the shots; the figures are means over them")
    parser.add_argument("--methods", choices=["all", "icl"], default="all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", help="folder for CSV files and pages")
    options = parser.parse_args()
    if options.tiny:
        options.model, rows, test = TOP / "examples/data/tiny-t5", file_rows(TOP / "examples/data/topics.csv"), TOP / "examples/data/topics-test.csv"
    else:
        everything, test = review_rows(options.data), TOP / "examples/data/sentiment.csv"
        asked = {text for texts in file_rows(test).values() for text in texts}
        rows = {label: [text for text in texts if text not in asked] for label, texts in everything.items()}
    print("| k | method | accuracy | 95 % interval | trained | on disk | training FLOPs, model | counted | training s | FLOPs an example, model | counted | ms |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for index, k in enumerate(int(word) for word in options.shots.split(",")):
            train, prompts, recipe = folder / f"{k}.csv", folder / f"prompts-{k}.yaml", folder / f"compare-{k}.yaml"
            k = write(train, rows, k)
            keep = pathlib.Path(options.keep) if options.keep else folder
            result = keep / f"few-shot-{k}.csv"
            prompts.write_text(REVIEW_PROMPTS.format(train=train, test=test, shots=k, seeds=list(range(options.icl_seeds))))
            text = (REPORTS if options.tiny else REVIEWS).format(model=options.model, train=train, test=test, steps=options.steps, batch=min(options.batch, k),
                                                                threads=options.threads, entries=entries_of(options, k, prompts, index == 0))
            recipe.write_text(text)
            subprocess.run([options.peft, "compare", str(recipe), "--quiet", "--csv", str(result), "--html", str(result.with_suffix(".html"))], check=True)
            with open(result, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    print_row(0 if row["kind"] == "base" else k, row)


if __name__ == "__main__":
    main()
