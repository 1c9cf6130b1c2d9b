#!/bin/bash
# Compares razorfsd with virtiofsd and with a floor, request by request, on one CPU, in one run.
#
#   scripts/bench.sh [--rounds N] [--only WORKLOAD] [--calls] [--json FILE] ...
#
# Builds what it needs, virtiofsd from crates.io among it. Stores go into a directory of their own
# within /var/tmp (--dir), which should lie on the disk that is to be measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install_deps.sh --bench
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
cargo build --release --quiet -p razorfs-bench -p razorfs --bins
virtiofsd=target/bench/bin/virtiofsd
[ -x "$virtiofsd" ] || cargo install --quiet virtiofsd --root target/bench
exec target/release/razorfs-bench run --virtiofsd "$PWD/$virtiofsd" "$@"
