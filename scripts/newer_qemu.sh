#!/bin/bash
# Unpacks the QEMU of Debian's backports into a directory, and prints its path. The system's own is
# left alone, and so are its lists of packages.
#
#   scripts/newer_qemu.sh DIR
set -euo pipefail
dir=$1
if [ ! -x "$dir/usr/bin/qemu-system-x86_64" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/debs/partial" "$work/root"
    for suite in bookworm bookworm-backports; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
    done > "$work/sources.list"
    apt=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update >&2
    (cd "$work/debs" && apt-get "${apt[@]}" download -t bookworm-backports \
        qemu-system-x86 qemu-system-common qemu-system-data seabios >&2)
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$work/root"
    done
    mkdir -p "$(dirname "$dir")"
    rm -rf "$dir"
    mv "$work/root" "$dir"
fi
(cd "$dir" && pwd)
