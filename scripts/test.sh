#!/bin/bash
# Runs the tests that need neither a guest nor root; as root also those on the local mount.
#
#   scripts/test.sh            everything
#   scripts/test.sh --quick    unit and integration tests only
#
# The last thing printed is the summary of `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=
case "${1:-}" in
    --quick) quick=yes ;;
    '') ;;
    *)
        echo "usage: scripts/test.sh [--quick]" >&2
        exit 2
        ;;
esac

scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

# The local mount first, so that the summary of the tests is the end of the output.
if [ -z "$quick" ] && [ "$(id -u)" = 0 ] && [ -c /dev/fuse ]; then
    scripts/fsx.sh 20000
    scripts/pjdfstest.sh
else
    echo "skipped: fsx and pjdfstest on the local mount (they need root and /dev/fuse)"
fi
# A build of its own: see src/sync.rs. By itself it runs more schedules.
scripts/shuttle.sh 300
cargo test --workspace
