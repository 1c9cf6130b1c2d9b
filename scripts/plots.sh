#!/bin/bash
# Puts what scripts/bench.sh, guest_bench.sh and growth.sh wrote with --json into the documents:
# tables into docs/PERFORMANCE.md, plots into docs/plots. `target/release/razorfs-bench report FILE`
# only prints the tables. Names of files are seen from the top of this checkout, as theirs are.
#
#   scripts/plots.sh FILE...
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/bench_tools.sh"
exec target/release/razorfs-bench report --document docs/PERFORMANCE.md --plots docs/plots "$@"
