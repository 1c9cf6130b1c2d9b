#!/bin/bash
# Breaks the code on purpose, in each of the ways that tests/mutations lists, and sees that the test
# named there fails. What no test catches is printed, and the exit code is 1.
#
#   scripts/mutations.sh [NAME...]      all of them, or those named
#
# Works in a copy of what is committed, below target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

copy=target/mutations
rm -rf "$copy/tree"
mkdir -p "$copy/tree"
git archive HEAD | tar -x -C "$copy/tree"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
export CARGO_PROFILE_TEST_DEBUG=none

if [ $# = 0 ]; then
    set -- tests/mutations/*.patch
fi
caught=0
missed=()
for patch in "$@"; do
    name=$(basename "$patch" .patch)
    patch=$PWD/tests/mutations/$name.patch
    read -r -a test <<< "$(sed -n 's/^Test: //p' "$patch")"
    patch -s -p1 -d "$copy/tree" < "$patch"
    log=$copy/$name.log
    # Each set of compiler flags has a build of its own: the builds would throw each other away.
    flags=$(sed -n 's/^Rustflags: //p' "$patch")
    target=$PWD/$copy/target$(tr -cd '[:alnum:]' <<< "${flags:+-$flags}")
    run() {
        (
            cd "$copy/tree"
            export CARGO_TARGET_DIR=$target RUSTFLAGS="${RUSTFLAGS:-} $flags"
            timeout 900 cargo test "$@" "${test[@]}"
        ) >> "$log" 2>&1
    }
    : > "$log"
    if ! run --no-run; then
        missed+=("$name")
        echo "$name: does not compile, see $log"
    elif run; then
        missed+=("$name")
        echo "$name: NOT CAUGHT by cargo test ${test[*]}"
    else
        caught=$((caught + 1))
        echo "$name: caught by cargo test ${test[*]}"
    fi
    patch -s -R -p1 -d "$copy/tree" < "$patch"
done
echo "mutations=$# caught=$caught missed=${#missed[@]}"
[ ${#missed[@]} = 0 ]
