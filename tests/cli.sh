#!/usr/bin/env bash
# cli.sh PEFT: the `peft` program from outside: train, interrupt, resume, eval, generate, inspect, merge, estimate, preview; what it says to
# mistakes, and its exit codes.
set -u
peft=$(realpath "$1")
[ -x "$peft" ] && "$peft" --version >/dev/null || { echo "cli.sh: $peft does not run" >&2; exit 1; }
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
passed=0 failed=0

check() { # check NAME COMMAND...
    local name=$1; shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "failed: $name"; [ -s "$out/err" ] && head -n 5 "$out/err"; fi
}
# run STATUS ARGUMENTS...: standard output and error to $out/out and $out/err
run() {
    local want=$1; shift
    "$peft" "$@" >"$out/out" 2>"$out/err" </dev/null
    local got=$?
    [ $got -eq "$want" ] || { echo "peft $*: exit code $got, expected $want"; return 1; }
}
said() { grep -qF -- "$1" "$out/err"; }
wrote() { grep -qF -- "$1" "$out/out"; }

tiny="examples/recipes/tiny.yaml sample.max_new_tokens=10 train.threads=1 train.batch_size=2 data.max_length=64 eval.max_batches=3"
# shellcheck disable=SC2086
train() { run "$1" train $tiny "${@:2}"; }

check "train" train 0 max_steps=12 eval.steps=4 output.save_steps=5 output.dir="$out/a"
check "says the plan" wrote "55,296 trained parameters"
check "says the outcome" wrote "before training,"
for file in adapter_config.json adapter_model.safetensors libpeft.json log.jsonl loss.svg checkpoint/checkpoint.json; do
    check "leaves $file" test -s "$out/a/$file"
done
check "log has every step" test "$(grep -c '"event": "step"' "$out/a/log.jsonl")" = 12
check "loss fell" python3 - "$out/a/log.jsonl" <<'PYTHON'
import json, sys
events = [json.loads(line) for line in open(sys.argv[1])]
done = events[-1]
sys.exit(not (done["event"] == "done" and done["held_out_after"] < done["held_out_before"]))
PYTHON
check "curve is XML" python3 -c "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])" "$out/a/loss.svg"
check "forgetting" train 0 max_steps=2 eval.steps=0 output.dir="$out/forget" eval.forgetting=examples/data/telegram.txt --quiet --json
check "forgetting: told" grep -q '"own_task_loss_before": [0-9.]*, "own_task_loss_after": [0-9.]*' "$out/out"
check "unfreezing" train 0 max_steps=4 eval.steps=0 output.dir="$out/unfreeze" adapter.method=full train.unfreeze_steps=1 train.layer_lr_decay=0.8

# Stopping and going on gives the same bits as not having stopped.
# shellcheck disable=SC2086
"$peft" train $tiny max_steps=400 eval.steps=0 output.dir="$out/b" >"$out/out" 2>"$out/err" &
pid=$!
for _ in $(seq 200); do [ "$(grep -c '"event": "step"' "$out/b/log.jsonl" 2>/dev/null)" -ge 3 ] 2>/dev/null && break; sleep 0.05; done
kill -INT $pid
wait $pid
check "interrupted: 130" test $? -eq 130
check "interrupted: says so" said "interrupted after step"
check "interrupted: checkpoint" test -s "$out/b/checkpoint/checkpoint.json"
check "whole run" train 0 max_steps=12 eval.steps=4 output.save_steps=7 output.dir="$out/c" --quiet
check "quiet is quiet" test ! -s "$out/out"
# A run that is killed after its checkpoint of step 7.
check "run to resume" train 0 max_steps=12 eval.steps=4 output.save_steps=7 output.dir="$out/d" --quiet
check "resume at the end" train 0 max_steps=12 eval.steps=4 output.save_steps=7 output.dir="$out/d" output.resume=auto --quiet
check "same adapter" cmp "$out/c/adapter_model.safetensors" "$out/d/adapter_model.safetensors"
# shellcheck disable=SC2086
"$peft" train $tiny max_steps=12 eval.steps=4 output.dir="$out/e" >"$out/out" 2>"$out/err" &
pid=$!
for _ in $(seq 200); do [ "$(grep -c '"event": "step"' "$out/e/log.jsonl" 2>/dev/null)" -ge 2 ] 2>/dev/null && break; sleep 0.02; done
kill -INT $pid 2>/dev/null
wait $pid
check "resume" train 0 max_steps=12 eval.steps=4 output.dir="$out/e" output.resume=auto
check "resumed adapter has the same bits" cmp "$out/c/adapter_model.safetensors" "$out/e/adapter_model.safetensors"
check "resumed log is whole" test "$(grep -c '"event": "step"' "$out/e/log.jsonl")" = 12
check "another recipe does not resume" train 1 max_steps=12 lr=1e-3 output.dir="$out/e" output.resume=auto
check "and says why" said "another recipe"

