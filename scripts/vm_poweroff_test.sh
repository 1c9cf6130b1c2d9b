#!/bin/bash
# Cuts the power of real guests on razorfs, again and again, and judges what is left.
#
#   scripts/vm_poweroff_test.sh [--rounds N] [--seed S]            20 rounds: SIGKILL of three guests
#                                                                  and the daemon, or SIGKILL or
#                                                                  reset of one guest
#   scripts/vm_poweroff_test.sh --host [--rounds N] [--images N]   5 rounds: the daemon's host loses
#                                                                  power; 200 crash images are judged;
#                                                                  in the last round the client is a
#                                                                  guest within the outer guest
#
# DIR (/var/tmp/razorfs-vm by default) names the place for stores and logs; KERNEL and QEMU: see
# guest_tools.sh. --host needs root, for loop mounts. Exit code 0 when nothing was lost and nothing else is wrong.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/guest_tools.sh"
rounds=()
case " $* " in
    *' --rounds '*) ;;
    *' --host '*) rounds=(--rounds 5 --nested) ;;
esac
exec "$VM_TESTS" --agent "$AGENT" --dir "${DIR:-/var/tmp/razorfs-vm}" "${VM_FLAGS[@]}" \
    poweroff "$@" "${rounds[@]}"
