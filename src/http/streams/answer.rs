//! Answers with a part of a stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, VARY};
use tokio::time::Instant;

use super::StreamsApi;
use super::compression::Coding;
use super::headers::{
    STREAM_CLOSED, STREAM_CURSOR, STREAM_NEXT_OFFSET, STREAM_UP_TO_DATE, set_offset, set_true,
};
use super::metadata::describe;
use super::refusal::Refusal;
use crate::http::wire::body::MemoryPermit;
use crate::http::wire::error::ApiError;
use crate::http::wire::etag;
use crate::streams::body::json_array;
use crate::streams::{Freshness, ReadFrom, Slice, StreamHead, StreamPath};

/// The size from which answers count against their memory budget.
const SMALL_ANSWER_BYTES: usize = 16 * 1024;
/// The size of answers while most of the budget is in use.
const SHORT_ANSWER_BYTES: usize = 64 * 1024;
/// The size from which answers are compressed.
const COMPRESSED_BYTES: usize = 1024;
/// Seconds for which caches keep an answer, and for which they may use it while they fetch a new one (section 10.1).
const MAX_AGE_S: u64 = 60;
const STALE_S: u64 = 300;

/// Reads a slice of at most the size of answers, and takes its memory. While memory is short, answers are short too.
pub(super) async fn read_slice(
    api: &StreamsApi,
    path: &StreamPath,
    from: ReadFrom,
    freshness: Freshness,
) -> Result<(Slice, Option<MemoryPermit>), Refusal> {
    let store = &api.streams.store;
    let max_bytes = api.streams.settings.max_answer_bytes;
    let slice = store.read(path, from, max_bytes, freshness).await?;
    match take(api, &slice) {
        Ok(permit) => Ok((slice, permit)),
        Err(_) if bytes(&slice) > SHORT_ANSWER_BYTES => {
            drop(slice);
            let slice = store.read(path, from, max_bytes.min(SHORT_ANSWER_BYTES), freshness).await?;
            let permit = take(api, &slice)?;
            Ok((slice, permit))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

fn take(api: &StreamsApi, slice: &Slice) -> Result<Option<MemoryPermit>, ApiError> {
    let bytes = bytes(slice);
    if bytes <= SMALL_ANSWER_BYTES {
        return Ok(None);
    }
    let mut permit = MemoryPermit::new(&api.answers);
    let message = "too many answers are under way; try again later";
    let refuse = |_| ApiError::unavailable("overloaded", message, Duration::from_secs(1));
    permit.grow(bytes).map_err(refuse)?;
    Ok(Some(permit))
}

fn bytes(slice: &Slice) -> usize {
    slice.bytes.iter().map(Bytes::len).sum()
}

/// An answer with a slice.
pub(super) struct Answer<'a> {
    pub(super) api: &'a StreamsApi,
    pub(super) slice: Slice,
    pub(super) permit: Option<MemoryPermit>,
    /// Whether its request named no position, but the end.
    pub(super) is_now: bool,
    /// Of a live answer.
    pub(super) cursor: Option<u64>,
}

impl Answer<'_> {
    /// The answer to a request with these headers: 304 where its client has it.
    pub(super) fn respond(self, request: &HeaderMap) -> Response {
        let Self { api, slice, permit, is_now, cursor } = self;
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        describe(headers, &slice.head);
        position(headers, &slice);
        if let Some(cursor) = cursor {
            headers.insert(&STREAM_CURSOR, HeaderValue::from(cursor));
        }
        let length = bytes(&slice);
        let coding = (length >= COMPRESSED_BYTES && Coding::helps(slice.head.content_type.as_str()))
            .then(|| Coding::accepted(request))
            .flatten();
        if is_now {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        } else {
            headers.insert(CACHE_CONTROL, cache_control(&slice.head, api.streams.settings.is_public));
            let tag = tag(&slice);
            // The coded bytes differ from the others, and have the same meaning.
            let shown = if coding.is_some() { format!("W/{tag}") } else { tag.clone() };
            if let Ok(value) = HeaderValue::try_from(shown) {
                headers.insert(ETAG, value);
            }
            if cursor.is_none() && etag::is_known_tag(request, &tag) {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return response;
            }
        }
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        let parts = match slice.head.content_type.is_json() {
            true => json_array(slice.bytes),
            false => slice.bytes,
        };
        let body = PartsBody::new(parts, permit);
        *response.body_mut() = match coding {
            Some(coding) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
                coding.encode(body)
            }
            None => Body::new(body),
        };
        response
    }
}

/// Writes the position behind an answer, and whether it is the end.
pub(super) fn position(headers: &mut HeaderMap, slice: &Slice) {
    set_offset(headers, &STREAM_NEXT_OFFSET, slice.next);
    if slice.is_tail {
        set_true(headers, &STREAM_UP_TO_DATE);
        if slice.head.closed {
            set_true(headers, &STREAM_CLOSED);
        }
    }
}

/// The tag of a slice: its stream, which no other has, and its positions. It changes when the end is known to be one.
fn tag(slice: &Slice) -> String {
    let Slice { head, start, next, is_tail, .. } = slice;
    let closed = if *is_tail && head.closed { ":c" } else { "" };
    format!("\"{:x}-{}:{}:{}{closed}\"", head.id.0, head.generation, start.0, next.0)
}

/// How long caches keep an answer: never beyond the life of its stream.
fn cache_control(stream: &StreamHead, is_public: bool) -> HeaderValue {
    let who = if is_public { "public" } else { "private" };
    let left_s = stream.ends.map(|end| end.saturating_duration_since(Instant::now()).as_secs());
    let text = match left_s {
        Some(left_s) if left_s < MAX_AGE_S + STALE_S => format!("{who}, max-age={}", left_s.min(MAX_AGE_S)),
        _ => format!("{who}, max-age={MAX_AGE_S}, stale-while-revalidate={STALE_S}"),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("no-store"))
}

/// A body of several parts, which are shared and not copied.
#[derive(Debug)]
pub(super) struct PartsBody {
    parts: VecDeque<Bytes>,
    left: u64,
    _permit: Option<MemoryPermit>,
}

impl PartsBody {
    fn new(parts: Vec<Bytes>, permit: Option<MemoryPermit>) -> Self {
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into(), left, _permit: permit }
    }

    /// The next part.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        loop {
            let part = self.parts.pop_front()?;
            self.left -= part.len() as u64;
            if !part.is_empty() {
                return Some(part);
            }
        }
    }
}

impl hyper::body::Body for PartsBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
