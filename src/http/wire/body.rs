//! Reading request bodies within limits of size, time and memory.
//!
//! A body that comes in one piece with its head, as small events do, is taken as it is. Whatever has to be gathered is
//! counted against [`BodyMemory`] while it is held: so many slow clients, or a few large bodies, cannot take more memory
//! than `MAX_BODY_MEMORY` together.

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

/// How long, and up to how many bytes, the rest of a refused body is read.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024 * 1024;

/// The bytes of all request bodies under way.
#[derive(Debug)]
pub struct BodyMemory {
    held: Occupancy,
    limit: u64,
}

impl BodyMemory {
    /// Nothing held, of at most `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { held: Occupancy::default(), limit })
    }

    /// The bytes held.
    pub fn held(&self) -> u64 {
        self.held.get().bytes
    }
}

/// A part of [`BodyMemory`]; given back when dropped.
#[derive(Debug)]
pub struct BodyShare {
    memory: Arc<BodyMemory>,
    bytes: u64,
}

impl BodyShare {
    /// Nothing yet.
    pub fn new(memory: &Arc<BodyMemory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Takes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = Size { events: 0, bytes: bytes as u64 };
        if self.bytes + more.bytes > self.memory.limit {
            let limit = self.memory.limit;
            return Err(ApiError::too_large(format!(
                "the request takes more than {limit} bytes (MAX_BODY_MEMORY)"
            )));
        }
        if !self.memory.held.try_raise(more, Size { events: u64::MAX, bytes: self.memory.limit }) {
            let message = "too many request bodies are under way; try again later";
            return Err(ApiError::unavailable("overloaded", message, Duration::from_secs(1)));
        }
        self.bytes += more.bytes;
        Ok(())
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.memory.held.lower(Size { events: 0, bytes: self.bytes });
    }
}

/// How much of a body is read, and until when.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The most bytes.
    pub bytes: usize,
    /// The variable that sets it, for the refusal.
    pub setting: &'static str,
    /// When a body that is still coming is given up.
    pub deadline: Instant,
}

impl BodyLimits {
    /// The refusal of a body that is too large.
    pub fn too_large(&self) -> ApiError {
        ApiError::too_large(format!("the body is larger than {} bytes ({})", self.bytes, self.setting))
    }
}

/// Where a body comes from: hyper itself, or the router, which wraps what hyper gave it.
#[derive(Debug)]
pub enum Source {
    /// From hyper.
    Direct(Incoming),
    /// Through the router.
    Routed(axum::body::Body),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Direct(body) => Pin::new(body).poll_frame(cx).map_err(|_| Broken),
            Self::Routed(body) => Pin::new(body).poll_frame(cx).map_err(|_| Broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    /// The fewest bytes that are to come.
    fn announced(&self) -> u64 {
        match self {
            Self::Direct(body) => body.size_hint().lower(),
            Self::Routed(body) => body.size_hint().lower(),
        }
    }
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self::Direct(body)
    }
}

impl From<axum::body::Body> for Source {
    fn from(body: axum::body::Body) -> Self {
        Self::Routed(body)
    }
}

/// The body ended before its end.
struct Broken;

/// A body as it comes, within its limits.
#[derive(Debug)]
pub struct LimitedBody {
    incoming: Source,
    limits: BodyLimits,
    read: usize,
    /// Runs only once the body lets us wait.
    timer: Option<Pin<Box<Sleep>>>,
    refusal: Option<ApiError>,
    /// The client waits for `100 Continue`, which the first read sends.
    awaits_continue: bool,
    /// Bytes a second; a body that keeps to it may take as long as it is large.
    min_rate: Option<u64>,
    /// Bytes that came since time was last given for them.
    unpaid: u64,
}

impl LimitedBody {
    /// A body; one that announces itself as too large is refused by its first read.
    pub fn new(head: &Parts, incoming: impl Into<Source>, limits: BodyLimits) -> Self {
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

    /// From now on each piece gives the body more time: as much as it takes at `bytes_a_second`.
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
                Poll::Ready(Some(Err(Broken))) => {
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
            // Trailers are not looked at.
            let Ok(data) = frame.into_data() else { continue };
            self.read += data.len();
            if self.read > self.limits.bytes {
                return Poll::Ready(Some(Err(self.limits.too_large())));
            }
            self.give_time(data.len());
            return Poll::Ready(Some(Ok(data)));
        }
    }

    /// Takes fewer bytes than its route would. Has to be called before the first read.
    pub fn lower_limit(&mut self, bytes: usize, setting: &'static str) {
        if bytes < self.limits.bytes {
            (self.limits.bytes, self.limits.setting) = (bytes, setting);
        }
    }

    /// The fewest bytes that are to come.
    pub fn announced(&self) -> u64 {
        self.incoming.announced()
    }

    /// Gives the body time for a piece, if it has a rate to keep.
    fn give_time(&mut self, bytes: usize) {
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

    /// The refusal that ended the stream.
    pub fn take_refusal(&mut self) -> Option<ApiError> {
        self.refusal.take()
    }

    /// Reads the rest of a refused body and throws it away, for a short while: closing a connection with unread bytes
    /// resets it, and the client would not see the answer.
    pub async fn discard(&mut self) {
        // A client that was not told to go on has sent nothing, and will not.
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

/// For decoders, which read through `io`: a refusal is kept aside and named by [`LimitedBody::take_refusal`].
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

/// A whole body. The share of memory that it took lives as long as it does.
#[derive(Debug)]
pub struct WholeBody {
    bytes: Bytes,
    _share: Option<BodyShare>,
}

impl WholeBody {
    /// A body that was gathered.
    pub fn gathered(bytes: Vec<u8>, share: BodyShare) -> Self {
        Self { bytes: bytes.into(), _share: Some(share) }
    }

    /// A body that came in one piece with its head.
    fn piece(bytes: Bytes) -> Self {
        Self { bytes, _share: None }
    }
}

impl WholeBody {
    /// The bytes, sharing what holds them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
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

/// An answer's body that is held until the client has read it, counted meanwhile.
#[derive(Debug)]
pub struct HeldBody {
    bytes: Bytes,
    _share: BodyShare,
}

impl HeldBody {
    /// These bytes, for which `share` was taken.
    pub fn new(bytes: Vec<u8>, share: BodyShare) -> Self {
        Self { bytes: bytes.into(), _share: share }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // In pieces, so that what is held elsewhere on the way out stays small.
        let piece = self.bytes.len().min(HELD_PIECE_BYTES);
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

/// What a [`HeldBody`] hands out at a time.
const HELD_PIECE_BYTES: usize = 256 * 1024;

/// Reads a whole body.
pub async fn read_whole(body: &mut LimitedBody, memory: &Arc<BodyMemory>) -> Result<WholeBody, ApiError> {
    let Some(first) = body.next().await? else {
        return Ok(WholeBody::piece(Bytes::new()));
    };
    if body.is_at_end() {
        return Ok(WholeBody::piece(first));
    }
    let mut share = BodyShare::new(memory);
    share.grow(first.len())?;
    let mut whole = first.to_vec();
    drop(first);
    while let Some(piece) = body.next().await? {
        share.grow(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(WholeBody::gathered(whole, share))
}
