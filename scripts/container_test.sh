#!/bin/bash
# Builds the image of configs/Containerfile and runs it, both in the words of docs/OPERATING.md: a store
# is made, served by an unprivileged and confined daemon, asked for a snapshot, killed, served again and
# checked. /var/lib/razorfs and /run/razorfs are directories of the test's own, by a mount namespace.
#
#   scripts/container_test.sh [PODMAN-BUILD-OPTION...]
#
# Options go to `podman build`: --build-arg BASE=... and BUILDER=... name other images to build on,
# --build-arg PROFILE=dev builds fast. PODMAN is the program and its own options (`podman --runtime
# runc`, say), RUN_OPTIONS what `podman run` is given besides. DIR (/var/tmp/razorfs-container by default)
# names the place for the store. Needs root, and that neither an image nor a container is called razorfs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "container_test.sh: needs root" >&2; exit 2; }
if [ -z "${INSIDE:-}" ]; then
    scripts/install_deps.sh --container
    INSIDE=yes exec unshare --mount --propagation private "$0" "$@"
fi
build=("$@")
read -r -a program <<< "${PODMAN:-podman}"
read -r -a run <<< "${RUN_OPTIONS:-}"
# With the options of this run.
podman() {
    local more=()
    case "$1" in
        build) more=("${build[@]}") ;;
        run) more=("${run[@]}") ;;
    esac
    command "${program[@]}" "$1" "${more[@]}" "${@:2}"
}
if podman container exists razorfs || podman image exists razorfs; then
    echo "container_test.sh: there is a container or an image called razorfs" >&2
    exit 2
fi
dir=${DIR:-/var/tmp/razorfs-container}
rm -rf "$dir"
mkdir -p "$dir"/{lib,run} /var/lib/razorfs /run/razorfs
mount --bind "$dir/lib" /var/lib/razorfs
mount --bind "$dir/run" /run/razorfs

clean_up() {
    podman rm --force razorfs > /dev/null 2>&1 || true
    podman rmi --force razorfs > /dev/null 2>&1 || true
}
trap clean_up EXIT
fail() {
    echo "FAILED: $*" >&2
    podman logs razorfs >&2 || true
    exit 1
}
inside() { podman exec razorfs "$@"; }
serve() {
    podman start razorfs > /dev/null
    for ((i = 0; i < 300; i++)); do
        if inside razorfs list /var/lib/razorfs/store > /dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "it does not serve"
}
# It was stopped, and has closed the store.
ended() {
    [ "$(podman inspect --format '{{.State.ExitCode}}' razorfs)" = 0 ] || fail "it did not end well"
    podman logs razorfs 2>&1 | grep -c 'closed /var/lib/razorfs/store' | grep -qx "$1" ||
        fail "the store was not closed"
}

eval "$(scripts/block.sh docs/OPERATING.md 'podman build')"
ended 1
serve
[ "$(inside id -u)" = 950 ] || fail "it runs as $(inside id -u)"
inside grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status
inside grep -q '^CapEff:.0*$' /proc/1/status || fail "it has capabilities"
inside grep -q '^Seccomp:.2$' /proc/1/status || fail "its system calls are not restricted"
[ -S /run/razorfs/razorfs.sock ] || fail "there is no socket"
inside razorfs create /var/lib/razorfs/store web
inside razorfs snapshot /var/lib/razorfs/store web@one
podman kill razorfs > /dev/null
podman wait razorfs > /dev/null
serve
list=$(inside razorfs list /var/lib/razorfs/store)
echo "$list"
for snapshot in main@monday web@one; do
    grep -q "$snapshot" <<< "$list" || fail "$snapshot is gone"
done
podman stop razorfs > /dev/null
ended 2
podman run --rm --network none -v /var/lib/razorfs:/var/lib/razorfs --entrypoint razorfsck razorfs \
    --data /var/lib/razorfs/store
echo "container: served, killed, served again, closed: the store is clean"
