#!/bin/bash
# Runs the POSIX test suite `pjdfstest` (crates.io) on the local mount.
#
#   scripts/pjdfstest.sh [PATTERN...]
#
# With CACHE=auto|always|metadata|never another cache mode than the default, with OUT=FILE the
# suite's whole output added to that file. docs/pjdfstest.md lists the cases that do not apply, with their reasons. Needs root and /dev/fuse.

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
# Where fuse3 is installed, mount(8) hands a remount to its helper, which knows no remount: -i goes
# to the kernel itself.
mkdir "$WORK/bin"
printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" > "$WORK/bin/mount"
chmod 0755 "$WORK/bin/mount"
config() {
    cat > "$WORK/$1.toml" <<END
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
# Coarser than the kernel's clock tick: at 1 ms even ext4 shows false failures.
naptime = 0.02
allow_remount = $2
END
}
config main false
config remount true
mkdir "$WORK/other"
mount -t tmpfs other "$WORK/other"
mkdir -m 0777 "$MNT/pjdfstest"

run() {
    local config=$WORK/$1.toml
    shift
    unshare -m sh -euc '
        mount --bind "$1/passwd" /etc/passwd
        mount --bind "$1/group" /etc/group
        PATH=$1/bin:$PATH
        shift
        exec "$@"
    ' sh "$WORK" "$TOOL" -c "$config" -p "$MNT/pjdfstest" -s "$WORK/other" "$@" \
        > "$WORK/out" 2>&1 || status=1
    [ -z "${OUT:-}" ] || cat "$WORK/out" >> "$OUT"
    sed -n '/FAILED$/,/^Backtrace/p' "$WORK/out"
    grep -E 'skipped$' "$WORK/out" | grep -v erofs || true
    grep Summary "$WORK/out" || { status=1; tail -n 20 "$WORK/out"; }
}

status=0
if [ $# -gt 0 ]; then
    run main "$@"
else
    # The cases that remount read-only have a run of their own: others leave a file open for
    # writing in the suite's process, and no file system can be remounted then.
    run main
    run remount erofs
fi
umount "$WORK/other"
stop_mount
[ $status = 0 ] || fail "cases failed"
echo "pjdfstest: every case that applies passes"
