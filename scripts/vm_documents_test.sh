#!/bin/bash
# Runs what the documents say of real guests, in their words: a guest starts on QEMU's command line with
# nothing but the `...` filled in, mounts the device, and razorfs doctor looks at it there; what it
# synced is there when it starts again, and moves twice from one host to another that waits for it with
# `--incoming`. A host is a mount namespace: its /run/razorfs is its own, /var/lib/razorfs all have.
#
#   scripts/vm_documents_test.sh
#
# Needs root, and a QEMU that moves guests with virtiofs (8.2 or newer; scripts/backports.sh gets one).
# DIR (/var/tmp/razorfs-documents by default) names the place for stores and logs, RAZORFS_BIN the
# directory of the programs, if not those of this checkout, built for release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "vm_documents_test.sh: needs root" >&2; exit 2; }
if [ "${1:-}" != --inside ]; then
    scripts/install_deps.sh
    command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
    [ -n "${RAZORFS_BIN:-}" ] || cargo build --release --quiet --package razorfs --bins
    NEWER_QEMU=$(scripts/backports.sh qemu)
    export NEWER_QEMU
    exec unshare --mount --propagation private "$0" --inside
fi
. scripts/plain_guest.sh
bin=$(realpath "${RAZORFS_BIN:-target/release}")
dir=${DIR:-/var/tmp/razorfs-documents}
mkdir -p "$dir"
dir=$(realpath "$dir")
rm -rf "$dir"/{bin,store,out,first,source,destination,back}
mkdir -p "$dir"/{bin,store}
jobs=() # the hosts, each a group of processes

clean_up() {
    for job in "${jobs[@]}"; do kill -KILL -- "-$job" 2> /dev/null || true; done
}
trap clean_up EXIT
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$dir"/*/{console,qemu.log,monitor.log,log} >&2 || true
    exit 1
}

# What a reader has in the place of `...`: GUEST, an argument a line, and where the guest comes from.
# The documents' own are added to it in `machine`, for the host that the guest moves to.
system_qemu=$(command -v qemu-system-x86_64)
cat > "$dir/bin/qemu-system-x86_64" << SH
#!/bin/bash
set -eu
cd "\$HOST"
args=() before=
for arg in "\$@"; do
    case "\$before \$arg" in
        '-incoming ...') args+=("unix:\$HOST/incoming") ;;
        *' ...') mapfile -t -O "\${#args[@]}" args < "\$GUEST" ;;
        *) args+=("\$arg") ;;
    esac
    before=\$arg
done
printf '%s\n' "\${args[@]}" > machine
program=("$system_qemu")
if [ -n "\${NEWER_QEMU:-}" ]; then
    program=("\$NEWER_QEMU/usr/bin/qemu-system-x86_64")
    for firmware in qemu seabios; do program+=(-L "\$NEWER_QEMU/usr/share/\$firmware"); done
