# Sourced by the scripts that boot guests: installs and builds what they need.
#
# Sets AGENT to the guest's static init program. Programs under test are those of this checkout,
# built for release, unless RAZORFS_BIN names a directory.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
[ -n "${RAZORFS_BIN:-}" ] || cargo build --release --quiet --bins
cargo build --release --quiet -p vm-tests --bin vm-tests
# Static, and with a target named so that build scripts and macros stay dynamic.
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --quiet -p vm-tests \
    --no-default-features --bin guest_agent --target x86_64-unknown-linux-gnu --target-dir target/guest
AGENT=$ROOT/target/guest/x86_64-unknown-linux-gnu/release/guest_agent
