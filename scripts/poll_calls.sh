#!/bin/bash
# System calls of the daemon for one cached metadata request, and how long one takes, with and
# without --poll-us. Daemon and guest have a CPU each where there are two.
#
#   scripts/poll_calls.sh [MICROSECONDS ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
command -v strace > /dev/null || { echo "strace is needed" >&2; exit 1; }
cargo build --release --quiet -p razorfs --bins
cargo build --release --quiet -p vm-tests --example load
[ $# -gt 0 ] || set -- 0 50
last=$(($(nproc) - 1))
requests=200000
work=$(mktemp -d -p /var/tmp)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; rm -rf "$work"' EXIT
target/release/razorfs mkfs "$work/store" > /dev/null 2>&1

start() { # microseconds
    taskset -c 0 target/release/razorfsd --store "$work/store" --socket-path "$work/socket" \
        --log-level error --poll-us "$1" &
    daemon=$!
    until [ -S "$work/socket" ]; do sleep 0.1; done
}
stop() {
    kill "$daemon"
    wait "$daemon"
    daemon=
}
load() { taskset -c "$last" target/release/examples/load "$work/socket" "$@"; }

for us in "$@"; do
    for depth in 1 16; do
        for how in sleep spin; do
            start "$us"
            said=$(load $requests $depth $how)
            # Once more, counted: strace makes each call slower, and so says nothing of time.
            strace -f -c -q -o "$work/calls" -p "$daemon" &
            counter=$!
            sleep 0.5
            load $requests $depth $how > /dev/null
            kill -INT $counter
            wait $counter || true
            stop
            calls=$(awk -v n=$requests '$NF == "total" { printf "%.3f", $(NF - (NF > 4 ? 2 : 1)) / n }' "$work/calls")
            echo "poll-us=$us $said system-calls=$calls"
            [ -z "${SHOW_CALLS:-}" ] || head -8 "$work/calls"
        done
    done
done
