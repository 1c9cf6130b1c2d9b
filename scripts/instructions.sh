#!/bin/bash
# Counts the instructions that an operation takes, from the ring to the reply, under callgrind, and
# compares them with benches/instructions.txt: noise does not touch them. More than 5 % above is a
# failure; more than 5 % below asks for the file to be brought up to date.
#
#   scripts/instructions.sh             compares
#   scripts/instructions.sh --update    writes the file anew
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

known=benches/instructions.txt
cargo build --release --quiet -p razorfs-bench
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# How libc copies and fills depends on the processor; the counts are to be of razorfs.
tunables=glibc.cpu.x86_rep_movsb_threshold=0x10000000
tunables+=:glibc.cpu.x86_rep_stosb_threshold=0x10000000
tunables+=:glibc.cpu.x86_non_temporal_threshold=0x10000000

count() { # workload
    GLIBC_TUNABLES=$tunables valgrind --tool=callgrind --callgrind-out-file="$work/out" \
        --collect-atstart=no --toggle-collect='razorfs_bench::timed' target/release/razorfs-bench here \
        --dir "$work/store" "$1" > "$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
    local operations collected
    operations=$(sed -n 's/^operations=//p' "$work/log")
    collected=$(sed -n 's/.*Collected : //p' "$work/log")
    echo $((collected / operations))
}

status=0
new=$work/new
while IFS=$'\t' read -r workload before; do
    now=$(count "$workload")
    # What other threads do beside it can only add: of a few runs the least counts.
    for _ in 1 2; do
        [ $(((now - before) * 1000 / before)) -gt 50 ] || break
        again=$(count "$workload")
        now=$((again < now ? again : now))
    done
    printf '%s\t%s\n' "$workload" "$now" >> "$new"
    change=$(((now - before) * 1000 / before))
    verdict=ok
    if [ $change -gt 50 ]; then
        verdict='MORE THAN BEFORE'
        [ "${1:-}" = --update ] || status=1
    elif [ $change -lt -50 ]; then
        verdict='less: run scripts/instructions.sh --update'
    fi
    echo "workload=\"$workload\" instructions=$now before=$before $verdict"
done < "$known"
[ "${1:-}" != --update ] || cp "$new" "$known"
exit $status
