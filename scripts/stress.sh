#!/bin/bash
# Runs stress-ng's file system stressors, fio with verification and dbench on the local mount, and
# razorfsck behind them: what others wrote to break file systems.
#
#   scripts/stress.sh [SECONDS]     for each of the stressors, 5 by default
#
# With CACHE=auto|always|metadata|never another cache mode than the default, DURABILITY=strict|
# relaxed another durability, WRITEBACK=1 the kernel holding written data back. Needs root and
# /dev/fuse.

. "$(dirname "$0")/local_mount.sh"
"$(dirname "$0")/install_deps.sh" --stress

seconds=${1:-5}
start_mount ${CACHE:+--cache "$CACHE"} ${DURABILITY:+--durability "$DURABILITY"} \
    ${WRITEBACK:+--writeback}

# Without those that have nothing to do with the file system they lie on.
stress-ng --sequential 2 --class filesystem --exclude binderfs,bind-mount,eventfd,ioprio,procfs \
    --timeout "${seconds}s" --verify --temp-path "$MNT" > "$WORK/out" 2>&1 \
    || { cat "$WORK/out"; fail "stress-ng found a fault"; }
grep -o 'skipp.*\|successful run.*' "$WORK/out" | sort -u

for engine in psync libaio mmap; do
    for block in 512-64k 4k-4k; do
        # It maps no less than a page.
        [ "$engine/$block" != mmap/512-64k ] || continue
        fio --name=verified --directory="$MNT" --ioengine=$engine --rw=randrw --bsrange=$block \
            --size=32m --numjobs=2 --iodepth=8 --fsync=64 --fallocate=none --group_reporting \
            --verify=crc32c --verify_fatal=1 > "$WORK/out" 2>&1 \
            || { cat "$WORK/out"; fail "fio found wrong bytes with $engine and $block"; }
        rm -f "$MNT"/verified.* local-verified-*
    done
done
echo "fio: no wrong byte"

dbench -t $((3 * seconds)) -D "$MNT" 4 > "$WORK/out" 2>&1 || { cat "$WORK/out"; fail "dbench failed"; }
tail -n 1 "$WORK/out"
stop_mount
echo "stress: no fault"