fi
exec "\${program[@]}" "\${args[@]}" <> monitor > monitor.log 2> qemu.log
SH
# The number of the daemon, which is to be ended.
cat > "$dir/bin/razorfsd" << SH
#!/bin/bash
echo \$\$ > "\$HOST/razorfsd"
exec "$bin/razorfsd" "\$@"
SH
chmod +x "$dir"/bin/*
export PATH=$dir/bin:$bin:$PATH
mkdir -p /var/lib/razorfs /run/razorfs
mount --bind "$dir/store" /var/lib/razorfs

# name, commands: begins to run them on the host of that name, and ends its daemon behind them
on() {
    export HOST=$dir/$1
    mkdir -p "$HOST/run"
    mkfifo "$HOST/monitor"
    set -m
    unshare --mount --propagation private bash -euc '
        mount --bind "$HOST/run" /run/razorfs
        eval "$1"
        kill "$(cat "$HOST/razorfsd")"
        wait %1' - "$2" > "$HOST/log" 2>&1 < /dev/null &
    set +m
    jobs+=($!)
}
# What was begun last has ended well.
ended() {
    local job=${jobs[-1]}
    unset 'jobs[-1]'
    wait "$job" || fail "$HOST ended with $?"
}
# host, command: gives it to QEMU
order() { echo "$2" 1<> "$dir/$1/monitor"; }
said() { grep -qF "GUEST: $2" "$dir/$1/console"; }
# host: the last number that the guest there has counted to
counted() { grep -a '^GUEST: counter [0-9]*.$' "$dir/$1/console" | tail -n 1 | tr -cd 0-9; }

plain_guest "$dir"
strip -o "$dir/root/bin/razorfs" "$bin/razorfs"
for library in $(ldd "$bin/razorfs" | grep -o '/[^ ]*'); do
    cp --parents --dereference "$library" "$dir/root/"
done
scripts/block.sh docs/TROUBLESHOOTING.md 'razorfs doctor --guest data' > "$dir/root/doctor"
cat > "$dir/root/init" << 'INIT'
#!/bin/busybox sh
. /begin
mkdir /mnt
mount -t virtiofs data /mnt || poweroff -f
sh -e /doctor && echo "GUEST: looked at"
cd /mnt
if [ ! -e sums ]; then
    dd if=/dev/urandom of=content bs=64k count=64 2> /dev/null
    sha256sum content > sums
    sync
    echo "GUEST: synced"
    poweroff -f
fi
sha256sum -c sums > /dev/null && echo "GUEST: what was synced is there"
n=0
while n=$((n + 1)); do
    echo $n >> counter && sync || break
    [ "$(wc -l < counter) $(tail -n 1 counter)" = "$n $n" ] || break
    echo "GUEST: counter $n"
done
echo "GUEST: FAILED at $n"
INIT
pack_guest "$dir"
printf '%s\n' -accel tcg,thread=multi -cpu max -kernel "$KERNEL" -initrd "$dir/initrd.cpio" \
    -append 'console=ttyS0 quiet panic=-1 tsc=unstable mitigations=off nokaslr' -nodefaults -no-user-config \
    -display none -serial file:console -monitor stdio -no-reboot > "$dir/guest"

echo "== README: a guest on $("$system_qemu" --version | sed -n 1p)"
export GUEST=$dir/guest
NEWER_QEMU='' on first "$(scripts/block.sh README.md 'razorfs mkfs')
    $(scripts/block.sh README.md 'qemu-system-x86_64')"
ended
said first synced || fail "the guest did not sync"
said first "looked at" && grep -q "data: it is mounted on /mnt" "$dir/first/console" ||
    fail "the doctor is not content"
razorfsck --data /var/lib/razorfs/vm1
razorfs extract /var/lib/razorfs/vm1 main "$dir/out"
(cd "$dir/out" && sha256sum -c sums)

echo "== OPERATING: a guest, and a host that it moves to"
on source "razorfsd --store /var/lib/razorfs/vm1 --socket-path /run/razorfs/vm1.sock &
    until [ -S /run/razorfs/vm1.sock ]; do sleep 0.1; done
    $(scripts/block.sh docs/OPERATING.md 'qemu-system-x86_64')"
await 240 "the guest counts" said source "counter 3"
said source "what was synced is there" || fail "it is not there"

# from, to: the guest moves, and goes on there
move() {
    await 60 "QEMU waits at $2" test -S "$dir/$2/incoming"
    order "$1" "migrate -d unix:$dir/$2/incoming"
    local status='status:[[:space:]]*'
    for ((i = 0; i < 240; i++)); do
        order "$1" "info migrate"
        sleep 1
        ! grep -qiE "${status}failed" "$dir/$1/monitor.log" || fail "the guest did not move from $1"
        ! grep -qiE "${status}completed" "$dir/$1/monitor.log" || break
    done
    local before
    before=$(counted "$1")
    await 60 "the guest goes on at $2" said "$2" "counter $((before + 3))"
    ! grep -a FAILED "$dir/$1/console" "$dir/$2/console" || fail "it does not find what it wrote"
    echo "it has counted to $before at $1, and goes on at $2"
    order "$1" quit
}
export GUEST=$dir/source/machine
on destination "$(scripts/block.sh docs/OPERATING.md 'razorfsd --incoming') &
    until [ -S /run/razorfs/vm1.sock ]; do sleep 0.1; done
    qemu-system-x86_64 ... -incoming ..."
move source destination
echo "== MIGRATION: another one"
on back "$(scripts/block.sh docs/MIGRATION.md 'razorfsd --incoming')"
move destination back
count=$(counted back)
order back quit
for _ in 1 2 3; do ended; done
razorfsck --data /var/lib/razorfs/vm1
rm -rf "$dir/out"
razorfs extract /var/lib/razorfs/vm1 main "$dir/out"
[ "$(wc -l < "$dir/out/counter")" -ge "$count" ] || fail "it has counted to $count, and that is not there"
(cd "$dir/out" && sha256sum -c sums)
echo "documents: a guest was looked at, moved twice and counted to $count; all that it synced is there"
