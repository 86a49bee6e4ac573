#!/usr/bin/env bash
# A Debian package on this machine: installs it, starts the unit's own command under a socket like systemd's and with the unit's limits, stores an
# event, drains, stops, installs it again over itself, removes it, and purges it. Needs root, mounts, and a machine without a tidegate of its own.
#
# usage: tests/outside/debian.sh PACKAGE.deb
set -euo pipefail
package=$(realpath "$1")
cd "$(dirname "$0")/../.."
for path in /usr/bin/tidegate /etc/tidegate /var/lib/tidegate; do [[ ! -e $path ]] || { echo "$path exists"; exit 1; }; done
needed=()
for each in systemd-analyze:systemd adduser:adduser; do command -v "${each%:*}" >/dev/null || needed+=("${each#*:}"); done
/usr/bin/python3 -c 'import seccomp' 2>/dev/null || needed+=(python3-seccomp)
[[ ${#needed[@]} -eq 0 ]] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >/dev/null
trap 'dpkg --purge tidegate >/dev/null 2>&1 || true' EXIT
export DEBIAN_FRONTEND=noninteractive

dpkg -i "$package" >/dev/null
tidegate --version
[[ $(stat -c '%U:%G %a' /etc/tidegate/tidegate.env) == 'root:tidegate 640' ]]
getent passwd tidegate >/dev/null
for file in /usr/share/man/man1/tidegate.1.gz /usr/share/bash-completion/completions/tidegate /usr/share/zsh/vendor-completions/_tidegate \
  /usr/share/fish/vendor_completions.d/tidegate.fish /usr/share/doc/tidegate/env.example; do
  [[ -e $file ]] || { echo "$file is missing"; exit 1; }
done
unit=$(dpkg -L tidegate | grep '/tidegate.service$')
# Other units of this machine are not ours.
! systemd-analyze verify "$unit" 2>&1 | grep -F "$unit"
systemd-analyze security --offline=true --threshold=20 "$unit" | tail -1
timeout 120 python3 tests/outside/deploy/unit.py "$unit"

# An upgrade keeps settings and data; a removal too; a purge neither.
echo 'RETENTION_DAYS=30' >> /etc/tidegate/tidegate.env
dpkg -i --force-confold "$package" >/dev/null
grep -q '^RETENTION_DAYS=30$' /etc/tidegate/tidegate.env
[[ $(stat -c '%U:%G %a' /etc/tidegate/tidegate.env) == 'root:tidegate 640' ]]
timeout 120 python3 tests/outside/deploy/unit.py "$unit"
dpkg --remove tidegate >/dev/null
[[ ! -e /usr/bin/tidegate && -e /etc/tidegate/tidegate.env && -d /var/lib/tidegate/journal ]]
dpkg --purge tidegate >/dev/null
for path in /etc/tidegate /var/lib/tidegate /usr/share/doc/tidegate; do [[ ! -e $path ]] || { echo "$path was left"; exit 1; }; done
! getent passwd tidegate
echo "installed, upgraded, removed, purged"
