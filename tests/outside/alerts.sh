#!/usr/bin/env bash
# The alerts of docs/OPERATIONS.md: promtool parses them, they name metrics that the service has, and they fire for each kind of loss.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk '/^```yaml$/ {inside = 1; next} /^```$/ {inside = 0} inside' docs/OPERATIONS.md > "$work/rules.yml"
cp tests/outside/alerts.yml "$work"
promtool check rules "$work/rules.yml"
promtool test rules "$work/alerts.yml"
promtool check config deploy/prometheus.yml
for metric in $(grep -oE 'tidegate_[a-z_]+' "$work/rules.yml" | sort -u); do
  grep -rqF "\"$metric\"" src/observe || { echo "no such metric: $metric"; exit 1; }
done
