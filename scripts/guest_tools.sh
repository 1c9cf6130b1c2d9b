# Sourced by the scripts that boot guests: installs and builds what they need.
#
# Sets AGENT to the guest's static init program, VM_TESTS to what runs guests, and VM_FLAGS to flags of
# that. Programs under test are those of this checkout, built for release, unless RAZORFS_BIN names a
# directory; VM_TESTS is from there too when it has one.
#
# Guests have Debian 12's kernel and QEMU; with KERNEL=backports or QEMU=backports that of its backports,
# which are unpacked below vm-tests/cache and not installed.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
[ -n "${RAZORFS_BIN:-}" ] || cargo build --release --quiet --bins
if [ -n "${RAZORFS_BIN:-}" ] && [ -x "$RAZORFS_BIN/vm-tests" ]; then
    VM_TESTS=$RAZORFS_BIN/vm-tests
else
    cargo build --release --quiet -p vm-tests --bin vm-tests
    VM_TESTS=target/release/vm-tests
fi
# Static, and with a target named so that build scripts and macros stay dynamic.
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --quiet -p vm-tests \
    --no-default-features --bin guest_agent --target x86_64-unknown-linux-gnu --target-dir target/guest
AGENT=$ROOT/target/guest/x86_64-unknown-linux-gnu/release/guest_agent
VM_FLAGS=()
if [ "${KERNEL:-}" = backports ]; then
    VM_FLAGS+=(--cache "$(dirname "$(scripts/backports.sh kernel)")")
fi
if [ "${QEMU:-}" = backports ]; then
    VM_FLAGS+=(--qemu "$(scripts/backports.sh qemu)")
fi
