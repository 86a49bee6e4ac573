//! The driver of server-sent event streams: one task a stream, which writes the events of a source to a connection.
//!
//! The task ends its stream when the client goes, reads too slowly or loses its access, when the service drains, or when the source ends. The
//! connection takes chunks from it one at a time: a slow client holds a few chunks, and what its source holds for it.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use super::AppState;
use super::edge::authorize::is_still_admitted;
use super::edge::routes::Access;
use super::server::ConnectionHandle;
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

    /// Waits until a chunk may be held in memory, and returns it.
    fn hold(&self, chunk: Bytes) -> impl Future<Output = Bytes> + Send {
        std::future::ready(chunk)
    }

    /// Resolves when a client that does not take a chunk has to be cut off.
    fn cut_off(&self) -> impl Future<Output = Close> + Send {
        std::future::pending()
    }

    /// The stream has ended.
    fn closed(&mut self, _close: Close) {}
}

/// A stream to one client.
pub(super) struct EventStream {
    pub(super) state: Arc<AppState>,
    pub(super) connection: ConnectionHandle,
    /// The interval of heartbeats.
    pub(super) heartbeat: Duration,
    /// The access that each heartbeat checks again, with the headers of the request.
    pub(super) access: Option<(Vec<Access>, HeaderMap)>,
    /// Milliseconds that a client waits before it connects again. Sent at once, so that the client knows that it is connected.
    pub(super) retry_ms: Option<u64>,
}

impl EventStream {
    /// Starts the task; its chunks are the response's body.
    pub(super) fn respond(self, source: impl EventSource) -> Response {
        // One chunk on its way, and one that waits.
        let (chunks, receiver) = channel(1);
        let close = Arc::new(OnceLock::new());
        let body = stream::unfold(Chunks { receiver, close: Arc::clone(&close) }, Chunks::next);
        tokio::spawn(async move {
            let mut source = source;
            let reason = self.run(&mut source, &chunks).await;
            let _once = close.set(reason);
            if reason == Close::Slow {
                // The connection takes nothing now, so its timer ends it. The stream has ended once it is gone.
                self.connection.reset();
                self.connection.read_by(std::time::Instant::now());
                let _gone = tokio::time::timeout(RESET_LIMIT, chunks.closed()).await;
            }
            source.closed(reason);
        });
        let mut response = Response::new(Body::from_stream(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(X_ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
        response
    }

    async fn run(&self, source: &mut impl EventSource, chunks: &Sender<Bytes>) -> Close {
        match self.events(source, chunks).await {
            Ok(never) => match never {},
            Err(close) => close,
        }
    }

    async fn events(
        &self,
        source: &mut impl EventSource,
        chunks: &Sender<Bytes>,
    ) -> Result<std::convert::Infallible, Close> {
        let mut out = BytesMut::new();
        if let Some(retry_ms) = self.retry_ms {
            sse::write_retry(&mut out, retry_ms);
            self.send(source, &mut out, chunks).await?;
        }
        let mut checked = Instant::now();
        loop {
            let is_ready = tokio::select! {
                biased;
                () = self.state.lifecycle.draining() => return Err(Close::Draining),
                () = chunks.closed() => return Err(Close::ClientGone),
                () = tokio::time::sleep_until(checked + self.heartbeat) => false,
                () = source.ready() => true,
            };
            if is_ready {
                source.write(&mut out).await?;
            } else {
                checked = Instant::now();
                self.check_access().await?;
                source.heartbeat(&mut out);
            }
            if !out.is_empty() {
                self.send(source, &mut out, chunks).await?;
            }
            if is_ready {
                source.sent();
            }
        }
    }

    async fn check_access(&self) -> Result<(), Close> {
        let Some((access, headers)) = &self.access else { return Ok(()) };
        for access in access {
            if !is_still_admitted(&self.state, *access, headers, self.connection.peer()).await {
                return Err(Close::Denied);
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        source: &impl EventSource,
        out: &mut BytesMut,
        chunks: &Sender<Bytes>,
    ) -> Result<(), Close> {
        let chunk = out.split().freeze();
        let sending = async {
            let chunk = source.hold(chunk).await;
            chunks.send(chunk).await.map_err(|_| Close::ClientGone)
        };
        tokio::select! {
            sent = sending => sent,
            () = self.state.lifecycle.draining() => Err(Close::Draining),
            () = chunks.closed() => Err(Close::ClientGone),
            close = source.cut_off() => Err(close),
        }
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
