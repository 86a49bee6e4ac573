"""Realtime client for servers of PocketBase's API, on asyncio and aiohttp.

    async with PocketBaseClient("http://127.0.0.1:8090") as client:
        await client.authenticate("ann@example.com", "correct horse")
        async for event in client.subscribe_to_collection("posts"):
            print(event.event, event.data)

The layers, from the wire up: `SSEParser` turns bytes into messages. `RealtimeConnection` keeps one stream open, reports its topics to the
server and reconnects. `Subscription` is the bounded buffer of one subscriber. `PocketBaseClient` owns tokens, requests and the pool of
connections.

Nothing is lost silently. A subscriber that reads too slowly gets `SlowConsumer`. After a reconnect to a server that does not replay the
missed events, each subscription gets an event whose action is `reset`: read the collection again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json as jsonlib
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

import aiohttp

__all__ = [
    "AuthenticationError", "Batch", "ConnectionLost", "NotFound", "PermissionDenied", "PocketBaseClient", "PocketBaseError", "RateLimited",
    "RealtimeConnection", "RealtimeEvent", "SSEMessage", "SSEParser", "SlowConsumer", "Subscription", "SubscriptionLimit", "Timeouts",
]

log = logging.getLogger("pocketbase_sse_client")

MAX_TOPICS = 1000
"""Topics of one connection; the server rejects more."""
MAX_TOPIC_CHARS = 2500
"""Characters of one topic with its options; the server rejects more."""


# Errors


class PocketBaseError(Exception):
    """An error answer of the server. `data` maps fields to `{code, message}`; in a batch, requests to their answers."""

    def __init__(self, status: int, message: str, data: Any = None, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.data = {} if data is None else data
        self.retry_after = retry_after
        """Seconds after which the server accepts another try, where it said so."""


class AuthenticationError(PocketBaseError):
    """401, or wrong credentials."""


class PermissionDenied(PocketBaseError):
    """403: the rules refuse this identity."""


class NotFound(PocketBaseError):
    """404: the object does not exist, or the rules hide it."""


class RateLimited(PocketBaseError):
    """429. `retry_after` has the wait in seconds, where the server named one."""


class ConnectionLost(Exception):
    """The stream ended and was not opened again within the retries that are allowed."""


class SlowConsumer(Exception):
    """The buffer of a subscription was full. Its events end here; read the collection again and subscribe anew."""


class SubscriptionLimit(Exception):
    """All connections of the pool are full, or a topic is too long."""


async def _error(response: aiohttp.ClientResponse) -> PocketBaseError:
    text = await response.text(errors="replace")
    try:
        body = jsonlib.loads(text)
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    message = str(body.get("message") or text[:200] or response.reason or "no message")
    wait = response.headers.get("Retry-After", "")
    kinds = {401: AuthenticationError, 403: PermissionDenied, 404: NotFound, 429: RateLimited}
    kind = kinds.get(response.status, PocketBaseError)
    return kind(response.status, message, body.get("data"), float(wait) if wait.isdigit() else None)


class _StaleStream(Exception):
    """The server refuses topics on a stream that it knew, or has lost it: a new stream helps."""


# Server-sent events


@dataclass(slots=True, frozen=True)
class SSEMessage:
    """One message of a stream. `id` is the last id that the stream has set, `retry` the last delay in milliseconds."""

    event: str
    data: str
    id: str = ""
    retry: int | None = None


class SSEParser:
    """Incremental parser of `text/event-stream` (WHATWG HTML, "Server-sent events").

    Chunks may be cut anywhere, in the middle of a character too. Lines end with LF, CR or CRLF. Unknown fields, messages without data
    and invalid values of `id` and `retry` are ignored, as the standard asks. A message beyond `max_bytes` raises `ValueError`: a stream
    that has lost its line ends must not fill the memory.
    """

    def __init__(self, max_bytes: int = 16 * 1024 * 1024) -> None:
        self.comments = 0
        """Comment lines seen; servers send them as heartbeats."""
        self.ignored = 0
        """Lines that were no field of the standard, or had an invalid value."""
        self._max_bytes = max_bytes
        self._pending = bytearray()
        self._searched = 0
        self._skip_lf = False
        self._first = True
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id = ""
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[SSEMessage]:
        """Returns the messages that `chunk` completes."""
        self._pending += chunk
        messages: list[SSEMessage] = []
        start = 0
        while True:
            if self._skip_lf and start < len(self._pending):
                # The second half of a CRLF, perhaps of the chunk before.
                if self._pending[start] == 0x0A:
                    start += 1
                self._skip_lf = False
            end = self._line_end(max(start, self._searched))
            if end < 0:
                break
            self._skip_lf = self._pending[end] == 0x0D
            message = self._line(bytes(self._pending[start:end]))
            if message is not None:
                messages.append(message)
            start = end + 1
            self._searched = start
        del self._pending[:start]
        self._searched = len(self._pending)
        if len(self._pending) + self._size > self._max_bytes:
            raise ValueError(f"a message of more than {self._max_bytes} bytes")
        return messages

    @property
    def last_id(self) -> str:
        """The id of the last message, or the one that a message before it had."""
        return self._id

    @property
    def is_between(self) -> bool:
        """Whether no message has begun that is not complete."""
        return not (self._pending or self._data or self._event)

    def _line_end(self, start: int) -> int:
        lf = self._pending.find(b"\n", start)
        cr = self._pending.find(b"\r", start, lf if lf >= 0 else len(self._pending))
        return cr if cr >= 0 else lf

    def _line(self, raw: bytes) -> SSEMessage | None:
        if self._first:
            self._first = False
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw:
            return self._dispatch()
        name, _, value = raw.decode("utf-8", errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "":
            self.comments += 1
        elif name == "data":
            self._data.append(value)
            self._size += len(raw)
            if self._size > self._max_bytes:
                raise ValueError(f"a message of more than {self._max_bytes} bytes")
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry = int(value[:9])
        else:
            self.ignored += 1
        return None

    def _dispatch(self) -> SSEMessage | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        return SSEMessage(event or "message", "\n".join(data), self._id, self._retry) if data else None


@dataclass(slots=True, frozen=True)
class RealtimeEvent:
    """One change, as a subscription yields it."""

    event: str
    """The topic, for instance `posts/*`, as the server names it in the `event` field, without the options."""
    data: dict[str, Any]
    """What the server sent: `{"action": …, "record": {…}}`."""
    id: str = ""
    """The id of the message: a position on servers that keep them, else the client id."""

    @property
    def action(self) -> str:
        """`create`, `update`, `delete`, or `reset`: events may be missing before this one."""
        return str(self.data.get("action", ""))

    @property
    def record(self) -> dict[str, Any]:
        """The record after the change; for a deletion, its last state."""
        record = self.data.get("record")
        return record if isinstance(record, dict) else {}


@dataclass(slots=True, frozen=True)
class Timeouts:
    """Limits of time, in seconds."""

    request: float = 30.0
    """One request from connect to the end of its answer."""
    connect: float = 15.0
    """Opening a stream, up to its first event; also one report of topics."""
    idle: float = 330.0
    """Silence of a stream whose server has sent no heartbeat. PocketBase ends silent streams itself after 300."""
    heartbeat: float = 45.0
    """Silence of a stream whose server sends heartbeats (comments)."""
    backoff: float = 0.25
    """The first wait before a reconnect at most; it doubles with each failure. The server's `retry` replaces it."""
    backoff_max: float = 30.0
    """The longest wait before a reconnect. Each is drawn at random between zero and its maximum, so that clients come back apart."""
    shutdown: float = 5.0
    """The last report of topics in an orderly end."""


