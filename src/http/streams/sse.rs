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
use crate::http::wire::sse;
use crate::observe::Metrics;
use crate::streams::{
    CursorClock, Freshness, Offset, ReadFrom, Slice, StreamError, StreamHead, StreamPath, StreamStore,
    StreamWatch,
};
use crate::time::Micros;

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
    let place = api.reader()?;
    let settings = &api.streams.settings;
    let store = Arc::clone(&api.streams.store);
    let watch = store.watch(&path);
    let max_bytes = CHUNK_BYTES.min(settings.max_answer_bytes).max(LEAST_READ);
    let first = store.read(&path, from, max_bytes, Freshness::Verified).await?;
    store.renew(&path, &first.head);
    let form = Form::of(&first.head);
    let source = Source {
        store,
        watch,
        at: first.start,
        first: Some(first),
        form,
        cursor,
        clock: settings.cursor,
        max_bytes,
        is_due: true,
        is_complete: false,
        ends_at: Instant::now() + LIFE.mul_f64(0.9 + 0.2 * fastrand::f64()),
        stream: None,
        answers: Arc::clone(&api.answers),
        metrics: Arc::clone(&state.metrics),
        _place: place,
        path,
    };
    let requirements = vec![Requirement::Stream(Scope::StreamsRead, source.path.as_str().into())];
    let stream = EventStream {
        connection,
        heartbeat: settings.heartbeat,
        access: Some(StreamAccess { proof: Proof::Headers(headers), requirements }),
        retry_ms: None,
        state,
    };
    let mut response = stream.respond(source);
    if form == Form::Base64 {
        response.headers_mut().insert(&STREAM_SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
    }
    Ok(response)
}

/// The form of data in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
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

    /// Writes the bytes of a slice as the data of an event; returns the number of bytes at their end that have to wait.
    fn write(self, out: &mut BytesMut, slice: &Slice) -> usize {
        let data = slice.bytes.concat();
        match self {
            Self::Json => {
                let mut array = Vec::with_capacity(data.len() + 1);
                array.push(b'[');
                // In the place of the last comma.
                array.extend_from_slice(data.get(..data.len().saturating_sub(1)).unwrap_or_default());
                array.push(b']');
                sse::write_plain_event(out, "data", &array);
                0
            }
            Self::Base64 => {
                sse::write_plain_event(out, "data", STANDARD.encode(&data).as_bytes());
                0
            }
            Self::Text => {
                let is_end = slice.is_tail && slice.head.closed;
                let waiting = if is_end { 0 } else { incomplete(&data) };
                let whole = data.get(..data.len() - waiting).unwrap_or_default();
                if !whole.is_empty() {
                    sse::write_plain_event(out, "data", String::from_utf8_lossy(whole).as_bytes());
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

/// The events of a stream.
struct Source {
    store: Arc<dyn StreamStore>,
    path: StreamPath,
    watch: StreamWatch,
    /// The offset of the next byte.
    at: Offset,
    /// What was read before the head.
    first: Option<Slice>,
    /// The stream as it was read last.
    stream: Option<StreamHead>,
    form: Form,
    cursor: Option<String>,
    clock: CursorClock,
    max_bytes: usize,
    /// There is something to write without a change.
    is_due: bool,
    /// The closed stream's end was written.
    is_complete: bool,
    ends_at: Instant,
    answers: Arc<MemoryBudget>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Source {
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

    fn write_control(&self, out: &mut BytesMut, is_tail: bool, is_closed: bool) {
        let next = self.at;
        let control = if is_closed {
            format!("{{\"streamNextOffset\":\"{next}\",\"upToDate\":true,\"streamClosed\":true}}")
        } else {
            let cursor = self.clock.cursor(self.cursor.as_deref(), Micros::now(), fastrand::u64(..));
            let up_to_date = if is_tail { ",\"upToDate\":true" } else { "" };
            format!("{{\"streamNextOffset\":\"{next}\",\"streamCursor\":\"{cursor}\"{up_to_date}}}")
        };
        sse::write_plain_event(out, "control", control.as_bytes());
    }
}

impl EventSource for Source {
    async fn ready(&mut self) {
        if self.is_due || self.is_complete {
            return;
        }
        let end = self.stream.as_ref().and_then(end_of);
        tokio::select! {
            () = self.watch.changed() => {}
            () = until(end) => {}
            () = tokio::time::sleep_until(self.ends_at) => {}
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.is_complete {
            return Err(Close::Ended("complete"));
        }
        if self.first.is_none() && Instant::now() >= self.ends_at {
            return Err(Close::Ended("rotated"));
        }
        let is_first = self.first.is_some();
        let slice = self.read().await?;
        let has_data = slice.next != slice.start;
        let waiting = if has_data { self.form.write(out, &slice) } else { 0 };
        let before = std::mem::replace(&mut self.at, Offset(slice.next.0 - waiting as u64));
        self.is_due = !slice.is_tail;
        self.is_complete = slice.is_tail && slice.head.closed;
        if is_first || before != self.at || self.is_complete {
            self.write_control(out, slice.is_tail, self.is_complete);
        }
        self.stream = Some(slice.head);
        Ok(())
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        if self.stream.is_some() && !self.is_due && !self.is_complete {
            self.write_control(out, true, false);
        } else {
            sse::write_comment(out);
        }
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
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

    fn closed(&mut self, close: Close) {
        self.metrics.follows_closed.with_label_values(&[close.name()]).inc();
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
