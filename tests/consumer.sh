#!/usr/bin/env bash
# consumer.sh BUILD: installs into a scratch folder and builds a C and a C++ program against it through pkg-config.
set -eu
build=$(cd "$1" && pwd)
top=$(cd "$(dirname "$0")/.." && pwd)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
DESTDIR=$stage meson install -C "$build" --no-rebuild --quiet >/dev/null
pc=$(find "$stage" -name libpeft.pc | head -n 1)
[ -n "$pc" ] || { echo "no libpeft.pc was installed"; exit 1; }
export PKG_CONFIG_PATH=$(dirname "$pc") PKG_CONFIG_SYSROOT_DIR=$stage
flags=$(pkg-config --cflags libpeft)
libs=$(pkg-config --libs libpeft)
libdir=$(dirname "$(find "$stage" -name 'libpeft.so.0' | head -n 1)")
gcc -std=c99 -Wall -Wextra -Wpedantic -Werror $flags "$top/tests/consumer/consumer.c" $libs -o "$stage/c"
g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror $flags "$top/tests/consumer/consumer.cpp" $libs -o "$stage/cpp"
LD_LIBRARY_PATH=$libdir "$stage/c"
LD_LIBRARY_PATH=$libdir "$stage/cpp"
# The soname is the interface number.
readelf -d "$libdir/libpeft.so.0" | grep -q 'SONAME.*libpeft.so.0' || { echo "wrong soname"; exit 1; }
# Each public header compiles alone, as C99 and as C++11.
for header in "$stage"/usr/local/include/peft/*.h; do
    name=$(basename "$header")
    printf '#include "peft/%s"\nint main(void) { return 0; }\n' "$name" | gcc -std=c99 -Wall -Wextra -Wpedantic -Werror $flags -fsyntax-only -x c - || { echo "peft/$name alone, C99"; exit 1; }
    printf '#include "peft/%s"\nint main() { return 0; }\n' "$name" | g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror $flags -fsyntax-only -x c++ - || { echo "peft/$name alone, C++11"; exit 1; }
done
echo "C and C++ programs build against the installed library and run"
