"""Makes load and failures, then runs every query of deploy/grafana/tidegate.json; see ../dashboard.sh."""
import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

URL, KEY, PROMETHEUS = os.environ["TIDEGATE_URL"], os.environ["TIDEGATE_KEY"], os.environ["PROMETHEUS_URL"]
# Metrics without a series in this run: none of these things happens here.
SILENT = {
    "tidegate_events_refused_total",
    "tidegate_dead_letters_dropped_total",
    "tidegate_followers_dropped_total",
    "tidegate_partitions_failing",
    "tidegate_stream_wakes_total",
    "tidegate_stream_inbox_total",
    "tidegate_mails_total",
}
# Alerts for what this run does to the service.
EXPECTED = {"TidegateCannotStore", "TidegateDeadLetters", "TidegateRouteErrors", "TidegateTaskPanicked"}
# Alerts that compare with a rate or a latency: on a busy machine their condition may hold. Their `for` keeps them pending.
PENDING = {"TidegateDeadLetterRate", "TidegateSlowAcks", "TidegateFeedLag"}


def call(method, path, body=None, kind="application/json", headers=()):
    """The status and body of one request."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, method=method)
    request.add_header("authorization", f"Bearer {KEY}")
    request.add_header("content-type", kind)
    for name, value in headers:
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ok(answer):
    assert answer[0] < 300, answer
    return answer[1]


def sql(*statements):
    commands = [part for statement in statements for part in ("-c", statement)]
    subprocess.run([os.environ["PSQL"], "-Xqv", "ON_ERROR_STOP=1", os.environ["DATABASE"], *commands], check=True)


def ask(path, **parameters):
    """An answer of Prometheus' API."""
    try:
        with urllib.request.urlopen(f"{PROMETHEUS}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def until(what, condition, seconds=40):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{what}: not within {seconds} s")


