#!/bin/bash
# Has real guests go on, under work that compares all that it reads, while a new razorfsd takes over,
# while they move to another QEMU with another razorfsd, and after razorfsd was killed.
#
#   scripts/vm_migration_test.sh
#
# QEMU moves guests with virtiofs from 8.2 on, and Debian 12 has 7.2: a newer one comes from backports,
# unpacked below vm-tests/cache and not installed. Where that cannot be had, nothing moves
# (MIGRATION=no says so beforehand). DIR (/var/tmp/razorfs-vm by default) names the place for stores
# and logs.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/guest_tools.sh"
flags=()
if [ "${MIGRATION:-yes}" != no ]; then
    flags=(--qemu "$(scripts/newer_qemu.sh vm-tests/cache/qemu)")
fi
exec "$VM_TESTS" --agent "$AGENT" --dir "${DIR:-/var/tmp/razorfs-vm}" migration "${flags[@]}"
