#!/usr/bin/env bash
# nginx and Caddy (Debian's) with the configurations of deploy/, in front of a service: streams, WebSockets, sizes, addresses, kept
# connections. Only addresses, ports and certificates are replaced.
#
# usage: tests/outside/proxies.sh        TIDEGATE names another binary than target/debug/tidegate
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin
{ command -v nginx && command -v caddy; } >/dev/null || {
  # Installed, not started (runlevel 1).
  { apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends nginx-light caddy; } >/dev/null
}
binary=${TIDEGATE:-target/debug/tidegate}
[[ -x $binary ]] || cargo build --locked

data=$(mktemp -d) processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true; wait; rm -rf "$data"' EXIT
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$data"
service=3885 nginx=3886 caddy=3887

export DATA_DIR=$data/tidegate PORT=$service HOST=127.0.0.1 AUTH=required TRUSTED_PROXIES=127.0.0.1,::1 REGISTRATION=on
export MODULES=all RECORDS_AUTO_CREATE=on LOG_FORMAT=json JOURNAL_MIN_FREE=0 JOURNAL_MAX_BYTES=536870912
"$binary" > "$data/log" 2>&1 & processes+=($!)

openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=events.example -addext subjectAltName=DNS:events.example \
  -keyout "$data/key.pem" -out "$data/certificate.pem" 2>/dev/null

sed -e "s|127.0.0.1:3000|127.0.0.1:$service|" -e "s|listen 443|listen 127.0.0.1:$nginx|" -e '/listen \[::\]/d' \
  -e "s|/etc/ssl/events.example.pem|$data/certificate.pem|" -e "s|/etc/ssl/events.example.key|$data/key.pem|" \
  deploy/nginx.conf > "$data/site.conf"
cat > "$data/nginx.conf" <<EOF
daemon off;
pid $data/nginx.pid;
error_log $data/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $data/body; proxy_temp_path $data/proxy; fastcgi_temp_path $data/f; uwsgi_temp_path $data/u; scgi_temp_path $data/s;
    include $data/site.conf;
}
EOF
nginx -t -q -c "$data/nginx.conf"
nginx -c "$data/nginx.conf" & processes+=($!)

{
  printf '{\n\tadmin off\n\tauto_https disable_redirects\n}\n'
  sed -e "s|127.0.0.1:3000|127.0.0.1:$service|" \
    -e "s|^events.example {|events.example:$caddy {\n\tbind 127.0.0.1\n\ttls $data/certificate.pem $data/key.pem|" deploy/Caddyfile
} > "$data/Caddyfile"
XDG_DATA_HOME=$data XDG_CONFIG_HOME=$data caddy run --config "$data/Caddyfile" --adapter caddyfile > "$data/caddy.log" 2>&1 & processes+=($!)

for _ in $(seq 300); do grep -q 'listening on' "$data/log" && break; sleep 0.1; done
TIDEGATE_KEY=$("$binary" keys create --admin --name proxies)
export TIDEGATE_KEY
for proxy in "nginx $nginx" "caddy $caddy"; do
  # shellcheck disable=SC2086  # a name and a port
  timeout 60 python3 tests/outside/deploy/proxies.py $proxy "$service" "$data/certificate.pem" || {
    tail -n 5 "$data/log" "$data/nginx.log" "$data/caddy.log"; exit 1
  }
done
kill -0 "${processes[@]}"
