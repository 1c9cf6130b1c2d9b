# shellcheck shell=bash
# Sourced by the scripts whose guests are a kernel of Debian's and an init of their own: busybox, and
# nothing else.
#
#   plain_guest DIR   makes DIR/root, a guest's root directory with busybox, the modules that virtiofs
#                     takes and /begin, which an init sources first; KERNEL is the kernel then, whose
#                     package stays in DIR for the next time
#   pack_guest DIR    packs DIR/root, with DIR/root/init, into DIR/initrd.cpio
#   await SECONDS WHAT COMMAND...   waits until the command succeeds; calls fail, which the script has, when
#                     it does not in time

plain_guest() {
    local dir=$1 package modules module
    rm -rf "$dir"/{root,kernel,initrd.cpio}
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    [ -e "$dir/$package.deb" ] ||
        (cd "$dir" && apt-get download -qq "$package" 2> /dev/null && mv "$package"_*.deb "$package.deb")
    dpkg -x "$dir/$package.deb" "$dir/kernel"
    KERNEL=$(echo "$dir"/kernel/boot/vmlinuz-*)
    modules=$(echo "$dir"/kernel/lib/modules/*/kernel)
    mkdir -p "$dir"/root/{bin,modules,proc,sys,dev}
    cp /bin/busybox "$dir/root/bin/"
    for module in virtio/virtio_ring virtio/virtio virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev \
        virtio/virtio_pci ../fs/fuse/fuse ../fs/fuse/virtiofs; do
        [ ! -e "$modules/drivers/$module.ko" ] || {
            cp "$modules/drivers/$module.ko" "$dir/root/modules/"
            echo "${module##*/}.ko" >> "$dir/root/modules/order"
        }
    done
    cat > "$dir/root/begin" << 'BEGIN'
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
BEGIN
}

pack_guest() {
    chmod +x "$1/root/init"
    (cd "$1/root" && find . | cpio --quiet -o -H newc -R 0:0) > "$1/initrd.cpio"
}

await() {
    local seconds=$1 what=$2
    shift 2
    for ((i = 0; i < seconds * 10; i++)); do
        if "$@" > /dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "$what: not after $seconds s"
}