# Realtime


class SubscribeOptions(TypedDict, total=False):
    """What a subscription may ask for."""

    filter: str
    """The filter of lists; a record that leaves it sends nothing on PocketBase."""
    expand: str
    fields: str
    query: Mapping[str, str]
    """Read by rules as `@request.query.*`."""
    headers: Mapping[str, str]
    """Read by rules as `@request.headers.*`."""
    resume: bool
    """Names a position, from which servers that keep positions continue after a break. On by default; others ignore it."""
    max_buffer: int
    """Events that may wait to be read, 10,000 by default. One more ends the subscription with `SlowConsumer`."""


class Subscription:
    """The events of one topic: an async iterator and an async context manager.

    `async with` returns once the server has confirmed the topic, so that changes made inside are seen. Plain `async for` subscribes at
    the first step and unsubscribes when the loop ends. The buffer has `max_buffer` events; a full one ends the subscription with
    `SlowConsumer`, after the events that it holds.
    """

    def __init__(self, client: PocketBaseClient, connection: RealtimeConnection | None, topic: str, sent: str, check: str | None,
                 max_buffer: int) -> None:
        self.topic = topic
        self.sent_topic = sent
        """The topic with its options, as it is sent."""
        self.resumable = False
        """The server numbers the events of this topic, and replays the missed ones after a reconnect."""
        self._client = client
        self._connection = connection
        self._check = check
        self._max_buffer = max_buffer
        self._buffer: deque[RealtimeEvent] = deque()
        self._wake = asyncio.Event()
        self._error: BaseException | None = None
        self._ended = False
        self._entered = False
        self._started: asyncio.Task[None] | None = None
        self._confirmed: asyncio.Future[None] | None = None

    @property
    def is_active(self) -> bool:
        """The server has confirmed the topic, and the subscription has not ended."""
        return not self._ended and self._confirmed is not None and self._confirmed.done()

    async def start(self) -> None:
        """Subscribes, and returns when the server has confirmed the topic.

        # Errors
        `PermissionDenied` and `NotFound` where the rules refuse the collection or record, `SubscriptionLimit`, `ConnectionLost`, or
        `TimeoutError` after `Timeouts.connect` twice.
        """
        if self._ended:
            raise self._error or ConnectionLost("the subscription is closed")
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        try:
            await asyncio.shield(self._started)
        except asyncio.CancelledError:
            if self._started.cancelled():
                raise ConnectionLost("the subscription was closed") from None
            raise
        except Exception as error:
            self._end(error)
            if self._connection is not None:
                self._connection._remove(self)
            raise

    async def _start(self) -> None:
        if self._check is not None:
            # The server accepts any topic and stays silent about a forbidden one; reading says which it is.
            await self._client.request("GET", self._check, params={"perPage": "1", "skipTotal": "1", "fields": "id"})
        if self._connection is None:
            self._connection = self._client._pooled_connection()
        self._confirmed = asyncio.get_running_loop().create_future()
        self._connection._add(self)
        async with asyncio.timeout(2 * self._client.timeouts.connect):
            await self._confirmed

    async def get(self) -> RealtimeEvent:
        """The next event. Raises `StopAsyncIteration` after `close`."""
        if self._started is None or not self._started.done():
            await self.start()
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._buffer.popleft()

    async def close(self) -> None:
        """Unsubscribes. Buffered events can still be read; the iteration then ends."""
        if self._started is not None and not self._started.done():
            self._started.cancel()
        self._end(None)
        if self._connection is not None:
            self._connection._remove(self)

    def __aiter__(self) -> AsyncIterator[RealtimeEvent]:
        return self if self._entered else self._iterate()

    async def _iterate(self) -> AsyncGenerator[RealtimeEvent, None]:
        try:
            while True:
                try:
                    event = await self.get()
                except StopAsyncIteration:
                    return
                yield event
        finally:
            await self.close()

    async def __anext__(self) -> RealtimeEvent:
        return await self.get()

    async def __aenter__(self) -> Self:
        await self.start()
        self._entered = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _confirm(self) -> None:
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def _put(self, event: RealtimeEvent) -> None:
        if self._ended:
            return
        if len(self._buffer) >= self._max_buffer:
            self._end(SlowConsumer(f"{self.topic}: more than {self._max_buffer} events were not read"))
            if self._connection is not None:
                self._connection._remove(self)
            return
        self._buffer.append(event)
        self._wake.set()

    def _end(self, error: BaseException | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
        if error is not None and self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_exception(error)
            self._confirmed.exception()  # Marks it as seen: `start` may have been cancelled.
        self._wake.set()


class RealtimeConnection:
    """One stream with up to `MAX_TOPICS` topics, opened at the first subscription and reopened until it is closed.

    Also an async context manager, which opens the stream at once and ends it in order. `PocketBaseClient.realtime` makes one.
    """

    def __init__(self, client: PocketBaseClient) -> None:
        self.client_id = ""
        """The server's name of the open stream; empty while there is none."""
        self.connects = 0
        """Streams opened so far."""
        self.malformed = 0
        """Events skipped because their data was no JSON object."""
        self.last_activity = 0.0
        """`time.monotonic()` of the last bytes from the server."""
        self._client = client
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._changed = asyncio.Event()
        self._open = asyncio.Event()
        self._closing = False
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._retry_ms: int | None = None
        self._last_id = ""  # Of the last event, from a server that numbers its events.
        self._beats = False
        self._was_open = False
        self._stream: aiohttp.ClientResponse | None = None

    @property
    def topics(self) -> int:
        """Distinct topics, options included."""
        return len(self._subscriptions)

    @property
    def reconnects(self) -> int:
        """Streams opened after the first."""
        return max(0, self.connects - 1)

    @property
    def is_open(self) -> bool:
        """The stream is open and the server knows its topics."""
        return self._open.is_set()

    async def connect(self) -> Self:
        """Opens the stream and returns when the server has named it.

        # Errors
        `ConnectionLost`, `PocketBaseError` for an answer that a retry cannot change, `TimeoutError`.
        """
        self._run_once()
        assert self._task is not None
        opened = asyncio.create_task(self._open.wait())
        try:
            async with asyncio.timeout(2 * self._client.timeouts.connect):
                await asyncio.wait({opened, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
        if not self._open.is_set():
            raise self._failure or ConnectionLost("the connection is closed")
        return self

    def subscribe(self, topic: str, **options: Unpack[SubscribeOptions]) -> Subscription:
        """As `PocketBaseClient.subscribe`, on this connection."""
        return self._client._subscription(topic, None, self, options)

    def subscribe_to_collection(self, name: str, record: str = "*", *, check: bool = True,
                                **options: Unpack[SubscribeOptions]) -> Subscription:
        """As `PocketBaseClient.subscribe_to_collection`, on this connection."""
        return self._client._subscription(f"{name}/{record}", _check(name, record) if check else None, self, options)

    async def close(self) -> None:
        """Ends the stream in order: the server drops the topics, the iterations end after their buffered events."""
        if self._closing:
            return
        self._closing = True
        if self._task is not None:
            if self.client_id and not self._task.done():
                try:
                    async with asyncio.timeout(self._client.timeouts.shutdown):
                        await self._report([])
                except (PocketBaseError, aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.debug("the last report of topics failed: %s", error)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end_all(None)
        self._client._forget(self)

    def abort(self) -> None:
        """Cuts the stream, which reconnects at once: for tests, and for callers that know of a new network."""
        if self._stream is not None:
            self._stream.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _run_once(self) -> None:
        if self._closing or self._failure is not None:
            raise self._failure or ConnectionLost("the connection is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="pocketbase-realtime")

    def _add(self, subscription: Subscription) -> None:
        if len(subscription.sent_topic) > MAX_TOPIC_CHARS:
            raise SubscriptionLimit(f"a topic of {len(subscription.sent_topic)} characters; the limit is {MAX_TOPIC_CHARS}")
        if subscription.sent_topic not in self._subscriptions and self.topics >= MAX_TOPICS:
            raise SubscriptionLimit(f"the connection has {MAX_TOPICS} topics")
        self._run_once()
        self._subscriptions.setdefault(subscription.sent_topic, []).append(subscription)
        self._changed.set()

    def _remove(self, subscription: Subscription) -> None:
        listeners = self._subscriptions.get(subscription.sent_topic, [])
        if subscription in listeners:
            listeners.remove(subscription)
            if not listeners:
                del self._subscriptions[subscription.sent_topic]
                self._changed.set()

    def _end_all(self, error: BaseException | None) -> None:
        for listeners in list(self._subscriptions.values()):
            for subscription in list(listeners):
                subscription._end(error)
        self._subscriptions.clear()

    async def _run(self) -> None:
        failures = 0
        while True:
            connects, error = self.connects, None
            try:
                await self._follow()
            except (PocketBaseError, _StaleStream, aiohttp.ClientError, TimeoutError, OSError, ValueError) as caught:
                error = caught
            finally:
                self.client_id = ""
                self._open.clear()
            failures = 1 if self.connects > connects else failures + 1
            limit = self._client.max_retries
            if isinstance(error, PocketBaseError) and error.status < 500 and error.status not in (408, 425, 429):
                self._failure = error
            elif limit is not None and failures > limit:
                self._failure = ConnectionLost(f"{failures} tries failed; the last: {error or 'the server ended the stream'}")
                self._failure.__cause__ = error
            if self._failure is not None:
                log.warning("realtime connection given up: %s", self._failure)
                self._end_all(self._failure)
                self._client._forget(self)
                return
            wait = self._wait(failures, error)
            log.info("realtime stream ended (%s); reconnecting in %.2f s", error or "by the server", wait)
            await asyncio.sleep(wait)

    def _wait(self, failures: int, error: BaseException | None) -> float:
        timeouts = self._client.timeouts
        base = timeouts.backoff if self._retry_ms is None else self._retry_ms / 1000
        most = min(timeouts.backoff_max, base * 2 ** min(failures - 1, 16))
        asked = error.retry_after if isinstance(error, PocketBaseError) and error.retry_after is not None else 0.0
        return asked + random.uniform(0, most)

    async def _follow(self) -> None:
        """Opens one stream and reads it to its end, beside the task that reports topics."""
        timeouts = self._client.timeouts
        async with asyncio.timeout(timeouts.connect):
            # A server that numbers its events goes on behind this one. Topics that are new since then begin where they are reported.
            subscriptions = [subscription for listeners in self._subscriptions.values() for subscription in listeners]
            known = all(subscription.is_active for subscription in subscriptions)
            response = await self._client._open_stream(self._last_id if known else "")
        self._stream = response
        reporter: asyncio.Task[None] | None = None
        try:
            if response.status != 200:
                raise await _error(response)
            named = asyncio.Event()
            reader = asyncio.create_task(self._read(response, named))
            reporter = asyncio.create_task(self._report_changes(named))
            try:
                done, _ = await asyncio.wait({reader, reporter}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (reader, reporter):
                    task.cancel()
                await asyncio.gather(reader, reporter, return_exceptions=True)
        finally:
            self._stream = None
            response.close()

    async def _read(self, response: aiohttp.ClientResponse, named: asyncio.Event) -> None:
        parser = SSEParser()
        timeouts = self._client.timeouts
        while True:
            silence = timeouts.heartbeat if self._beats else timeouts.idle
            async with asyncio.timeout(silence if named.is_set() else timeouts.connect):
                chunk = await response.content.readany()
            if not chunk:
                return
            self.last_activity = time.monotonic()
            numbered = False
            for message in parser.feed(chunk):
                self._retry_ms = message.retry if message.retry is not None else self._retry_ms
                if message.event == "PB_CONNECT":
                    self.client_id = message.id
                    self.connects += 1
                    named.set()
                else:
                    self._deliver(message)
                    numbered = message.id not in ("", self.client_id)
            # An event of several topics has one number: a chunk that ends within it has not all of them.
            if numbered and parser.is_between:
                self._last_id = parser.last_id
            self._beats = self._beats or parser.comments > 0

    def _deliver(self, message: SSEMessage) -> None:
        listeners = self._subscriptions.get(message.event)
        if not listeners:
            return  # Of a topic that was dropped a moment ago.
        try:
            data = jsonlib.loads(message.data)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            self.malformed += 1
            log.warning("an event of %s is no JSON object; skipped", message.event.partition("?")[0])
            return
        for subscription in list(listeners):
            subscription.resumable = subscription.resumable or message.id not in ("", self.client_id)
            subscription._put(RealtimeEvent(subscription.topic, data, message.id))

    async def _report_changes(self, named: asyncio.Event) -> None:
        """Reports the topics once the stream has its name, and again after each change."""
        await named.wait()
        first = True
        while True:
            self._changed.clear()
            known = {topic: list(listeners) for topic, listeners in self._subscriptions.items()}
            if (known or not first) and not await self._report_or_reject(known, first):
                continue
            for subscription in (subscription for listeners in known.values() for subscription in listeners):
                if first and self._was_open and subscription.is_active and not subscription.resumable:
                    # The events of the break are lost; a server that keeps positions replays them by itself.
                    subscription._put(RealtimeEvent(subscription.topic, {"action": "reset", "record": {}}))
                subscription._confirm()
            first = False
            self._was_open = True
            self._open.set()
            await self._changed.wait()

    async def _report_or_reject(self, known: Mapping[str, Sequence[Subscription]], first: bool) -> bool:
        """Reports topics. Returns false if some were invalid: they have been ended, and the rest has to be reported."""
        try:
            await self._report(list(known))
            return True
        except PocketBaseError as error:
            if error.status in (401, 403) and first:
                raise
            bad = self._invalid(known, error) if error.status == 400 else []
            if not bad:
                raise _StaleStream(str(error)) from error
            for subscription in bad:
                subscription._end(error)
                self._remove(subscription)
            return False

    @staticmethod
    def _invalid(known: Mapping[str, Sequence[Subscription]], error: PocketBaseError) -> list[Subscription]:
        """The subscriptions that a 400 is about: those that it names by index, else all that the server has not confirmed before."""
        named = error.data.get("subscriptions") if isinstance(error.data, dict) else None
        indices = {int(key) for key in named if str(key).isdigit()} if isinstance(named, dict) else set()
        by_index = [subscription for index, listeners in enumerate(known.values()) for subscription in listeners if index in indices]
        return by_index or [subscription for listeners in known.values() for subscription in listeners if not subscription.is_active]

    async def _report(self, topics: list[str]) -> None:
        body = {"clientId": self.client_id, "subscriptions": topics}
        await self._client.request("POST", "/api/realtime", json=body, timeout=self._client.timeouts.connect)


# The client


@dataclass(slots=True)
class Batch:
    """Writes that the server does in one transaction, in order. The server has to allow batches in its settings."""

    client: PocketBaseClient
    requests: list[dict[str, Any]] = field(default_factory=list)

    def create(self, collection: str, record: Mapping[str, Any]) -> Self:
        return self._add("POST", _records(collection), record)

    def update(self, collection: str, id: str, changes: Mapping[str, Any]) -> Self:
        return self._add("PATCH", _records(collection, id), changes)

    def upsert(self, collection: str, record: Mapping[str, Any]) -> Self:
        """Updates the record of `record["id"]`, or creates it."""
        return self._add("PUT", _records(collection), record)

    def delete(self, collection: str, id: str) -> Self:
        return self._add("DELETE", _records(collection, id), None)

    def _add(self, method: str, url: str, body: Mapping[str, Any] | None) -> Self:
        self.requests.append({"method": method, "url": url} | ({} if body is None else {"body": dict(body)}))
        return self

    async def send(self) -> list[dict[str, Any]]:
        """Sends the batch; the answers are `{"status": …, "body": …}` in the order of the writes.

        # Errors
        `PocketBaseError` where one write failed: none was done, and `data["requests"]` names it by its index.
        """
        answer = await self.client.request("POST", "/api/batch", json={"requests": self.requests})
        return list(answer or [])


def _records(collection: str, id: str | None = None) -> str:
    path = f"/api/collections/{quote(collection, safe='')}/records"
    return path if id is None else f"{path}/{quote(id, safe='')}"


def _check(collection: str, record: str) -> str:
    return _records(collection) if record == "*" else _records(collection, record)


def _claims(token: str) -> dict[str, Any]:
    """The claims of a token, unverified: only the server needs to trust them."""
    try:
        payload = token.split(".")[1]
        claims = jsonlib.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


class PocketBaseClient:
    """A client of one server. Use it in one event loop, as an async context manager or with `close`.

    `max_connections` bounds the streams, `request_connections` the sockets of other requests. `max_retries` bounds the tries to reopen a
    stream that failed in a row; `None` goes on for ever. `refresh_before` is the time in seconds before a token's end at which it is
    renewed. `session` is a session of the caller's, who closes it; its limits then hold instead.
    """

    def __init__(self, url: str, *, timeouts: Timeouts | None = None, max_connections: int = 4, request_connections: int = 32,
                 max_retries: int | None = None, refresh_before: float = 300.0, headers: Mapping[str, str] | None = None,
                 session: aiohttp.ClientSession | None = None) -> None:
        if max_connections < 1 or request_connections < 1:
            raise ValueError("a pool needs at least one connection")
        self.url = url.rstrip("/")
        self.timeouts = timeouts or Timeouts()
        self.max_connections = max_connections
        self.max_retries = max_retries
        self.refresh_before = refresh_before
        self.token = ""
        self.user: dict[str, Any] = {}
        """The record that the token belongs to."""
        self._headers = dict(headers or {})
        self._request_connections = request_connections
        self._session = session
        self._owns_session = session is None
        self._pool: list[RealtimeConnection] = []
        self._owned: list[RealtimeConnection] = []
        self._collection = ""
        self._refresher: asyncio.Task[None] | None = None
        self._refreshing = asyncio.Lock()
        self._token_changed = asyncio.Event()
        self._refresh_at: float | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all streams in order, then the connections."""
        if self._closed:
            return
        self._closed = True
        if self._refresher is not None:
            self._refresher.cancel()
        await asyncio.gather(*(connection.close() for connection in [*self._pool, *self._owned]))
        if self._session is not None and self._owns_session:
            await self._session.close()

    # Authentication

    async def authenticate(self, identity: str, password: str, *, collection: str = "users") -> dict[str, Any]:
        """Logs in and returns the user's record. `collection="_superusers"` is for operators. The token is renewed before it ends.

        # Errors
        `AuthenticationError` for wrong credentials, `PermissionDenied` where the collection does not allow passwords.
        """
        try:
            answer = await self.request("POST", f"/api/collections/{quote(collection, safe='')}/auth-with-password",
                                        json={"identity": identity, "password": password}, authorized=False)
        except PocketBaseError as error:
            if error.status == 400:
                raise AuthenticationError(error.status, error.message, error.data) from None
            raise
        self._set_token(answer["token"], answer["record"], collection)
        return self.user

    async def use_token(self, token: str, *, collection: str = "users") -> None:
        """Uses a token that the caller has; it is renewed before it ends. An empty one logs out."""
        self._set_token(token, {}, collection)

    async def refresh(self) -> None:
        """Renews the token now.

        # Errors
        `AuthenticationError` or `PermissionDenied` where the server no longer accepts it.
        """
        async with self._refreshing:
            answer = await self.request("POST", f"/api/collections/{quote(self._collection, safe='')}/auth-refresh")
            self._set_token(answer["token"], answer["record"], self._collection)

    @property
    def token_expires_in(self) -> float | None:
        """Seconds until the token ends, by this machine's clock; `None` without a token."""
        end = _claims(self.token).get("exp")
        return float(end) - time.time() if isinstance(end, int | float) else None

    def _set_token(self, token: str, user: dict[str, Any], collection: str) -> None:
        before, now = _claims(self.token).get("id"), _claims(token).get("id")
        self.token, self.user, self._collection = token, user, collection
        for connection in [*self._pool, *self._owned]:
            if before is not None and before != now:
                connection.abort()  # A stream keeps the identity of its first report.
            else:
                connection._changed.set()
        left = self.token_expires_in
        refreshable = left is not None and _claims(token).get("refreshable", False)
        # A short-lived token is renewed after half of its time.
        self._refresh_at = time.time() + max(left - self.refresh_before, left / 2) if left is not None and refreshable else None
        self._token_changed.set()
        if token and self._refresher is None:
            self._refresher = asyncio.create_task(self._keep_fresh(), name="pocketbase-refresh")

    def _refresh_due(self) -> float | None:
        """Seconds until the token is to be renewed; `None`: it cannot be."""
        return None if self._refresh_at is None else max(0.0, self._refresh_at - time.time())

    async def _keep_fresh(self) -> None:
        pause = 2.0  # At least; a clock that is ahead makes each new token look old.
        while True:
            self._token_changed.clear()
            due = self._refresh_due()
            try:
                # A minute at most: timers stand still while a machine sleeps.
                async with asyncio.timeout(None if due is None else min(max(due, pause), 60.0)):
                    await self._token_changed.wait()
                continue
            except TimeoutError:
                due = self._refresh_due()
            if due is None or due > 0.5:
                continue
            try:
                await self.refresh()
                pause = 2.0
            except (AuthenticationError, PermissionDenied) as error:
                log.warning("the token can no longer be renewed: %s", error)
                await self._token_changed.wait()
            except (PocketBaseError, aiohttp.ClientError, TimeoutError, OSError) as error:
                pause = min(2 * pause, 60.0) * random.uniform(0.75, 1.0)
                log.warning("the token was not renewed; next try in %.0f s: %s", pause, error)

    # Requests

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None,
                      data: aiohttp.FormData | None = None, timeout: float | None = None, authorized: bool = True) -> Any:
        """Any request; returns the decoded JSON, or `None` for an empty answer.

        # Errors
        `PocketBaseError` and its kinds by status; `aiohttp.ClientError` and `TimeoutError` where no answer came.
        """
        headers = self._authorization() if authorized else dict(self._headers)
        limit = aiohttp.ClientTimeout(total=timeout or self.timeouts.request)
        async with self._http().request(method, self.url + path, params=params, json=json, data=data, headers=headers,
                                        timeout=limit) as response:
            if response.status >= 400:
                raise await _error(response)
            body = await response.read()
            return jsonlib.loads(body) if body else None

    async def list(self, collection: str, *, page: int = 1, per_page: int = 30, **query: str) -> dict[str, Any]:
        """A page: `{"items": […], "page", "perPage", "totalItems", "totalPages"}`. `query` takes `filter`, `sort`, `expand`, `fields`."""
        found = await self.request("GET", _records(collection), params={"page": str(page), "perPage": str(per_page)} | query)
        return dict(found)

    async def view(self, collection: str, id: str, **query: str) -> dict[str, Any]:
        """One record. `query` takes `expand` and `fields`."""
        return dict(await self.request("GET", _records(collection, id), params=query))

    async def create(self, collection: str, record: Mapping[str, Any], **query: str) -> dict[str, Any]:
        """Creates a record and returns it."""
        return dict(await self.request("POST", _records(collection), params=query, json=dict(record)))

    async def update(self, collection: str, id: str, changes: Mapping[str, Any], **query: str) -> dict[str, Any]:
        """Changes the named fields and returns the record. `{"views+": 1}` adds on the server."""
        return dict(await self.request("PATCH", _records(collection, id), params=query, json=dict(changes)))

    async def delete(self, collection: str, id: str) -> None:
        """Deletes a record."""
        await self.request("DELETE", _records(collection, id))

    def batch(self) -> Batch:
        """An empty batch of writes."""
        return Batch(self)

    # Realtime

    def realtime(self) -> RealtimeConnection:
        """A connection of the caller's own, closed by `async with` or with the client.

        # Errors
        `SubscriptionLimit` where the client has `max_connections` streams.
        """
        self._check_room()
        connection = RealtimeConnection(self)
        self._owned.append(connection)
        return connection

    def subscribe_to_collection(self, name: str, record: str = "*", *, check: bool = True,
                                **options: Unpack[SubscribeOptions]) -> Subscription:
        """The changes of a collection, or of one record of it, on a connection of the pool.

        The server accepts topics that the rules refuse, and stays silent. Therefore `check` reads the collection first, and the first step
        of the iteration raises `PermissionDenied` or `NotFound`.
        """
        return self._subscription(f"{name}/{record}", _check(name, record) if check else None, None, options)

    def subscribe(self, topic: str, **options: Unpack[SubscribeOptions]) -> Subscription:
        """The events of any topic, without a check, on a connection of the pool."""
        return self._subscription(topic, None, None, options)

    def _subscription(self, topic: str, check: str | None, connection: RealtimeConnection | None,
                      options: SubscribeOptions) -> Subscription:
        query = dict(options.get("query") or {})
        query |= {key: str(options[key]) for key in ("filter", "expand", "fields") if options.get(key)}
        if options.get("resume", True):
            query["resume"] = str(uuid.uuid4())
        headers = dict(options.get("headers") or {})
        sent = topic
        if query or headers:
            body = {"query": query} | ({"headers": headers} if headers else {})
            sent = f"{topic}?options={quote(jsonlib.dumps(body, separators=(',', ':')), safe='')}"
        return Subscription(self, connection, topic, sent, check, options.get("max_buffer", 10_000))

    def _pooled_connection(self) -> RealtimeConnection:
        """The first shared connection with room for a topic, a new one where all are full."""
        for connection in self._pool:
            if connection.topics < MAX_TOPICS:
                return connection
        self._check_room()
        connection = RealtimeConnection(self)
        self._pool.append(connection)
        return connection

    def _check_room(self) -> None:
        if self._closed:
            raise ConnectionLost("the client is closed")
        if len(self._pool) + len(self._owned) >= self.max_connections:
            raise SubscriptionLimit(f"the client has {self.max_connections} connections")

    def _forget(self, connection: RealtimeConnection) -> None:
        for owner in (self._pool, self._owned):
            if connection in owner:
                owner.remove(connection)

    async def _open_stream(self, last_id: str) -> aiohttp.ClientResponse:
        headers = self._authorization() | {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        return await self._http().get(self.url + "/api/realtime", headers=headers, timeout=aiohttp.ClientTimeout(total=None))

    def _authorization(self) -> dict[str, str]:
        return self._headers | ({"Authorization": self.token} if self.token else {})

    def _http(self) -> aiohttp.ClientSession:
        if self._closed and (self._session is None or self._session.closed):
            raise ConnectionLost("the client is closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._request_connections + self.max_connections)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session
