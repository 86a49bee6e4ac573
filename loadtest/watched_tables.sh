#!/usr/bin/env bash
# What a watched table costs: statements on it against the same ones on an unwatched table, alternately. Rows have 200 bytes.
#
#     loadtest/watched_tables.sh "$(tidegate url)"      # needs psql and pgbench, and leaves nothing behind
set -euo pipefail
url=${1:?the URL of a database that tidegate has migrated}
rounds=${ROUNDS:-5} transactions=${TRANSACTIONS:-2000}
folder=$(mktemp -d)
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$url" "$@"; }
tidy() {
  sql -c 'drop schema if exists watched_figures cascade' >"$folder/log" 2>&1 || cat "$folder/log"
  rm -rf "$folder"
}
trap tidy EXIT

columns='(id bigint generated always as identity primary key, n int not null default 1, at timestamptz not null default now(), body text not null)'
PGOPTIONS='-c client_min_messages=warning' sql >"$folder/log" <<SQL
drop schema if exists watched_figures cascade;
create schema watched_figures;
create table watched_figures.plain $columns;
create table watched_figures.watched $columns;
select tidegate_watch('watched_figures.watched');
SQL
for count in 10000 100000; do
  sql -c "copy (select 1, now(), repeat('x', 168) from generate_series(1, $count)) to stdout" >"$folder/$count"
done
for table in plain watched; do
  echo "insert into watched_figures.$table (body) values (repeat('x', 168));" >"$folder/single_$table"
done

# Milliseconds of one statement.
timed() { sql -c '\timing on' "$@" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail -1; }
copy() { timed -c "\\copy watched_figures.$1 (n, at, body) from '$folder/$2'"; }
measure() { # $1: the statement, $2: the table
  case $1 in
    single | 'single, no flush')
      local options=''
      [[ $1 == single ]] || options='-c synchronous_commit=off'
      PGOPTIONS=$options pgbench -n -M prepared -f "$folder/single_$2" -c 1 -t "$transactions" "$url" 2>/dev/null |
        sed -n 's/^latency average = \([0-9.]*\) ms.*/\1/p'
      ;;
    'copy of 100,000 as many') copy "$2" 100000 ;;
    'copy of 10,000') copy "$2" 10000 ;;
    'update of 10,000') timed -c "update watched_figures.$2 set n = n + 1 where id <= 10000" ;;
    'delete of 10,000') timed -c "delete from watched_figures.$2 where id <= 10000" ;;
  esac
}
echo 'statement | unwatched ms | watched ms | ratio (medians)'
for statement in single 'single, no flush' 'copy of 100,000 as many' 'copy of 10,000' 'update of 10,000' 'delete of 10,000'; do
  : >"$folder/plain" && : >"$folder/watched"
  for ((round = 0; round < rounds; round++)); do
    for table in plain watched; do
      sql -c "truncate watched_figures.$table restart identity"
      [[ $statement != [ud]* ]] || copy "$table" 10000 >/dev/null
      measure "$statement" "$table" >>"$folder/$table"
    done
  done
  median() { sort -n "$1" | sed -n "$((rounds / 2 + 1))p"; }
  awk -v s="$statement" -v p="$(median "$folder/plain")" -v w="$(median "$folder/watched")" \
    'BEGIN { printf "%s | %.3f | %.3f | %.2f\n", s, p, w, w / p }'
done
