#!/usr/bin/env bash
# What routes cost: events stored a second with and without them, alternately. One client sends 1,000 events a request; DURABILITY=memory.
#
#     loadtest/routes.sh      # after cargo build --release; needs wrk and psql, and leaves nothing behind
#
# BEFORE=FILE measures another binary too, without routes. KINDS narrows what is measured. KINDS=bad is apart: with ten routes and DURABILITY=disk it
# drains a backlog of which a constraint refuses a part, then redrives the dead letters.
set -euo pipefail
rounds=${ROUNDS:-3} seconds=${DURATION:-5}
binary=${BINARY:-target/release/tidegate} loadtest=${LOADTEST:-target/release/loadtest}
kinds=${KINDS:-${BEFORE:+before }none tenth three key upsert ten}
port=${PORT:-$((20000 + RANDOM % 20000))}
folder=$(mktemp -d) server='' url=''
# The private Postgres runs as another user, who has to reach its folder.
chmod 755 "$folder"
tidy() {
  stop
  rm -rf "$folder"
}
stop() {
  [[ -z $server ]] || { kill "$server" && wait "$server" || true; } 2>/dev/null
  server=''
  rm -rf "$folder/data"
}
trap tidy EXIT
service=(env -u DATABASE_URL "DATA_DIR=$folder/data" HOST=127.0.0.1 "PORT=$port" DURABILITY=memory)
start() {
  "${service[@]}" "$1" >"$folder/log" 2>&1 &
  server=$!
  for ((look = 0; look < 300; look++)); do
    url=$("${service[@]}" "$1" url 2>"$folder/url") && curl -m 2 -sf -o "$folder/health" "127.0.0.1:$port/api/health" && break
    sleep 0.1
  done
}
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$url" -c "$1"; }
size() { sql "select coalesce(sum(pg_relation_size(oid)), 0) from pg_class where relname ~ '^requests' and relkind = 'r'"; }
add() { "${service[@]}" "$binary" routes add "$@" >"$folder/added" || { cat "$folder/added"; exit 1; } }

cat >"$folder/bulk.lua" <<'LUA'
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/x-ndjson"
local event = '{"event":"signup","userId":"u_42","ts":1732060800,"props":{"plan":"pro","source":"ads","amount":42.5}}'
wrk.body = string.rep(event .. "\n", 1000)
LUA

columns="id as event_id, payload->>'event' as event, received_at"
table='(event_id uuid, event text, received_at timestamptz)'
# Ids end with random bytes.
tenth='get_byte(uuid_send(id), 15) % 10 ='
routes() {
  sql 'create schema if not exists app'
  case $1 in
    before | none) ;;
    tenth) sql "create table app.tenth $table" && add tenth --into app.tenth --sql "select $columns from batch where $tenth 3" ;;
    three) sql "create table app.three $table" && add three --into app.three --sql "select $columns from batch" ;;
    key)
      sql "create table app.key $table; alter table app.key add primary key (event_id)"
      add key --into app.key --sql "select $columns from batch"
      ;;
    upsert)
      sql 'create table app.upsert (number int primary key, event text, received_at timestamptz)'
      add upsert --into app.upsert --key number \
        --sql "select get_byte(uuid_send(id), 15) * 4 + get_byte(uuid_send(id), 14) % 4 as number, payload->>'event' as event, received_at from batch"
      ;;
    ten)
      for number in 0 1 2 3 4 5 6 7 8 9; do
        sql "create table app.ten_$number $table"
        add "ten_$number" --into "app.ten_$number" --sql "select $columns from batch where $tenth $number"
      done
      ;;
  esac
}

if [[ $kinds == bad ]]; then
  service+=(DURABILITY=disk)
  start "$binary"
  routes ten
  for part in 1 50; do
    echo "== $part % bad"
    "$loadtest" drain --url "http://127.0.0.1:$port" --database-url "$url" --mebibytes 20 --bad "$part"
  done
  echo '== redrive'
  dead=$(sql 'select count(*) from dead_letters')
  began=$(date +%s.%N)
  "${service[@]}" "$binary" redrive --all
  awk -v n="$dead" -v s="$(date +%s.%N)" -v b="$began" 'BEGIN {printf "%d dead letters in %.2f s, %.0f/s\n", n, s - b, n / (s - b)}'
  exit
fi

for ((round = 0; round < rounds; round++)); do
  for kind in $kinds; do
    used=$binary
    [[ $kind != before ]] || used=$BEFORE
    start "$used"
    routes "$kind"
    begun=$(date +%s.%N)
    timeout 120 wrk -t1 -c4 -d"${seconds}s" -s "$folder/bulk.lua" "http://127.0.0.1:$port/api/v1/events/batch" >"$folder/wrk"
    now=$(size) before='' ended=$(date +%s.%N)
    # Until the table grows no more.
    while [[ $now != "$before" ]]; do
      ended=$(date +%s.%N)
      sleep 0.5
      before=$now now=$(size)
    done
    if [[ $kind != before ]]; then
      states=$(sql "select coalesce(string_agg(distinct state, ', '), 'live') from event_routes")
      [[ $states == live ]] || echo "$kind: routes are $states"
    fi
    echo "$kind $(sql 'select count(*) from requests') $begun $ended" >>"$folder/figures"
    stop
  done
done
echo 'routes | events/s (median) | lowest | highest | ratio to none'
for kind in none $kinds; do
  awk -v k="$kind" '$1 == k { printf "%.0f\n", $2 / ($4 - $3) }' "$folder/figures" | sort -n >"$folder/$kind"
done
none=$(sed -n "$((rounds / 2 + 1))p" "$folder/none")
for kind in $kinds; do
  awk -v k="$kind" -v n="${none:-0}" -v m="$((rounds / 2 + 1))" \
    '{ r[NR] = $1 } END { printf "%s | %d | %d | %d | %.2f\n", k, r[m], r[1], r[NR], n ? r[m] / n : 0 }' "$folder/$kind"
done
