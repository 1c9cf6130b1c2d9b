#!/bin/bash
# Checks that razorfs builds with the oldest Rust that it says it does: `rust-version` in Cargo.toml.
#
#   scripts/msrv.sh [VERSION]    that version, or another
#
# Installs the toolchain with rustup. Builds below target/msrv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install_deps.sh
command -v rustup > /dev/null || PATH=$HOME/.cargo/bin:$PATH
version=${1:-$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)}
rustup toolchain list | grep -q "^$version[.-]" || rustup toolchain install --profile minimal "$version"
CARGO_TARGET_DIR=target/msrv cargo "+$version" check --workspace --all-targets --locked
echo "razorfs builds with Rust $version"
