#!/usr/bin/env bash
# Latencies of live changes, and what idle subscribers cost: processor time of the service and of its private Postgres.
#
#     loadtest/live_changes.sh      # after cargo build --release --workspace; leaves nothing behind
#
# SUBSCRIBERS, RATE and DURATION are those of the first load. IDLE subscribers are watched for 20 s.
set -euo pipefail
subscribers=${SUBSCRIBERS:-200} rate=${RATE:-50} idle=${IDLE:-1000} seconds=${DURATION:-12}
binary=${BINARY:-target/release/tidegate} loadtest=${LOADTEST:-target/release/loadtest}
port=${PORT:-$((20000 + RANDOM % 20000))}
folder=$(mktemp -d) server=''
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$folder"
tidy() {
  [[ -z $server ]] || { kill "$server" && wait "$server" || true; } 2>/dev/null
  rm -rf "$folder"
}
trap tidy EXIT
env -u DATABASE_URL DATA_DIR="$folder/data" HOST=127.0.0.1 PORT="$port" "$binary" >"$folder/log" 2>&1 &
server=$!
for ((look = 0; look < 300; look++)); do
  curl -m 2 -sf -o "$folder/health" "127.0.0.1:$port/api/health" && break
  sleep 0.1
done
# What a start leaves to do in the background.
sleep 2
load() { "$loadtest" realtime --url "http://127.0.0.1:$port" --pid "$server" "$@"; }
# Hundredths of a second: of the service, of Postgres' first process and its children, those that have ended among them.
of_service() { awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$server/stat"; }
of_postgres() { { cat /proc/[0-9]*/stat 2>/dev/null || true; } | awk -v p="$postgres" '{pid = $1; sub(/.*\) /, "")} pid == p {n += $12 + $13 + $14 + $15} $2 == p {n += $12 + $13} END {print n}'; }

echo "== $subscribers subscribers, $rate changes a second"
load --subscribers "$subscribers" --rate "$rate" --seconds "$seconds"

echo "== $idle idle subscribers"
load --subscribers "$idle" --rate 0 --seconds 30 >"$folder/idle" &
running=$!
for ((look = 0; look < 300; look++)); do
  curl -m 2 -sf "127.0.0.1:$port/metrics" | grep -q "^tidegate_followers $idle\$" && break
  sleep 0.1
done
sleep 2
postgres=$(head -n 1 "$folder/data/postgres/postmaster.pid")
service=$(of_service) database=$(of_postgres)
sleep 20
service=$(($(of_service) - service)) database=$(($(of_postgres) - database))
wait "$running"
cat "$folder/idle"
awk -v s=20 -v service="$service" -v database="$database" \
  'BEGIN {printf "of a core: the service %.2f %%, Postgres %.2f %%\n", service / s, database / s}'
