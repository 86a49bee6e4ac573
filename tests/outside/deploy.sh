#!/usr/bin/env bash
# The files of deploy/ that cannot run here: compose files and Kubernetes manifests against their schemas, the dashboard against Grafana's
# own model, provisioning, references between files, and the environment that they set, with which the service has to start.
#
# usage: tests/outside/deploy.sh        TIDEGATE names another binary than target/debug/tidegate
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null
binary=${TIDEGATE:-target/debug/tidegate}
[[ -x $binary ]] || cargo build --locked

requirements=tests/outside/deploy/requirements.txt venv=target/tmp/deploy
cmp -s "$requirements" "$venv/.installed" || {
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
  cp "$requirements" "$venv/.installed"
}
"$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml deploy/monitoring.yml
for version in 1.30 1.33; do
  "$venv/bin/kubernetes-validate" --strict --quiet --kubernetes-version $version deploy/kubernetes.yaml
done
if docker compose version >/dev/null 2>&1; then
  JWT_SECRET=0123456789abcdef0123456789abcdef docker compose -f docker-compose.yml -f deploy/monitoring.yml config --quiet
fi

data=$(mktemp -d)
trap 'kill ${service:-} 2>/dev/null || true; wait; rm -rf "$data"' EXIT
"$venv/bin/python" tests/outside/deploy/check.py "$data"
promtool check config "$data/prometheus.yml" "$data/kubernetes.yml"

# Each environment starts a service: with a private Postgres, on loopback and another port, and with this machine's disk.
chmod 755 "$data"
for environment in compose kubernetes; do
  mkdir "$data/$environment"
  # shellcheck disable=SC2046  # several words
  env -i PATH="$PATH" HOME="$HOME" $(cat "$data/$environment.env") HOST=127.0.0.1 PORT=3891 DATA_DIR="$data/$environment" \
    JOURNAL_MIN_FREE=0 "$binary" > "$data/log" 2>&1 & service=$!
  # As a kubelet asks: by the pod's address, without a token.
  ready() { curl -fsS --max-time 5 -H 'host: 10.0.0.7:3000' http://127.0.0.1:3891/health/ready; }
  for _ in $(seq 300); do
    ready >/dev/null 2>&1 && break
    kill -0 $service 2>/dev/null || { cat "$data/log"; exit 1; }
    sleep 0.1
  done
  echo "$environment: $(ready)"
  if grep -E '"level":"(WARN|ERROR)"' "$data/log"; then exit 1; fi
  kill -TERM $service
  wait $service
done
# What the release workflow does with each binary.
tests/outside/smoke.sh "$binary"
