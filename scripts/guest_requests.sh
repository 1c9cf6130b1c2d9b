#!/bin/bash
# Counts the requests that everyday commands take in a real guest, by flags of razorfsd.
#
#   scripts/guest_requests.sh [--flags '--cache=auto'] [--flags ''] ...
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/guest_tools.sh"
DIR=${XDG_STATE_HOME:-$HOME/.local/state}/razorfs-requests
mkdir -p "$DIR"
exec "$VM_TESTS" --agent "$AGENT" --dir "$DIR/vm" requests "$@"
