#!/bin/bash
# Makes tables and plots of what scripts/bench.sh, guest_bench.sh and growth.sh wrote with --json:
# tables on standard output, plots in docs/plots.
#
#   scripts/plots.sh FILE...
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/bench_tools.sh"
exec target/release/razorfs-bench report --plots docs/plots "$@"
