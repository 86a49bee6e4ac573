//! Request bodies, within limits of size, time and memory.
//!
//! A body that arrives in one piece with its head, as small events do, is used without a copy. Bodies that are gathered from
//! several pieces count against a [`MemoryBudget`]: many slow clients, or a few large bodies, together use no more memory than
//! the share of bodies in `MEMORY_BUDGET`.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use tokio::time::Sleep;

use super::error::ApiError;
use crate::ingest::occupancy::{Occupancy, Size};
use crate::ingest::text;

/// Time and bytes for which the rest of a rejected body is read.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024 * 1024;

/// A bound on the memory of concurrent requests.
#[derive(Debug)]
pub struct MemoryBudget {
    used: Occupancy,
    limit: u64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { used: Occupancy::default(), limit })
    }

    /// The bytes in use.
    pub fn used(&self) -> u64 {
        self.used.get().bytes
    }
}

/// A part of a [`MemoryBudget`], returned when it is dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryPermit {
    /// A permit for 0 bytes.
    pub fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// The budget that it is a part of.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// Adds `bytes`.
    ///
    /// # Errors
    ///
    /// 413 for more than the whole budget, 503 for more than is left of it.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = Size { events: 0, bytes: bytes as u64 };
        if self.bytes + more.bytes > self.budget.limit {
            let limit = self.budget.limit;
            return Err(ApiError::too_large(format!(
                "the request takes more than {limit} bytes (its share of MEMORY_BUDGET)"
            )));
        }
        if !self.budget.used.try_raise(more, Size { events: u64::MAX, bytes: self.budget.limit }) {
            let message = "too many request bodies are under way; try again later";
            return Err(ApiError::unavailable("overloaded", message, Duration::from_secs(1)));
        }
        self.bytes += more.bytes;
        Ok(())
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.budget.used.lower(Size { events: 0, bytes: self.bytes });
    }
}

/// Limits of one body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The maximum size in bytes.
    pub bytes: usize,
    /// The setting of that size, for the error message.
    pub setting: &'static str,
    /// When an incomplete body is rejected.
    pub deadline: Instant,
}

impl BodyLimits {
    /// The error for a larger body.
    pub fn too_large(&self) -> ApiError {
        ApiError::too_large(format!("the body is larger than {} bytes ({})", self.bytes, self.setting))
    }
}

/// A body as hyper delivers it, or wrapped by the router.
#[derive(Debug)]
pub enum BodySource {
    /// From hyper.
    Direct(Incoming),
    /// Through the router.
    Routed(axum::body::Body),
}

impl BodySource {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self {
            Self::Direct(body) => Pin::new(body).poll_frame(cx).map_err(|_| BrokenBody),
            Self::Routed(body) => Pin::new(body).poll_frame(cx).map_err(|_| BrokenBody),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    /// The minimum number of bytes still to arrive.
    fn announced(&self) -> u64 {
        match self {
            Self::Direct(body) => body.size_hint().lower(),
            Self::Routed(body) => body.size_hint().lower(),
        }
    }
}

impl From<Incoming> for BodySource {
    fn from(body: Incoming) -> Self {
        Self::Direct(body)
    }
}

impl From<axum::body::Body> for BodySource {
    fn from(body: axum::body::Body) -> Self {
        Self::Routed(body)
    }
}

/// The body ended early.
struct BrokenBody;

/// A body that arrives in pieces, within its limits.
#[derive(Debug)]
pub struct LimitedBody {
    incoming: BodySource,
    limits: BodyLimits,
    read: usize,
    /// Started by the first wait for the body.
    timer: Option<Pin<Box<Sleep>>>,
    refusal: Option<ApiError>,
    /// The client waits for `100 Continue`, which the first read sends.
    awaits_continue: bool,
    /// Bytes a second; a body that arrives at this rate has no other limit of time.
    min_rate: Option<u64>,
    /// Bytes that the deadline was not yet extended for.
    unpaid: u64,
}

impl LimitedBody {
    /// A body. The first read rejects one with a larger `Content-Length` than its limit.
    pub fn new(head: &Parts, incoming: impl Into<BodySource>, limits: BodyLimits) -> Self {
        let awaits_continue = head.headers.contains_key(EXPECT);
        Self {
            incoming: incoming.into(),
            limits,
            read: 0,
            timer: None,
            refusal: None,
            awaits_continue,
            min_rate: None,
            unpaid: 0,
        }
    }

    /// Extends the deadline with each piece from now on, by the piece's time at `bytes_a_second`.
    pub fn keep_rate(&mut self, bytes_a_second: u64) {
        self.min_rate = Some(bytes_a_second.max(1));
    }

