//! `live=sse`: a stream as server-sent events.
//!
//! Each event `data` is followed by an event `control` with the offset behind it. An idle stream repeats the last one as a sign of life. After about a
//! minute the connection ends, and the client continues on another one: by that caches can serve many clients with one connection.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::StreamsApi;
use super::headers::STREAM_SSE_DATA_ENCODING;
use super::live::{end_of, until};
use super::refusal::Refusal;
use crate::auth::Scope;
use crate::http::AppState;
use crate::http::edge::authorize::{Proof, Requirement, StreamAccess};
use crate::http::event_stream::{CHUNK_BYTES, Close, EventSource, EventStream};
use crate::http::server::ConnectionHandle;
use crate::http::wire::body::{MemoryBudget, MemoryPermit};
use crate::http::wire::error::ApiError;
use crate::http::wire::sse;
use crate::observe::Metrics;
use crate::streams::{
    CursorClock, Freshness, Offset, ReadFrom, Slice, StreamError, StreamHead, StreamPath, StreamStore,
    StreamWatch,
};
use crate::time::Micros;

/// Characters that an id cannot have as they are: it is a value of a query.
const IN_ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The time after which a connection ends, about.
const LIFE: Duration = Duration::from_secs(60);
/// Bytes of the shortest read: a character has up to four.
const LEAST_READ: usize = 64;
/// The time between two tries to hold a chunk while memory is short.
const HOLD_RETRY: Duration = Duration::from_millis(50);
/// The size up to which a chunk that waits for its client is not counted.
const SMALL_CHUNK_BYTES: usize = 4 * 1024;

/// Opens the stream of events. Its first read is verified, and comes before the head, so that errors have a status.
pub(super) async fn open(
    state: Arc<AppState>,
    api: &StreamsApi,
    path: StreamPath,
    from: ReadFrom,
    cursor: Option<String>,
    connection: ConnectionHandle,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let connection_state = Shared::new(&state, api)?;
    let follower = Follower::open(api, path, from, cursor, false).await?;
    let form = follower.form;
    let requirements = vec![requirement(&follower.path)];
    let stream = EventStream {
        connection,
        heartbeat: api.streams.settings.heartbeat,
        access: Some(StreamAccess { proof: Proof::Headers(headers), requirements }),
        retry_ms: None,
        state: Arc::clone(&state),
    };
    let source = Source { follower, connection: connection_state };
    let mut response = stream.respond(source);
    if form == Form::Base64 {
        response.headers_mut().insert(&STREAM_SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
    }
    Ok(response)
}

/// The permission that readers of a stream have to keep.
pub(super) fn requirement(path: &StreamPath) -> Requirement {
    Requirement::Stream(Scope::StreamsRead, path.as_str().into())
}

/// The form of data in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An array of messages.
    Json,
    /// UTF-8. A character that is not whole yet is kept for the next event.
    Text,
    /// Base64 of bytes.
    Base64,
}

impl Form {
    fn of(stream: &StreamHead) -> Self {
        match (stream.content_type.is_json(), stream.content_type.is_text()) {
            (true, _) => Self::Json,
            (false, true) => Self::Text,
            (false, false) => Self::Base64,
        }
    }

    /// Writes the bytes of a slice as the data of an event, which names its stream if there are several; returns the number of bytes at their end
    /// that have to wait.
    fn write(self, out: &mut BytesMut, slice: &Slice, name: Option<&StreamPath>) -> usize {
        let data = slice.bytes.concat();
        let write = |out: &mut BytesMut, next: Offset, data: &[u8]| {
            if let Some(path) = name {
                let id = format!("{}@{next}", utf8_percent_encode(path.as_str(), IN_ID));
                sse::write_id_field(out, &id);
            }
            sse::write_plain_event(out, "data", data);
        };
        match self {
            Self::Json => {
                let mut array = Vec::with_capacity(data.len() + 1);
                array.push(b'[');
                // In the place of the last comma.
                array.extend_from_slice(data.get(..data.len().saturating_sub(1)).unwrap_or_default());
                array.push(b']');
                write(out, slice.next, &array);
                0
            }
            Self::Base64 => {
                write(out, slice.next, STANDARD.encode(&data).as_bytes());
                0
            }
            Self::Text => {
                let is_end = slice.is_tail && slice.head.closed;
                let waiting = if is_end { 0 } else { incomplete(&data) };
                let whole = data.get(..data.len() - waiting).unwrap_or_default();
                if !whole.is_empty() {
                    let next = Offset(slice.next.0 - waiting as u64);
                    write(out, next, String::from_utf8_lossy(whole).as_bytes());
                }
                waiting
            }
        }
    }
}

