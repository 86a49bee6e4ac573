#!/usr/bin/env bash
# Durable Streams in Postgres against another server of the protocol, alternately, by the same load.
#
#     cargo install durable-streams --version 0.1.5 --locked
#     loadtest/streams.sh      # after cargo build --release --workspace; leaves nothing behind
#
# LOADS narrows what is measured, OTHER is the other server's binary, STREAMS_STORE=memory measures the memory store.
set -euo pipefail
rounds=${ROUNDS:-1} seconds=${DURATION:-6}
binary=${BINARY:-target/release/tidegate} loadtest=${LOADTEST:-target/release/loadtest}
other=${OTHER:-durable-streams-server}
loads=${LOADS:-append-1 append-64 tail catch-up sse-1000 sse-200 idle}
port=${PORT:-$((20000 + RANDOM % 20000))}
folder=$(mktemp -d) server=''
stop() {
  [[ -z $server ]] || { kill "$server" && wait "$server" || true; } 2>/dev/null
  server=''
  rm -rf "$folder/data"
}
tidy() {
  stop
  rm -rf "$folder"
}
trap tidy EXIT
start() {
  local health=health
  if [[ $1 == other ]]; then
    "$other" --host 127.0.0.1 --port "$port" --data-dir "$folder/data" --durability wal >"$folder/log" 2>&1 &
  else
    health=api/health
    env -u DATABASE_URL DATA_DIR="$folder/data" HOST=127.0.0.1 PORT="$port" "$binary" >"$folder/log" 2>&1 &
  fi
  server=$!
  for ((look = 0; look < 300; look++)); do
    curl -m 2 -sf -o "$folder/health" "127.0.0.1:$port/$health" && break
    sleep 0.1
  done
  # What a start leaves to do in the background.
  sleep 1
}
arguments() {
  case $1 in
    append-1) echo streams-append --streams 1 --connections 64 ;;
    append-64) echo streams-append --streams 64 --connections 64 ;;
    tail) echo streams-read --mode tail --messages 1000 ;;
    catch-up) echo streams-read --mode catch-up --messages 10000 ;;
    sse-1000) echo streams-sse --subscribers 1000 --rate 10 ;;
    sse-200) echo streams-sse --subscribers 200 --rate 50 --history 20000 ;;
    idle) echo streams-sse --subscribers 1000 --rate 0 ;;
  esac
}
for ((round = 0; round < rounds; round++)); do
  for load in $loads; do
    for which in ${SERVERS:-other tidegate}; do
      start "$which"
      echo "== $load, $which"
      # shellcheck disable=SC2046
      timeout 120 "$loadtest" $(arguments "$load") --url "http://127.0.0.1:$port" --seconds "$seconds" --pid "$server" || echo "failed: $?"
      stop
    done
  done
done
