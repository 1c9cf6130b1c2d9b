#!/bin/bash
# Unpacks the kernel or the QEMU of Debian's backports below vm-tests/cache, once, and prints where. What
# is installed is left alone, and so are the system's lists of packages.
#
#   scripts/backports.sh kernel|qemu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    kernel) packages=(linux-image-cloud-amd64) ;;
    qemu) packages=(qemu-system-x86 qemu-system-common qemu-system-data seabios) ;;
    *)
        echo "usage: scripts/backports.sh kernel|qemu" >&2
        exit 2
        ;;
esac
dir=$PWD/vm-tests/cache/backports/$1
if [ ! -d "$dir" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/debs/partial" "$work/root"
    for suite in bookworm bookworm-backports; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
    done > "$work/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Default-Release=bookworm-backports)
    apt-get "${options[@]}" update >&2
    if [ "$1" = kernel ]; then
        # That package only names the newest.
        packages=($(apt-cache "${options[@]}" show --no-all-versions "${packages[@]}" |
            sed -n 's/^Depends: .*\(linux-image-[^ ,]*\).*/\1/p'))
    fi
    (cd "$work/debs" && apt-get "${options[@]}" download "${packages[@]}" >&2)
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$work/root"
    done
    mkdir -p "$(dirname "$dir")"
    mv "$work/root" "$dir"
fi
echo "$dir"
