#!/bin/bash
# Runs what docs/PERFORMANCE.md and docs/TESTING.md have to be typed for measurements and failures, in
# their words, with flags behind them that make it minutes of what takes hours: numbers are not to be
# looked at. All of it happens in a copy of this checkout, whose documents and plots stay as they are;
# what is built is built here.
#
#   scripts/documents_test.sh
#
# Needs root, for loop mounts. DIR (/var/tmp/razorfs-measured by default) names the place for the copy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "documents_test.sh: needs root" >&2; exit 2; }
dir=${DIR:-/var/tmp/razorfs-measured}
disk=/var/tmp/razorfs-disk # as the document calls it
[ ! -e $disk ] || { echo "documents_test.sh: $disk is there already" >&2; exit 2; }
rm -rf "$dir"
mkdir -p "$dir/target"
git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory="$dir"
for built in target/release target/bench target/guest vm-tests/cache; do
    mkdir -p "$built"
    ln -s "$PWD/$built" "$dir/$built"
done
cd "$dir"
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH
export USER=${USER:-root}

clean_up() {
    [ ! -e $disk ] || command scripts/bench_disk.sh down $disk
}
trap clean_up EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
# Already root.
sudo() { "$@"; }
scripts/bench_disk.sh() { command scripts/bench_disk.sh "$@" 2048; }
scripts/bench.sh() {
    local more=(--rounds 1)
    case $1 in
        log) ;;
        tail) more+=(--creates 2000 --every 500) ;;
        *) more+=(--only rename) ;;
    esac
    command scripts/bench.sh "$@" "${more[@]}"
}
scripts/growth.sh() { command scripts/growth.sh "$@" --files 2000 --entries 2000 --sparse 1 --written 16; }
scripts/guest_bench.sh() {
    command scripts/guest_bench.sh "$@" --rounds 1 --file 4 --tree 50 --git 20 --sqlite 5
}

echo "== TESTING: a failure is repeated"
said=$(eval "$(scripts/block.sh docs/TESTING.md 'replay')")
echo "$said"
[[ $said = *"as it should be" ]] || fail "it failed"
echo "== PERFORMANCE: all of it is brought up to date"
cp docs/PERFORMANCE.md before.md
rm docs/plots/*
eval "$(scripts/block.sh docs/PERFORMANCE.md 'scripts/plots.sh')"
! cmp -s before.md docs/PERFORMANCE.md || fail "the document is as it was"
# Its pictures are those that were drawn.
for plot in $(grep -o 'plots/[a-z_-]*\.svg' docs/PERFORMANCE.md); do
    [ -s "docs/$plot" ] || fail "$plot was not drawn"
done
echo "== PERFORMANCE: where the work goes"
eval "$(scripts/block.sh docs/PERFORMANCE.md 'callgrind_annotate')" > annotated
grep -m 1 'razorfs::' annotated || fail "there is nothing of razorfs: $(cat annotated)"
echo "documents: what measures and repeats can be typed as it stands there"