    /// The limits.
    pub fn limits(&self) -> BodyLimits {
        self.limits
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        poll_fn(|cx| self.poll_piece(cx)).await.transpose()
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        if self.read == 0 && self.incoming.announced() > self.limits.bytes as u64 {
            return Poll::Ready(Some(Err(self.limits.too_large())));
        }
        loop {
            if self.incoming.is_end_stream() {
                return Poll::Ready(None);
            }
            let frame = match self.incoming.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(BrokenBody))) => {
                    return Poll::Ready(Some(Err(ApiError::invalid("the body broke off before its end"))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let deadline = self.limits.deadline;
                    let timer =
                        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
                    ready!(timer.as_mut().poll(cx));
                    let message = "the body took too long (BODY_TIMEOUT_S)";
                    let refusal = ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message);
                    return Poll::Ready(Some(Err(refusal)));
                }
            };
            // Trailers are ignored.
            let Ok(data) = frame.into_data() else { continue };
            self.read += data.len();
            if self.read > self.limits.bytes {
                return Poll::Ready(Some(Err(self.limits.too_large())));
            }
            self.extend_deadline(data.len());
            return Poll::Ready(Some(Ok(data)));
        }
    }

    /// Lowers the size limit below that of the route. Must be called before the first read.
    pub fn lower_limit(&mut self, bytes: usize, setting: &'static str) {
        if bytes < self.limits.bytes {
            (self.limits.bytes, self.limits.setting) = (bytes, setting);
        }
    }

    /// The minimum number of bytes still to arrive.
    pub fn announced(&self) -> u64 {
        self.incoming.announced()
    }

    /// Extends the deadline for a piece, if the body has a minimum rate.
    fn extend_deadline(&mut self, bytes: usize) {
        let Some(rate) = self.min_rate else { return };
        self.unpaid += bytes as u64;
        let milliseconds = self.unpaid.saturating_mul(1000) / rate;
        if milliseconds > 0 {
            self.unpaid = 0;
            self.limits.deadline += Duration::from_millis(milliseconds);
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(self.limits.deadline.into());
            }
        }
    }

    /// Whether the whole body has been read.
    pub fn is_at_end(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// The error that ended the stream.
    pub fn take_refusal(&mut self) -> Option<ApiError> {
        self.refusal.take()
    }

    /// Reads and drops the rest of a rejected body, for a short time. Closing a connection with unread bytes resets it, and the
    /// client would not receive the answer.
    pub async fn discard(&mut self) {
        // Without `100 Continue` the client has sent nothing, and will not.
        if self.awaits_continue && self.read == 0 {
            return;
        }
        let mut read = 0;
        let _gave_up = tokio::time::timeout(LINGER, async {
            while read < LINGER_BYTES
                && let Some(Ok(frame)) = poll_fn(|cx| self.incoming.poll_frame(cx)).await
            {
                read += frame.data_ref().map_or(0, Bytes::len);
            }
        })
        .await;
    }
}

/// For decoders, which read through `io`: [`LimitedBody::take_refusal`] returns the error.
impl Stream for LimitedBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_piece(cx).map(|piece| {
            piece.map(|piece| {
                piece.map_err(|refusal| {
                    self.refusal = Some(refusal);
                    io::ErrorKind::InvalidData.into()
                })
            })
        })
    }
}

/// A whole body, with its memory permit.
#[derive(Debug)]
pub struct WholeBody {
    bytes: Bytes,
    permit: Option<MemoryPermit>,
}

impl WholeBody {
    /// A body that was gathered from several pieces.
    pub fn gathered(bytes: Vec<u8>, permit: MemoryPermit) -> Self {
        Self { bytes: bytes.into(), permit: Some(permit) }
    }

    /// Bytes that were made of a body, which count against `budget`.
    pub fn gathered_within(bytes: Vec<u8>, budget: &Arc<MemoryBudget>) -> Result<Self, ApiError> {
        let mut permit = MemoryPermit::new(budget);
        permit.grow(bytes.len())?;
        Ok(Self::gathered(bytes, permit))
    }

    /// A body that arrived in one piece with its head.
    fn piece(bytes: Bytes) -> Self {
        Self { bytes, permit: None }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The memory permit; the bytes are dropped.
    pub fn into_permit(self) -> Option<MemoryPermit> {
        self.permit
    }

    /// The body without a byte-order mark at its start.
    pub fn without_mark(mut self) -> Self {
        if self.bytes.starts_with(text::MARK) {
            self.bytes = self.bytes.split_off(text::MARK.len());
        }
        self
    }
}

impl std::ops::Deref for WholeBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer's body that counts against a memory budget until the client has read it.
#[derive(Debug)]
pub struct CountedBody {
    bytes: Bytes,
    _permit: MemoryPermit,
}

impl CountedBody {
    /// A body of `bytes`, which `permit` is for.
    pub fn new(bytes: Vec<u8>, permit: MemoryPermit) -> Self {
        Self { bytes: bytes.into(), _permit: permit }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // In pieces, so that hyper's own buffers stay small.
        let piece = self.bytes.len().min(FRAME_BYTES);
        let piece = self.bytes.split_to(piece);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Bytes of each frame of a [`CountedBody`].
const FRAME_BYTES: usize = 256 * 1024;

/// Reads a whole body.
pub async fn read_whole(body: &mut LimitedBody, budget: &Arc<MemoryBudget>) -> Result<WholeBody, ApiError> {
    let Some(first) = body.next().await? else {
        return Ok(WholeBody::piece(Bytes::new()));
    };
    if body.is_at_end() {
        return Ok(WholeBody::piece(first));
    }
    let mut permit = MemoryPermit::new(budget);
    permit.grow(first.len())?;
    let mut whole = first.to_vec();
    drop(first);
    while let Some(piece) = body.next().await? {
        permit.grow(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(WholeBody::gathered(whole, permit))
}
