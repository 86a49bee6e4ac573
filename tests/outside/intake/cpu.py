"""CPU of the service for an event, by protocol: requests of 100 events that are alike, over one connection, in turns.

usage: target/tmp/intake/venv/bin/python tests/outside/intake/cpu.py URL KEY PID [events a protocol and round, 50000] [rounds, 5]

KEY has the scopes events:write and ops:read. The service is a release build with an idle machine around it. What Postgres needs is not counted.
"""

import http.client
import json
import os
import statistics
import sys
import time
import urllib.parse
import uuid

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from google.protobuf import json_format

url, key, pid = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = int(sys.argv[4]) if len(sys.argv) > 4 else 50_000
rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 5
BATCH = 100
JSON, PROTOBUF = "application/json", "application/x-protobuf"


def members(n):
    return {"n": n, "plan": "pro", "total": 12.5, "tags": ["one", "two"], "text": "a sentence of about fifty characters, as events have"}


def ids():
    return [str(uuid.uuid4()) for _ in range(BATCH)]


def plain():
    lines = (json.dumps({"id": each, "event": "paid", "properties": members(n)}) for n, each in enumerate(ids()))
    return "/api/v1/events/batch?id_field=id", "application/x-ndjson", "\n".join(lines).encode()


def segment():
    calls = [{"type": "track", "messageId": each, "userId": "u", "event": "paid", "properties": members(n)} for n, each in enumerate(ids())]
    return "/v1/batch", JSON, json.dumps({"batch": calls, "sentAt": "2026-01-01T00:00:00Z"}).encode()


def posthog():
    batch = [{"uuid": each, "distinct_id": "u", "event": "paid", "properties": members(n)} for n, each in enumerate(ids())]
    return "/batch/", JSON, json.dumps({"batch": batch, "sent_at": "2026-01-01T00:00:00Z"}).encode()


def cloudevents():
    batch = [{"specversion": "1.0", "id": each, "source": "/cpu", "type": "paid", "data": members(n)} for n, each in enumerate(ids())]
    return "/api/v1/events/batch", "application/cloudevents-batch+json", json.dumps(batch).encode()


def logs():
    """The first record has an id, since equal requests are one."""
    attributes = [{"key": "plan", "value": {"stringValue": "pro"}}, {"key": "total", "value": {"doubleValue": 12.5}}]
    text = {"stringValue": members(0)["text"]}
    records = [{"timeUnixNano": str(1_800_000_000_000_000_000 + n), "severityNumber": 9, "body": text, "attributes": attributes} for n in range(BATCH)]
    records[0]["body"] = {"stringValue": str(uuid.uuid4())}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}


def otlp_json():
    return "/v1/logs", JSON, json.dumps(logs()).encode()


def otlp_protobuf():
    return "/v1/logs", PROTOBUF, json_format.ParseDict(logs(), ExportLogsServiceRequest()).SerializeToString()


def cpu():
    """Seconds of all threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)


def call(method, path, body=None, kind=JSON):
    connection.request(method, path, body, {"content-type": kind, "x-api-key": key})
    answer = connection.getresponse()
    return answer.status, answer.read()


def settled():
    while json.loads(call("GET", "/api/health")[1])["pending"] > 0:
        time.sleep(0.05)


protocols = [plain, segment, posthog, cloudevents, otlp_json, otlp_protobuf]
figures = {each: [] for each in protocols}
for _ in range(rounds):
    for each in protocols:
        requests = [each() for _ in range(events // BATCH)]
        settled()
        before = cpu()
        for path, kind, body in requests:
            status, text = call("POST", path, body, kind)
            while status in (429, 503):
                time.sleep(0.2)
                status, text = call("POST", path, body, kind)
            assert status in (200, 202), (each.__name__, status, text)
        settled()
        figures[each].append((cpu() - before) / len(requests) / BATCH * 1e6)
        size = len(requests[0][2]) / BATCH
        if len(figures[each]) == rounds:
            middle = statistics.median(figures[each])
            print(f"{each.__name__}: {middle:.1f} µs an event of {size:.0f} bytes ({min(figures[each]):.1f} to {max(figures[each]):.1f})")
