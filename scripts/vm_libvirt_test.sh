#!/bin/bash
# Has libvirt run a guest with razorfs in both ways of configs/libvirt-domain.xml, whose elements it
# takes: a daemon that libvirt starts (<binary path=...>), and one that runs by itself
# (<source socket=...>). The guest writes, syncs and goes on writing while it is reset and destroyed, and
# once it reboots by itself; after each, what was synced has to be there.
#
#   scripts/vm_libvirt_test.sh
#
# Needs root. Starts virtlogd and libvirtd when libvirt does not answer, and ends them again. DIR
# (/var/tmp/razorfs-libvirt by default) names the place for stores and logs, RAZORFS_BIN the directory
# of the programs, if not those of this checkout, built for release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "vm_libvirt_test.sh: needs root" >&2; exit 2; }
scripts/install_deps.sh --libvirt
. scripts/plain_guest.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
[ -n "${RAZORFS_BIN:-}" ] || cargo build --release --quiet --package razorfs --bins
bin=$(realpath "${RAZORFS_BIN:-target/release}")
dir=${DIR:-/var/tmp/razorfs-libvirt}
name=razorfs-test-$$
mkdir -p "$dir"
dir=$(realpath "$dir")
rm -rf "$dir"/{started,socket,console.log,razorfs.sock,domain.xml}
started=() # what this script started, to be ended in the end

clean_up() {
    virsh -q destroy "$name" > /dev/null 2>&1 || true
    virsh -q undefine "$name" > /dev/null 2>&1 || true
    for pid in "${started[@]}"; do
        kill "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
}
trap clean_up EXIT
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$dir/console.log" >&2 || true
    tail -n 20 "/var/log/libvirt/qemu/$name.log" "/var/log/libvirt/qemu/$name-fs0-virtiofsd.log" >&2 || true
    exit 1
}

# libvirt.
export LIBVIRT_DEFAULT_URI=qemu:///system
if ! virsh -q version > /dev/null 2>&1; then
    mkdir -p /run/libvirt
    virtlogd > "$dir/virtlogd.log" 2>&1 &
    started+=($!)
    libvirtd > "$dir/libvirtd.log" 2>&1 &
    started+=($!)
    await 30 "libvirt answers" virsh -q version
fi
virsh version

# The guest: an init that does what is to be looked at.
plain_guest "$dir"
cat > "$dir/root/init" << 'INIT'
#!/bin/busybox sh
. /begin
for tag in started socket; do
    mkdir -p "/$tag"
    mount -t virtiofs "$tag" "/$tag" || echo "GUEST: $tag cannot be mounted"
    cd "/$tag"
    boots=$(cat boots 2> /dev/null || echo 0)
    [ "$boots" = 0 ] || sha256sum -c sums > /dev/null && echo "GUEST: $tag has what $boots boots synced"
    boots=$((boots + 1))
    dd if=/dev/urandom of="data$boots" bs=64k count=32 2> /dev/null
    sha256sum data* > sums
    echo "$boots" > boots
done
sync
echo "GUEST: synced, boot $boots"
[ "$boots" != 2 ] || reboot -f
# The power goes while something is written.
while :; do
    for tag in started socket; do dd if=/dev/zero of="/$tag/scratch" bs=64k count=16 2> /dev/null; done
done
INIT
pack_guest "$dir"

# The stores, and the daemon that runs by itself.
for store in started socket; do "$bin/razorfs" mkfs "$dir/$store"; done
"$bin/razorfsd" --store "$dir/socket" --socket-path "$dir/razorfs.sock" 2> "$dir/razorfsd.log" &
started+=($!)
daemon=$!
await 10 "razorfsd listens" test -S "$dir/razorfs.sock"

# QEMU may be another user, who has to get at the socket and the kernel.
chmod a+rx "$dir"
chmod a+rw "$dir/razorfs.sock"
# element: all of them that the example has, for these stores
example() {
    sed -n "/^ *<$1\\b/,/<\\/$1>/p" configs/libvirt-domain.xml |
        sed -e "s|/run/razorfs/home.sock|$dir/razorfs.sock|; s|dir='home'|dir='socket'|" \
            -e "s|/usr/local/bin/razorfsd|$bin/razorfsd|" \
            -e "s|/var/lib/razorfs/data|$dir/started|; s|dir='data'|dir='started'|"
}
cat > "$dir/domain.xml" << XML
<domain type='qemu'>
  <name>$name</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$KERNEL</kernel>
    <initrd>$dir/initrd.cpio</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet</cmdline>
  </os>
  <features><acpi/></features>
$(example memoryBacking)
  <devices>
    <serial type='file'><source path='$dir/console.log' append='on'/></serial>
$(example filesystem)
  </devices>
</domain>
XML

said() { grep -qF "GUEST: $1" "$dir/console.log"; }
# boot: what it finds and writes
boot() {
    await 180 "boot $1 syncs" said "synced, boot $1"
    for tag in started socket; do
        said "$tag has what $(($1 - 1)) boots synced" || fail "$tag: not what was synced"
    done
    sleep 0.5
}

echo "== virsh define, virsh start"
virsh define "$dir/domain.xml"
virsh start "$name"
boot 1
echo "== virsh reset"
virsh reset "$name"
boot 2
echo "== the guest reboots"
boot 3
echo "== virsh destroy, virsh start"
virsh destroy "$name"
await 30 "the daemon that libvirt started is gone" "$bin/razorfs" recover "$dir/started"
virsh start "$name"
boot 4
echo "== virsh destroy"
virsh destroy "$name"
virsh undefine "$name"
kill "$daemon"
wait "$daemon" || fail "razorfsd ended with $?"
await 30 "the daemon that libvirt started is gone" "$bin/razorfs" recover "$dir/started"
for store in started socket; do "$bin/razorfsck" --data "$dir/$store"; done
grep GUEST: "$dir/console.log"
echo "libvirt: a reset, a reboot and two ends of the guest, all that was synced is there"
