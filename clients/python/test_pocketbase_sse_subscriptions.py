"""Tests of `pocketbase_sse_client` against a running server of PocketBase's API. TEST_LIST.md lists them, README.md the variables.

Each test makes its own collections and deletes them. None relies on another; any order is right. Waits are for states, with a limit;
time passes only where time itself is tested.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psutil
import pytest
import pytest_asyncio

from pocketbase_sse_client import (
    MAX_TOPIC_CHARS,
    MAX_TOPICS,
    AuthenticationError,
    ConnectionLost,
    NotFound,
    PermissionDenied,
    PocketBaseClient,
    PocketBaseError,
    RealtimeEvent,
    SlowConsumer,
    SSEParser,
    Subscription,
    SubscriptionLimit,
    Timeouts,
)

URL = os.environ.get("POCKETBASE_URL", "http://127.0.0.1:8090").rstrip("/")
EMAIL = os.environ.get("POCKETBASE_SUPERUSER_EMAIL", "admin@example.com")
PASSWORD = os.environ.get("POCKETBASE_SUPERUSER_PASSWORD", "")
PATIENCE = 20.0
"""Seconds that a state may take to come about."""

Make = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def admin() -> AsyncIterator[PocketBaseClient]:
    """A superuser's client."""
    async with PocketBaseClient(URL) as client:
        await client.authenticate(EMAIL, PASSWORD, collection="_superusers")
        yield client


@pytest_asyncio.fixture
async def make(admin: PocketBaseClient) -> AsyncIterator[Make]:
    """Makes a collection of a name of its own, by default open to everyone, and deletes it after the test."""
    made: list[str] = []

    async def collection(**options: Any) -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        rules = dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule", "deleteRule"), "")
        fields = [{"name": "title", "type": "text"}, {"name": "n", "type": "number"}, {"name": "owner", "type": "text"}]
        body: dict[str, Any] = {"name": name, "type": "base", "fields": fields} | rules | options
        if body["type"] == "auth":
            del body["fields"]
        await admin.request("POST", "/api/collections", json=body)
        made.append(name)
        return name

    yield collection
    for name in reversed(made):
        await admin.request("DELETE", f"/api/collections/{name}")


@pytest_asyncio.fixture
async def batches(admin: PocketBaseClient) -> None:
    """Allows batches, which a fresh PocketBase does not."""
    settings = await admin.request("GET", "/api/settings")
    if not settings["batch"]["enabled"]:
        await admin.request("PATCH", "/api/settings", json={"batch": settings["batch"] | {"enabled": True}})


async def user_of(admin: PocketBaseClient, collection: str) -> tuple[str, str, str]:
    """Makes a user; returns id, email and password."""
    email, password = f"{uuid.uuid4().hex[:12]}@example.com", "correct horse battery"
    made = await admin.create(collection, {"email": email, "password": password, "passwordConfirm": password})
    return str(made["id"]), email, password


async def next_of(events: Subscription, seconds: float = PATIENCE) -> RealtimeEvent:
    async with asyncio.timeout(seconds):
        return await anext(events)