# shellcheck disable=SC2086
check "eval" run 0 eval $tiny output.dir="$out/a"
check "eval: base and adapter" test "$(grep -c perplexity "$out/out")" = 2
check "generate" run 0 generate examples/data/tiny --adapter "$out/a" --prompt "KING:" --max-new-tokens 8 --temperature 0.5 --seed 2
cp "$out/out" "$out/first"
check "generate again" run 0 generate examples/data/tiny --adapter "$out/a" --prompt "KING:" --max-new-tokens 8 --temperature 0.5 --seed 2
check "same seed, same text" cmp "$out/out" "$out/first"
check "chat without a template is refused" run 1 generate examples/data/tiny --prompt Hi --chat
check "and says how to name one" said "template"
check "chat with a named one" run 0 generate examples/data/tiny --prompt Hi --chat --template alpaca --max-new-tokens 4
check "inspect a model" run 0 inspect examples/data/tiny --modules --report
check "modules are listed" wrote "model.layers.0.self_attn.q_proj"
check "inspect an adapter" run 0 inspect "$out/a" --model examples/data/tiny
check "it fits" wrote "28 modules adapted"
check "inspect a tokenizer" run 0 inspect examples/data/tiny/tokenizer.json
check "inspect tensors" run 0 inspect "$out/a/adapter_model.safetensors"
check "inspect a GGUF file" run 0 inspect tests/data/models/llama-gqa.Q4_1.gguf
check "merge" run 0 merge examples/data/tiny "$out/a" --output "$out/merged"
check "merge: verified" wrote "logits differ by"
check "merged model works" run 0 generate "$out/merged" --prompt "KING:" --max-new-tokens 4
check "merge does not overwrite" run 1 merge examples/data/tiny "$out/a" --output "$out/merged"
check "train reads back what it saved" train 0 max_steps=3 eval.steps=0 seed=2 output.dir="$out/two"
check "train: said" wrote "read back and compared"
check "export" run 0 export "$out/a" --model examples/data/tiny --gguf "$out/a.gguf"
check "export: verified" wrote "logits differ by 0 at most"
check "export does not overwrite" run 1 export "$out/a" --model examples/data/tiny --gguf "$out/a.gguf"
check "export needs a model" run 2 export "$out/a" --gguf "$out/b.gguf"
check "import" run 0 import "$out/a.gguf" --model examples/data/tiny --output "$out/imported"
check "import: verified" wrote "logits differ by 0 at most"
check "import of what is no adapter" run 1 import tests/data/models/llama-gqa.Q4_1.gguf --model examples/data/tiny --output "$out/none"
check "DoRA" train 0 max_steps=2 eval.steps=0 adapter.use_dora=true output.dir="$out/dora"
check "DoRA has no place in GGUF" run 1 export "$out/dora" --model examples/data/tiny --gguf "$out/dora.gguf"
check "and merging is offered" said "try: peft merge examples/data/tiny"
check "combine" run 0 combine examples/data/tiny "$out/a" "$out/two" --weights 0.7,0.3 --output "$out/both"
check "combine: beside both at once" wrote "beside the 2 adapters at once"
check "combine by signs" run 0 combine examples/data/tiny "$out/a" "$out/two" --method ties --density 0.4 --output "$out/ties"
check "combine: weights for each" run 2 combine examples/data/tiny "$out/a" "$out/two" --weights 1 --output "$out/none"
check "combine: no such method" run 1 combine examples/data/tiny "$out/a" "$out/two" --method tis --output "$out/none"
check "combine: names the methods" said "dare_ties_svd"
check "adapter of a GGUF file" train 0 model=tests/data/models/llama-gqa.Q4_1.gguf max_steps=2 eval.steps=0 output.dir="$out/quantised"
check "merge into GGUF" run 0 merge tests/data/models/llama-gqa.Q4_1.gguf "$out/quantised" --output "$out/merged.gguf"
check "merge into GGUF: verified" wrote "logits differ by"
check "PiSSA as LLaMA-Factory writes it" train 0 max_steps=2 eval.steps=0 pissa_init=true pissa_iter=4 output.dir="$out/pissa"
# shellcheck disable=SC2086
check "estimate" run 0 estimate $tiny --json
check "estimate: an object" python3 -c "import json, sys; assert json.loads(open(sys.argv[1]).read())['seconds_per_step'] > 0" "$out/out"
# shellcheck disable=SC2086
check "preview" run 0 preview $tiny --count 1
check "preview marks" wrote "[["
# shellcheck disable=SC2086
check "recipe" run 0 recipe $tiny lr=3e-3
check "recipe: origin" wrote "train.lr: 0.003  # command line (lr)"
check "json events" train 0 max_steps=2 output.dir="$out/f" --json
check "json events: every line" python3 -c "import json, sys; [json.loads(l) for l in open(sys.argv[1])]" "$out/out"

