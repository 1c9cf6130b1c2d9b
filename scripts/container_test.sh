#!/bin/bash
# Builds the image of configs/Containerfile and runs it as docs/OPERATING.md says: a store is made, served
# by an unprivileged and confined daemon, asked for a snapshot, killed, served again and checked.
#
#   scripts/container_test.sh [PODMAN-BUILD-OPTION...]
#
# Options go to `podman build`: --build-arg BASE=... and BUILDER=... name other images to build on,
# --build-arg PROFILE=dev builds fast. PODMAN is the program and its own options (`podman --runtime
# runc`, say), RUN_OPTIONS what `podman run` is given besides. Needs root, or a user who may run rootless
# containers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install_deps.sh --container
read -r -a program <<< "${PODMAN:-podman}"
podman() { command "${program[@]}" "$@"; }
name=razorfs-test-$$
image=localhost/$name

clean_up() {
    podman rm --force "$name" > /dev/null 2>&1 || true
    podman volume rm --force "$name-store" "$name-run" > /dev/null 2>&1 || true
    podman rmi --force "$image" > /dev/null 2>&1 || true
}
trap clean_up EXIT
fail() {
    echo "FAILED: $*" >&2
    podman logs "$name" >&2 || true
    exit 1
}
# No network at all: what it needs are two directories.
options=(--network none --volume "$name-store:/var/lib/razorfs" --volume "$name-run:/run/razorfs")
read -r -a more <<< "${RUN_OPTIONS:-}"
options+=("${more[@]}")
tool() {
    podman run --rm "${options[@]}" --entrypoint "/usr/local/bin/$1" "$image" "${@:2}"
}
serve() {
    podman run --detach --name "$name" "${options[@]}" "$image" > /dev/null
    for ((i = 0; i < 300; i++)); do
        if inside razorfs list /var/lib/razorfs/store > /dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "it does not serve"
}
inside() { podman exec "$name" "$@"; }

podman build --file configs/Containerfile --tag "$image" "$@" .
tool razorfs mkfs /var/lib/razorfs/store
serve
[ "$(inside id -u)" = 950 ] || fail "it runs as $(inside id -u)"
inside grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status
inside grep -q '^CapEff:.0*$' /proc/1/status || fail "it has capabilities"
inside grep -q '^Seccomp:.2$' /proc/1/status || fail "its system calls are not restricted"
inside test -S /run/razorfs/razorfs.sock || fail "there is no socket"
inside razorfs create /var/lib/razorfs/store web
inside razorfs snapshot /var/lib/razorfs/store web@one
podman kill "$name" > /dev/null
podman rm "$name" > /dev/null
serve
inside razorfs list /var/lib/razorfs/store | tee /dev/stderr | grep -q web@one || fail "the snapshot is gone"
podman stop --time 60 "$name" > /dev/null
[ "$(podman inspect --format '{{.State.ExitCode}}' "$name")" = 0 ] || fail "it did not end well"
podman logs "$name" 2>&1 | grep -q 'closed /var/lib/razorfs/store' || fail "the store was not closed"
tool razorfsck --data /var/lib/razorfs/store
echo "container: served, killed, served again, closed: the store is clean"
