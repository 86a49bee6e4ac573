#!/usr/bin/env bash
# A built binary, once: it starts with nothing set, stores an event, and stops in order.
#
# usage: tests/outside/smoke.sh BINARY
set -euo pipefail
binary=$(realpath "$1")
data=$(mktemp -d)
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$data"
trap 'kill ${service:-} 2>/dev/null || true; wait; rm -rf "$data"' EXIT
"$binary" --version
cd "$data"
PORT=3892 DATA_DIR=$data "$binary" > log 2>&1 & service=$!
for _ in $(seq 600); do
  status=$(curl -s -o answer -D headers -w '%{http_code}' --max-time 10 'http://127.0.0.1:3892/api/v1/events?ack=committed' -d '{"smoke":true}' || true)
  [[ $status == 201 ]] && break
  kill -0 $service || { cat log; exit 1; }
  sleep 0.1
done
[[ $status == 201 ]] && grep -qi '^x-ack: committed' headers || { cat headers log; exit 1; }
DATA_DIR=$data "$binary" verify
kill -TERM $service
wait $service
echo "started, stored an event, stopped"
