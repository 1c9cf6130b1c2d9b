#!/bin/bash
# Runs test suites of programs that use file systems, on the local mount and beside it on the host's
# own file system: what passes there must pass here. razorfsck behind them.
#
#   scripts/suites.sh [SUITE...]     systemd glib ostree go python coreutils acl; without, all
#
# With OPTIONS="--writeback" or others they go to `razorfs mount`. An hour, most of which is
# building coreutils and running it twice. Needs root and /dev/fuse; not in CI.

. "$(dirname "$0")/local_mount.sh"
"$(dirname "$0")/install_deps.sh" --suites

# What a FUSE mount does otherwise, whoever serves it: Linux polls its files (go), and GNU tail does
# not watch them with inotify (coreutils).
elsewhere='^(go/os|coreutils/tail-2/inotify-rotate-resources)$'

# In a directory of each file system, which is /tmp and /var/tmp meanwhile; /mnt has the rest.
# Each prints lines of a test's name and its exit status.
installed() {
    local suite=$1 dir=$2 test
    shift 2
    for test in "$@"; do
        mkdir -p "/tmp/$suite/$test" && cd "/tmp/$suite/$test"
        status=0
        # Beside the directory: ostree's tests want an empty one.
        G_TEST_SRCDIR=$dir G_TEST_BUILDDIR=$dir timeout 300 "$dir/$test" > "../$test.log" 2>&1 \
            || status=$?
        # 77: skipped.
        [ $status = 77 ] || echo "$suite/$test $status"
    done
}
run_systemd() {
    installed systemd /usr/lib/systemd/tests test-{acl-util,chown-rec,conf-files,copy,fd-util,fileio} \
        test-{fs-util,glob-util,install-file,io-util,journal,journal-flush,journal-init,journal-stream} \
        test-{journal-verify,mmap-cache,mountpoint-util,path-util,recurse-dir,rm-rf,serialize,sigbus} \
        test-{stat-util,tmpfile-util,umount,xattr-util,namespace,execve,catalog}
}
run_glib() {
    installed glib /usr/libexec/installed-tests/glib g-file g-file-info live-g-file testfilemonitor \
        mappedfile readwrite buffered-output-stream io-stream keyfile io-channel trash dir vfs permission
}
run_ostree() {
    installed ostree /usr/libexec/installed-tests/libostree test-{basic,archivez,basic-root,basic-user}.sh \
        test-{basic-user-only,basic-bare-split-xattrs,xattrs,corruption,delta,export,prune,fsck-delete}.sh \
        test-{local-pull,admin-deploy-clean,admin-deploy-whiteouts,reset-nonlinear,switchroot}.sh
}
run_go() {
    local package
    for package in os io/fs io/ioutil path/filepath os/exec syscall archive/tar archive/zip; do
        cd "/usr/lib/go-1.19/src/$package"
        status=0
        GOCACHE=/mnt/gocache timeout 300 go test -short . > /tmp/log 2>&1 || status=$?
        echo "go/$package $status"
    done
}
run_python() {
    local test
    mkdir -p /tmp/python && cd /tmp/python
    for test in os posix shutil tempfile mmap fcntl mailbox dbm dbm_dumb dbm_gnu zipfile tarfile glob \
        pathlib io fileio file stat largefile posixpath genericpath filecmp fileinput shelve; do
        status=0
        timeout 600 python3.11 -m test --tempdir . "test_$test" > "$test.log" 2>&1 || status=$?
        echo "python/$test $status"
    done
}
# Unpacks and builds Debian's source once, with a list of sources of its own; each file system gets
# a copy.
source_of() {
    local apt=(apt-get -qq -o Dir::Etc::sourceparts=- -o Dir::Etc::sourcelist=/mnt/sources.list
        -o Dir::State::lists=/mnt/lists -o APT::Sandbox::User=root)
    if [ ! -d "/mnt/source/$1" ]; then
        mkdir -p "/mnt/source/$1" /mnt/lists
        cd "/mnt/source/$1"
        echo "deb-src http://deb.debian.org/debian $(. /etc/os-release; echo "$VERSION_CODENAME") main" \
            > /mnt/sources.list
        "${apt[@]}" update
        "${apt[@]}" source "$1" > log 2>&1
        cd "$1"-*/
        FORCE_UNSAFE_CONFIGURE=1 ./configure -q > log 2>&1
        make -s > log 2>&1
    fi
    mkdir -p "/tmp/$1"
    cp -a "/mnt/source/$1/$1"-*/. "/tmp/$1"
    cd "/tmp/$1"
}
# Results of an automake suite as it prints them.
automake() {
    sed -nE "s,^(PASS|FAIL|ERROR): (tests?/)?(.*)\.(sh|pl|test)$,$1/\3 \1,p" \
        | sed -E 's/PASS$/0/; s/(FAIL|ERROR)$/1/'
}
run_coreutils() {
    source_of coreutils
    local tests
    tests=$(ls tests/{cp,mv,rm,ls,touch,chmod,chown,chgrp,ln,mkdir,rmdir,du,install,df,tail-2,dd}/*.{sh,pl} \
        tests/misc/{truncate,stat,mktemp,sync,readlink,realpath,shred,mknod,pathchk}*.sh 2> log || true)
    { make -k check-TESTS TESTS="${tests//$'\n'/ }" 2>&1 || true; } | automake coreutils
}
run_acl() {
    source_of acl
    { make -k check 2>&1 || true; } | automake acl
}

suites=("$@")
[ $# -gt 0 ] || suites=(systemd glib ostree go python coreutils acl)
# shellcheck disable=SC2086
start_mount ${OPTIONS:-}
mkdir "$WORK/host" "$MNT/run"
# Not by their own names: tests run programs of these.
export -f "${suites[@]/#/run_}" installed source_of automake
for suite in "${suites[@]}"; do
    for where in host mnt/run; do
        chmod 1777 "$WORK/$where"
        # What a test leaves running ends with them, or it would keep the mount.
        unshare -mpf --mount-proc bash -euc '
            mount --rbind "$1" /mnt
            mount --bind "/mnt/$2" /tmp
            mount --bind "/mnt/$2" /var/tmp
            TMPDIR=/tmp "run_$3"
        ' bash "$WORK" "$where" "$suite" | LC_ALL=C sort > "$WORK/result.${where%/*}"
    done
    LC_ALL=C join "$WORK/result.host" "$WORK/result.mnt" > "$WORK/both"
    awk -v suite="$suite" '{ here += $3 != 0; there += $2 != 0 }
        END { printf "%s: %d tests, failed here %d, on the host %d\n", suite, NR, here, there
              exit there == NR }' "$WORK/both" || fail "$suite: no test passes on the host, so nothing is compared"
    awk '$2 == 0 && $3 != 0 { print $1 }' "$WORK/both" >> "$WORK/worse"
done
stop_mount
if grep -vE "$elsewhere" "$WORK/worse"; then
    fail "these pass on the host's file system"
fi
echo "suites: nothing fails that passes on the host's file system"
