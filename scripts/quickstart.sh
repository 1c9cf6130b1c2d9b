#!/bin/bash
# Boots a real guest on razorfs, writes, cuts the power of guest and daemon, and shows that the data
# is there afterwards. Installs and builds what it needs first (Debian 12).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/guest_tools.sh"
DIR=${1:-${XDG_STATE_HOME:-$HOME/.local/state}/razorfs-quickstart}
mkdir -p "$DIR"
exec "$VM_TESTS" --agent "$AGENT" --dir "$DIR/vm" quickstart
