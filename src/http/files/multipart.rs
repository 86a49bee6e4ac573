//! The input of `multer`: it buffers everything until the end of a part's head, and takes all bytes that are ready. It is
//! therefore fed one chunk at a time, small ones while a head is expected, and a bounded number of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::super::wire::body::LimitedBody;
use super::super::wire::error::ApiError;

/// The longest head of a part, in bytes, with the preceding boundary.
pub(in crate::http) const MAX_PART_HEAD_BYTES: u64 = 16 * 1024;
/// The size of a chunk while a head is expected.
const HEAD_PIECE_BYTES: usize = 4 * 1024;
/// The longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

/// Bytes that may still come before a part's head is complete.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct BytesReceived(Arc<AtomicU64>);

/// No bound while content is expected.
const NO_BOUND: u64 = u64::MAX;

impl BytesReceived {
    /// Expects a head from now on.
    pub(in crate::http) fn expect_head(&self) {
        self.0.store(MAX_PART_HEAD_BYTES, Ordering::Relaxed);
    }

    /// Expects content from now on.
    pub(in crate::http) fn expect_content(&self) {
        self.0.store(NO_BOUND, Ordering::Relaxed);
    }
}

/// A body in chunks.
#[derive(Debug)]
pub(in crate::http) struct PartChunks<'a> {
    body: &'a mut LimitedBody,
    pace: BytesReceived,
    /// Bytes not passed on yet.
    rest: Bytes,
    rests: bool,
    refusal: Option<ApiError>,
}

impl<'a> PartChunks<'a> {
    pub(in crate::http) fn new(body: &'a mut LimitedBody, pace: &BytesReceived) -> Self {
        let pace = pace.clone();
        Self { body, pace, rest: Bytes::new(), rests: false, refusal: None }
    }

    /// The reason why the body was rejected, if it was.
    pub(in crate::http) fn take_refusal(mut self) -> Option<ApiError> {
        self.refusal.take().or_else(|| self.body.take_refusal())
    }
}

impl Stream for PartChunks<'_> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if std::mem::take(&mut self.rests) {
            // multer takes all that is ready; now it parses that.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut *self.body).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(piece)) => self.rest = piece,
            }
        }
        self.rests = true;
        let bound = self.pace.0.load(Ordering::Relaxed);
        if bound == NO_BOUND {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
        }
        let length = self.rest.len().min(HEAD_PIECE_BYTES);
        let Some(bound) = bound.checked_sub(length as u64) else {
            let message = format!("a part's head is longer than {MAX_PART_HEAD_BYTES} bytes, or has no end");
            self.refusal = Some(ApiError::invalid(message).field("body"));
            return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
        };
        self.pace.0.store(bound, Ordering::Relaxed);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(piece)))
    }
}

/// The boundary in a request's `Content-Type`.
pub(in crate::http) fn boundary(content_type: Option<&HeaderValue>) -> Result<String, ApiError> {
    let declared = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    match multer::parse_boundary(declared) {
        Ok(boundary) if (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()) => Ok(boundary),
        Ok(_) | Err(multer::Error::NoBoundary) => {
            let message = "content-type has a boundary of 1 to 70 characters";
            Err(ApiError::invalid(message).field("content-type"))
        }
        Err(_) => {
            let message = "content-type takes multipart/form-data with a boundary";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(ApiError::new(status, "unsupported_media_type", message).field("content-type"))
        }
    }
}

/// The error for a malformed multipart body. The offending bytes are not quoted.
pub(in crate::http) fn malformed(error: &multer::Error) -> ApiError {
    let message = match error {
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            "the multipart body ends before its last boundary, or has none"
        }
        multer::Error::IncompleteHeaders
        | multer::Error::ReadHeaderFailed(_)
        | multer::Error::DecodeHeaderName { .. }
        | multer::Error::DecodeHeaderValue { .. } => "a part's head cannot be read",
        _ => "the multipart body cannot be read",
    };
    ApiError::invalid(message).field("body")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_of_multipart_form_data_and_not_too_long() {
        let parsed = |text: &str| boundary(Some(&HeaderValue::from_str(text).unwrap())).ok();
        assert_eq!(parsed("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(parsed("Multipart/Form-Data; charset=x; boundary=\"a b\"").as_deref(), Some("a b"));
        for bad in [
            "",
            "text/plain",
            "multipart/mixed; boundary=x",
            "multipart/form-data",
            "multipart/form-data; boundary=",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        assert_eq!(parsed(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
        assert!(boundary(None).is_err());
    }
}
