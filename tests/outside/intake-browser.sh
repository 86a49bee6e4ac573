#!/usr/bin/env bash
# posthog-js and @segment/analytics-next, unchanged, in headless Chromium: events of a page on another origin are stored once, through a
# killed service and when the page is left.
#
# usage: tests/outside/intake-browser.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null
BINARY=${TIDEGATE:-$PWD/target/debug/tidegate}
[[ -x $BINARY ]] || cargo build --locked
sources=$PWD/tests/outside/intake-browser work=$PWD/target/tmp/intake-browser
mkdir -p "$work"
cp "$sources"/{package.json,package-lock.json,browser.js} "$work"
[[ -d $work/node_modules ]] && cmp -s "$work"/{package-lock.json,node_modules/.installed} || {
  (cd "$work" && npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed)
}
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$data"
export DATA_DIR=$data/tidegate PORT=3510 AUTH=required MODULES=events,intake LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
CHROMIUM=$(command -v chromium) SERVICE_LOG=$data/log PSQL=$(command -v psql || ls /usr/lib/postgresql/*/bin/psql | tail -1)
export BINARY CHROMIUM SERVICE_LOG PSQL
(cd "$work" && timeout 150 node browser.js) || { tail -n 5 "$SERVICE_LOG"; exit 1; }
if grep -E '"level":"ERROR"|panicked' "$SERVICE_LOG"; then exit 1; fi
