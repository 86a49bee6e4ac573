#!/usr/bin/env bash
# The alerts of deploy/alerts.yml: promtool parses them, they name metrics that the service has, they fire for each kind of failure, each
# has a severity and a summary, and docs/OPERATE.md explains each.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# promtool compares annotations too; the cases are about alerts and labels.
sed '/^ *annotations:/d' deploy/alerts.yml > "$work/rules.yml"
cp tests/outside/alerts.yml "$work"
promtool check rules --lint=all --lint-fatal deploy/alerts.yml
promtool test rules "$work/alerts.yml"
promtool check config deploy/prometheus.yml
for metric in $(grep -oE 'tidegate_[a-z_]+' "$work/rules.yml" | sort -u); do
  metric=${metric%_bucket}
  grep -rqF "\"$metric\"" src/observe || { echo "no such metric: $metric"; exit 1; }
done
for alert in $(sed -n 's/^ *- alert: \([A-Za-z]*\).*/\1/p' "$work/rules.yml"); do
  grep -qF "\`$alert\`" docs/OPERATE.md || { echo "docs/OPERATE.md does not explain $alert"; exit 1; }
  grep -qF "alertname: $alert, exp_alerts" tests/outside/alerts.yml || { echo "no case in which $alert fires"; exit 1; }
  grep -qE "alertname: $alert }" tests/outside/alerts.yml || { echo "no case in which $alert does not fire"; exit 1; }
done
awk '/- alert:/ {if (n && (!s || !a)) exit 1; n = $3; s = a = 0}
     /labels: \{ severity: (critical|warning) \}/ {s = 1} /annotations: \{ summary: ".+" \}/ {a = 1}
     END {if (!s || !a) {print n " has no severity or no summary"; exit 1}}' deploy/alerts.yml