async def take(events: Subscription, count: int, seconds: float = PATIENCE) -> list[RealtimeEvent]:
    async with asyncio.timeout(seconds):
        return [await anext(events) for _ in range(count)]


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def in_parallel(jobs: list[Callable[[], Awaitable[Any]]], width: int = 16) -> list[Any]:
    """Runs the jobs, `width` at a time."""
    gate = asyncio.Semaphore(width)

    async def run(job: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await job()

    return list(await asyncio.gather(*(run(job) for job in jobs)))


class Proxy:
    """A TCP proxy in front of the server, which can cut, stall and refuse connections, and add bytes to a stream."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted = 0
        self.refuse = False
        """Closes new connections at once."""
        self.stalled = asyncio.Event()
        """Set: bytes of the server are held back."""
        self.sent = b""
        """What clients have sent."""
        self.busy = 0
        """New streams that get a 503 instead of the server."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Ends all connections without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    def inject(self, data: bytes) -> None:
        """Adds bytes to every open stream, as a chunk of its own."""
        for writer in self._streams:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        if self.refuse:
            writer.transport.abort()
            return
        self._writers.add(writer)
        upstream_writer: asyncio.StreamWriter | None = None
        try:
            host, _, port = URL.removeprefix("http://").partition(":")
            upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port or 80))
            self._writers.add(upstream_writer)
            ends = [asyncio.create_task(self._requests(reader, upstream_writer, writer)),
                    asyncio.create_task(self._answers(upstream_reader, writer))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._streams.discard(writer)
            for end_writer in (writer, upstream_writer):
                if end_writer is not None:
                    self._writers.discard(end_writer)
                    end_writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.sent += data
            if data.startswith(b"GET /api/realtime"):
                if self.busy > 0:
                    self.busy -= 1
                    client.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    await client.drain()
                    return
                self._streams.add(client)
            upstream.write(data)
            await upstream.drain()

    async def _answers(self, upstream: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await upstream.read(65536):
            while self.stalled.is_set():
                await asyncio.sleep(0.01)
            client.write(data)
            await client.drain()


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy().running() as running:
        yield running


QUICK = Timeouts(request=10.0, connect=3.0, backoff=0.05, backoff_max=0.2)
# Seconds. What a server that keeps positions sent in the last moments before a break (10 ms) comes again.
SENT_AGAIN = 0.05


class TestSSEConnectionManagement:
    async def test_a_stream_opens_and_is_named(self) -> None:
        async with PocketBaseClient(URL) as client, client.realtime() as stream:
            assert stream.is_open and stream.connects == 1 and stream.reconnects == 0
            assert len(stream.client_id) >= 15
            assert client.token == ""

    async def test_a_stream_carries_the_identity_of_the_login(self, admin: PocketBaseClient, make: Make) -> None:
        posts, people = await make(listRule='@request.auth.id != ""', viewRule=None), await make(type="auth")
        _, email, password = await user_of(admin, people)
        async with PocketBaseClient(URL) as client:
            with pytest.raises(AuthenticationError):
                await client.authenticate(email, "wrong", collection=people)
            user = await client.authenticate(email, password, collection=people)
            assert user["email"] == email and client.token_expires_in is not None and client.token_expires_in > 60
            async with client.subscribe_to_collection(posts) as events:
                await admin.create(posts, {"title": "for users"})
                assert (await next_of(events)).record["title"] == "for users"

    async def test_silence_is_noticed_and_heartbeats_prevent_it(self, make: Make, proxy: Proxy) -> None:
        posts = await make()
        timeouts = Timeouts(connect=3.0, idle=2.5, heartbeat=1.2, backoff=0.05, backoff_max=0.1)
        async with PocketBaseClient(proxy.url, timeouts=timeouts) as client, client.realtime() as stream:
            async with stream.subscribe_to_collection(posts):
                silent = time.monotonic()
                await until(lambda: stream.reconnects == 1 and stream.is_open)
                assert time.monotonic() - silent > 2.0, "a server without heartbeats may be silent for longer"
                for _ in range(12):
                    proxy.inject(b": heartbeat\n\n")
                    await asyncio.sleep(0.15)
                assert stream.reconnects == 1, "heartbeats kept the stream"
                silent = time.monotonic()
                await until(lambda: stream.reconnects == 2)
                assert 0.8 < time.monotonic() - silent < 2.0, "one that was missing replaced it"

    async def test_a_cut_stream_comes_back_with_its_topics(self, admin: PocketBaseClient, make: Make, proxy: Proxy) -> None:
        posts = await make()
        async with PocketBaseClient(proxy.url, timeouts=QUICK) as client, client.realtime() as stream:
            async with stream.subscribe_to_collection(posts) as events:
                name = stream.client_id
                await admin.create(posts, {"title": "before"})
                assert (await next_of(events)).record["title"] == "before"
                await asyncio.sleep(SENT_AGAIN)
                proxy.refuse = True
                proxy.cut()
                await until(lambda: not stream.is_open)
                await admin.create(posts, {"title": "meanwhile"})
                tries = proxy.accepted
                await until(lambda: proxy.accepted >= tries + 3)
                proxy.refuse = False
                # A server that keeps positions sends what was missed; of another one the client says that something may be missing.
                event = await next_of(events)
                assert event.action == "reset" or event.record["title"] == "meanwhile"
                assert stream.reconnects == 1 and stream.client_id != name
                assert "resume" in events.sent_topic and proxy.sent.count(events.sent_topic.encode()) == 2
                await admin.create(posts, {"title": "after"})
                assert (await next_of(events)).record["title"] == "after"
                # Once an event has a position, the server replays by itself: no `reset` of the client's.
                data = '{"action":"create","record":{"title":"numbered"}}'
                proxy.inject(f"id: position-7\nevent: {events.sent_topic}\ndata: {data}\n\n".encode())
                numbered = await next_of(events)
                assert (numbered.id, numbered.record["title"], events.resumable) == ("position-7", "numbered", True)
                await asyncio.sleep(SENT_AGAIN)
                proxy.cut()
                await until(lambda: stream.reconnects == 2 and stream.is_open)
                await admin.create(posts, {"title": "last"})
                assert (await next_of(events)).record["title"] == "last"

    async def test_closing_ends_iterations_and_the_servers_side(self, admin: PocketBaseClient, make: Make) -> None:
        posts = await make()
        client = PocketBaseClient(URL)
        stream = await client.realtime().connect()
        name = stream.client_id
        events = stream.subscribe_to_collection(posts)
        await events.start()
        waiting = asyncio.create_task(next_of(events))
        await admin.create(posts, {"title": "first"})
        assert (await waiting).record["title"] == "first"
        await admin.create(posts, {"title": "buffered"})
        await until(lambda: len(events._buffer) == 1)
        started = time.monotonic()
        await client.close()
        assert time.monotonic() - started < 5.0
        assert [event.record["title"] async for event in events] == ["buffered"]
        with pytest.raises(ConnectionLost):
            await client.subscribe_to_collection(posts).start()

        async def forgotten() -> bool:
            try:
                await admin.request("POST", "/api/realtime", json={"clientId": name, "subscriptions": []})
            except NotFound:
                return True
            except PermissionDenied:  # The stream was a guest's.
                return False
            return False

        async with asyncio.timeout(PATIENCE):
            while not await forgotten():
                await asyncio.sleep(0.05)


class TestAuthorization:
    async def test_guests_follow_public_collections(self, admin: PocketBaseClient, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as guest, guest.subscribe_to_collection(posts) as events:
            made = await admin.create(posts, {"title": "public", "n": 7})
            event = await next_of(events)
            assert event.event == f"{posts}/*" and event.action == "create" and event.record["id"] == made["id"]
            assert event.data["record"]["n"] == 7

    async def test_protected_collections_are_refused_to_others(self, admin: PocketBaseClient, make: Make) -> None:
        locked = await make(listRule=None, viewRule=None)
        people = await make(type="auth")
        _, email, password = await user_of(admin, people)
        made = await admin.create(locked, {"title": "secret"})
        async with PocketBaseClient(URL) as client:
            for _ in range(2):  # As a guest, then as a user.
                with pytest.raises(PermissionDenied) as refused:
                    async for _ in client.subscribe_to_collection(locked):
                        pass
                assert refused.value.status == 403
                with pytest.raises((NotFound, PermissionDenied)):
                    await client.subscribe_to_collection(locked, made["id"]).start()
                with pytest.raises(NotFound):
                    await client.subscribe_to_collection("no_such_collection").start()
                await client.authenticate(email, password, collection=people)
            # Without the check the server accepts the topic, and stays silent.
            async with client.subscribe_to_collection(locked, check=False) as silent, admin.subscribe_to_collection(locked) as seen:
                await admin.update(locked, made["id"], {"title": "still secret"})
                assert (await next_of(seen)).record["title"] == "still secret"
                assert not silent._buffer

    async def test_tokens_are_renewed_while_the_stream_goes_on(self, admin: PocketBaseClient, make: Make) -> None:
        people = await make(type="auth", authToken={"duration": 10})
        posts = await make(listRule='@request.auth.id != ""')
        _, email, password = await user_of(admin, people)
        async with PocketBaseClient(URL) as client:
            await client.authenticate(email, password, collection=people)
            first = client.token
            async with client.subscribe_to_collection(posts) as events:
                await until(lambda: client.token != first)
                assert client.token_expires_in is not None and client.token_expires_in > 5
                await admin.create(posts, {"title": "after the renewal"})
                assert (await next_of(events)).record["title"] == "after the renewal"
                assert client._pool[0].reconnects == 0
                second = client.token
                await asyncio.sleep(1.1)  # Tokens count in seconds.
                await client.refresh()
                assert client.token != second

    async def test_an_expired_token_counts_as_a_guest(self, admin: PocketBaseClient, make: Make) -> None:
        people = await make(type="auth")
        rule = '@request.auth.id != ""'
        posts = await make(listRule=rule, viewRule=rule)
        made = await admin.create(posts, {"title": "for users"})
        user, email, password = await user_of(admin, people)
        lent = await admin.request("POST", f"/api/collections/{people}/impersonate/{user}", json={"duration": 2})
        async with PocketBaseClient(URL) as client:
            await client.use_token(lent["token"], collection=people)
            assert (await client.view(posts, made["id"]))["title"] == "for users"
            await until(lambda: (client.token_expires_in or 0) < -1)
            assert client.token == lent["token"], "a token that is lent is not renewed"
            with pytest.raises(NotFound):
                await client.subscribe_to_collection(posts, made["id"]).start()
            with pytest.raises((AuthenticationError, PermissionDenied)):
                await client.refresh()
            await client.authenticate(email, password, collection=people)
            async with client.subscribe_to_collection(posts, made["id"]) as events:
                await admin.update(posts, made["id"], {"title": "again"})
                assert (await next_of(events)).record["title"] == "again"

    async def test_rules_and_filters_choose_the_events(self, admin: PocketBaseClient, make: Make) -> None:
        people = await make(type="auth")
        posts = await make(listRule="owner = @request.auth.id")
        users = [await user_of(admin, people) for _ in range(2)]
        clients = [PocketBaseClient(URL) for _ in users]
        try:
            for client, (_, email, password) in zip(clients, users, strict=True):
                await client.authenticate(email, password, collection=people)
            async with (
                clients[0].subscribe_to_collection(posts) as first,
                clients[1].subscribe_to_collection(posts) as second,
                clients[0].subscribe_to_collection(posts, filter="n > 10", fields="id,n") as filtered,
            ):
                for n in (1, 11):
                    for user, _, _ in users:
                        await admin.create(posts, {"owner": user, "n": n})
                for events, (user, _, _) in zip((first, second), users, strict=True):
                    records = [event.record for event in await take(events, 2)]
                    assert {record["owner"] for record in records} == {user}
                    assert sorted(record["n"] for record in records) == [1, 11]
                only = await next_of(filtered)
                assert only.record.keys() == {"id", "n"} and only.record["n"] == 11
                assert not (first._buffer or second._buffer or filtered._buffer)
        finally:
            for client in clients:
                await client.close()


class TestEventHandling:
    async def test_a_creation_arrives_with_its_record(self, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as client, client.subscribe_to_collection(posts) as events:
            made = await client.create(posts, {"title": "Ünïcode 🎈\nline two", "n": -1.5})
            event = await next_of(events)
            assert event.action == "create" and event.record == made
            assert event.record["title"] == "Ünïcode 🎈\nline two" and event.record["collectionName"] == posts

    async def test_an_update_arrives_at_the_collection_and_the_record(self, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as client:
            made, other = [await client.create(posts, {"title": title, "n": 1}) for title in ("one", "other")]
            async with (
                client.subscribe_to_collection(posts) as all_events,
                client.subscribe_to_collection(posts, made["id"]) as one_event,
            ):
                await client.update(posts, other["id"], {"n": 5})
                assert (await next_of(all_events)).record["id"] == other["id"]
                await client.update(posts, made["id"], {"n+": 4})
                for events in (all_events, one_event):
                    event = await next_of(events)
                    assert (event.action, event.record["id"], event.record["n"]) == ("update", made["id"], 5)
                assert not one_event._buffer

    async def test_a_deletion_arrives_with_the_last_state(self, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as client:
            made = await client.create(posts, {"title": "to go", "n": 3})
            async with client.subscribe_to_collection(posts) as events:
                await client.delete(posts, made["id"])
                event = await next_of(events)
                assert event.action == "delete" and event.record == made

    async def test_changes_arrive_once_and_in_order(self, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as client, client.subscribe_to_collection(posts) as events:
            made = await client.create(posts, {"n": 0})
            await next_of(events)
            for n in range(1, 21):  # Each after the event of the one before.
                await client.update(posts, made["id"], {"n": n})
                assert (await next_of(events)).record["n"] == n
            for n in range(21, 121):  # One after another, without a wait for events.
                await client.update(posts, made["id"], {"n": n})
            got = await take(events, 100)
            numbers = [event.record["n"] for event in got]
            assert sorted(numbers) == list(range(21, 121))
            if events.resumable:  # PocketBase sends each event on its own, without an order.
                assert numbers == list(range(21, 121))

    @pytest.mark.usefixtures("batches")
    async def test_a_batch_arrives_whole_and_a_failed_one_not_at_all(self, make: Make) -> None:
        posts = await make(fields=[{"name": "title", "type": "text", "required": True}, {"name": "n", "type": "number"}])
        async with PocketBaseClient(URL) as client, client.subscribe_to_collection(posts) as events:
            failing = client.batch().create(posts, {"title": "lost"}).create(posts, {"title": ""})
            with pytest.raises(PocketBaseError) as failed:
                await failing.send()
            assert failed.value.status == 400 and "1" in failed.value.data["requests"]
            batch = client.batch()
            for n in range(47):
                batch.create(posts, {"title": f"number {n}", "n": n})
            batch.upsert(posts, {"id": "aaaaaaaaaaaaaaa", "title": "new"}).update(posts, "aaaaaaaaaaaaaaa", {"n": 5})
            batch.delete(posts, "aaaaaaaaaaaaaaa")
            answers = await batch.send()
            assert [answer["status"] for answer in answers] == [200] * 49 + [204]
            got = await take(events, 50)
            assert "lost" not in {event.record["title"] for event in got}
            actions = sorted(event.action for event in got)
            assert actions == ["create"] * 48 + ["delete", "update"]


class TestErrorHandling:
    async def test_a_network_cut_is_bounded_by_retries(self, make: Make, proxy: Proxy) -> None:
        posts = await make()
        async with PocketBaseClient(proxy.url, timeouts=QUICK, max_retries=3) as client:
            events = client.subscribe_to_collection(posts)
            await events.start()
            proxy.refuse = True
            proxy.cut()
            with pytest.raises(ConnectionLost):
                await next_of(events)
            proxy.refuse = False
            # The client goes on with a new connection.
            async with client.subscribe_to_collection(posts) as again:
                await client.create(posts, {"title": "back"})
                assert (await next_of(again)).record["title"] == "back"

    async def test_malformed_events_are_skipped(self, admin: PocketBaseClient, make: Make, proxy: Proxy) -> None:
        stream = ("\ufeff: comment\r\nid: 1\nevent: a\r\ndata: x\rdata:\n data: ignored\ndata: y\nretry: 10\nretry: soon\nid: \0\n\n"
                  "nonsense\nevent: empty\n\ndata:é\n\ndata: cut off").encode()
        for size in (1, 2, 3, 7, len(stream)):
            parser = SSEParser()
            cuts = [stream[at:at + size] for at in range(0, len(stream), size)]
            messages = list(itertools.chain.from_iterable(parser.feed(cut) for cut in cuts))
            assert [(m.event, m.data, m.id, m.retry) for m in messages] == [("a", "x\n\ny", "1", 10), ("message", "é", "1", 10)], size
            assert (parser.comments, parser.ignored) == (1, 4), size
        with pytest.raises(ValueError, match="more than 64 bytes"):
            SSEParser(max_bytes=64).feed(b"data: " + b"x" * 80)

        posts = await make()
        async with PocketBaseClient(proxy.url, timeouts=QUICK) as client, client.realtime() as connection:
            async with connection.subscribe(f"{posts}/*", resume=False) as events:
                for bad in (b"data: {not json}\n\n", b"data: [1]\n\n", b"data: \xff\xfe\n\n"):
                    proxy.inject(f"event: {posts}/*\n".encode() + bad)
                proxy.inject(b"\xff\xfe\x00garbage\n\nevent: elsewhere/*\ndata: {}\n\n")
                await until(lambda: connection.malformed == 3)
                await admin.create(posts, {"title": "fine"})
                assert (await next_of(events)).record["title"] == "fine"
                assert connection.reconnects == 0

    async def test_overload_is_reported_and_waits_are_taken(self, admin: PocketBaseClient, make: Make, proxy: Proxy) -> None:
        posts = await make()
        async with PocketBaseClient(proxy.url, timeouts=QUICK) as client, client.realtime() as stream:
            async with stream.subscribe_to_collection(posts, max_buffer=5) as slow, stream.subscribe_to_collection(posts) as good:
                await in_parallel([partial(admin.create, posts, {"n": n}) for n in range(20)])
                assert {event.record["n"] for event in await take(good, 20)} == set(range(20))
                assert len(await take(slow, 5)) == 5
                with pytest.raises(SlowConsumer):
                    await next_of(slow)
                await asyncio.sleep(SENT_AGAIN)
                proxy.busy = 3
                proxy.cut()
                await until(lambda: stream.reconnects == 1)
                assert proxy.busy == 0
                await until(lambda: stream.is_open)
                await admin.create(posts, {"title": "after"})
                while (event := await next_of(good)).action == "reset":
                    pass
                assert event.record["title"] == "after"

    async def test_limits_of_subscriptions_are_kept(self, admin: PocketBaseClient, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL, max_connections=2) as client:
            many = [client.subscribe(f"{posts}/{n:015}", resume=False) for n in range(MAX_TOPICS - 1)]
            await asyncio.gather(*(one.start() for one in many))
            async with client.subscribe(f"{posts}/*", resume=False) as last:
                first = client._pool[0]
                assert first.topics == MAX_TOPICS and len(client._pool) == 1
                # The next one goes to a second connection of the pool; a third is refused.
                async with client.subscribe_to_collection(posts) as spilled:
                    assert len(client._pool) == 2
                    with pytest.raises(SubscriptionLimit):
                        client.realtime()
                    with pytest.raises(SubscriptionLimit):
                        await first.subscribe("one/more").start()
                    with pytest.raises(SubscriptionLimit):
                        await client.subscribe("x" * (MAX_TOPIC_CHARS + 1)).start()
                    await admin.create(posts, {"title": "counted"})
                    for events in (last, spilled):
                        assert (await next_of(events)).record["title"] == "counted"
            # The server's own word.
            with pytest.raises(PocketBaseError) as refused:
                topics = [f"{posts}/{n}" for n in range(MAX_TOPICS + 1)]
                await client.request("POST", "/api/realtime", json={"clientId": first.client_id, "subscriptions": topics})
            assert refused.value.status == 400 and refused.value.data["subscriptions"]["code"] == "validation_length_too_long"

    async def test_a_server_that_does_not_answer_times_out(self, make: Make, proxy: Proxy) -> None:
        posts = await make()
        short = Timeouts(request=0.5, connect=0.3, backoff=0.05, backoff_max=0.1)
        async with PocketBaseClient(proxy.url, timeouts=short) as client:
            proxy.stalled.set()
            for attempt in (lambda: client.list(posts), lambda: client.realtime().connect(),
                            lambda: client.subscribe(f"{posts}/*").start()):
                started = time.monotonic()
                with pytest.raises(TimeoutError):
                    await attempt()
                assert time.monotonic() - started < 3.0
            proxy.stalled.clear()
            async with client.subscribe_to_collection(posts) as events:
                await client.create(posts, {"title": "awake"})
                assert (await next_of(events)).record["title"] == "awake"


class TestPerformance:
    """Bounds that a shared machine keeps; the figures are printed (`pytest -s`)."""

    async def test_latency(self, make: Make) -> None:
        posts = await make()
        delays: list[float] = []
        async with PocketBaseClient(URL) as client, client.subscribe_to_collection(posts) as events:
            for n in range(200):
                started = time.perf_counter()
                created = asyncio.create_task(client.create(posts, {"n": n}))
                await next_of(events)
                delays.append(time.perf_counter() - started)
                await created
        delays.sort()
        print(f"\nwrite to event: p50 {delays[100] * 1000:.1f} ms, p99 {delays[197] * 1000:.1f} ms")
        assert delays[100] < 0.1 and delays[197] < 1.0

    async def test_many_clients_get_every_event(self, admin: PocketBaseClient, make: Make) -> None:
        posts = await make()
        clients = [PocketBaseClient(URL) for _ in range(100)]
        try:
            subscriptions = [client.subscribe_to_collection(posts) for client in clients]
            await asyncio.gather(*(subscription.start() for subscription in subscriptions))
            started = time.perf_counter()
            for n in range(20):
                await admin.create(posts, {"n": n})
            for got in await asyncio.gather(*(take(subscription, 20) for subscription in subscriptions)):
                assert {event.record["n"] for event in got} == set(range(20))
            took = time.perf_counter() - started
        finally:
            await asyncio.gather(*(client.close() for client in clients))
        print(f"\n100 clients: 2,000 events in {took:.2f} s")
        assert took < 10.0

    @pytest.mark.usefixtures("batches")
    async def test_batches(self, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as client, client.subscribe_to_collection(posts) as events:
            started = time.perf_counter()
            for first in range(0, 1000, 50):
                batch = client.batch()
                for n in range(first, first + 50):
                    batch.create(posts, {"n": n})
                await batch.send()
            got = await take(events, 1000)
            took = time.perf_counter() - started
        assert {event.record["n"] for event in got} == set(range(1000)) and len(got) == 1000
        print(f"\n20 batches of 50: {1000 / took:.0f} events/s")
        assert took < 20.0

    async def test_memory_stays_stable(self, admin: PocketBaseClient, make: Make) -> None:
        posts = await make()
        process = psutil.Process()
        tasks = len(asyncio.all_tasks())
        sizes: list[int] = []
        async with PocketBaseClient(URL) as client:
            for _ in range(5):
                for _ in range(20):
                    async with client.subscribe_to_collection(posts) as events:
                        await in_parallel([lambda: admin.create(posts, {"title": "x" * 4000})] * 20)
                        await take(events, 20)
                assert client._pool[0].topics == 0
                gc.collect()
                sizes.append(process.memory_info().rss)
            assert len(asyncio.all_tasks()) <= tasks + 6, "no task is left behind"
        grown = (sizes[-1] - sizes[1]) / 2**20
        print(f"\nafter rounds of 400 events: {[round(size / 2**20) for size in sizes]} MiB")
        assert grown < 10.0

    async def test_throughput(self, admin: PocketBaseClient, make: Make) -> None:
        posts = await make()
        async with PocketBaseClient(URL) as client:
            subscriptions = [client.subscribe_to_collection(posts) for _ in range(5)]
            await asyncio.gather(*(subscription.start() for subscription in subscriptions))
            started = time.perf_counter()
            writing = asyncio.create_task(in_parallel([partial(admin.create, posts, {"n": n}) for n in range(1000)], width=32))
            for got in await asyncio.gather(*(take(subscription, 1000, 60) for subscription in subscriptions)):
                assert {event.record["n"] for event in got} == set(range(1000))
            await writing
            rate = 5000 / (time.perf_counter() - started)
        print(f"\n{rate:.0f} events/s, written by the same process")
        assert rate > 250
