//! The protocol's headers.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use crate::http::wire::error::ApiError;
use crate::streams::{Offset, ProducerState};

pub(super) static STREAM_NEXT_OFFSET: HeaderName = HeaderName::from_static("stream-next-offset");
pub(super) static STREAM_UP_TO_DATE: HeaderName = HeaderName::from_static("stream-up-to-date");
pub(super) static STREAM_CURSOR: HeaderName = HeaderName::from_static("stream-cursor");
pub(super) static STREAM_CLOSED: HeaderName = HeaderName::from_static("stream-closed");
pub(super) static STREAM_SEQ: HeaderName = HeaderName::from_static("stream-seq");
pub(super) static STREAM_TTL: HeaderName = HeaderName::from_static("stream-ttl");
pub(super) static STREAM_EXPIRES_AT: HeaderName = HeaderName::from_static("stream-expires-at");
pub(super) static STREAM_FORKED_FROM: HeaderName = HeaderName::from_static("stream-forked-from");
pub(super) static STREAM_FORK_OFFSET: HeaderName = HeaderName::from_static("stream-fork-offset");
pub(super) static STREAM_FORK_SUB_OFFSET: HeaderName = HeaderName::from_static("stream-fork-sub-offset");
pub(super) static STREAM_RETENTION: HeaderName = HeaderName::from_static("stream-retention");
pub(super) static STREAM_COMPACTION: HeaderName = HeaderName::from_static("stream-compaction");
pub(super) static STREAM_FIRST_OFFSET: HeaderName = HeaderName::from_static("stream-first-offset");
pub(super) static STREAM_SSE_DATA_ENCODING: HeaderName = HeaderName::from_static("stream-sse-data-encoding");
pub(super) static PRODUCER_ID: HeaderName = HeaderName::from_static("producer-id");
pub(super) static PRODUCER_EPOCH: HeaderName = HeaderName::from_static("producer-epoch");
pub(super) static PRODUCER_SEQ: HeaderName = HeaderName::from_static("producer-seq");
pub(super) static PRODUCER_EXPECTED_SEQ: HeaderName = HeaderName::from_static("producer-expected-seq");
pub(super) static PRODUCER_RECEIVED_SEQ: HeaderName = HeaderName::from_static("producer-received-seq");

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The text of a header.
///
/// # Errors
///
/// 400: it is repeated, or not visible ASCII.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse =
        |message: &str| ApiError::invalid(format!("{name} {message}")).field(name.as_str().to_owned());
    if values.next().is_some() {
        return Err(refuse("is repeated"));
    }
    value.to_str().map(Some).map_err(|_| refuse("takes ASCII"))
}

/// Whether `Stream-Closed` is `true`, in any case. Any other value is ignored (section 4.1).
pub(super) fn closes(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&STREAM_CLOSED).iter();
    let is_true = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"true");
    values.next().is_some_and(is_true) && values.all(is_true)
}

pub(super) fn set_offset(headers: &mut HeaderMap, name: &HeaderName, offset: Offset) {
    if let Ok(value) = HeaderValue::try_from(offset.to_string()) {
        headers.insert(name, value);
    }
}

pub(super) fn set_true(headers: &mut HeaderMap, name: &HeaderName) {
    headers.insert(name, TRUE);
}

pub(super) fn set_producer(headers: &mut HeaderMap, producer: Option<ProducerState>) {
    if let Some(ProducerState { epoch, seq }) = producer {
        headers.insert(&PRODUCER_EPOCH, HeaderValue::from(epoch));
        headers.insert(&PRODUCER_SEQ, HeaderValue::from(seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_closed_is_true_in_any_case_and_nothing_else() {
        let closes = |values: &[&'static str]| {
            let pairs = values.iter().map(|value| (STREAM_CLOSED.clone(), HeaderValue::from_static(value)));
            closes(&pairs.fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            }))
        };
        assert!(["true", "TRUE", "True", " true "].iter().all(|value| closes(&[value])));
        assert!(!["false", "yes", "1", "", "truex", "true, true"].iter().any(|value| closes(&[value])));
        assert!(!closes(&[]) && !closes(&["true", "false"]) && closes(&["true", "true"]));
    }
}
