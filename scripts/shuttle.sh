#!/bin/bash
# Runs the lock and group-commit protocols in many orders, chosen by a scheduler (tests/shuttle).
#
#   scripts/shuttle.sh [SCHEDULES [TEST...]]
#
# SCHEDULES is how many orders each test is run in, with each of two schedulers: 1000 when not said
# (tests that take long run in fewer). RAZORFS_SEED chooses others, RAZORFS_REPLAY names a file with
# the schedule that a failure printed. The build has a directory of its own, so that the others keep
# theirs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

export RAZORFS_SCHEDULES=${1:-1000}
[ $# = 0 ] || shift
export RUSTFLAGS="${RUSTFLAGS:-} --cfg shuttle"
export CARGO_TARGET_DIR=target/shuttle CARGO_PROFILE_TEST_DEBUG=none
exec cargo test -p shuttle-tests --lib -- --show-output "$@"
