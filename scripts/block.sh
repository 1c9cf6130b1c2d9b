#!/bin/bash
# Prints the one block of commands (```sh) of a document that has these words in it, for scripts that
# run it as it stands there.
#
#   scripts/block.sh DOCUMENT WORDS
#
# Where no block or more than one has them, that is an error.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
DOCUMENT=$1 WORDS=$2 awk '
    !in_block && /^```/ { in_block = 1; is_sh = $0 == "```sh"; text = ""; next }
    in_block && $0 == "```" {
        in_block = 0
        if (is_sh && index(text, ENVIRON["WORDS"])) { found++; block = text }
        next
    }
    in_block { text = text $0 "\n" }
    END {
        if (found != 1) {
            printf "%s: %d blocks have \"%s\"\n", ENVIRON["DOCUMENT"], found, ENVIRON["WORDS"] > "/dev/stderr"
            exit 1
        }
        printf "%s", block
    }' "$1"