printf '{"prompt": "Who?", "completion": " Me."}\n{"prompt": "Where?", "completion": " Here."}\n' >"$out/rows.jsonl"
check "full fine-tuning on rows" run 0 train examples/recipes/tiny.yaml adapter.method=full lr=1e-4 data.train="$out/rows.jsonl" data.validation_fraction=0 \
    adapter.target_modules=null adapter.r=null adapter.lora_alpha=null max_steps=3 train.threads=1 sample.prompt= output.dir="$out/g"

# T-Few as one recipe, on rows with classes and on rows with answers of their own; causal models rank answers too.
tfew="examples/recipes/tfew.yaml train.threads=1"
# shellcheck disable=SC2086
check "T-Few" run 0 train $tfew max_steps=40 eval.steps=20 output.dir="$out/tfew"
check "T-Few: measured while training" wrote "accuracy"
check "T-Few: held-out loss fell" python3 - "$out/tfew/log.jsonl" <<'PYTHON'
import json, sys
done = [json.loads(line) for line in open(sys.argv[1])][-1]
sys.exit(not (done["event"] == "done" and done["held_out_after"] < done["held_out_before"]))
PYTHON
# shellcheck disable=SC2086
check "eval ranks answers" run 0 eval $tfew output.dir="$out/tfew" --json
check "eval: accuracy with an interval" python3 - "$out/out" <<'PYTHON'
import json, sys
base, adapted = [json.loads(line) for line in open(sys.argv[1])]
assert adapted["examples"] == 60 and adapted["accuracy_low"] <= adapted["accuracy"] <= adapted["accuracy_high"]
assert adapted["loss"] < base["loss"]
PYTHON
printf '{"input": "Two and two is", "choices": [" four", " five"], "answer": 0}\n{"input": "Red is a", "choices": [" colour", " tree", " day"], "answer": " colour"}\n' \
    >"$out/choices.jsonl"
own="data.format=choices data.train=$out/choices.jsonl data.validation= data.label_names= data.input_template= data.verbalizers= max_steps=2 batch_size=2"
# shellcheck disable=SC2086
check "T-Few on answers of the rows" run 0 train $tfew $own output.dir="$out/tfew2"
# shellcheck disable=SC2086
check "T-Few on a causal model" train 0 $own data.validation_fraction=0 train.loss=tfew output.dir="$out/tfew3"
# shellcheck disable=SC2086
check "right answers alone" train 0 $own data.validation_fraction=0 output.dir="$out/tfew4"
# shellcheck disable=SC2086
check "a causal model ranks" run 0 eval $tiny $own data.validation_fraction=0 output.dir="$out/tfew4"
check "its accuracy" wrote "accuracy"

