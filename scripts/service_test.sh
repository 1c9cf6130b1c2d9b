#!/bin/bash
# Boots a Debian 12 with systemd in a container, and tries the service there, as the package brings it
# and as docs/OPERATING.md and docs/MIGRATION.md have it begun and reloaded: an update of the package
# under a connected front-end, reloads, the watchdog, a kill, the end; and a daemon that its first guest
# starts.
#
#   scripts/service_test.sh        needs root, for debootstrap and systemd-nspawn
#
# DEB names a package to try instead of one that is made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$(id -u)" != 0 ]; then
    echo "service_test.sh: needs root, for debootstrap and systemd-nspawn" >&2
    exit 2
fi
scripts/install_deps.sh --service
[ -n "${DEB:-}" ] || scripts/package.sh
DEB=${DEB:-$(ls target/debian/razorfs_*.deb)}
DIR=${DIR:-/var/tmp/razorfs-service}
rm -rf "$DIR"
mkdir -p "$DIR/root"

# Kept from run to run: what Debian is does not change with razorfs.
base=target/debian12-systemd.tar
if [ ! -s "$base" ]; then
    debootstrap --variant=minbase --include=systemd,dbus bookworm "$DIR/base" \
        "${MIRROR:-http://deb.debian.org/debian}" > "$DIR/debootstrap.log"
    mkdir -p target
    tar -C "$DIR/base" -cf "$base" .
fi
tar -C "$DIR/root" -xf "$base"
cp "$DEB" "$DIR/root/old.deb"
# The next version of it.
dpkg-deb -R "$DEB" "$DIR/next"
sed -i 's/^Version: .*/&+next/' "$DIR/next/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -b "$DIR/next" "$DIR/root/next.deb" > "$DIR/build.log"

cat > "$DIR/root/front-end.pl" << 'PERL'
# A front-end that stays connected: it ends when it is cut off.
use IO::Socket::UNIX;
my $socket = IO::Socket::UNIX->new($ARGV[0]) or die;
open(my $there, ">", "/connected");
sysread($socket, my $byte, 1);
PERL

scripts/block.sh docs/OPERATING.md 'systemctl enable' > "$DIR/root/begin.sh"
scripts/block.sh docs/MIGRATION.md 'systemctl reload' > "$DIR/root/reload.sh"

cat > "$DIR/root/test.sh" << 'SH'
#!/bin/bash
set -euo pipefail
exec > /test.log 2>&1
unit=razorfsd@home
is() { systemctl show -P "$1" $unit; }
say() { echo "service: $*"; }
fail() {
    say "FAILED: $*"
    exit 1
}
end() {
    [ $? = 0 ] || journalctl -q --no-pager -u $unit
    systemctl poweroff --no-block
}
trap end EXIT
# description, condition...: waits until it is so
until_is() {
    local what=$1
    shift
    for _ in $(seq 300); do
        ! "$@" || return 0
        sleep 0.1
    done
    fail "$what"
}
says() { journalctl -q -u $unit | grep -qF -- "$1"; }

dpkg -i /old.deb > /install.log 2>&1 || fail "$(cat /install.log)"
# What is tried below and the example does not have: a watchdog, and exports that are made meanwhile.
mkdir -p /etc/systemd/system/$unit.service.d
printf '[Service]\nWatchdogSec=6\n' > /etc/systemd/system/$unit.service.d/watchdog.conf
systemctl daemon-reload
echo 'RAZORFSD_FLAGS="--socket-dir /run/razorfs"' > /etc/razorfs/home.conf
bash -e /begin.sh || fail "it does not begin as it is documented"
[ "$(stat -c '%G %a' /run/razorfs/home.sock)" = "kvm 660" ] || fail "others may connect, or kvm may not"
systemctl is-enabled -q $unit || fail "it is not enabled"
first=$(is MainPID)
perl /front-end.pl /run/razorfs/home.sock &
front_end=$!
until_is "no front-end" test -e /connected
kept() {
    kill -0 $front_end || fail "the front-end was cut off: $1"
    [ "$(is ActiveState)" = active ] || fail "not active: $1"
    [ "$(is NRestarts)" = 0 ] || fail "restarted: $1"
}

bash -e /reload.sh
until_is "the file is not in force" says "home.toml is in force"
kept "by a reload"
[ "$(is MainPID)" = "$first" ] || fail "another process without another program"
say "a reload without another program is SIGHUP"

