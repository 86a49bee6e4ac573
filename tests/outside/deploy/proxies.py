"""Uses the service through a proxy; see ../proxies.sh. Arguments: name, the proxy's port, the service's port, the certificate."""
import base64
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import struct
import sys
import time

NAME, PORT, SERVICE, CERTIFICATE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
HOST = f"events.example:{PORT}"
KEY = {"authorization": f"Bearer {os.environ['TIDEGATE_KEY']}"}
TLS = ssl.create_default_context(cafile=CERTIFICATE)
# nginx keeps the first address, Caddy drops what a client claims. The service takes neither for the client's.
CLIENT, CLAIMED = "127.0.0.2", "203.0.113.9"


def secured(source="127.0.0.1"):
    """A TLS connection to the proxy."""
    raw = socket.create_connection(("127.0.0.1", PORT), timeout=20, source_address=(source, 0))
    return TLS.wrap_socket(raw, server_hostname="events.example")


class Proxied(http.client.HTTPConnection):
    def __init__(self, source="127.0.0.1"):
        super().__init__("events.example", PORT, timeout=20)
        self.source = source

    def connect(self):
        self.sock = secured(self.source)


def call(method, path, body=None, headers=KEY, kind="application/json", connection=None):
    """Status, headers and body of one request through the proxy."""
    connection = connection or Proxied()
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path, body, {**headers, "content-type": kind})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def directly(path):
    """A body of the service, without the proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", SERVICE, timeout=20)
    connection.request("GET", path, headers=KEY)
    return connection.getresponse().read().decode()


def events():
    status, headers, _ = call("POST", "/api/v1/events", {"proxy": NAME})
    assert status == 202 and headers["x-ack"] == "journaled" and headers["x-receipt"], (status, headers)


def sizes():
    line = b'{"a":"' + b"x" * 1_000_000 + b'"}\n'
    status, _, body = call("POST", "/api/v1/events/batch", line * 33, kind="application/x-ndjson")
    assert status == 202 and json.loads(body)["accepted"] == 33, (status, body)
    # The service's own error, not the proxy's page. The answer may come before the body is sent.
    connection = Proxied()
    try:
        status, _, body = call("POST", "/api/v1/events/batch", line * 36, kind="application/x-ndjson", connection=connection)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
        answer = connection.response_class(connection.sock, method="POST")
        answer.begin()
        status, body = answer.status, answer.read()
    assert status == 413 and json.loads(body)["error"]["code"] == "too_large", (status, body)


def files():
    content = os.urandom(8 << 20)
    part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + content + b"\r\n--b--\r\n"
    status, _, body = call("POST", "/api/files/upload", part, kind="multipart/form-data; boundary=b")
    assert status == 201, (status, body)
    file = json.loads(body)["files"][0]
    status, _, body = call("GET", f"/api/files/{file['id']}")
    assert status == 200 and hashlib.sha256(body).hexdigest() == file["sha256"], status


def requests_are_streamed():
    """The service has the head and the first half of a body before the second half is sent."""
    connection = secured()
    half = b'{"half":1}\n' * 10_000
    connection.sendall(
        f"POST /api/v1/events/batch HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {KEY['authorization']}\r\n"
        f"content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n{len(half):x}\r\n".encode() + half + b"\r\n"
    )
    until("the first half arrives", lambda: int(re.search(r"^tidegate_http_body_bytes (\d+)", directly("/metrics"), re.M)[1]) > 50_000)
    connection.sendall(b"c\r\n{\"half\": 2}\n\r\n0\r\n\r\n")
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    assert answer.status == 202 and json.loads(answer.read())["accepted"] == 10_001


def streams():
    """An event reaches the client although nothing follows it."""
    connection = Proxied()
    connection.request("GET", "/api/events/stream?topics=records/proxied", headers=KEY)
    stream = connection.getresponse()
    assert stream.status == 200 and stream.headers["content-type"].startswith("text/event-stream"), stream.status
    lines = iter(stream.readline, b"")
    assert any(line == b"event: ready\n" for line in lines)
    status, _, body = call("POST", "/api/stress/records/proxied", {"proxy": NAME})
    assert status == 201, body
    identity = json.loads(body)["id"]
    assert any(line.startswith(b"data:") and identity.encode() in line for line in lines)
    connection.close()


def websocket(origin):
    """The status of a handshake, and its socket."""
    connection = secured()
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /api/events/ws HTTP/1.1\r\nhost: {HOST}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"
        f"sec-websocket-key: {key}\r\norigin: {origin}\r\nauthorization: {KEY['authorization']}\r\n\r\n".encode()
    )
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    while reader.readline().strip():
        pass
    return status, connection, reader


def frame(reader):
    """The next text frame of the service."""
    while True:
        first, length = reader.read(2)
        if length == 126:
            (length,) = struct.unpack(">H", reader.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", reader.read(8))
        payload = reader.read(length)
        if first & 0x0F == 1:
            return json.loads(payload)


def websockets():
    status, connection, reader = websocket(f"https://{HOST}")
    assert status == 101, status
    text = json.dumps({"subscribe": ["records/proxied"]}).encode()
    mask = os.urandom(4)
    connection.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
    assert frame(reader)["event"] == "ready"
    status, _, body = call("POST", "/api/stress/records/proxied", {"proxy": NAME})
    assert status == 201, body
    while (change := frame(reader))["event"] != "change":
        pass
    assert change["data"]["key"] == json.loads(body)["id"], change
    connection.close()
    assert websocket("https://elsewhere.example")[0] == 403


def addresses():
    user = {"email": f"{NAME}@example.com", "password": "a long password"}
    forged = {"x-forwarded-for": CLAIMED}
    assert call("POST", "/api/auth/register", user, headers=forged)[0] == 201
    status, _, body = call("POST", "/api/auth/login", user, headers=forged, connection=Proxied(CLIENT))
    assert status == 200, body
    token = {"authorization": f"Bearer {json.loads(body)['access_token']}"}
    sessions = json.loads(call("GET", "/api/auth/sessions", headers=token)[2])
    assert [session["address"] for session in sessions] == [CLIENT], sessions


def connections_are_kept():
    def closed():
        """Connections to the service that were closed a moment ago."""
        port, rows = f":{SERVICE:04X}", open("/proc/net/tcp").read().splitlines()[1:]
        return sum(row.split()[3] == "06" and (row.split()[1].endswith(port) or row.split()[2].endswith(port)) for row in rows)

    before = closed()
    for _ in range(5):
        connection = Proxied()
        for _ in range(40):
            assert call("POST", "/api/v1/events?ack=queued", {}, connection=connection)[0] == 202
        connection.close()
    assert closed() - before < 20, f"{closed() - before} connections for 200 requests"


def until(what, condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, f"not within 10 s: {what}"
        time.sleep(0.05)


def answers():
    try:
        return call("GET", "/health")[0] == 200
    except OSError:
        return False


until("the proxy answers", answers)
for step in (events, sizes, files, requests_are_streamed, streams, websockets, addresses, connections_are_kept):
    try:
        step()
    except Exception as error:
        raise SystemExit(f"{NAME}: {step.__name__}: {error!r}") from error
print(f"{NAME}: events, sizes, files, streamed bodies, server-sent events, WebSockets, addresses and kept connections work")
