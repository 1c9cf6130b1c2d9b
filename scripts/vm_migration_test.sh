#!/bin/bash
# Has real guests go on, under work that compares all that it reads, while a new razorfsd takes over,
# while they move to another QEMU with another razorfsd, and after razorfsd was killed.
#
#   scripts/vm_migration_test.sh
#
# QEMU moves guests with virtiofs from 8.2 on, and Debian 12 has 7.2: it is that of backports here, as
# QEMU=backports has it elsewhere. With QEMU=system nothing moves. KERNEL: see guest_tools.sh. DIR
# (/var/tmp/razorfs-vm by default) names the place for stores and logs.
set -euo pipefail
QEMU=${QEMU:-backports}
. "$(dirname "${BASH_SOURCE[0]}")/guest_tools.sh"
exec "$VM_TESTS" --agent "$AGENT" --dir "${DIR:-/var/tmp/razorfs-vm}" "${VM_FLAGS[@]}" migration