/// The number of bytes at the end that begin a character and do not complete it.
fn incomplete(data: &[u8]) -> usize {
    for length in 1..=data.len().min(3) {
        let tail = data.get(data.len() - length..).unwrap_or_default();
        match std::str::from_utf8(tail) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return length,
            _ => {}
        }
    }
    0
}

/// One stream, as a connection follows it.
pub(super) struct Follower {
    store: Arc<dyn StreamStore>,
    pub(super) path: StreamPath,
    watch: StreamWatch,
    /// The offset of the next byte.
    at: Offset,
    /// What was read before the head.
    first: Option<Slice>,
    /// The stream as it was read last.
    stream: Option<StreamHead>,
    pub(super) form: Form,
    cursor: Option<String>,
    clock: CursorClock,
    max_bytes: usize,
    /// Its place among several: its events name it.
    is_named: bool,
    /// There is something to write without a change.
    pub(super) is_due: bool,
    /// The closed stream's end was written.
    pub(super) is_complete: bool,
}

impl Follower {
    /// Reads the first slice, verified, so that errors have a status.
    pub(super) async fn open(
        api: &StreamsApi,
        path: StreamPath,
        from: ReadFrom,
        cursor: Option<String>,
        is_named: bool,
    ) -> Result<Self, StreamError> {
        let settings = &api.streams.settings;
        let store = Arc::clone(&api.streams.store);
        let watch = store.watch(&path);
        let max_bytes = CHUNK_BYTES.min(settings.max_answer_bytes).max(LEAST_READ);
        let first = store.read(&path, from, max_bytes, Freshness::Verified).await?;
        store.renew(&path, &first.head);
        Ok(Self {
            store,
            watch,
            at: first.start,
            form: Form::of(&first.head),
            first: Some(first),
            stream: None,
            cursor,
            clock: settings.cursor,
            max_bytes,
            is_named,
            is_due: true,
            is_complete: false,
            path,
        })
    }

    /// Waits until there may be something to write. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        if self.is_due {
            return;
        }
        if self.is_complete {
            std::future::pending::<()>().await;
        }
        let end = self.stream.as_ref().and_then(end_of);
        tokio::select! {
            () = self.watch.changed() => {}
            () = until(end) => {}
        }
    }

    async fn read(&mut self) -> Result<Slice, Close> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let read = self.store.read(&self.path, ReadFrom::At(self.at), self.max_bytes, Freshness::Known).await;
        let slice = read.map_err(|error| match error {
            StreamError::NotFound | StreamError::Gone | StreamError::Offset => Close::Ended("deleted"),
            StreamError::NotKept { .. } => Close::Ended("behind"),
            error => {
                tracing::warn!(
                    error = error.to_string(),
                    "a reader of a stream is cut off and has to come back"
                );
                Close::Ended("failed")
            }
        })?;
        // A new stream at the same path is another one.
        match &self.stream {
            Some(known) if known.id != slice.head.id => Err(Close::Ended("deleted")),
            _ => Ok(slice),
        }
    }

    /// Writes the next slice and its control event.
    pub(super) async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        let is_first = self.first.is_some();
        let slice = self.read().await?;
        if is_first && self.is_named {
            // Before the first data, as that may be in base64.
            self.stream = Some(slice.head.clone());
            self.write_control(out, false, false);
        }
        let has_data = slice.next != slice.start;
        let start = out.len();
        let waiting =
            if has_data { self.form.write(out, &slice, self.is_named.then_some(&self.path)) } else { 0 };
        let before = std::mem::replace(&mut self.at, Offset(slice.next.0 - waiting as u64));
        self.is_due = !slice.is_tail;
        self.is_complete = slice.is_tail && slice.head.closed;
        let is_tail = slice.is_tail;
        self.stream = Some(slice.head);
        if is_first || before != self.at || out.len() > start || self.is_complete {
            self.write_control(out, is_tail, self.is_complete);
        }
        Ok(())
    }

    /// Writes a sign of life, if nothing else is about to be written.
    pub(super) fn write_heartbeat(&self, out: &mut BytesMut) {
        if self.stream.is_some() && !self.is_due && !self.is_complete {
            self.write_control(out, true, false);
        }
    }

    fn write_control(&self, out: &mut BytesMut, is_tail: bool, is_closed: bool) {
        let next = self.at;
        let mut control = String::from("{");
        if self.is_named {
            let path = serde_json::Value::from(self.path.as_str());
            control.push_str(&format!("\"stream\":{path},"));
            if self.form == Form::Base64 {
                control.push_str("\"encoding\":\"base64\",");
            }
        }
        control.push_str(&format!("\"streamNextOffset\":\"{next}\""));
        if is_closed {
            control.push_str(",\"upToDate\":true,\"streamClosed\":true}");
        } else {
            let cursor = self.clock.cursor(self.cursor.as_deref(), Micros::now(), fastrand::u64(..));
            let up_to_date = if is_tail { ",\"upToDate\":true" } else { "" };
            control.push_str(&format!(",\"streamCursor\":\"{cursor}\"{up_to_date}}}"));
        }
        sse::write_plain_event(out, "control", control.as_bytes());
    }

    /// Writes that the stream has ended for another reason than its closing.
    pub(super) fn write_end(&mut self, out: &mut BytesMut, close: Close) {
        let path = serde_json::Value::from(self.path.as_str());
        let control = format!("{{\"stream\":{path},\"ended\":\"{}\"}}", close.name());
        sse::write_plain_event(out, "control", control.as_bytes());
        (self.is_due, self.is_complete) = (false, true);
    }
}

