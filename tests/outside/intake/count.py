"""Compares the rows of each client with what it sent: each event that it did not give up is there once, and none twice.

usage: python count.py DATABASE_URL EVENTS FILE…
"""

import json
import sys

import psycopg

database, events = sys.argv[1], int(sys.argv[2])
dropped = {}
for path in sys.argv[3:]:
    with open(path) as file:
        dropped |= json.load(file)

ROWS = """
    select coalesce(payload->'attributes'->>'client', payload->>'event', payload->>'type') as client,
        coalesce(payload->'attributes'->>'n', payload->'properties'->>'n', payload->'data'->>'n')::int as n, count(*)
    from requests group by 1, 2
"""
stored = {name: {} for name in dropped}
with psycopg.connect(database) as connection:
    for client, n, count in connection.execute(ROWS):
        if client in stored:
            stored[client][n] = count

is_right = True
for client, given_up in dropped.items():
    rows = stored[client]
    doubled = [n for n, count in rows.items() if count > 1]
    missing = [n for n in range(events) if n not in rows and n not in given_up]
    print(f"{client}: {events} sent, {len(rows)} stored, {len(given_up)} given up, {len(missing)} missing, {len(doubled)} doubled")
    # A client that gave most of its events up has proved nothing.
    is_right &= not doubled and not missing and len(rows) * 2 > events
sys.exit(0 if is_right else 1)
