#!/usr/bin/env bash
# Runs @durable-streams/server-conformance-tests (npm) against a service of its own. Fails if a test fails, or if fewer ran than there are.
#
# usage: tests/outside/durable-streams.sh [store, memory] [bytes of an answer, 4194304]
set -euo pipefail
cd "$(dirname "$0")/../.."
store=${1:-memory} answer=${2:-4194304}
# 332 of the protocol's core, and 6 of subscriptions.
tests=${STREAMS_TESTS:-338}
binary=target/debug/tidegate
[[ -x $binary ]] || cargo build --locked
sources=$PWD/tests/outside/durable-streams work=$PWD/target/tmp/durable-streams
mkdir -p "$work"
cp "$sources"/{package.json,package-lock.json,conformance.test.js} "$work"
(cd "$work" && { [[ -d node_modules ]] && cmp -s package-lock.json node_modules/.installed || {
  npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed
}; })

data=$(mktemp -d)
export PORT=${STREAMS_PORT:-3493}
export DATA_DIR=$data MODULES=events,streams STREAMS_STORE=$store STREAMS_MAX_ANSWER_BYTES=$answer
# Its receivers of webhooks are on this machine.
export WEBHOOK_ALLOW_PRIVATE=on
export STREAMS_LONG_POLL_TIMEOUT_MS=500 CORS_ORIGINS=https://example.com LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
export TIDEGATE_URL=http://127.0.0.1:$PORT
"$binary" > "$data/log" 2>&1 &
service=$!
trap 'kill $service 2>/dev/null || true; wait $service 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 600); do grep -q 'listening on' "$data/log" && break; sleep 0.1; done

status=0
report=$data/report.json
(cd "$work" && npx --no-install vitest run --reporter=default --reporter=json --outputFile.json="$report" conformance.test.js) || status=$?
passed=$(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1])).numPassedTests' "$report")
echo "durable-streams ($store, answers of $answer bytes): $passed of $tests"
[[ $passed -ge $tests ]] || status=1
if grep -E '"level":"ERROR"|panicked' "$data/log"; then status=1; fi
kill -0 $service || status=1
exit $status
