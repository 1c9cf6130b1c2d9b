#!/bin/bash
# Unpacks packages of Debian's backports into a directory, and prints its path. What is installed is left
# alone, and so are the system's lists of packages. Of a package that only names the newest kernel, it is
# that kernel.
#
#   scripts/backports.sh DIR PACKAGE...
#
# Does nothing when DIR is there.
set -euo pipefail
dir=$1
shift
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
    packages=()
    for package; do
        kernel=$(apt-cache "${options[@]}" show --no-all-versions "$package" |
            sed -n 's/^Depends: .*\(linux-image-[^ ,]*\).*/\1/p')
        packages+=("${kernel:-$package}")
    done
    (cd "$work/debs" && apt-get "${options[@]}" download "${packages[@]}" >&2)
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$work/root"
    done
    mkdir -p "$(dirname "$dir")"
    mv "$work/root" "$dir"
fi
(cd "$dir" && pwd)
