"""Runs each recipe; see ../recipes.sh. Argument: the folder with the files of docs/RECIPES.md."""
import base64
import gzip
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

FOLDER, URL = sys.argv[1], os.environ["TIDEGATE_URL"]
PAGE_PORT, NGINX_PORT = 3890, 3888
BATCH = "/api/v1/events/batch"
EVENTS = 2500


def call(method, path, body, key, headers=()):
    request = urllib.request.Request(URL + path, data=body, method=method, headers={"authorization": f"Bearer {key}", **dict(headers)})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read() or "null")


def fault(**effects):
    """The next requests to the batch route fail so."""
    call("POST", "/_test/inject-error", json.dumps({"path": BATCH, "method": "POST", **effects}).encode(), os.environ["ADMIN_KEY"])


def sql(query):
    answer = subprocess.run([os.environ["PSQL"], "-XAtc", query, os.environ["DATABASE"]], check=True, capture_output=True, text=True)
    return answer.stdout.strip()


def injected():
    """Faults that requests have met."""
    request = urllib.request.Request(URL + "/metrics", headers={"authorization": f"Bearer {os.environ['ADMIN_KEY']}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return sum(map(int, re.findall(r"^tidegate_faults_injected_total\{.*\} (\d+)$", answer.read().decode(), re.M)))


def rows(condition):
    """The number of rows, and of different ids in them."""
    return tuple(map(int, sql(f"select count(*), count(distinct payload->>'id') from requests where {condition}").split("|")))


def until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def stored(condition, count):
    """Waits for `count` rows, and for no more: duplicates would be in the same batches."""
    until(f"{count} rows where {condition}, now {rows(condition)}", lambda: rows(condition)[0] >= count)
    assert rows(condition) == (count, count), rows(condition)


def producer(name, command):
    """A program that reads events from its standard input."""
    def run(kind, **effects):
        before = injected()
        fault(**effects)
        events = "".join(json.dumps({"from": name, "kind": kind, "n": n}) + "\n" for n in range(EVENTS))
        done = subprocess.run(command, input=events, cwd=FOLDER, text=True, timeout=60, capture_output=True)
        assert done.returncode == 0, done
        assert injected() > before, "the fault was not met"
        stored(f"payload->>'from' = '{name}' and payload->>'kind' = '{kind}'", EVENTS)

    run("refused", status=503, retryAfter=1)
    run("dropped", dropConnection=True)
    # The client gets five bytes of the answer: the events are stored, and sent again.
    before = int(sql("select count(*) from ingest_duplicates"))
    run("cut", truncateBodyBytes=5)
    until("the second copies are recognised", lambda: int(sql("select count(*) from ingest_duplicates")) > before)
    # A wrong key is an error, at once.
    environment = dict(os.environ, TIDEGATE_KEY="tg_wrong")
    done = subprocess.run(command, input='{"a":1}\n', cwd=FOLDER, text=True, timeout=20, capture_output=True, env=environment)
    assert done.returncode != 0 and "401" in done.stderr, done
    # So is an event that the service does not take.
    done = subprocess.run(command, input=json.dumps({"id": [], "from": name}) + "\n", cwd=FOLDER, text=True, timeout=20, capture_output=True)
    assert done.returncode != 0, done


def node():
    producer("node", ["node", "producer.mjs"])


def python():
    producer("python", [sys.executable, "producer.py"])


def go():
    subprocess.run(["go", "vet", "producer.go"], cwd=FOLDER, check=True, env=dict(os.environ, GOCACHE=FOLDER + "/.go", GOFLAGS="-mod=mod"))
    subprocess.run(["go", "build", "-o", "producer", "producer.go"], cwd=FOLDER, check=True, env=dict(os.environ, GOCACHE=FOLDER + "/.go"))
    producer("go", ["./producer"])


def page():
    """Chromium opens the page in a frame and removes it: a view by the timer, a click by the beacon."""
    with open(f"{FOLDER}/page.html") as file:
        text = file.read()
    address = "https://events.example/api/v1/events/batch?id_field=id&key=tg_w_…"
    assert address in text
    text = text.replace(address, f"{URL}{BATCH}?id_field=id&key={os.environ['PAGE_KEY']}")
    frame = """<iframe src="/page"></iframe><script>
        const frame = document.querySelector('iframe');
        const at = (ms, step) => setTimeout(step, ms);
        frame.onload = () => {
            at(5000, () => frame.contentDocument.getElementById('buy').click());
            at(5100, () => frame.remove());
        };
    </script>"""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((text if self.path == "/page" else frame).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", PAGE_PORT), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fault(status=503, retryAfter=1)
    browser = subprocess.Popen(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
         f"--user-data-dir={FOLDER}/profile", f"http://localhost:{PAGE_PORT}/"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        stored("payload->>'page' = '/page' and payload->>'kind' = 'view'", 1)
        stored("payload->>'page' = '/page' and payload->>'kind' = 'click' and payload->>'target' = 'buy'", 1)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        server.shutdown()


def nginx_log():
    log, pid = f"{FOLDER}/access.log", f"{FOLDER}/nginx.pid"
    with open(f"{FOLDER}/log.conf") as file:
        config = file.read()
    assert "/var/log/nginx/tidegate.log" in config
    with open(f"{FOLDER}/nginx.conf", "w") as file:
        paths = " ".join(f"{part}_temp_path {FOLDER}/{part};" for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        file.write(f"daemon off; pid {pid}; error_log {FOLDER}/error.log; events {{}} http {{ {paths}\n"
                   + config.replace("/var/log/nginx/tidegate.log", log)
                   + f"server {{ listen 127.0.0.1:{NGINX_PORT}; location / {{ return 204; }} location = /fails {{ return 500; }} }} }}")
    server = subprocess.Popen(["nginx", "-c", f"{FOLDER}/nginx.conf"])
    with open(f"{FOLDER}/tidegate-nginx.service") as file:
        start = re.search(r"^ExecStart=/usr/bin/(tidegate .*?[^\\])$", file.read(), re.M | re.S)[1].replace("\\\n", " ")
    for path, own in [("/var/log/nginx/tidegate.log", log), ("/var/lib/tidegate-nginx/", f"{FOLDER}/ingest.")]:
        assert path in start, start
        start = start.replace(path, own)
    follower = []

    def follow():
        """Starts the command of the unit, or starts it anew after a kill."""
        for old in follower:
            old.kill()
            old.wait()
        follower[:] = [subprocess.Popen([os.environ["BINARY"]] + start.split()[1:], cwd=FOLDER)]

    def get(path, agent="recipes"):
        with socket.create_connection(("127.0.0.1", NGINX_PORT), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nuser-agent: ".encode() + agent.encode("latin-1") + b"\r\nconnection: close\r\n\r\n")
            while connection.recv(4096):
                pass

    try:
        until("nginx listens", lambda: os.path.exists(pid))
        for n in range(100):
            get(f"/recipe?n={n}")
        get("/recipe?n=quote", 'a "quoted" \\ agent')
        get("/recipe?n=latin", "an agent with \xe9")
        get("/fails")
        until("the log is written", lambda: sum(1 for _ in open(log, "rb")) == 103)
        before = injected()
        fault(status=503, retryAfter=1)
        follow()
        stored("payload->>'agent' like 'recipes' or payload->>'agent' like 'a%agent%'", 103)
        assert injected() > before, "the fault was not met"
        # Rotated while it runs, and while it does not.
        for name in ("1", "2"):
            os.rename(log, f"{log}.{name}")
            get(f"/recipe?n=old-{name}")
            os.kill(server.pid, signal.SIGUSR1)
            until("nginx writes a new log", lambda: os.path.exists(log))
            get(f"/recipe?n=new-{name}")
            follow()
        stored("payload->>'agent' like 'recipes' or payload->>'agent' like 'a%agent%'", 107)
        assert not os.path.exists(f"{FOLDER}/ingest.rejects")
        with open("docs/RECIPES.md") as file:
            query = re.search(r"```sql\n(select payload->>'uri'.*?)```", file.read(), re.S)[1]
        assert sql(query).startswith("/fails|1|"), sql(query)
    finally:
        for process in [*follower, server]:
            process.terminate()
            process.wait()


def a_file():
    with open(f"{FOLDER}/events.ndjson", "w") as file:
        file.writelines(json.dumps({"id": f"file-{n}", "from": "file"}) + "\n" for n in range(25_000))
    for _ in range(2):
        subprocess.run(["sh", "send-file.sh", "events.ndjson", "id"], cwd=FOLDER, check=True, capture_output=True, timeout=60)
    stored("payload->>'from' = 'file'", 25_000)
    subprocess.run(["sh", "send-file.sh", "events.ndjson"], cwd=FOLDER, check=True, capture_output=True, timeout=60)
    until("without ids the file is stored once more", lambda: rows("payload->>'from' = 'file'") == (50_000, 25_000))


def settings(file):
    """The configuration of a tool that cannot be had here."""
    with open(f"{FOLDER}/{file}") as text:
        return text.read()


def vector():
    """Lines of JSON, compressed, by a bearer token: as Vector's http sink sends them with this configuration."""
    config = settings("vector.yaml")
    for part in ("uri: https://events.example" + BATCH + "?id_field=id\n", "codec: json", "method: newline_delimited", "compression: gzip", "strategy: bearer"):
        assert part in config, part
    lines = "".join(json.dumps({"id": f"vector-{n}", "from": "vector", "message": "a line"}) + "\n" for n in range(10))
    headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
    for _ in range(2):
        answer = call("POST", BATCH + "?id_field=id", gzip.compress(lines.encode()), os.environ["TIDEGATE_KEY"], headers)
        assert answer == {"accepted": 10, "rejected": []}, answer
    stored("payload->>'from' = 'vector'", 10)


def fluent_bit():
    """An array of JSON, compressed, with the key in a header: as Fluent Bit's http output sends it with this configuration."""
    config = settings("fluent-bit.yaml")
    for part in (f"uri: {BATCH}\n", "format: json\n", "compress: gzip", "header: X-API-Key ${TIDEGATE_KEY}"):
        assert part in config, part
    array = [{"date": "2026-01-31T12:00:00.000000Z", "id": f"fluent-{n}", "from": "fluent-bit", "log": "a line"} for n in range(10)]
    request = urllib.request.Request(URL + BATCH, data=gzip.compress(json.dumps(array).encode()), headers={
        "content-type": "application/json", "content-encoding": "gzip", "x-api-key": os.environ["TIDEGATE_KEY"], "user-agent": "Fluent-Bit"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.load(answer) == {"accepted": 10, "rejected": []}
    stored("payload->>'from' = 'fluent-bit'", 10)


# The request of a collector (0.135) with this configuration for a file of two lines.
COLLECTOR = base64.b64decode(
    "H4sIAAAAAAAA/+KqFioXMg9i8GIwkhBi52JN1MvJT+fizclP10vLzEnVy0vMTdXi4+JJVEjLLCouUcjJzEuNTHt+2sDo0hsJISsC"
    "GgW5+KuVsorz85SslEA6lWojBT9D9HIxcDEAAgAA//+UU1uufQAAAA=="
)


def collector():
    """Protobuf, compressed, with the key in a header: as a collector sends it, and sends it again."""
    config = settings("otel-collector.yaml")
    for part in ("logs_endpoint: https://events.example/v1/logs\n", 'headers: { x-api-key: "${env:TIDEGATE_KEY}" }'):
        assert part in config, part
    for _ in range(2):
        request = urllib.request.Request(URL + "/v1/logs", data=COLLECTOR, headers={
            "content-type": "application/x-protobuf", "content-encoding": "gzip", "x-api-key": os.environ["TIDEGATE_KEY"]})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200 and answer.headers["content-type"] == "application/x-protobuf", answer.headers
            # No partial success.
            assert answer.read() == b"", "some records were left out"
    lines = "select string_agg(payload->>'body', '|' order by id) from requests where payload->'attributes' ? 'log.file.name'"
    until("both lines are stored", lambda: sql(lines))
    assert sql(lines) == 'a first line|{"json":"line"}', sql(lines)


TESTS = {"producer.mjs": node, "producer.py": python, "producer.go": go, "page.html": page, "log.conf": nginx_log, "tidegate-nginx.service": nginx_log,
         "vector.yaml": vector, "fluent-bit.yaml": fluent_bit, "otel-collector.yaml": collector, "send-file.sh": a_file}
found = set(os.listdir(FOLDER))
assert found == set(TESTS), f"files of docs/RECIPES.md without a test, or tests without a file: {found ^ set(TESTS)}"
for test in dict.fromkeys(TESTS.values()):
    started = time.monotonic()
    try:
        test()
    except Exception as error:
        raise SystemExit(f"{test.__name__}: {error!r}") from error
    print(f"{test.__name__}: {time.monotonic() - started:.1f} s")
