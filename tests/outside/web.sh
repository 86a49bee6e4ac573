#!/usr/bin/env bash
# The web page in headless Chromium (playwright-core, axe-core), against services of its own. Its pictures are in target/tmp/web/shots.
#
# usage: tests/outside/web.sh [a part of a test's name]
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$PWD/target/debug/tidegate
[[ -x $binary ]] || cargo build --locked
sources=$PWD/tests/outside/web work=$PWD/target/tmp/web
mkdir -p "$work"
cp "$sources"/{package.json,package-lock.json,web.test.js} "$work"
(cd "$work" && { [[ -d node_modules ]] && cmp -s package-lock.json node_modules/.installed || {
  npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed
}; })
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
export TIDEGATE_BINARY=$binary TIDEGATE_DATA=$data TIDEGATE_PORT=${WEB_PORT:-3860} TIDEGATE_SHOTS=$work/shots
TIDEGATE_CHROMIUM=$(command -v chromium || command -v google-chrome)
export TIDEGATE_CHROMIUM
(cd "$work" && node --test --test-reporter=spec ${1:+--test-name-pattern="$1"} web.test.js)
# 22012 is the statement that fails on demand.
if grep -hE '"level":"ERROR"|panicked' "$data"/*.log | grep -v '22012 division by zero'; then exit 1; fi