# Several methods side by side.
mkdir -p "$out/tmp"
export TMPDIR=$out/tmp
few='train.threads=1 max_steps=3 data.max_length=32 eval.max_batches=2 compare.samples=100'
methods='compare=[base, lora, {name: odd, method: ia3, seed: 3}, {name: "<none>", adapter: {method: lora, target_modules: [w_proj]}}]'
# shellcheck disable=SC2086
compare() { run "$1" compare examples/recipes/compare-tiny.yaml $few "${@:2}"; }
check "compare" compare 0 "$methods" --csv "$out/compare.csv" --html "$out/compare.html" --keep "$out/kept"
check "compare: a failed entry is a row" wrote "no result: adapter_config.json: no module matches"
check "compare: adapters are kept" test -s "$out/kept/lora/adapter_model.safetensors" -a -s "$out/kept/odd/adapter_config.json"
check "compare: nothing else is left" test -z "$(ls -A "$out/tmp")"
check "compare: table and page" python3 - "$out/compare.csv" "$out/compare.html" "$out/kept/lora" <<'PYTHON'
import csv, os, re, sys, xml.dom.minidom
rows = list(csv.DictReader(open(sys.argv[1])))
assert [r["name"] for r in rows] == ["base", "lora", "odd", "<none>"], rows
base, lora, odd, none = rows
assert base["kind"] == "base" and base["trained_parameters"] == "0" and float(base["training_flops"]) == 0
assert lora["trained_parameters"] == "55296" and lora["steps"] == "3"
assert int(lora["bytes_on_disk"]) == sum(os.path.getsize(os.path.join(sys.argv[3], f)) for f in os.listdir(sys.argv[3]))
for r in rows[:3]:
    assert r["measure"] == "loss" and float(r["low"]) < float(r["value"]) < float(r["high"]), r
    assert float(r["inference_flops"]) == 2 * 431040 * float(r["tokens_per_example"]), r
assert float(lora["value"]) < float(base["value"])
assert float(lora["training_flops"]) == 6 * 431040 * float(lora["training_tokens"])
assert float(lora["peak_memory"]) > float(lora["inference_memory"]) > 0 and float(lora["seconds_per_step"]) > 0
assert none["value"] == "" and "w_proj" in none["reason"]
page = open(sys.argv[2]).read()
assert "http" not in page and "<script" not in page and "<none>" not in page and "&#60;none&#62;" in page
drawings = re.findall(r"<svg.*?</svg>", page, re.S)
assert len(drawings) >= 6
for drawing in drawings:
    xml.dom.minidom.parseString(drawing)
PYTHON
check "compare: twice the same" compare 0 "$methods" --csv "$out/again.csv" --quiet
check "compare: values do not depend on the run" python3 - "$out/compare.csv" "$out/again.csv" <<'PYTHON'
import csv, sys
a, b = ([(r["name"], r["value"], r["low"], r["training_flops_counted"]) for r in csv.DictReader(open(f))] for f in sys.argv[1:])
assert a == b, (a, b)
PYTHON
check "compare: seeds and JSON" compare 0 'compare.entries=[lora]' compare.seeds=2 --json
check "compare: seeds are means" python3 -c "
import json, sys
e = json.loads(open(sys.argv[1]).read())
assert e['seeds'] == 2 and e['seed_low'] < e['value'] < e['seed_high'], e" "$out/out"
check "compare: prompts beside answers" run 0 compare examples/recipes/tfew.yaml train.threads=1 max_steps=2 compare.samples=100 --csv "$out/prompts.csv" \
    'compare=[base, {method: ia3, train.loss: tfew}, {icl: examples/recipes/prompts.yaml, shots: 2}]'
check "compare: all of them have an accuracy" test "$(grep -c ',accuracy,0\.' "$out/prompts.csv")" = 3
check "compare: nothing but failures: 1" compare 1 'compare=[{method: lora, target_modules: [w_proj]}]'
check "compare: no entries: 1" run 1 compare examples/recipes/tiny.yaml
check "compare: unknown key: 1" compare 1 'compare=[base, {method: lora, rnk: 4}]'
check "compare: closest key" said 'unknown key "rnk"'
"$peft" compare examples/recipes/compare-tiny.yaml train.threads=1 max_steps=3000 data.max_length=32 eval.max_batches=2 'compare=[base, lora, ia3]' \
    --csv "$out/stopped.csv" --html "$out/stopped.html" >"$out/out" 2>"$out/err" &
pid=$!
for _ in $(seq 200); do [ -s "$out/stopped.csv" ] && break; sleep 0.05; done
sleep 0.2
kill -INT $pid
wait $pid
check "compare interrupted: 130" test $? -eq 130
check "compare interrupted: what is finished is told" wrote "base"
check "compare interrupted: and written" test "$(wc -l <"$out/stopped.csv")" = 2
check "compare interrupted: nothing is left" test -z "$(ls -A "$out/tmp")"
unset TMPDIR

