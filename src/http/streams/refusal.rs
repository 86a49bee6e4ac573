//! Errors of streams, with the headers that the protocol wants.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderValue};

use super::headers::{
    PRODUCER_EPOCH, PRODUCER_EXPECTED_SEQ, PRODUCER_RECEIVED_SEQ, STREAM_CLOSED, STREAM_FIRST_OFFSET,
    STREAM_NEXT_OFFSET, set_offset, set_true,
};
use crate::db::DbError;
use crate::http::wire::error::ApiError;
use crate::streams::{Offset, StreamError};

/// After a shortage that may pass in a moment.
const RETRY: Duration = Duration::from_secs(1);

/// A refusal with headers.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: ApiError,
    headers: Option<Box<HeaderMap>>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, headers: None }
    }
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        let message = error.to_string();
        let mut headers = HeaderMap::new();
        let conflict = |code, field: Option<&'static str>| {
            let refusal = ApiError::new(StatusCode::CONFLICT, code, message.clone());
            match field {
                Some(field) => refusal.field(field),
                None => refusal,
            }
        };
        let error = match error {
            StreamError::NotFound => ApiError::new(StatusCode::NOT_FOUND, "not_found", message),
            StreamError::ForkSource => {
                ApiError::new(StatusCode::NOT_FOUND, "not_found", message).field("stream-forked-from")
            }
            StreamError::Gone => ApiError::new(StatusCode::GONE, "gone", message),
            StreamError::NotKept { first } => {
                set_offset(&mut headers, &STREAM_FIRST_OFFSET, first);
                ApiError::new(StatusCode::GONE, "not_kept", message).field("offset")
            }
            StreamError::Exists | StreamError::PathKept => conflict("conflict", None),
            StreamError::ForkSourceGone => conflict("conflict", Some("stream-forked-from")),
            StreamError::ContentType | StreamError::ForkContentType => {
                conflict("content_type_mismatch", Some("content-type"))
            }
            StreamError::Seq => conflict("sequence_conflict", Some("stream-seq")),
            StreamError::Closed { next } => {
                closed(&mut headers, next);
                conflict("stream_closed", None)
            }
            StreamError::ProducerGap { expected, received } => {
                headers.insert(&PRODUCER_EXPECTED_SEQ, HeaderValue::from(expected));
                headers.insert(&PRODUCER_RECEIVED_SEQ, HeaderValue::from(received));
                conflict("sequence_gap", Some("producer-seq"))
            }
            StreamError::StaleEpoch { current } => {
                headers.insert(&PRODUCER_EPOCH, HeaderValue::from(current));
                ApiError::forbidden("stale_epoch", message).field("producer-epoch")
            }
            StreamError::EpochStart => ApiError::invalid(message).field("producer-seq"),
            StreamError::ForkOffset => ApiError::invalid(message).field("stream-fork-offset"),
            StreamError::ForkSubOffset => ApiError::invalid(message).field("stream-fork-sub-offset"),
            StreamError::Compaction => ApiError::invalid(message).field("stream-compaction"),
            StreamError::Offset => ApiError::invalid(message).field("offset"),
            StreamError::TooLong => ApiError::too_large(message),
            StreamError::Full => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "memory_full", message),
            StreamError::Overloaded => ApiError::unavailable("overloaded", message, RETRY),
            // Its outcome was looked for already.
            StreamError::Database(error) if matches!(*error, DbError::OutcomeUnknown) => {
                let message =
                    "the outcome of the request is unknown; an append is repeated safely by a producer";
                ApiError::unavailable("outcome_unknown", message, RETRY)
            }
            StreamError::Database(error) => ApiError::from(&*error),
        };
        Self { error, headers: (!headers.is_empty()).then(|| Box::new(headers)) }
    }
}

/// Of an append to a closed stream: clients see by them that it is at its end.
fn closed(headers: &mut HeaderMap, next: Offset) {
    set_true(headers, &STREAM_CLOSED);
    set_offset(headers, &STREAM_NEXT_OFFSET, next);
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.error.into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(own) = self.headers {
            headers.extend(*own);
        }
        response
    }
}
