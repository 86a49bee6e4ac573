//! Reading what the operators' routes take: queries, JSON bodies, times.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::ApiError;

/// A body of JSON; anything wrong with it is a 400 that says what.
pub(super) fn json<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        hyper::StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large("the body is larger than 2 MiB"),
        _ => ApiError::invalid("the body broke off before its end"),
    })?;
    serde_json::from_slice(&body).map_err(|error| ApiError::invalid(format!("the body: {error}")))
}

/// A time of RFC 3339, in microseconds of Unix time.
pub(super) fn time_us(text: &str, field: &'static str) -> Result<i64, ApiError> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => Ok((time.unix_timestamp_nanos() / 1000) as i64),
        Err(_) => {
            let message = format!("{field} takes a time such as 2026-01-31T12:00:00Z (RFC 3339)");
            Err(ApiError::invalid(message).field(field))
        }
    }
}
