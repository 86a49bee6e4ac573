//! A body that a fault changes while it is sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Frame, SizeHint};

use crate::faults::{BodyFault, Corruption};
use crate::http::server::ConnectionHandle;
use crate::http::wire::sse;

/// The body of an answer with an injected event, flipped bits, or a cut.
///
/// Flipping does not change the length. The `Content-Length` of a cut body remains that of the whole body: the connection
/// ends after the last byte before the cut, so that the client receives an incomplete answer (RFC 9112, section 8). A body
/// that is not longer than the cut is sent whole.
pub(super) struct FaultyBody {
    inner: Body,
    /// Sent first.
    event: Option<Bytes>,
    corruption: Option<Corruption>,
    /// Bytes that still go out before the cut.
    left: Option<u64>,
    cuts_by_reset: bool,
    was_cut: bool,
    connection: ConnectionHandle,
}

impl FaultyBody {
    pub(super) fn new(
        inner: Body,
        fault: BodyFault,
        cuts_by_reset: bool,
        connection: ConnectionHandle,
    ) -> Self {
        let event = fault.event.map(|event| {
            let mut bytes = BytesMut::new();
            let fields =
                sse::Fields { id: event.id.as_deref(), event: event.event.as_deref(), retry_ms: None };
            sse::write_event(&mut bytes, fields, event.data.as_bytes());
            bytes.freeze()
        });
        Self {
            inner,
            event,
            corruption: fault.corruption.map(Corruption::new),
            left: fault.cut_at,
            cuts_by_reset,
            was_cut: false,
            connection,
        }
    }

    /// The remaining bytes, as far as they are known.
    fn total(&self) -> SizeHint {
        let before = self.event.as_ref().map_or(0, |event| event.len() as u64);
        let mut hint = self.inner.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(before));
        }
        hint.set_lower(hint.lower().saturating_add(before));
        hint
    }

    fn corrupted(&mut self, piece: Bytes) -> Bytes {
        let Some(corruption) = &mut self.corruption else { return piece };
        let mut bytes = piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        corruption.flip(&mut bytes);
        bytes.freeze()
    }

    /// The part of a piece before the cut.
    fn shortened(&mut self, mut piece: Bytes) -> Bytes {
        let Some(left) = &mut self.left else { return piece };
        let length = piece.len() as u64;
        if length > *left {
            piece.truncate(*left as usize);
            self.was_cut = true;
            // In time, as hyper buffers this piece before it flushes.
            self.connection.cut(self.cuts_by_reset);
        }
        *left -= piece.len() as u64;
        piece
    }
}

impl hyper::body::Body for FaultyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.was_cut {
            // The connection ends after its buffer is sent; nothing has to wake this again.
            return Poll::Pending;
        }
        let piece = match self.event.take() {
            Some(event) => event,
            None => match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => piece,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            },
        };
        let piece = self.corrupted(piece);
        let piece = self.shortened(piece);
        if self.was_cut && piece.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.event.is_none() && !self.was_cut && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.total()
    }
}
