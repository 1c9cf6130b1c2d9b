#!/bin/bash
# A disk for measurements where the machine's own file system says little about others: an ext4 with
# a journal, on an image that was written wholly before and that the loop device reads and writes
# past the page cache, so that neither first writes nor a second cache get into what is measured.
#
#   scripts/bench_disk.sh up DIR [MIB]    mounts it on DIR (default size: 6144 MiB)
#   scripts/bench_disk.sh down DIR        unmounts it and removes the image
#
# Needs root. Then: scripts/bench.sh --dir DIR
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$2
image=$dir.img
case $1 in
    up)
        mkdir -p "$dir"
        dd if=/dev/zero of="$image" bs=1M count="${3:-6144}" conv=fsync status=none
        mkfs.ext4 -q -F "$image"
        loop=$(losetup --find --show --direct-io=on "$image")
        mount "$loop" "$dir"
        ;;
    down)
        loop=$(findmnt --noheadings --output SOURCE --target "$dir")
        umount "$dir"
        losetup --detach "$loop"
        rmdir "$dir"
        rm "$image"
        ;;
    *)
        echo "$0: up or down, not '$1'" >&2
        exit 2
        ;;
esac
