//! `GET /api/conversations/{id}/messages?live=sse`: the messages, and then what happens, as server-sent events.
//!
//! A task of the stream's own waits for events and writes them; the connection takes them from it a chunk at a time. What
//! waits for a client that reads slowly is a few chunks, what the hub holds for it, and a lot of what is read of the database. All
//! count in `FOLLOWERS_BYTES` until the socket has taken them: the slowest clients are cut off before it is used up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::connection::Line;
use super::super::edge::routes::Needs;
use super::super::error::ApiError;
use super::super::{AppState, Services, auth, sse};
use crate::auth::{Principal, Scope};
use crate::conversations::{Event, EventKind, Live, LiveCursor, LiveEnd, parse_live};
use crate::realtime::Dropped;

/// The header by which a client says what it has seen (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: &str = "last-event-id";
/// nginx hands a stream on as it comes when it is told so.
static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Milliseconds that a client waits before it comes back.
const RETRY_MS: u64 = 1_000;
/// Events that are written into one chunk, in bytes, or nearly so.
const CHUNK_BYTES: usize = 64 * 1024;

/// A request for a live subscription.
pub(super) struct LiveRequest {
    pub(super) conversation: Uuid,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) line: Line,
    pub(super) principal: Principal,
}

pub(super) async fn get(
    face: &Arc<AppState>,
    core: &Services,
    request: LiveRequest,
) -> Result<Response, ApiError> {
    let start = parse_live(&request.parameters)?;
    let cursor = match request.headers.get(LAST_EVENT_ID) {
        None => None,
        Some(value) => {
            let cursor = value.to_str().ok().and_then(LiveCursor::parse);
            let refuse = || ApiError::invalid("last-event-id takes the id of an event of this stream");
            Some(cursor.ok_or_else(|| refuse().field(LAST_EVENT_ID))?)
        }
    };
    let owner = core.accounts.user_of(&request.principal).await?;
    let live = core.conversations.subscribe(owner, request.conversation, start, cursor).await?;
    let heartbeat = Duration::from_secs(core.conversations.realtime().heartbeat_s);
    // One chunk on its way, and one that is being written.
    let (chunks, body) = channel(1);
    let writer =
        Writer { face: Arc::clone(face), headers: request.headers, line: request.line, heartbeat, chunks };
    tokio::spawn(writer.run(live));
    let mut response = Response::new(Body::from_stream(stream::unfold(body, next_chunk)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
    Ok(response)
}

async fn next_chunk(
    mut chunks: Receiver<Bytes>,
) -> Option<(Result<Bytes, std::convert::Infallible>, Receiver<Bytes>)> {
    chunks.recv().await.map(|chunk| (Ok(chunk), chunks))
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// The conversation is gone.
    Deleted,
    /// The client went away, or its connection broke.
    ClientGone,
    /// The client reads too slowly.
    Slow,
    /// Changes were deleted before they were told.
    Behind,
    /// The token is not good any more.
    Denied,
    /// The service stops.
    Draining,
    /// The database failed.
    Failed,
}

impl Close {
    fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::ClientGone => "client_gone",
            Self::Slow => "slow_reader",
            Self::Behind => "behind",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

impl From<LiveEnd> for Close {
    fn from(end: LiveEnd) -> Self {
        match end {
            LiveEnd::Deleted => Self::Deleted,
            LiveEnd::Dropped(Dropped::Slow) => Self::Slow,
            LiveEnd::Dropped(Dropped::Behind) => Self::Behind,
            LiveEnd::Database(error) => {
                tracing::warn!(error = error.with_sources(), "a follower is cut off; it comes back");
                Self::Failed
            }
            LiveEnd::Event(error) => {
                let error = crate::db::chain(&error);
                tracing::error!(
                    error,
                    "a change of a conversation cannot be sent; its subscribers are cut off"
                );
                Self::Failed
            }
        }
    }
}

/// Writes a stream.
struct Writer {
    face: Arc<AppState>,
    headers: HeaderMap,
    line: Line,
    heartbeat: Duration,
    chunks: Sender<Bytes>,
}

/// What the writer was waiting for.
enum Woken {
    Events,
    Heartbeat,
    End(Close),
}

impl Writer {
    async fn run(self, mut live: Live) {
        let mut out = BytesMut::new();
        // At once, so that a client knows that it is connected.
        sse::write_retry(&mut out, RETRY_MS);
        let close = match self.send(&live, &mut out).await {
            Ok(()) => self.write(&mut live, &mut out).await,
            Err(close) => close,
        };
        if close == Close::Slow {
            // Its connection takes nothing now, and is looked at when that was for too long.
            self.line.reset();
            self.line.read_by(std::time::Instant::now());
        }
        self.face.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }

    async fn write(&self, live: &mut Live, out: &mut BytesMut) -> Close {
        let mut silent_since = Instant::now();
        loop {
            let woken = tokio::select! {
                biased;
                () = self.face.lifecycle.draining() => Woken::End(Close::Draining),
                () = self.chunks.closed() => Woken::End(Close::ClientGone),
                () = tokio::time::sleep_until(silent_since + self.heartbeat) => Woken::Heartbeat,
                () = live.ready() => Woken::Events,
            };
            let written = match woken {
                Woken::End(close) => return close,
                Woken::Heartbeat => {
                    let needs = Needs::Scope(Scope::ConversationsRead);
                    silent_since = Instant::now();
                    if !auth::is_still_admitted(&self.face, needs, &self.headers, self.line.peer()).await {
                        return Close::Denied;
                    }
                    match live.moved_on() {
                        Some(cursor) => sse::write_id(out, &cursor.to_string()),
                        None => sse::write_comment(out),
                    }
                    self.send(live, out).await
                }
                Woken::Events => match live.next().await {
                    Ok(events) => {
                        let sent = self.events(live, events, out).await;
                        live.sent();
                        sent
                    }
                    Err(end) => return end.into(),
                },
            };
            if let Err(close) = written {
                return close;
            }
        }
    }

    async fn events(&self, live: &Live, events: Vec<Event>, out: &mut BytesMut) -> Result<(), Close> {
        for event in events {
            let id = event.cursor.map(|cursor| cursor.to_string());
            // A message is what an event without a name is.
            let name = (event.kind != EventKind::Message).then_some(event.kind.name());
            let fields = sse::Fields { id: id.as_deref(), event: name, retry_ms: None };
            sse::write_event(out, fields, &event.data);
            if out.len() >= CHUNK_BYTES {
                self.send(live, out).await?;
            }
        }
        if out.is_empty() { Ok(()) } else { self.send(live, out).await }
    }

    async fn send(&self, live: &Live, out: &mut BytesMut) -> Result<(), Close> {
        let chunk = out.split().freeze();
        let sending = async {
            let chunk = live.hold(chunk).await;
            self.chunks.send(chunk).await.map_err(|_| Close::ClientGone)
        };
        tokio::select! {
            sent = sending => sent,
            () = self.face.lifecycle.draining() => Err(Close::Draining),
            () = self.chunks.closed() => Err(Close::ClientGone),
            end = live.dropped() => Err(end.into()),
            () = live.overstays() => Err(Close::Slow),
        }
    }
}
