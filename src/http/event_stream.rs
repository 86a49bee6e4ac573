//! The driver of server-sent event streams: one task a stream, which writes the events of a source to a connection.
//!
//! The task takes the connection over from hyper once the head is sent, and writes to the socket. It ends its stream when the client goes, reads
//! too slowly or loses its access, when the service drains, or when the source ends. A slow client holds one chunk, and what its source holds for
//! it. Where the body has to pass others (an injected fault), its chunks are the body instead.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use hyper::HeaderMap;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue,
    REFERER, USER_AGENT,
};
use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::AppState;
use super::edge::authorize::{Proof, StreamAccess};
use super::server::{ConnectionHandle, Detachable, DetachedConnection};
use super::turns::Turn;
use super::wire::sse;
use crate::realtime::{Dropped, SubscriptionEnd};

/// The bytes of a chunk, about: a source that has more writes it into the next one.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// The header with the id of the last event that a client has (WHATWG HTML, section 9.2.4).
pub(super) const LAST_EVENT_ID: &str = "last-event-id";
/// Milliseconds that a client waits before it connects again.
pub(super) const RETRY_MS: u64 = 1_000;
/// The wait for the end of a connection that is reset.
const RESET_LIMIT: Duration = Duration::from_secs(5);
/// The time for the last event of a client that is cut off. One that reads takes it at once.
const CUT_LIMIT: Duration = Duration::from_millis(250);
/// The time for a client to take the end of a stream whose source asks for it, and to close its side.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Disables the buffering of nginx for a stream.
static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The reason for which a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The client went away, or its connection broke.
    ClientGone,
    /// The client reads too slowly.
    Slow,
    /// The client has lost its access.
    Denied,
    /// The service stops.
    Draining,
    /// The source ended, for this reason.
    Ended(&'static str),
}

impl Close {
    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::Slow => "slow_reader",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Ended(why) => why,
        }
    }
}

impl From<SubscriptionEnd> for Close {
    fn from(end: SubscriptionEnd) -> Self {
        match end {
            SubscriptionEnd::Dropped(Dropped::Slow) => Self::Slow,
            SubscriptionEnd::Dropped(Dropped::Behind) => Self::Ended("behind"),
            SubscriptionEnd::Database(error) => {
                tracing::warn!(error = error.with_sources(), "a subscriber is cut off and has to come back");
                Self::Ended("failed")
            }
        }
    }
}

/// A source of events.
pub(super) trait EventSource: Send + Sync + 'static {
    /// Waits until [`Self::write`] has something to do. Cancel-safe.
    fn ready(&mut self) -> impl Future<Output = ()> + Send;

    /// Writes events into a chunk of about [`CHUNK_BYTES`]; none at times. Never cancelled.
    fn write(&mut self, out: &mut BytesMut) -> impl Future<Output = Result<(), Close>> + Send;

    /// Writes a heartbeat.
    fn heartbeat(&mut self, out: &mut BytesMut) {
        sse::write_comment(out);
    }

    /// The connection has accepted the events of the last [`Self::write`].
    fn sent(&mut self) {}

    /// Writes the reason for the end, for a client that still reads; nothing where the events say it.
    fn cut(&mut self, _out: &mut BytesMut, _close: Close) {}

    /// Waits until a chunk that the socket does not take at once may be held in memory, and returns it.
    fn hold(&self, chunk: Bytes) -> impl Future<Output = Bytes> + Send {
        std::future::ready(chunk)
    }

    /// Resolves when a client that does not take a chunk has to be cut off.
    fn cut_off(&self) -> impl Future<Output = Close> + Send {
        std::future::pending()
    }

    /// Whether a stream that the service ends is to be received whole: then its connection is not reset, and its end waits for the client.
    fn settles(&self) -> bool {
        false
    }

    /// The client has received everything and closed its side, or has not in time.
    fn settled(&mut self, _is_received: bool) {}

    /// The stream has ended.
    fn closed(&mut self, _close: Close) {}
}

/// A stream to one client.
pub(super) struct EventStream {
    pub(super) state: Arc<AppState>,
    pub(super) connection: ConnectionHandle,
    /// The interval of heartbeats.
    pub(super) heartbeat: Duration,
    /// The access that each heartbeat checks again.
    pub(super) access: Option<StreamAccess>,
    /// Milliseconds that a client waits before it connects again. Sent at once, so that the client knows that it is connected.
    pub(super) retry_ms: Option<u64>,
}

