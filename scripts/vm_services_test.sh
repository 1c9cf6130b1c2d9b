#!/bin/bash
# Has real guests see what a store does besides holding files: a quota, a snapshot taken while the
# guest runs, files brought back from it, and after a power cut a clone, the restored dataset, and
# what was sent to another store.
#
#   scripts/vm_services_test.sh
#
# DIR (/var/tmp/razorfs-vm by default) names the place for stores and logs. KERNEL and QEMU: see
# guest_tools.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/guest_tools.sh"
exec "$VM_TESTS" --agent "$AGENT" --dir "${DIR:-/var/tmp/razorfs-vm}" "${VM_FLAGS[@]}" services