# Labelled tasks: classes counted, the best by a measure kept, everything from the adapter's folder alone.
tickets="model=tests/data/tasks/bert-tiny data.validation_fraction=0.25 data.max_length=48 train.batch_size=8 train.threads=1 eval.per_epoch=1"
printf 'model: {path: tests/data/tasks/bert-tiny, task: seq_cls}\nadapter: {method: lora, r: 4, target_modules: [query, value]}\ndata: {train: tests/data/tasks/tickets.csv}\n' >"$out/tickets.yaml"
# shellcheck disable=SC2086
check "classes" run 0 train "$out/tickets.yaml" $tickets epochs=6 lr=1e-2 class_weights=balanced eval.metric=macro_f1 output.dir="$out/t"
check "classes: balance before training" wrote "shipping"
check "classes: a measure in every evaluation" test "$(grep -c 'held-out loss.*accuracy.*macro_f1' "$out/out")" = 6
check "classes: says the outcome" wrote "held-out macro_f1"
check "classes: names are saved" grep -q '"id2label": {"0": "account", "1": "billing", "2": "shipping"}' "$out/t/libpeft.json"
check "eval of a folder" run 0 eval "$out/t"
check "eval: measures with intervals" wrote "macro_precision"
check "eval: confusion matrix" wrote "label by prediction"
check "eval as JSON" run 0 eval "$out/t" --json
check "eval: an object" python3 -c "import json, sys; e = json.load(open(sys.argv[1])); assert e['accuracy_low'] <= e['accuracy'] <= e['accuracy_high'] and e['confusion']['billing']" "$out/out"
printf 'id,text\n1,"my parcel is late"\n2,\n3,refund my money\n' >"$out/new.csv"
check "predict: a bad row is named" run 1 predict "$out/t" --input "$out/new.csv"
check "predict: with file and line" said 'new.csv:3: "text" is empty'
check "predict" run 0 predict "$out/t" --input "$out/new.csv" --on-bad-row skip --output "$out/new.jsonl"
check "predict: rows with classes" python3 - "$out/new.jsonl" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
assert [r["id"] for r in rows] == ["1", "3"] and [r["row"] for r in rows] == [0, 2], rows
assert all(r["prediction"] in r["scores"] and abs(sum(r["scores"].values()) - 1) < 1e-3 for r in rows), rows
PYTHON
# shellcheck disable=SC2086
check "tags" run 0 train "$out/tickets.yaml" $tickets task=token_cls data.train=tests/data/tasks/train.conll epochs=1 eval.metric=entity_f1 output.dir="$out/u"
check "tags: predict" run 0 predict "$out/u" --input tests/data/tasks/test.conll
check "tags: one a word" python3 -c "import json, sys; assert all(len(r['tokens']) == len(r['prediction']) for r in map(json.loads, open(sys.argv[1])))" "$out/out"
# shellcheck disable=SC2086
check "questions" run 0 train "$out/tickets.yaml" $tickets task=question_ans data.train=tests/data/tasks/answers.jsonl data.validation=tests/data/tasks/answers.jsonl epochs=1 eval.metric=answer_f1 output.dir="$out/v"
check "questions: predict" run 0 predict "$out/v" --input tests/data/tasks/answers.jsonl
check "questions: answers" wrote '"n_best"'
# shellcheck disable=SC2086
check "a measure of another task: 1" run 1 train "$out/tickets.yaml" $tickets eval.metric=pearson output.dir="$out/w"
check "and says which there are" said "there are: accuracy, macro_f1"
printf 'text,label\na b,x\nc d,y\n"never closed,x\n' >"$out/quote.csv"
# shellcheck disable=SC2086
check "a quote never closed: 1" run 1 train "$out/tickets.yaml" $tickets data.train="$out/quote.csv" output.dir="$out/w"
check "with file and line" said "quote.csv:4"

# Prompts that need no training.
cat >"$out/prompts.yaml" <<'YAML'
model: tests/data/models/gpt2
data: {train: tests/data/prompts/train.csv, test: tests/data/prompts/test.csv}
labels: [account, billing, shipping]
template: "{text}:"
prompts:
  - {name: plain}
  - {name: shots, shots: 1, seeds: [0, 1]}