dpkg -i /next.deb > /update.log 2>&1 || fail "$(cat /update.log)"
second=$(is MainPID)
[ "$second" != "$first" ] || fail "the update changed nothing: $(cat /update.log)"
kept "by an update"
case "$(is StatusText)" in "serving "*) ;; *) fail "it says $(is StatusText)" ;; esac
cmp -s "/proc/$second/exe" /usr/bin/razorfsd || fail "it runs something else"
[ "$(stat -c %u "/proc/$second")" != 0 ] || fail "it runs as root"
[ "$(sed -n 's/^PPid:\t//p' "/proc/$second/status")" = 1 ] || fail "it is not systemd's child"
! [ -e "/proc/$first" ] || fail "the old process is there still"
! says "not our child" || fail "systemd was told of another's child"
say "an updated package took over: process $first, then $second"

sleep 13
[ "$(is MainPID)" = "$second" ] || fail "another process after a while"
kept "by the watchdog"
say "the watchdog is content"

runuser -u razorfs -- razorfs create /var/lib/razorfs/home web > /dev/null
runuser -u razorfs -- razorfs export /var/lib/razorfs/home web:/run/razorfs/web.sock > /dev/null

# What it is to be like cannot be.
cp /etc/razorfs/home.toml /home.toml
sed -i 's/"kvm"/"none-such"/' /etc/razorfs/home.toml
cp /usr/bin/razorfsd /usr/bin/razorfsd.new
mv /usr/bin/razorfsd.new /usr/bin/razorfsd
! systemctl reload $unit || fail "it took over what it could not"
kept "by an update that failed"
[ "$(is MainPID)" = "$second" ] || fail "another process, though it could not take over"
cp /home.toml /etc/razorfs/home.toml
bash -e /reload.sh
third=$(is MainPID)
[ "$third" != "$second" ] || fail "it did not take over when it could"
kept "by the second update"
perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new($ARGV[0]) or exit 1' /run/razorfs/web.sock ||
    fail "an export that was made meanwhile is gone"
say "who cannot take over leaves the service as it is, and another reload does it, with all exports"

kill -KILL "$third"
restarted() { [ "$(is NRestarts)" = 1 ] && systemctl is-active -q $unit; }
until_is "it is not started anew" restarted
wait $front_end || true
say "killed, it was started anew"

systemctl reload $unit
last=$(is MainPID)
systemctl stop $unit
[ "$(is Result)" = success ] || fail "it ended with $(is Result)"
until_is "process $last did not close the store" says "razorfsd[$last]: razorfsd::daemon: closed "
razorfsck /var/lib/razorfs/home > /dev/null || fail "the store is not well"
say "it ended cleanly"

unit=razorfsd@lazy
runuser -u razorfs -- razorfs mkfs /var/lib/razorfs/lazy > /dev/null
echo 'store = "/var/lib/razorfs/lazy"' > /etc/razorfs/lazy.toml
echo 'RAZORFSD_FLAGS="--fd 3"' > /etc/razorfs/lazy.conf
systemctl start $unit.socket
is_in() { [ "$(is ActiveState)" = "$1" ]; }
is_in inactive || fail "it runs, and nobody has connected"
[ "$(stat -c '%G %a' /run/razorfs-lazy.sock)" = "kvm 660" ] || fail "others may connect, or kvm may not"
for guest in first second; do
    perl /front-end.pl /run/razorfs-lazy.sock &
    front_end=$!
    until_is "it is not started by its $guest guest" is_in active
    first=$(is MainPID)
    cp /usr/bin/razorfsd /usr/bin/razorfsd.new
    mv /usr/bin/razorfsd.new /usr/bin/razorfsd
    bash -e /reload.sh || fail "sockets are not passed by"
    kept "by an update of what its guest has started"
    [ "$(is MainPID)" != "$first" ] || fail "another program did not take over a socket of systemd's"
    kill $front_end
    wait $front_end || true
    until_is "it does not end with its $guest guest" is_in inactive
    [ "$(is Result)" = success ] || fail "it ended with $(is Result)"
    razorfsck /var/lib/razorfs/lazy > /dev/null || fail "the store is not well"
done
systemctl stop $unit.socket
say "a guest starts its daemon, goes on over an update, and ends it"
say PASS
SH
chmod +x "$DIR/root/test.sh"
cat > "$DIR/root/etc/systemd/system/test.service" << 'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/test.sh
UNIT
mkdir -p "$DIR/root/etc/systemd/system/default.target.wants"
ln -s ../test.service "$DIR/root/etc/systemd/system/default.target.wants/test.service"
# What the daemon confines itself with, and the container's own filter would forbid.
calls="seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self"
calls+=" io_uring_setup io_uring_enter io_uring_register"
timeout 600 systemd-nspawn --system-call-filter="$calls" --register=no --keep-unit --quiet --private-network \
    --link-journal=no --directory="$DIR/root" --boot < /dev/null > "$DIR/boot.log" 2>&1 || true
cat "$DIR/root/test.log"
grep -qx 'service: PASS' "$DIR/root/test.log"
echo PASS
