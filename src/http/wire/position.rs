//! `X-Feed-Position`: the position from which `/api/events/stream` goes on behind what an answer shows.

use axum::response::Response;
use hyper::header::{HeaderName, HeaderValue};

use super::error::ApiError;
use crate::realtime::Position;

static X_FEED_POSITION: HeaderName = HeaderName::from_static("x-feed-position");

/// Adds the position of the snapshot that an answer was read in.
pub(in crate::http) fn add(response: &mut Response, position: &Position) -> Result<(), ApiError> {
    let position = HeaderValue::try_from(position.to_string()).map_err(|_| ApiError::internal())?;
    response.headers_mut().insert(&X_FEED_POSITION, position);
    Ok(())
}
