#!/bin/bash
# Measures what operations cost as something grows: files in a store, with memory and the time of
# opening; entries of one directory; bytes of a file; queues and guests of a daemon.
#
#   scripts/growth.sh [--only files,directory,size,clients] [--files N] [--entries N]
#                     [--sparse GIB] [--written MIB] [--json FILE]
#
# The defaults take some minutes and 3 GiB of disk. Ten million files (--files 10000000) take a
# quarter of an hour and 4 GiB. Stores go into a directory of their own within /var/tmp (--dir).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/bench_tools.sh"
exec target/release/razorfs-bench growth "$@"