def value(query):
    result = ask("/api/v1/query", query=query)["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def subscribe():
    """A subscriber to records, whose stream ends with the service."""
    request = urllib.request.Request(URL + "/api/events/stream?topics=records/dashboard")
    request.add_header("authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request, timeout=60) as stream:
        for _ in stream:
            pass


def once(kind):
    """One round of ordinary requests; some of them are answered by errors."""
    for ack in ("queued", "journaled", "committed"):
        ok(call("POST", f"/api/v1/events?ack={ack}", {"kind": kind}))
    ok(call("POST", "/api/v1/events", {"kind": kind}, headers=[("idempotency-key", "the same")]))
    ok(call("POST", "/api/v1/events/batch", b"{}\n" * 200, "application/x-ndjson"))
    ok(call("POST", "/api/stress/records/dashboard", {"kind": kind}))
    ok(call("POST", "/api/v1/events", {"large": "x" * 300_000}))
    call("GET", "/nowhere")
    call("GET", "/api/stress/error/500")


def traffic(stop):
    while not stop.is_set():
        once("steady")
        stop.wait(0.2)


def upload_and_import():
    part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\ncontent-type: text/plain\r\n\r\nhello\r\n--b--\r\n'
    ok(call("POST", "/api/files/upload", part, "multipart/form-data; boundary=b"))
    assert call("POST", "/api/files/upload", b"--b\r\n\r\n", "multipart/form-data; boundary=b")[0] >= 400
    ok(call("POST", "/api/files/process-jsonl?kind=event", b'{"a":1}\n{bad\n', "application/x-ndjson"))


def follow_and_leave():
    """A stream of changes that ends, so that its end is counted."""
    request = urllib.request.Request(URL + "/api/events/stream?topics=records/dashboard")
    request.add_header("authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request, timeout=10) as stream:
        stream.readline()


def queries(dashboard):
    """(where, expression) of every panel, annotation and variable, with Grafana's variables as Grafana sets them."""
    found = [(p["title"], t["expr"]) for p in dashboard["panels"] for t in p.get("targets", [])]
    found += [(a["name"], a["expr"]) for a in dashboard["annotations"]["list"] if "expr" in a]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            found.append((variable["name"], inner[1]))
    replaced = []
    for where, expression in found:
        for name, text in (("$__rate_interval", "15s"), ("$__interval", "15s"), ("$job", "tidegate"), ("$instance", ".+")):
            expression = expression.replace(name, text)
        assert "$" not in expression, f"{where}: unknown variable in {expression}"
        replaced.append((where, expression))
    return replaced


def main():
    with open("deploy/grafana/tidegate.json") as file:
        dashboard = json.load(file)
    found = queries(dashboard)
    # They mark rare events.
    annotations = {annotation["name"] for annotation in dashboard["annotations"]["list"]}
    known = set(re.findall(r"^# TYPE (\w+)", ok(call("GET", "/metrics")).decode(), re.M)) | SILENT
    until("Prometheus scrapes the service", lambda: value('up{job="tidegate"}') == 1)

    ok(call("POST", "/api/stress/records/dashboard", {}))
    threading.Thread(target=subscribe, daemon=True).start()
    stop = threading.Event()
    steady = threading.Thread(target=traffic, args=(stop,), daemon=True)
    steady.start()
    upload_and_import()
    follow_and_leave()
    # A constraint that rejects rows: dead letters.
    sql("alter table requests add constraint dashboard check (payload ->> 'kind' is distinct from 'bad')")
    assert call("POST", "/api/v1/events?ack=committed", {"kind": "bad"})[0] == 422
    # A table that is gone for a moment: the writer halts, and goes on.
    sql("alter table requests rename to requests_away")
    until("the writer is halted", lambda: (value('increase(tidegate_copy_retries_total{verdict="halt"}[1m])') or 0) > 0)
    sql("alter table requests_away rename to requests")
    ok(call("POST", "/_test/panic/search"))
    # What the panels show is the last quarter of a minute.
    until("the restart is scraped", lambda: value('tidegate_task_restarts_total{task="search"}') == 1)
    until("the file is imported", lambda: (value('increase(tidegate_import_lines_total{outcome="rejected"}[1m])') is not None))
    until("events are stored again", lambda: value("rate(tidegate_events_committed_total[5s])") > 0)

    problems = []

    def run(where, expression):
        for metric in re.findall(r"\btidegate_[a-z_]+", expression):
            if re.sub(r"_(bucket|sum|count)$", "", metric) not in known and metric not in known:
                return f"{where}: no such metric: {metric}"
        answer = ask("/api/v1/query", query=expression)
        if answer["status"] != "success":
            return f"{where}: {answer['error']}: {expression}"
        result = answer["data"]["result"]
        if where in annotations:
            return None
        if any(name in expression for name in SILENT):
            return f"{where}: has data after all; take it out of SILENT: {expression}" if result else None
        return None if any(r["value"][1] != "NaN" for r in result) else f"{where}: no data: {expression}"

    left = found
    known |= set(re.findall(r"^# TYPE (\w+)", ok(call("GET", "/metrics")).decode(), re.M))

    def all_have_data():
        nonlocal left, problems
        problems = [problem for problem in (run(*query) for query in left) if problem]
        left = [query for query in left if run(*query)] if problems else []
        return not problems

    try:
        # A query is asked again until it has data: the start of a series has no rate.
        until("every query has data", all_have_data, 20)
    except SystemExit:
        print("\n".join(problems))
        raise

    def alerts(state):
        rules = ask("/api/v1/rules")["data"]["groups"][0]["rules"]
        for rule in rules:
            assert rule["health"] == "ok", rule
        return {rule["name"] for rule in rules if rule["state"] == state}

    try:
        until(f"exactly {sorted(EXPECTED)} fire", lambda: alerts("firing") == EXPECTED, 20)
    except SystemExit:
        print("firing:", sorted(alerts("firing")), "pending:", sorted(alerts("pending")))
        raise
    assert alerts("pending") <= PENDING, f"pending: {sorted(alerts('pending'))}"
    stop.set()
    steady.join()
    print(f"{len(found)} queries have data; firing: {', '.join(sorted(EXPECTED))}")


main()
