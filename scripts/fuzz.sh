#!/bin/bash
# Runs every fuzz target of fuzz/ for a number of executions, with the seeds that it generates and
# what earlier runs found worth keeping.
#
#   scripts/fuzz.sh                 200,000 executions in all
#   scripts/fuzz.sh 1000000         so many
#   scripts/fuzz.sh 1000000 wal     of one target
#
# Needs a nightly toolchain and cargo-fuzz (`cargo install cargo-fuzz`). FUZZ_SANITIZER is none,
# unless it says otherwise: `address` takes several times as long. Prints the executions of each
# target and of all; the exit code is 1 when a target crashed, hung or grew, and the bytes are in
# fuzz/artifacts then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

total=${1:-200000}
only=${2:-}
sanitizer=${FUZZ_SANITIZER:-none}
case "$total" in
    '' | *[!0-9]*)
        echo "usage: scripts/fuzz.sh [EXECUTIONS [TARGET]]" >&2
        exit 2
        ;;
esac

# Each target and its share of all executions, in percent.
targets="formats:40 chains:25 wal:15 fuse_request:14 recovery:5 stream:1"

cargo +nightly fuzz build --sanitizer "$sanitizer"
release=fuzz/target/x86_64-unknown-linux-gnu/release
RAZORFS_FUZZ_SEEDS=$PWD/fuzz/corpus cargo test --quiet --test fuzz_targets > /dev/null

status=0
sum=0
for entry in $targets; do
    target=${entry%:*}
    runs=$((total * ${entry#*:} / 100))
    if [ -n "$only" ]; then
        [ "$target" = "$only" ] || continue
        runs=$total
    fi
    mkdir -p "fuzz/artifacts/$target"
    log=$(mktemp)
    since=$(date +%s%N)
    failed=
    "$release/$target" -runs="$runs" -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
        -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 \
        "fuzz/corpus/$target" > "$log" 2>&1 || failed=yes
    ms=$((($(date +%s%N) - since) / 1000000 + 1))
    done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    done=${done:-0}
    sum=$((sum + done))
    echo "target=$target executions=$done per_second=$((done * 1000 / ms))${failed:+ FAILED}"
    if [ -n "$failed" ]; then
        status=1
        grep -v '^#[0-9]*[[:space:]]*\(NEW\|REDUCE\|pulse\|INITED\)' "$log" | tail -60
    fi
    rm -f "$log"
done
echo "executions=$sum exit=$status"
exit $status
