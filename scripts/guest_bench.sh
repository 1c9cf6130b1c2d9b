#!/bin/bash
# Compares razorfs with virtiofsd, QEMU's 9p and ext4 on a virtio-blk disk in a real guest that has
# all of them mounted: files, a tree that is unpacked and removed, git, SQLite.
#
#   scripts/guest_bench.sh [--rounds N] [--only file,tree,git,sqlite] [--tree FILES] [--json FILE] ...
#
# QEMU runs without KVM, so that the guest's own processor is what most of it waits for; a tree of
# 50,000 files (--tree 50000) takes an hour. Builds what it needs, virtiofsd from crates.io among it,
# unless VIRTIOFSD names one. Stores go into a directory of their own within /var/tmp (--dir).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/bench_tools.sh"
. scripts/guest_tools.sh
exec target/release/razorfs-bench guests --virtiofsd "$VIRTIOFSD" --agent "$AGENT" "$@"
