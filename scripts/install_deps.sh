#!/bin/bash
# Installs what building and testing razorfs needs on Debian 12: the one place that names packages.
# Does nothing when everything is there. Uses sudo when not run as root. With --bench, what the
# benchmark needs to build and watch its peers too; with --stress, --suites, --libvirt, --container or
# --service, what scripts/stress.sh, suites.sh, vm_libvirt_test.sh, container_test.sh or service_test.sh
# runs.
set -euo pipefail

PACKAGES=(
    build-essential pkg-config curl ca-certificates git   # to build
    qemu-system-x86 qemu-utils busybox-static cpio sqlite3 # guests and what they run
    e2fsprogs xfsprogs btrfs-progs fuse3 acl attr rsync tar util-linux kmod xz-utils # file systems and their tests
    valgrind                                               # counts of instructions
    prometheus                                             # promtool, which reads /metrics
    debootstrap                                            # a clean Debian for the package
    python3-venv                                           # schemathesis
)
case "${1:-}" in
    --bench) PACKAGES+=(libcap-ng-dev libseccomp-dev strace) ;;
    --stress) PACKAGES+=(stress-ng fio dbench) ;;
    --suites) PACKAGES+=(systemd-tests libglib2.0-tests ostree-tests libpython3.11-testsuite golang-go
        libacl1-dev libattr1-dev gettext dpkg-dev) ;;
    --libvirt) PACKAGES+=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients) ;;
    --container) PACKAGES+=(buildah podman crun uidmap fuse-overlayfs) ;;
    --service) PACKAGES+=(systemd-container) ;;
esac

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=()
for package in "${PACKAGES[@]}"; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = 'install ok installed' ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}"
elif ! apt-cache show linux-image-cloud-amd64 > /dev/null 2>&1; then
    as_root apt-get update -qq
fi

if ! command -v cargo > /dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "installing Rust with rustup" >&2
    curl -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
fi
