#!/usr/bin/env bash
# Runs the commands of the documents: each `sh` block, in order, against a service of its own. A block that cannot run here has a comment above
# it that names the checker which covers it; docs/run.py has the marks.
#
# usage: tests/outside/docs.sh [DOCUMENT…]        TIDEGATE names another binary than target/debug/tidegate
set -euo pipefail
cd "$(dirname "$0")/../.."
needed=()
for each in jq:jq chromium:chromium curl:curl; do command -v "${each%:*}" >/dev/null || needed+=("${each#*:}"); done
[[ ${#needed[@]} -eq 0 ]] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >/dev/null
binary=${TIDEGATE:-target/debug/tidegate}
[[ -x $binary ]] || cargo build --locked
export BINARY; BINARY=$(realpath "$binary")
python3 tests/outside/docs/run.py "$@"