impl EventStream {
    /// The response. Once its head is sent, the stream takes the connection over; where it cannot, its chunks are the response's body.
    pub(super) fn respond(mut self, source: impl EventSource) -> Response {
        if let Some(StreamAccess { proof: Proof::Headers(headers), .. }) = &mut self.access {
            *headers = compact(headers);
        }
        let shared = Arc::new(Mutex::new(Some((self, source))));
        let taken = Arc::clone(&shared);
        let detached = Detachable::new(|mut connection: DetachedConnection| async move {
            let Some((stream, mut source)) = taken.lock().take() else { return };
            drop(taken);
            let reason = stream.run(&mut source, &mut connection).await;
            if reason != Close::ClientGone && source.settles() {
                let is_received = connection.settle(SETTLE_LIMIT).await;
                if is_received {
                    // The last chunk, if the end came while it was sent.
                    source.sent();
                } else {
                    stream.connection.reset();
                }
                source.settled(is_received);
                drop(connection);
                source.closed(reason);
                return;
            }
            let mut last = BytesMut::new();
            source.cut(&mut last, reason);
            // Only what the socket takes at once: a client that reads takes it.
            let is_told = !last.is_empty() && connection.finishes_with(&last);
            if reason == Close::Slow && !is_told {
                stream.connection.reset();
                drop(connection);
                source.closed(reason);
                return;
            }
            source.closed(reason);
            drop(source);
            connection.finish().await;
        });
        let body = stream::once(async move {
            let (stream, source) = shared.lock().take()?;
            Some(stream.chunks(source))
        });
        let body = body.filter_map(std::future::ready).flatten();
        let mut response = Response::new(Body::from_stream(body));
        response.extensions_mut().insert(detached);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(X_ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
        response
    }

    /// Starts a task whose chunks are a body.
    fn chunks(self, source: impl EventSource) -> impl Stream<Item = io::Result<Bytes>> + Send {
        // One chunk on its way, and one that waits.
        let (mut chunks, receiver) = channel(1);
        let close = Arc::new(OnceLock::new());
        let body = stream::unfold(Chunks { receiver, close: Arc::clone(&close) }, Chunks::next);
        tokio::spawn(async move {
            let mut source = source;
            let reason = self.run(&mut source, &mut chunks).await;
            let is_told = tell(&mut source, reason, &chunks).await;
            if !is_told {
                let _once = close.set(reason);
            }
            if reason == Close::Slow && !is_told {
                // The connection takes nothing now, so its timer ends it. The stream has ended once it is gone.
                self.connection.reset();
                self.connection.read_by(std::time::Instant::now());
                let _gone = tokio::time::timeout(RESET_LIMIT, chunks.closed()).await;
            }
            source.closed(reason);
        });
        body
    }

    async fn run(&self, source: &mut impl EventSource, output: &mut impl Output) -> Close {
        match self.events(source, output).await {
            Ok(never) => match never {},
            Err(close) => close,
        }
    }

    async fn events(
        &self,
        source: &mut impl EventSource,
        output: &mut impl Output,
    ) -> Result<std::convert::Infallible, Close> {
        let mut out = BytesMut::new();
        let draining = self.state.lifecycle.draining();
        let heartbeat = tokio::time::sleep(self.heartbeat);
        tokio::pin!(draining, heartbeat);
        if let Some(retry_ms) = self.retry_ms {
            sse::write_retry(&mut out, retry_ms);
            Box::pin(output.send(std::mem::take(&mut out), source, draining.as_mut())).await?;
        }
        loop {
            let is_ready = tokio::select! {
                biased;
                () = &mut draining => return Err(Close::Draining),
                () = output.gone() => return Err(Close::ClientGone),
                () = &mut heartbeat => false,
                () = source.ready() => true,
            };
            // Before room for the work is taken: streams that wait need none.
            let mut turn = match is_ready {
                true => Some(tokio::select! {
                    biased;
                    () = &mut draining => return Err(Close::Draining),
                    turn = Turn::next() => turn,
                }),
                false => {
                    heartbeat.as_mut().reset(Instant::now() + self.heartbeat);
                    None
                }
            };
            // On the heap, as an idle stream would hold room for all of it: some tens of kilobytes.
            let writing = Box::pin(async {
                if is_ready {
                    source.write(&mut out).await?;
                } else {
                    self.check_access().await?;
                    source.heartbeat(&mut out);
                }
                let is_full = out.len() >= CHUNK_BYTES;
                if !out.is_empty() {
                    // An idle stream holds no buffer.
                    output.send(std::mem::take(&mut out), source, draining.as_mut()).await?;
                }
                Ok::<_, Close>(is_full)
            });
            let Some(turn) = &mut turn else {
                writing.await?;
                continue;
            };
            if turn.run(writing).await? {
                turn.leaves_more();
            }
            source.sent();
        }
    }

    async fn check_access(&self) -> Result<(), Close> {
        let Some(access) = &self.access else { return Ok(()) };
        match access.is_held(&self.state, self.connection.peer()).await {
            true => Ok(()),
            false => Err(Close::Denied),
        }
    }
}

/// The headers that a later check of the access needs, in memory of their own: those of the request hold all of its bytes.
fn compact(headers: &HeaderMap) -> HeaderMap {
    let unneeded = [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, COOKIE, REFERER, USER_AGENT];
    let is_needed = |name: &HeaderName| !unneeded.contains(name) && *name != LAST_EVENT_ID;
    let copied = headers.iter().filter(|(name, _)| is_needed(name)).filter_map(|(name, value)| {
        let mut copy = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        copy.set_sensitive(value.is_sensitive());
        Some((name.clone(), copy))
    });
    let mut kept = HeaderMap::with_capacity(headers.len().min(4));
    for (name, value) in copied {
        kept.append(name, value);
    }
    kept
}

/// The destination of a stream's chunks.
trait Output: Send {
    /// Resolves when the client has gone. Cancel-safe.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;

