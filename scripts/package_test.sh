#!/bin/bash
# Makes and installs the Debian package as docs/OPERATING.md says, on a clean Debian 12, and tries it
# there: the service runs as its own user and serves a front-end, manual pages and completions are there,
# which their shells can read, and purging it leaves stores. So are the programs installed alone.
#
#   scripts/package_test.sh        needs root, for debootstrap and chroot
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$(id -u)" != 0 ]; then
    echo "package_test.sh: needs root, for debootstrap and chroot" >&2
    exit 2
fi
scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
DIR=${DIR:-/var/tmp/razorfs-package}
rm -rf "$DIR"
mkdir -p "$DIR"
daemon=
process=
end() {
    [ -z "$process" ] || kill "$process" 2> /dev/null || true
    umount "$DIR/root/proc" 2> /dev/null || true
}
trap end EXIT

# Kept from run to run: what Debian is does not change with razorfs.
base=target/debian12-shells.tar
if [ ! -s "$base" ]; then
    debootstrap --variant=minbase --include=man-db,bash-completion,zsh,fish bookworm "$DIR/base" \
        "${MIRROR:-http://deb.debian.org/debian}" > "$DIR/debootstrap.log"
    mkdir -p target
    tar -C "$DIR/base" -cf "$base" .
fi
mkdir "$DIR/root"
tar -C "$DIR/root" -xf "$base"
in_root() { chroot "$DIR/root" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
mount -t proc proc "$DIR/root/proc"

say() { echo "package: $*"; }
# On the clean Debian: its packages are where the command line says, and nobody is asked.
echo 'APT::Get::Assume-Yes "true";' > "$DIR/root/etc/apt/apt.conf.d/90nobody-is-asked"
apt() {
    local file
    for file in "${@:2}"; do install -D -m 644 "$file" "$DIR/root/tmp/checkout/$file"; done
    in_root sh -c 'cd /tmp/checkout; exec apt "$@"' - "$@" > "$DIR/install.log" 2>&1
}
eval "$(scripts/block.sh docs/OPERATING.md 'scripts/package.sh')"
in_root dpkg -V razorfs
say "installed $(in_root dpkg-query -W razorfs)"

for page in razorfs.1 razorfsd.8 razorfsck.8 razorfs-snapshot.1; do
    in_root man --where "${page%.*}" > /dev/null || { say "no manual page $page"; exit 1; }
done
in_root bash -c '. /usr/share/bash-completion/completions/razorfs && complete -p razorfs' > /dev/null
for program in razorfs razorfsd razorfsck; do
    in_root zsh -n "/usr/share/zsh/vendor-completions/_$program"
    in_root fish --no-execute "/usr/share/fish/vendor_completions.d/$program.fish"
done
say "manual pages are there, and completions for bash, zsh and fish"
in_root grep -q 'clap 4' /usr/share/doc/razorfs/licenses.txt
say "so are the licences of what is built in"

# As the unit has it: its user, its command line.
unit=/usr/lib/systemd/system/razorfsd@.service
in_root test -f $unit
user=$(in_root sed -n 's/^User=//p' $unit)
command=$(in_root sed -n 's/^ExecStart=//p' $unit | sed 's/%i/home/g; s/\$RAZORFSD_FLAGS//')
[ "$user" = razorfs ]
in_root mkdir -p /run/razorfs
in_root chown razorfs: /run/razorfs
in_root runuser -u razorfs -- razorfs mkfs /var/lib/razorfs/home > /dev/null
in_root tee /etc/razorfs/home.toml > /dev/null << 'TOML'
store = "/var/lib/razorfs/home"
socket-dir = "/run/razorfs"

[[export]]
dataset = "main"
socket = "/run/razorfs/home.sock"
TOML
in_root runuser -u razorfs -- /bin/sh -c "exec $command" > "$DIR/daemon.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
    [ ! -S "$DIR/root/run/razorfs/home.sock" ] || break
    sleep 0.1
done
process=$(pgrep -f "^/usr/bin/razorfsd --config /etc/razorfs/home.toml")
[ "$(stat -c %u "/proc/$process")" != 0 ] || { say "it runs as root"; exit 1; }
in_root runuser -u razorfs -- razorfs snapshot /var/lib/razorfs/home main@first
in_root runuser -u razorfs -- razorfs doctor /var/lib/razorfs/home > "$DIR/doctor.log"
kill -TERM "$process"
wait "$daemon" || { cat "$DIR/daemon.log"; exit 1; }
process=
in_root razorfsck /var/lib/razorfs/home > /dev/null
say "the service ran as $user, and ended cleanly"

in_root apt-get purge -y -qq razorfs > "$DIR/purge.log" 2>&1
[ ! -e "$DIR/root/usr/bin/razorfsd" ]
[ -s "$DIR/root/var/lib/razorfs/home/superblock" ]
say "purged; the store is still there"

export CARGO_TARGET_DIR=target CARGO_INSTALL_ROOT=$DIR/programs
eval "$(scripts/block.sh docs/OPERATING.md 'cargo install')"
for program in razorfs razorfsd razorfsck; do
    "$DIR/programs/bin/$program" --version
done
say "the programs alone are installed too"
echo PASS
