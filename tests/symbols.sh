#!/usr/bin/env bash
# symbols.sh BUILD: what the library exports, what it calls, and that it has no writable globals.
set -u
build=$1
bad=0
library=$build/lib/libpeft.so
archive=$build/lib/libpeft_internal.a

exported=$(nm -D --defined-only "$library" | awk '$2 ~ /^[A-Z]$/ {print $3}' | sed 's/@.*//' | grep -v '^PEFT_0$' | sort)
if ! diff <(echo "$exported") docs/abi/symbols.txt >/tmp/peft-symbols.$$; then
    echo "exported symbols differ from docs/abi/symbols.txt (< exported, > listed):"; cat /tmp/peft-symbols.$$; bad=1
fi
rm -f /tmp/peft-symbols.$$

declared=$(cat include/peft/*.h | tr '\n' ' ' | grep -oE 'PEFT_API[^;{]*\(' | grep -oE 'peft_[a-z0-9_]+ *\($' | tr -d ' (' | sort -u)
if ! diff <(echo "$exported") <(echo "$declared") >/tmp/peft-declared.$$; then
    echo "exported symbols differ from what the headers declare (< exported, > declared):"; cat /tmp/peft-declared.$$; bad=1
fi
rm -f /tmp/peft-declared.$$

calls=$(nm "$archive" 2>/dev/null | awk '$1 == "U" {print $2}' | sort -u |
    grep -E '^(abort|exit|_exit|printf|__printf_chk|puts|putchar|perror|fprintf|__fprintf_chk|getenv|secure_getenv|setenv|putenv|strtod|strtof|atof|setlocale|rand|srand|random|system|popen|stdout|stderr|signal|sigaction)$')
if [ -n "$calls" ]; then echo "lib/ must not use: $calls"; bad=1; fi

# Constant tables of pointers are in .data.rel.ro, which is read-only once the library is loaded.
globals=$(objdump -t "$archive" 2>/dev/null | awk '{ for (i = 2; i <= NF - 2; i++) if ($i ~ /^(\.data(\..*)?|\.bss(\..*)?|\*COM\*)$/ && $i !~ /^\.data\.rel\.ro/) print $NF }' |
    grep -vE '^\.' | sort -u)
if [ -n "$globals" ]; then echo "writable globals in lib/: $globals"; bad=1; fi

[ "$(printf '%s\n' "$exported" | wc -l)" -gt 20 ] || { echo "hardly anything is exported"; bad=1; }
[ $bad -eq 0 ] && echo "$(printf '%s\n' "$exported" | wc -l) symbols exported, as listed; no forbidden call, no writable global"
exit $bad
