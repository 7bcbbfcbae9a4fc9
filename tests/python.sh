#!/usr/bin/env bash
# python.sh BUILD: the Python package against the library of that build, then as a wheel made by pip.
set -eu
build=$(cd "$1" && pwd)
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numpy pytest >"$work/pip.log" 2>&1 || {
    echo "pip could not install numpy and pytest:"; tail -n 5 "$work/pip.log"; exit 77; }
export PYTHONDONTWRITEBYTECODE=1
PEFT_LIBRARY=$build/lib/libpeft.so PYTHONPATH=$top/bindings/python "$work/venv/bin/python" -m pytest -q -p no:cacheprovider "$top/bindings/python/tests"
PEFT_LIBRARY=$build/lib/libpeft.so PYTHONPATH=$top/bindings/python "$work/venv/bin/python" "$top/examples/05_python.py" "$top/tests/data/models/llama-gqa" \
    "$top/tests/data/tiny.txt" "$work/adapter" 5
PEFT_LIBRARY=$build/lib/libpeft.so PYTHONPATH=$top/bindings/python "$work/venv/bin/python" "$top/examples/07_tag.py" "$top/tests/data/tasks/bert-tiny" \
    "$top/tests/data/tasks/train.conll" "$top/tests/data/tasks/test.conll" "$work/tagger" 4
PEFT_LIBRARY=$build/lib/libpeft.so PYTHONPATH=$top/bindings/python "$work/venv/bin/python" "$top/examples/11_summarise.py" "$top/examples/data/tiny-t5" \
    "$top/examples/data/news.jsonl" "$work/headlines" 2
# As users install it: pip, from a copy of the checkout, and away from it.
git -C "$top" ls-files -z | (cd "$top" && tar --null -T - -cf - 2>/dev/null) | (mkdir "$work/source" && tar -xf - -C "$work/source")
"$work/venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps -w "$work/wheels" "$work/source" >"$work/wheel.log" 2>&1 || {
    echo "pip wheel failed:"; tail -n 20 "$work/wheel.log"; exit 1; }
ls "$work/wheels" | grep -q 'py3-none-linux' || { echo "unexpected wheel name:"; ls "$work/wheels"; exit 1; }
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$work"/wheels/*.whl
cd "$work" && "$work/venv/bin/python" -c "
import libpeft, libpeft._lib
assert 'site-packages' in libpeft._lib.library_path, libpeft._lib.library_path
with libpeft.Context() as context:
    print('wheel:', libpeft.__version__, context.build_info)"