YAML
check "rank" run 0 rank "$out/prompts.yaml" --csv "$out/prompts.csv" --predictions "$out/prompts.jsonl"
check "rank: a table" wrote "prompt  shots  accuracy"
check "rank: files" python3 - "$out/prompts.csv" "$out/prompts.jsonl" <<'PYTHON'
import csv, json, sys
runs = list(csv.DictReader(open(sys.argv[1])))
assert len(runs) == 3 and {(r["prompt"], r["seed"]) for r in runs} == {("plain", "0"), ("shots", "0"), ("shots", "1")}, runs
rows = [json.loads(line) for line in open(sys.argv[2])]
assert len(rows) == 21 and all(max(r["scores"], key=r["scores"].get) == r["prediction"] for r in rows), rows
PYTHON
check "rank as JSON" run 0 rank "$out/prompts.yaml" --json --only shots "seeds=[0, 1, 2]" data.max_examples=3
check "rank: an object" python3 -c "import json, sys; p = json.load(open(sys.argv[1]))['prompts']; assert len(p) == 1 and len(p[0]['runs']) == 3 and p[0]['runs'][2]['examples'] == 3" "$out/out"
check "rank: what is read" run 0 rank "$out/prompts.yaml" --show 3
check "rank: the text" wrote "where is my parcel, !:"
check "rank: unknown key: 1" run 1 rank "$out/prompts.yaml" tempate=x
check "rank: closest key" said 'did you mean "template"?'
check "rank: unknown field: 1" run 1 rank "$out/prompts.yaml" "template={txt}"
check "rank: line and closest field" said 'test.csv:2: '
check "rank: no file: 2" run 2 rank

# Pictures: a folder of class folders, a model with an output layer for other classes.
mkdir -p "$out/pictures/light" "$out/pictures/dark"
for i in 1 2 3 4 5 6; do
    printf 'P2 2 2 255 %d 200 230 240\n' "$((180 + i))" >"$out/pictures/light/$i.pgm"
    printf 'P2 2 2 255 %d 20 30 40\n' "$((10 + i))" >"$out/pictures/dark/$i.pgm"
done
printf 'model: examples/data/vit\nadapter: {method: vpt, num_virtual_tokens: 2, deep: true}\ndata: {train: "%s"}\n' "$out/pictures" >"$out/pictures.yaml"
pictures() { run "$1" train "$out/pictures.yaml" train.batch_size=4 train.epochs=4 train.lr=3e-2 output.dir="$out/pictures-adapter" "${@:2}"; }
check "pictures: other classes" pictures 1
check "pictures: names them" said 'unknown label "dark"'
check "pictures" pictures 0 model.num_labels=2 image_flip=0.5 image_crop=true data.validation="$out/pictures"
check "pictures: eval" run 0 eval "$out/pictures-adapter"
check "pictures: learnt" grep -Eq "^accuracy +1\.0" "$out/out"

# Mistakes: one sentence on standard error, nothing else, the right code.
check "no command: 2" run 2
check "unknown command: 2" run 2 trian
check "no recipe: 2" run 2 train
check "unknown option: 2" run 2 train examples/recipes/tiny.yaml --fast
check "names it" said '"--fast"'
check "missing value: 2" run 2 generate examples/data/tiny --prompt
check "no such recipe: 1" run 1 train "$out/none.yaml"
check "unknown key: 1" train 1 train.learing_rate=3
check "closest key" said 'did you mean "train.learning_rate"?'
printf 'model: examples/data/tiny\ndata:\n  trian: x\n' >"$out/bad.yaml"
check "unknown key in a file: 1" run 1 train "$out/bad.yaml"
check "file, line and closest key" said 'bad.yaml:3: unknown key "data.trian"; did you mean "data.train"?'
check "no such model: 1" train 1 model="$out/none" output.dir="$out/h"
check "names the file" said "$out/none"
check "no such data: 1" train 1 data.train="$out/none.txt" output.dir="$out/h"
check "no such module: 1" train 1 'target_modules=[w_proj]' output.dir="$out/h"
check "names what there is" said "_proj"
printf '{"prompt": "a", "completion": " b"}\n{"prompt": 3}\n' >"$out/bad.jsonl"
check "bad row: 1" train 1 data.train="$out/bad.jsonl" data.validation_fraction=0 output.dir="$out/h"
check "bad row: file and line" said "bad.jsonl:2"
check "too long: 1" train 1 data.max_length=100000 output.dir="$out/h"
check "output taken: 1" train 1 output.overwrite=false output.dir="$out/a"
check "help: 0" run 0 --help
for command in train eval predict generate inspect estimate merge preview rank recipe compare; do check "$command --help" run 0 $command --help; done
check "version" run 0 --version

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
