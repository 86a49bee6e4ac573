#!/usr/bin/env bash
# Every query of the dashboard, run by Debian's Prometheus against a service that has traffic, dead letters, a halted writer, a panicked
# task and a subscriber: each is valid, names metrics that exist, and has data. The alerts for these states fire, and no other.
#
# usage: tests/outside/dashboard.sh        TIDEGATE names another binary than target/debug/tidegate
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v prometheus >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null
binary=${TIDEGATE:-target/debug/tidegate}
[[ -x $binary ]] || cargo build --locked

data=$(mktemp -d)
port=3893 prometheus_port=3894
export DATA_DIR=$data/tidegate PORT=$port AUTH=required MODULES=all RECORDS_AUTO_CREATE=on FAULTS=on LOG_FORMAT=json
export JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true; wait; rm -rf "$data"' EXIT
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$data"
"$binary" > "$data/log" 2>&1 & processes+=($!)
for _ in $(seq 300); do grep -q 'listening on' "$data/log" && break; sleep 0.1; done

# The committed configuration, at this service, with a key and a short interval.
"$binary" keys create --scope ops:read --name prometheus > "$data/key"
cp deploy/alerts.yml "$data"
sed -e "s|127.0.0.1:3000|127.0.0.1:$port|" -e 's/scrape_interval: .*/scrape_interval: 1s\n  evaluation_interval: 1s/' \
  -e 's/scrape_timeout: .*/scrape_timeout: 1s/' -e "s|# authorization: .*|authorization: { credentials_file: $data/key }|" \
  deploy/prometheus.yml > "$data/prometheus.yml"
prometheus --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/tsdb" --web.listen-address=127.0.0.1:$prometheus_port \
  > "$data/prometheus.log" 2>&1 & processes+=($!)

TIDEGATE_KEY=$("$binary" keys create --admin --name dashboard) DATABASE=$("$binary" url)
export TIDEGATE_KEY DATABASE TIDEGATE_URL=http://127.0.0.1:$port PROMETHEUS_URL=http://127.0.0.1:$prometheus_port
psql=$(command -v psql || ls /usr/lib/postgresql/*/bin/psql | tail -1)
export PSQL=$psql
# A route whose target refuses some of the rows.
"$psql" -Xqv ON_ERROR_STOP=1 "$DATABASE" -c 'create schema app' -c 'create table app.kinds (kind text not null)'
"$binary" routes add kinds --into app.kinds --sql "select payload->>'kind' as kind from batch"
timeout 100 python3 tests/outside/deploy/dashboard.py || { tail -n 5 "$data/log" "$data/prometheus.log"; exit 1; }
kill -0 "${processes[@]}"