/// The events of a stream.
struct Source {
    follower: Follower,
    connection: Shared,
}

/// What sources of one and of many streams share.
pub(super) struct Shared {
    pub(super) ends_at: Instant,
    answers: Arc<MemoryBudget>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Shared {
    /// A place among the live readers.
    pub(super) fn new(state: &AppState, api: &StreamsApi) -> Result<Self, ApiError> {
        Ok(Self {
            _place: api.reader()?,
            ends_at: Instant::now() + LIFE.mul_f64(0.9 + 0.2 * fastrand::f64()),
            answers: Arc::clone(&api.answers),
            metrics: Arc::clone(&state.metrics),
        })
    }

    /// Waits until a chunk may be held.
    pub(super) async fn hold(&self, chunk: Bytes) -> Bytes {
        if chunk.len() <= SMALL_CHUNK_BYTES {
            return chunk;
        }
        let mut permit = MemoryPermit::new(&self.answers);
        // A client that waits for long is cut off by its connection's time.
        while permit.grow(chunk.len()).is_err() {
            tokio::time::sleep(HOLD_RETRY).await;
        }
        Bytes::from_owner(HeldChunk { chunk, _permit: permit })
    }

    pub(super) fn closed(&self, close: Close) {
        self.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }
}

impl EventSource for Source {
    async fn ready(&mut self) {
        if self.follower.is_complete {
            return;
        }
        tokio::select! {
            () = self.follower.ready() => {}
            () = tokio::time::sleep_until(self.connection.ends_at) => {}
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.follower.is_complete {
            return Err(Close::Ended("complete"));
        }
        if self.follower.stream.is_some() && Instant::now() >= self.connection.ends_at {
            return Err(Close::Ended("rotated"));
        }
        self.follower.write(out).await
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        self.follower.write_heartbeat(out);
        if out.is_empty() {
            sse::write_comment(out);
        }
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
        self.connection.hold(chunk).await
    }

    fn closed(&mut self, close: Close) {
        self.connection.closed(close);
    }
}

/// A chunk that counts against the memory of answers.
struct HeldChunk {
    chunk: Bytes,
    _permit: MemoryPermit,
}

impl AsRef<[u8]> for HeldChunk {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_not_whole_waits_and_other_bytes_do_not() {
        let euro = "€".as_bytes();
        assert_eq!(incomplete(b""), 0);
        assert_eq!(incomplete(b"a"), 0);
        assert_eq!((incomplete(euro), incomplete(&euro[..2]), incomplete(&euro[..1])), (0, 2, 1));
        assert_eq!(incomplete(&[b"a", &"😀".as_bytes()[..3]].concat()), 3);
        // No character begins so.
        assert_eq!((incomplete(b"\xff"), incomplete(b"\x80"), incomplete(b"\xc3a")), (0, 0, 0));
    }
}
