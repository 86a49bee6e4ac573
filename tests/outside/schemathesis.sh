#!/usr/bin/env bash
# Runs schemathesis (PyPI) on a service of its own, with its OpenAPI description: no request makes the service fail, and every response
# is a described one. Routes that fail on purpose are left out, and so are endless streams.
#
# usage: tests/outside/schemathesis.sh [examples an operation, 20]
set -euo pipefail
cd "$(dirname "$0")/../.."
examples=${1:-20}
version=4.32.5
binary=target/debug/tidegate
[[ -x $binary ]] || cargo build --locked

venv=target/tmp/schemathesis
if [[ ! -x $venv/bin/schemathesis ]]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

data=$(mktemp -d)
port=3489
export DATA_DIR=$data PORT=$port AUTH=required MODULES=all RECORDS_AUTO_CREATE=on REGISTRATION=on LOG_FORMAT=json
export RATE_LOGINS=0 RATE_WRITES=0 JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
"$binary" > "$data/log" 2>&1 &
service=$!
trap 'kill $service 2>/dev/null || true; wait $service 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 300); do grep -q 'listening on' "$data/log" && break; sleep 0.1; done
key=$("$binary" keys create --admin --name schemathesis)

status=0
"$venv/bin/schemathesis" run "http://127.0.0.1:$port/api/openapi.json" \
  --header "Authorization: Bearer $key" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth \
  --exclude-path-regex '^/(api/stress/error/(500|timeout)|api/stress/sse-stream|api/events/(stream|ws)|_test/|api/(batch|backups|collections|crons|files/token|logs|oauth2-redirect|realtime|settings))' \
  --max-examples "$examples" --seed 1 --workers 1 --request-timeout 10 --suppress-health-check all \
  --continue-on-failure --warnings off --no-color || status=$?
# The requests before may have revoked the key. As PocketBase does, these answer 404 to another method.
key=$("$binary" keys create --admin --name collections)
"$venv/bin/schemathesis" run "http://127.0.0.1:$port/api/openapi.json" \
  --header "Authorization: Bearer $key" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance \
  --include-path-regex '^/api/(batch|backups|collections|crons|files/token|logs|oauth2-redirect|settings)' \
  --max-examples "$examples" --seed 1 --workers 1 --request-timeout 10 --suppress-health-check all \
  --continue-on-failure --warnings off --no-color || status=$?
if grep -E '"level":"ERROR"|panicked' "$data/log"; then status=1; fi
kill -0 $service || status=1
exit $status
