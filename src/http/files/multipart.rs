//! What `multer` is fed with: it holds whatever comes until it has found the end of a part's head, and takes all that is
//! ready at once. So it gets a piece at a time, small ones while a head is due, and not many of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::super::body::LimitedBody;
use super::super::error::ApiError;

/// The longest head of a part, in bytes, with what stands before it.
pub(super) const MAX_PART_HEAD_BYTES: u64 = 16 * 1024;
/// What is handed on at once while a head is due.
const HEAD_PIECE_BYTES: usize = 4 * 1024;
/// The longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

/// Bytes that may still come before a part's head is complete.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<AtomicU64>);

/// While content comes, there is no such bound.
const NO_BOUND: u64 = u64::MAX;

impl Pace {
    /// What comes now is a head.
    pub(super) fn expect_head(&self) {
        self.0.store(MAX_PART_HEAD_BYTES, Ordering::Relaxed);
    }

    /// What comes now is content.
    pub(super) fn expect_content(&self) {
        self.0.store(NO_BOUND, Ordering::Relaxed);
    }
}

/// A body in pieces.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    body: &'a mut LimitedBody,
    pace: Pace,
    /// What was not handed on yet.
    rest: Bytes,
    rests: bool,
    refusal: Option<ApiError>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(body: &'a mut LimitedBody, pace: &Pace) -> Self {
        let pace = pace.clone();
        Self { body, pace, rest: Bytes::new(), rests: false, refusal: None }
    }

    /// Why the body was given up, if it was.
    pub(super) fn take_refusal(mut self) -> Option<ApiError> {
        self.refusal.take().or_else(|| self.body.take_refusal())
    }
}

impl Stream for Pieces<'_> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if std::mem::take(&mut self.rests) {
            // multer takes whatever is ready; now it looks at what it has.
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

/// The boundary that a request's `Content-Type` names.
pub(super) fn boundary(content_type: Option<&HeaderValue>) -> Result<String, ApiError> {
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

/// The refusal of a body that is no multipart. What it has where it breaks off is not repeated.
pub(super) fn malformed(error: &multer::Error) -> ApiError {
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
        let said = |text: &str| boundary(Some(&HeaderValue::from_str(text).unwrap())).ok();
        assert_eq!(said("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(said("Multipart/Form-Data; charset=x; boundary=\"a b\"").as_deref(), Some("a b"));
        for bad in [
            "",
            "text/plain",
            "multipart/mixed; boundary=x",
            "multipart/form-data",
            "multipart/form-data; boundary=",
        ] {
            assert_eq!(said(bad), None, "{bad}");
        }
        assert_eq!(said(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
        assert!(boundary(None).is_err());
    }
}
