#!/usr/bin/env bash
# Runs the commands of the documents: each `sh` block, in order, against a service of its own. A block that cannot run here has a comment above
# it that names the checker which covers it; docs/run.py has the marks.
#
# usage: tests/outside/docs.sh [DOCUMENT…]        TIDEGATE and LOADTEST name other binaries than those of target/debug
set -euo pipefail
cd "$(dirname "$0")/../.."
needed=()
for each in jq:jq chromium:chromium curl:curl; do command -v "${each%:*}" >/dev/null || needed+=("${each#*:}"); done
[[ ${#needed[@]} -eq 0 ]] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >/dev/null
binary=${TIDEGATE:-target/debug/tidegate}
[[ -x $binary ]] || cargo build --locked
loadtest=${LOADTEST:-target/debug/loadtest}
[[ -x $loadtest ]] || cargo build --locked -p loadtest
export BINARY LOADTEST; BINARY=$(realpath "$binary") LOADTEST=$(realpath "$loadtest")
python3 tests/outside/docs/run.py "$@"
