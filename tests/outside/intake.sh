#!/usr/bin/env bash
# The official clients of other protocols (Segment, PostHog, CloudEvents, OpenTelemetry for Node and for Python), unchanged, through a
# killed service and a Postgres that hangs: each event that its client did not give up is stored, once.
#
# usage: tests/outside/intake.sh [events a client, 240]
set -euo pipefail
cd "$(dirname "$0")/../.."
events=${1:-240}
binary=target/debug/tidegate
[[ -x $binary ]] || cargo build --locked
sources=$PWD/tests/outside/intake work=$PWD/target/tmp/intake
mkdir -p "$work"
cp "$sources"/{package.json,package-lock.json,clients.js} "$work"
[[ -d $work/node_modules ]] && cmp -s "$work"/{package-lock.json,node_modules/.installed} || {
  (cd "$work" && npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed)
}
venv=$work/venv
cmp -s "$sources/requirements.txt" "$venv/.installed" || {
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$sources/requirements.txt"
  cp "$sources/requirements.txt" "$venv/.installed"
}

data=$(mktemp -d)
port=3502
url=http://127.0.0.1:$port
export DATA_DIR=$data PORT=$port AUTH=required MODULES=events,intake LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
service=
postmaster() { head -1 "$data/postgres/postmaster.pid"; }
# Stops or continues the whole of Postgres.
postgres() { kill "-$1" "$(postmaster)" $(pgrep -P "$(postmaster)"); }
stop() {
  postgres CONT 2>/dev/null || true
  [[ -z $service ]] || { kill "$service" 2>/dev/null || true; wait "$service" 2>/dev/null || true; }
  rm -rf "$data"
}
trap stop EXIT
start() {
  local seen
  seen=$(grep -c 'listening on' "$data/log" 2>/dev/null || true)
  "$binary" >> "$data/log" 2>&1 &
  service=$!
  for _ in $(seq 600); do [[ $(grep -c 'listening on' "$data/log" || true) -gt ${seen:-0} ]] && return; sleep 0.1; done
  echo "the service does not start"; tail -5 "$data/log"; exit 1
}

start
key=$("$binary" keys create --scope events:write --name intake)
(cd "$work" && exec timeout 150 node clients.js "$url" "$key" "$events" 25 > node.json) &
node=$!
timeout 150 "$venv/bin/python" "$sources/clients.py" "$url" "$key" "$events" 25 > "$work/python.json" &
python=$!

sleep 1.5
kill -9 "$service"; wait "$service" 2>/dev/null || true
killed=$(date +%s%N)
sleep 1.5
start
echo "the service was away for $((($(date +%s%N) - killed) / 1000000)) ms"
sleep 1
postgres STOP
sleep 3
postgres CONT
wait "$node"; wait "$python"

admin=$("$binary" keys create --admin --name counting)
for _ in $(seq 300); do
  curl -fsS -m 10 "$url/api/health" -H "x-api-key: $admin" 2>/dev/null | grep -qE '"pending": ?0[,}]' && break
  sleep 0.2
done
"$venv/bin/python" "$sources/count.py" "$("$binary" url)" "$events" "$work/node.json" "$work/python.json"
if grep -E '"level":"ERROR"|panicked' "$data/log"; then exit 1; fi
