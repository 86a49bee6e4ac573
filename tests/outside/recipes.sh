#!/usr/bin/env bash
# Runs the recipes of docs/RECIPES.md: takes each block with a file's name out of the document, sends events with it through refusals and
# lost answers, and counts the rows. Vector, Fluent Bit and OpenTelemetry's collector cannot be had from Debian, npm or PyPI in a form to
# trust: what they send is sent by the test.
#
# usage: tests/outside/recipes.sh        TIDEGATE names another binary than target/debug/tidegate
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin
needed=()
for each in node:nodejs go:golang-go nginx:nginx-light chromium:chromium; do command -v "${each%:*}" >/dev/null || needed+=("${each#*:}"); done
[[ ${#needed[@]} -eq 0 ]] || { apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >/dev/null
binary=${TIDEGATE:-target/debug/tidegate}
[[ -x $binary ]] || cargo build --locked

data=$(mktemp -d)
trap 'kill ${service:-} 2>/dev/null || true; wait; rm -rf "$data"' EXIT
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$data"
port=3889
export DATA_DIR=$data/tidegate PORT=$port AUTH=required FAULTS=on LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
"$binary" > "$data/log" 2>&1 & service=$!
for _ in $(seq 300); do grep -q 'listening on' "$data/log" && break; sleep 0.1; done

awk -v into="$data/recipes" 'BEGIN {system("mkdir -p " into)}
  /^```[a-z]+ [a-z.-]+$/ {name = into "/" $2; next} /^```/ {name = ""} name {print > name}' docs/RECIPES.md

export TIDEGATE_URL=http://127.0.0.1:$port
TIDEGATE_KEY=$("$binary" keys create --scope events:write --name recipes) ADMIN_KEY=$("$binary" keys create --admin --name admin)
PAGE_KEY=$("$binary" keys create --write-only --origin http://localhost:3890 --name page) DATABASE=$("$binary" url)
PSQL=$(command -v psql || ls /usr/lib/postgresql/*/bin/psql | tail -1)
BINARY=$(realpath "$binary")
export TIDEGATE_KEY ADMIN_KEY PAGE_KEY DATABASE PSQL BINARY
timeout 200 python3 tests/outside/recipes/run.py "$data/recipes" || { tail -n 5 "$data/log"; exit 1; }
kill -0 $service
