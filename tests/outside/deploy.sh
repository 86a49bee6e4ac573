#!/usr/bin/env bash
# The files of deploy/ that cannot run here: compose files and Kubernetes manifests against their schemas, the Dockerfile by hadolint, the dashboard
# against Grafana's own model, provisioning, references between files, and the environment that they set, with which the service has to start.
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
"$venv/bin/hadolint" deploy/Dockerfile
for version in 1.30 1.33; do
  "$venv/bin/kubernetes-validate" --strict --quiet --kubernetes-version $version deploy/kubernetes.yaml
done
if docker compose version >/dev/null 2>&1; then
  JWT_SECRET=0123456789abcdef0123456789abcdef docker compose -f docker-compose.yml -f deploy/monitoring.yml config --quiet
fi

data=$(mktemp -d)
trap 'kill "${services[@]}" 2>/dev/null || true; wait; rm -rf "$data"' EXIT
"$venv/bin/python" tests/outside/deploy/check.py "$data"
promtool check config "$data/prometheus.yml" "$data/kubernetes.yml"

# Each environment starts a service, on loopback, with this machine's disk. The one of Compose has a private Postgres. The one of
# Kubernetes uses that, as its pods would: another user, no privileges, and nothing to write to but its volume.
chmod 755 "$data"
cp "$binary" "$data/tidegate"
pod() { # environment, command; in place of the shell
  exec unshare --mount --propagation private bash -c '
    mount --bind "$1" "$1"
    mount -o remount,bind,ro /
    cd / && exec setpriv --reuid 65532 --regid 65532 --clear-groups --bounding-set=-all --no-new-privs env -i "${@:2}"' pod "$data/kubernetes" "$@"
}
serve() { # name, port, how, settings
  local name=$1 port=$2 how=$3; shift 3
  mkdir "$data/$name"
  chown 65532 "$data/$name"
  # shellcheck disable=SC2046  # several words
  $how PATH="$PATH" HOME=/nonexistent $(cat "$data/$name.env") HOST=127.0.0.1 PORT="$port" DATA_DIR="$data/$name" JOURNAL_MIN_FREE=0 "$@" \
    "$data/tidegate" > "$data/$name.log" 2>&1 & services+=($!)
  # As a kubelet asks: by the pod's address, without a token.
  for _ in $(seq 300); do
    [[ $(curl -s --max-time 5 -H "host: 10.0.0.7:$port" "http://127.0.0.1:$port/health/ready") == ready ]] && break
    kill -0 "${services[-1]}" 2>/dev/null || { cat "$data/$name.log"; exit 1; }
    sleep 0.1
  done
  echo "$name: ready"
  if grep -E '"level":"(WARN|ERROR)"' "$data/$name.log"; then exit 1; fi
}
services=()
serve compose 3891 'env -i'
serve kubernetes 3895 pod DATABASE_URL="$(DATA_DIR="$data/compose" "$data/tidegate" url)" DB_SCHEMA=kubernetes
for service in "${services[1]}" "${services[0]}"; do
  kill -TERM "$service"
  wait "$service" || { echo "exit $?"; tail -n 8 "$data"/*.log; exit 1; }
done
# What the release workflow does with each binary.
tests/outside/smoke.sh "$binary"
