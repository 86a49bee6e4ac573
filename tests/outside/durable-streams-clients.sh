#!/usr/bin/env bash
# The official clients of Durable Streams (@durable-streams/client and @durable-streams/state, npm) write and read through kills of the service and
# crashes of its Postgres. Every acknowledged append is read, in order, and those of producers once.
#
# usage: tests/outside/durable-streams-clients.sh [rounds, 1]
set -euo pipefail
cd "$(dirname "$0")/../.."
TIDEGATE=$PWD/target/debug/tidegate
[[ -x $TIDEGATE ]] || cargo build --locked
sources=$PWD/tests/outside/durable-streams-clients work=$PWD/target/tmp/durable-streams-clients
mkdir -p "$work"
cp "$sources"/{package.json,package-lock.json,clients.js} "$work"
(cd "$work" && { [[ -d node_modules ]] && cmp -s package-lock.json node_modules/.installed || {
  npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed
}; })

DATA=$(mktemp -d)
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$DATA"
# The services end with the script; after a failed run Postgres does not.
finish() {
  [[ ! -f $DATA/postgres/postgres/postmaster.pid ]] || kill -QUIT "$(head -1 "$DATA/postgres/postgres/postmaster.pid")" 2>/dev/null || true
  rm -rf "$DATA"
}
trap finish EXIT
export TIDEGATE DATA PORT=${STREAMS_PORT:-3496}
cd "$work"
node clients.js "${1:-1}"
