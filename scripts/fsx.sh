#!/bin/bash
# Runs `fsx` (crates.io) on the local mount: random reads, writes, mappings, truncations, holes,
# copies and syncs of one file, every read compared with what must be there.
#
#   scripts/fsx.sh [OPERATIONS [SEED]]      100,000 operations with a random seed by default
#
# With CACHE=auto|always|metadata|never another cache mode than the default, DURABILITY=strict|
# relaxed another durability, WRITEBACK=1 the kernel holding written data back. Needs root and
# /dev/fuse.

. "$(dirname "$0")/local_mount.sh"

operations=${1:-100000}
seed=${2:-$RANDOM}

install_tool fsx 0.3.2
start_mount ${CACHE:+--cache "$CACHE"} ${DURABILITY:+--durability "$DURABILITY"} \
    ${WRITEBACK:+--writeback}

cat > "$WORK/fsx.toml" <<END
flen = 4194304

# No operation of 0 bytes: posix_fallocate(3) refuses that.
[opsize]
max = 262144
min = 1
align = 1

[weights]
close_open = 1
invalidate = 1
mapread = 5
mapwrite = 5
read = 10
write = 10
truncate = 5
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 2
punch_hole = 5
sendfile = 2
posix_fadvise = 1
copy_file_range = 5
END
echo "fsx: $operations operations, seed $seed"
if ! "$TOOL" -N "$operations" -S "$seed" -P "$WORK" -f "$WORK/fsx.toml" "$MNT/file" \
    > "$WORK/out" 2>&1; then
    # What differs comes before the log of operations.
    grep -v '^\[ERROR fsx\] *[0-9]' "$WORK/out" | head -n 40
    tail -n 40 "$WORK/out"
    fail "fsx found a difference (seed $seed)"
fi
tail -n 1 "$WORK/out"
stop_mount
echo "fsx: no difference"
