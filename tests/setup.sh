#!/usr/bin/env bash
# Installs what building and testing need, when something is missing. Works as root or with sudo.
set -u
packages="gcc g++ clang meson ninja-build pkg-config libblis-serial-dev zlib1g-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev python3 python3-numpy python3-venv python3-pip libclang-rt-14-dev"
case " $* " in *" --build-only "*) packages="gcc meson ninja-build pkg-config libblis-serial-dev zlib1g-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev python3 python3-numpy python3-venv python3-pip unzip" ;; esac
missing=
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
run=
[ "$(id -u)" -eq 0 ] || run=sudo
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq && $run apt-get install -y -qq --no-install-recommends $missing >/dev/null
status=$?
# The name of clang's run-time package changes with the release; nothing but a warning when it is not there.
if [ $status -ne 0 ]; then
    $run apt-get install -y --no-install-recommends ${missing/libclang-rt-14-dev/} >/dev/null
    status=$?
fi
[ $status -eq 0 ] || echo "could not install:$missing" >&2
exit $status
