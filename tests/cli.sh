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
for command in train eval generate inspect estimate merge preview recipe; do check "$command --help" run 0 $command --help; done
check "version" run 0 --version

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
