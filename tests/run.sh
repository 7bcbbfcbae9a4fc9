#!/usr/bin/env bash
# Passes all tests on a fresh Debian or Ubuntu machine: installs what is missing, builds four ways, runs everything.
#
#   tests/run.sh              all default suites (under 15 minutes on two cores)
#   tests/run.sh --quick      the gcc build only
#   tests/run.sh --slow       also the suites that download models or compare with PyTorch
#
# The last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.."
top=$PWD
mode=default
for argument in "$@"; do
    case $argument in
        --quick) mode=quick ;;
        --slow) mode=slow ;;
        *) echo "unknown argument $argument (known: --quick, --slow)" >&2; exit 2 ;;
    esac
done

tests/setup.sh || { echo "0 passed, 1 failed"; exit 1; }

out=${PEFT_TEST_BUILD:-$top/build-tests}
mkdir -p "$out"
passed=0 failed=0 skipped=0

note() { printf '\n== %s\n' "$*"; }

one() { # one NAME COMMAND...: a test that is a single command
    local name=$1; shift
    note "$name"
    if "$@"; then passed=$((passed + 1)); else
        local status=$?
        if [ $status -eq 77 ]; then skipped=$((skipped + 1)); echo "skipped: $name"; else failed=$((failed + 1)); echo "FAILED: $name"; fi
    fi
}

count() { # count FOLDER: adds up what Meson's log of that build says
    local line
    line=$(python3 tests/count.py "$1/meson-logs/testlog.json") || { failed=$((failed + 1)); return; }
    read -r p f s <<<"$line"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

build() { # build NAME COMPILER MESON-OPTIONS...
    local name=$1 compiler=$2; shift 2
    note "build: $name"
    if [ ! -f "$out/$name/build.ninja" ]; then
        CC=$compiler meson setup "$out/$name" "$top" "$@" >"$out/$name.setup.log" 2>&1 || { tail -n 30 "$out/$name.setup.log"; return 1; }
    fi
    local targets=
    [ "$name" = tsan ] && targets="tests/unit/test_base_pool tests/unit/test_session tests/unit/test_checkpoint tests/fault/fault_determinism"
    # shellcheck disable=SC2086
    ninja -C "$out/$name" $targets >"$out/$name.build.log" 2>&1 || { grep -E 'error|warning|FAILED' "$out/$name.build.log" | head -n 30; return 1; }
}

suite() { # suite NAME MESON-TEST-OPTIONS...
    local name=$1; shift
    note "tests: $name"
    meson test -C "$out/$name" --no-rebuild --print-errorlogs "$@" 2>&1 | grep -vE '^(ninja|Summary)' | tail -n 60
    count "$out/$name"
}

if build gcc gcc -Dwerror=true; then suite gcc; else failed=$((failed + 1)); fi
one "include directions" python3 tests/layers.py
one "what lib/ may call, and its globals" bash tests/symbols.sh "$out/gcc"
one "installed library: C and C++ consumers through pkg-config" bash tests/consumer.sh "$out/gcc"
one "Python package" bash tests/python.sh "$out/gcc"

if [ $mode != quick ]; then
    if build clang clang -Dwerror=true -Doptimization=1; then suite clang --suite unit --suite gradient --suite conformance; else failed=$((failed + 1)); fi
    export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    if build asan gcc -Db_sanitize=address,undefined -Doptimization=1 -Ddebug=true -Db_lundef=false -Dsanitize_suite=true; then
        if [ $mode = slow ]; then suite asan --no-suite examples; else suite asan --no-suite examples --no-suite gradient; fi
    else failed=$((failed + 1)); fi
    export TSAN_OPTIONS=halt_on_error=1
    if build tsan gcc -Db_sanitize=thread -Doptimization=1 -Ddebug=true -Db_lundef=false -Dsanitize_suite=true; then suite tsan --suite threads; else failed=$((failed + 1)); fi
fi
if [ $mode = slow ]; then
    one "against HF PEFT" bash tests/interchange/run.sh "$out/gcc"
fi

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
