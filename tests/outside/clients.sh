#!/usr/bin/env bash
# Generates a TypeScript client (openapi-typescript, openapi-fetch; npm) and a Python client (openapi-python-client; PyPI) from the
# OpenAPI description of a running service, and uses both against it.
#
# usage: tests/outside/clients.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=target/debug/tidegate
[[ -x $binary ]] || cargo build --locked
sources=$PWD/tests/outside/clients work=$PWD/target/tmp/clients
mkdir -p "$work"

data=$(mktemp -d)
port=3491
export DATA_DIR=$data PORT=$port AUTH=required MODULES=all RECORDS_AUTO_CREATE=on LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=33554432
"$binary" > "$data/log" 2>&1 &
service=$!
trap 'kill $service 2>/dev/null || true; wait $service 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 600); do grep -q 'listening on' "$data/log" && break; sleep 0.1; done
TIDEGATE_KEY=$("$binary" keys create --admin --name clients)
export TIDEGATE_KEY TIDEGATE_URL=http://127.0.0.1:$port
curl -fsS "$TIDEGATE_URL/api/openapi.json" > "$work/openapi.json"

typescript() {
  mkdir -p "$work/typescript" && cd "$work/typescript"
  cp "$sources"/{package.json,package-lock.json,tsconfig.json,client.ts} .
  [[ -d node_modules ]] && cmp -s package-lock.json node_modules/.installed || {
    npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed
  }
  npx --no-install openapi-typescript "$work/openapi.json" --output api.d.ts
  npx --no-install tsc --project .
  node out/client.js
}

python() {
  local venv=$work/venv
  [[ -x $venv/bin/openapi-python-client ]] || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$sources/requirements.txt"
  }
  printf 'project_name_override: tidegate-client\npackage_name_override: tidegate_client\npost_hooks: []\n' > "$work/config.yaml"
  "$venv/bin/openapi-python-client" generate --path "$work/openapi.json" --meta none --overwrite \
    --config "$work/config.yaml" --output-path "$work/python/tidegate_client"
  PYTHONPATH=$work/python "$venv/bin/python" "$sources/client.py"
}

(typescript)
(python)
kill -0 $service