    /// Sends a chunk.
    fn send(
        &mut self,
        chunk: BytesMut,
        source: &impl EventSource,
        draining: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<(), Close>> + Send;
}

impl Output for Sender<Bytes> {
    async fn gone(&mut self) {
        self.closed().await;
    }

    async fn send(
        &mut self,
        chunk: BytesMut,
        source: &impl EventSource,
        draining: impl Future<Output = ()> + Send,
    ) -> Result<(), Close> {
        let sending = async {
            let chunk = source.hold(chunk.freeze()).await;
            Self::send(self, chunk).await.map_err(|_| Close::ClientGone)
        };
        tokio::select! {
            sent = sending => sent,
            () = draining => Err(Close::Draining),
            () = self.closed() => Err(Close::ClientGone),
            close = source.cut_off() => Err(close),
        }
    }
}

impl Output for DetachedConnection {
    async fn gone(&mut self) {
        Self::gone(self).await;
    }

    /// What the socket takes at once is never held.
    async fn send(
        &mut self,
        chunk: BytesMut,
        source: &impl EventSource,
        draining: impl Future<Output = ()> + Send,
    ) -> Result<(), Close> {
        let Some(rest) = self.try_send(&chunk).map_err(|_| Close::ClientGone)? else { return Ok(()) };
        drop(chunk);
        self.keep_rest(&rest);
        let sending = async {
            let rest = source.hold(rest).await;
            self.send_rest(rest).await.map_err(|_| Close::ClientGone)
        };
        tokio::select! {
            sent = sending => sent,
            () = draining => Err(Close::Draining),
            close = source.cut_off() => Err(close),
        }
    }
}

/// Sends the reason for the end to a client that takes it in time. False: it has not.
async fn tell(source: &mut impl EventSource, reason: Close, chunks: &Sender<Bytes>) -> bool {
    let mut out = BytesMut::new();
    source.cut(&mut out, reason);
    if out.is_empty() {
        return false;
    }
    let (written, is_written) = oneshot::channel();
    let telling = async {
        chunks.send(Bytes::from_owner(LastChunk { chunk: out.freeze(), _written: written })).await.ok()?;
        // The connection drops it once the socket has it.
        let _dropped = is_written.await;
        Some(())
    };
    matches!(tokio::time::timeout(CUT_LIMIT, telling).await, Ok(Some(())))
}

/// A chunk that reports its end.
struct LastChunk {
    chunk: Bytes,
    _written: oneshot::Sender<()>,
}

impl AsRef<[u8]> for LastChunk {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

/// Writes the event `cut` with the reason for an end that no other event reports. The client can come back with its position.
pub(super) fn write_cut(out: &mut BytesMut, close: Close) {
    if let Close::Slow | Close::Denied | Close::Ended("behind" | "failed" | "filter") = close {
        let fields = sse::Fields { event: Some("cut"), ..sse::Fields::default() };
        sse::write_event(out, fields, format!("{{\"reason\":\"{}\"}}", close.name()).as_bytes());
    }
}

/// The body of the response.
struct Chunks {
    receiver: Receiver<Bytes>,
    close: Arc<OnceLock<Close>>,
}

impl Chunks {
    /// The next chunk. The body of a slow client ends with an error, so that its connection is not used again.
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.receiver.recv().await {
            Some(chunk) => Some((Ok(chunk), self)),
            None if self.close.get() == Some(&Close::Slow) => {
                Some((Err(io::ErrorKind::TimedOut.into()), self))
            }
            None => None,
        }
    }
}
