#!/bin/bash
# Runs the POSIX test suite `pjdfstest` (crates.io) on the local mount.
#
#   scripts/pjdfstest.sh [PATTERN...]
#
# With CACHE=auto|always|metadata|never another cache mode than the default. docs/pjdfstest.md
# lists the cases that do not apply, with their reasons. Needs root and /dev/fuse.

. "$(dirname "$0")/local_mount.sh"

install_tool pjdfstest 0.2.2
start_mount ${CACHE:+--cache "$CACHE"}

# The suite wants two users with a group of the same name: give it an /etc of its own.
cat > "$WORK/passwd" <<END
root:x:0:0::/root:/bin/sh
nobody:x:65534:65534::/:/usr/sbin/nologin
tests:x:65533:65533::/:/usr/sbin/nologin
END
cat > "$WORK/group" <<END
root:x:0:
nobody:x:65534:
tests:x:65533:
END
cat > "$WORK/pjdfstest.toml" <<END
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
# Coarser than the kernel's clock tick: at 1 ms even ext4 shows false failures.
naptime = 0.02
allow_remount = true
END
mkdir "$WORK/other"
mount -t tmpfs other "$WORK/other"
mkdir -m 0777 "$MNT/pjdfstest"

status=0
unshare -m sh -euc '
    mount --bind "$1/passwd" /etc/passwd
    mount --bind "$1/group" /etc/group
    cd "$2"
    shift 2
    exec "$@"
' sh "$WORK" "$MNT/pjdfstest" "$TOOL" -c "$WORK/pjdfstest.toml" -p "$MNT/pjdfstest" \
    -s "$WORK/other" -- "$@" > "$WORK/out" 2>&1 || status=$?
umount "$WORK/other"
cp "$WORK/out" "${OUT:-/dev/null}"
grep -E -i 'fail|skip|panicked|error' "$WORK/out" || true
tail -n 3 "$WORK/out"
stop_mount
exit $status
