#!/bin/bash
# Has schemathesis ask a daemon all that its OpenAPI document allows, and what it forbids: no answer
# may be a 5xx, or one that the document does not have. What it needs is put below target/.
#
#   scripts/api_fuzz.sh [--seconds N] [--seed N] [-- OPTIONS OF schemathesis run]
#
# RAZORFS_BIN: the directory of the programs, if they are not to be built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo > /dev/null || PATH=$HOME/.cargo/bin:$PATH

seconds=100
seed=$RANDOM
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2; shift 2 ;;
        --seed) seed=$2; shift 2 ;;
        --) shift; break ;;
        *) sed -n 's/^# \{0,1\}//; 2,7p' "$0" >&2; exit 2 ;;
    esac
done

st=$PWD/target/schemathesis/venv/bin/st
if [ ! -x "$st" ]; then
    python3 -m venv target/schemathesis/venv
    target/schemathesis/venv/bin/pip install -q 'schemathesis==4.*'
fi

[ -n "${RAZORFS_BIN:-}" ] || cargo build --release --quiet --bins
bin=${RAZORFS_BIN:-$PWD/target/release}
work=$(mktemp -d /var/tmp/razorfs-api-XXXXXX)
daemon=
clean() {
    [ -z "$daemon" ] || { kill "$daemon" 2> /dev/null && wait "$daemon" || true; }
    rm -rf "$work"
}
trap clean EXIT

"$bin/razorfs" mkfs "$work/store" > /dev/null
"$bin/razorfs" create "$work/store" web
"$bin/razorfs" snapshot "$work/store" web@monday
token=$(head -c 32 /dev/urandom | sha256sum | cut -c1-64)
(umask 077; echo "$token" > "$work/token")
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$bin/razorfsd" --store "$work/store" --socket-path "$work/socket" --control-tcp "127.0.0.1:$port" \
    --control-token-file "$work/token" --control-plaintext --log-level warn 2> "$work/log" &
daemon=$!

echo "seed $seed" >&2
# Events do not end. A name is not found however well it is formed, so what is refused is no fault:
# that what is well-formed is accepted, and what is gone is not found, our own tests see. Of what it
# thinks of as a path, much cannot stand in one, which it would take for a fault of the document. It
# keeps what it has found where it runs.
cd "$work"
failed=0
"$st" --no-color run "http://127.0.0.1:$port/api/v1/openapi.json" --wait-for-schema 20 \
    --header "Authorization: Bearer $token" --exclude-path /api/v1/events \
    --checks all --exclude-checks positive_data_acceptance,ensure_resource_availability \
    --suppress-health-check filter_too_much \
    --max-time "$seconds" --seed "$seed" --request-timeout 20 --generation-database none "$@" || failed=$?
if ! kill -0 "$daemon"; then
    echo "the daemon ended" >&2
    failed=1
fi
kill "$daemon"
wait "$daemon" || failed=1
daemon=
"$bin/razorfsck" --data "$work/store" || failed=1
[ "$failed" = 0 ] || cat "$work/log" >&2
exit "$failed"
