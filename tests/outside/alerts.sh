#!/usr/bin/env bash
# The alerts of deploy/alerts.yml: promtool parses them, they name metrics that the service has, they fire for each kind of loss, and
# docs/OPERATE.md explains each.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp deploy/alerts.yml "$work/rules.yml"
cp tests/outside/alerts.yml "$work"
promtool check rules "$work/rules.yml"
promtool test rules "$work/alerts.yml"
promtool check config deploy/prometheus.yml
for metric in $(grep -oE 'tidegate_[a-z_]+' "$work/rules.yml" | sort -u); do
  grep -rqF "\"$metric\"" src/observe || { echo "no such metric: $metric"; exit 1; }
done
for alert in $(sed -n 's/^ *- alert: \([A-Za-z]*\).*/\1/p' "$work/rules.yml"); do
  grep -qF "\`$alert\`" docs/OPERATE.md || { echo "docs/OPERATE.md does not explain $alert"; exit 1; }
done
