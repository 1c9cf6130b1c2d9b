# shellcheck shell=bash
# Sourced by the scripts that measure: installs and builds what they need.
#
# Sets VIRTIOFSD to a virtiofsd built from crates.io, unless it names one already.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
scripts/install_deps.sh --bench
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
cargo build --release --quiet -p razorfs-bench -p razorfs --bins
if [ -z "${VIRTIOFSD:-}" ]; then
    VIRTIOFSD=$PWD/target/bench/bin/virtiofsd
    [ -x "$VIRTIOFSD" ] || cargo install --quiet virtiofsd --root target/bench
fi
