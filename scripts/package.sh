#!/bin/bash
# Makes a Debian package of razorfs: target/debian/razorfs_VERSION_ARCHITECTURE.deb.
#
#   scripts/package.sh
#
# With the programs come manual pages and shell completions, which the programs write themselves, the
# systemd unit, QEMU's description, examples of configuration, a list of all that is built in (CycloneDX)
# and its licences. Installs what it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install_deps.sh
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

CARGO_DEB=3.8.0
CARGO_CYCLONEDX=0.5.9
CARGO_DENY=0.20.2
CARGO_ABOUT=0.9.3

# tool of cargo, its version, options for installing it
need() {
    cargo "$1" --version 2> /dev/null | grep -qF "$2" ||
        cargo install --locked --quiet "cargo-$1@$2" "${@:3}"
}
need deb "$CARGO_DEB"
need cyclonedx "$CARGO_CYCLONEDX"
need deny "$CARGO_DENY"
need about "$CARGO_ABOUT" --features cli

# What is packaged has licences that allow it, comes from where it should, and no fault is known of it.
cargo deny check bans licenses sources
if cargo deny fetch db; then
    cargo deny check advisories
else
    echo "package.sh: known faults of dependencies were not looked up: their list cannot be fetched" >&2
fi

cargo build --release --bins --package razorfs
rm -rf target/assets
mkdir -p target/assets
for program in razorfs razorfsd razorfsck; do
    "target/release/$program" --generate target/assets
done
gzip -n9 target/assets/man/*
sed 's|/usr/local/bin/|/usr/bin/|' 'configs/razorfsd@.service' > 'target/assets/razorfsd@.service'
sed 's|/usr/local/bin/|/usr/bin/|' configs/60-razorfs.json > target/assets/60-razorfs.json
cargo cyclonedx --quiet --format json --override-filename razorfs.cdx
mv razorfs.cdx.json target/assets/
# It writes one for each member of the workspace.
rm -f {benches,vm-tests,tests/*}/razorfs.cdx.json
# The texts that their licences want to go with them.
cargo about generate --config configs/licenses/about.toml --fail --output-file target/assets/licenses.txt \
    configs/licenses/licenses.hbs
cargo deb --no-build --quiet --package razorfs
ls target/debian/*.deb
