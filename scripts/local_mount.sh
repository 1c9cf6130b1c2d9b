# Sourced by the scripts that test razorfs over its local mount. Needs root.
#
#   start_mount [OPTION...]   makes a store and mounts it; OPTIONs go to `razorfs mount`
#   stop_mount                unmounts, waits for the daemon, checks the store
#   install_tool NAME VERSION installs a crate's program; TOOL is its path
#
# STORE and MNT are the store and the mount point, both below WORK, which goes away at exit. The
# programs are those of this checkout, built for release, unless RAZORFS_BIN names a directory.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=${RAZORFS_TOOLS:-$ROOT/target/tools}
BIN=${RAZORFS_BIN:-$ROOT/target/release}
DAEMON=

fail() {
    echo "error: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root, to mount"
[ -c /dev/fuse ] || fail "there is no /dev/fuse here"
[ -n "${RAZORFS_BIN:-}" ] || (cd "$ROOT" && cargo build --release --bins --quiet)

# Not /tmp: a store on tmpfs is refused.
WORK=$(mktemp -d "${RAZORFS_WORK:-/var/tmp}/razorfs-test.XXXXXX")
# Other users than root come by on the way to the mount.
chmod 0755 "$WORK"
STORE=$WORK/store
MNT=$WORK/mnt

cleanup() {
    local status=$?
    if [ -n "$DAEMON" ]; then
        umount -l "$MNT" 2>/dev/null || true
        kill "$DAEMON" 2>/dev/null || true
        wait "$DAEMON" 2>/dev/null || true
    fi
    if [ $status != 0 ] && [ -n "${KEEP:-}" ]; then
        echo "kept: $WORK" >&2
    else
        rm -rf "$WORK"
    fi
    exit $status
}
trap cleanup EXIT

serve() {
    "$BIN/razorfs" mount "$STORE" "$MNT" --allow-other -o suid,dev "$@" &
    DAEMON=$!
    for _ in $(seq 100); do
        mountpoint -q "$MNT" && return
        kill -0 "$DAEMON" 2>/dev/null || { DAEMON=; fail "the daemon ended"; }
        sleep 0.05
    done
    fail "nothing is mounted after 5 seconds"
}

start_mount() {
    mkdir -p "$MNT"
    "$BIN/razorfs" mkfs "$STORE"
    serve "$@"
}

stop_mount() {
    umount "$MNT"
    local status=0
    wait "$DAEMON" || status=$?
    DAEMON=
    [ $status = 0 ] || fail "the daemon ended with status $status"
    "$BIN/razorfsck" "$STORE"
}

install_tool() {
    TOOL=$TOOLS/bin/$1
    [ -x "$TOOL" ] || cargo install --quiet --locked --root "$TOOLS" --version "$2" "$1"
}
