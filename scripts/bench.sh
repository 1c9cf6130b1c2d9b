#!/bin/bash
# Compares razorfsd with virtiofsd and with floors, request by request, on one CPU, in one run.
#
#   scripts/bench.sh [--rounds N] [--only WORKLOAD] [--pools 0,1,4] [--calls] [--json FILE] ...
#   scripts/bench.sh log [...]      what the log's writes cost
#   scripts/bench.sh tail [...]     the slowest creates, with and without checkpoints
#   scripts/bench.sh space [...]    what compression and deduplication save and cost
#   scripts/bench.sh snapshots [...]    what snapshots and clones cost
#
# Builds what it needs, virtiofsd from crates.io among it, unless VIRTIOFSD names one. Stores go
# into a directory of their own within /var/tmp (--dir), which should lie on the disk that is to be
# measured. `target/release/razorfs-bench report FILE...` makes tables of what --json wrote.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/bench_tools.sh"
case "${1:-}" in
    log | tail | space | snapshots) exec target/release/razorfs-bench "$@" ;;
    *) exec target/release/razorfs-bench run --virtiofsd "$VIRTIOFSD" "$@" ;;
esac
