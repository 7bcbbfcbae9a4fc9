#!/usr/bin/env bash
# run.sh BUILD: makes an environment with torch, transformers and peft (large downloads) and runs hf_peft.py
# and combine.py in it.
# PEFT_ORACLE names a python that has them already.
set -eu
build=$(cd "$1" && pwd)
top=$(cd "$(dirname "$0")/../.." && pwd)
python=${PEFT_ORACLE:-}
if [ -z "$python" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python3 -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy || { echo "the oracle could not be installed"; exit 77; }
fi
status=0
for model in llama-gqa encoders/bert encoders/roberta encoders/distilbert encoders/electra encoders/albert; do
    echo "$model"
    PEFT_LIBRARY=$build/lib/libpeft.so PYTHONDONTWRITEBYTECODE=1 "$python" "$top/tests/interchange/hf_peft.py" "$top/tests/data/models/$model" || status=1
done
PEFT_LIBRARY=$build/lib/libpeft.so PYTHONDONTWRITEBYTECODE=1 "$python" "$top/tests/interchange/combine.py" "$top/tests/data/models/llama-gqa" || status=1
exit $status
