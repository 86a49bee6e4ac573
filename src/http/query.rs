//! Reading what routes take: queries, small JSON bodies, times; and links to the pages of a list.

use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
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

/// All parameters, in their order.
pub(super) fn parameters(
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Vec<(String, String)>, ApiError> {
    let Query(parameters) =
        parameters.map_err(|_| ApiError::invalid("the query cannot be read").field("query"))?;
    Ok(parameters)
}

/// Nothing goes by this name. Only the start of a long one is repeated.
pub(super) fn unknown_parameter(name: &str) -> ApiError {
    ApiError::invalid("there is no such parameter").field(name.chars().take(100).collect::<String>())
}

/// The parameters that say where a page is.
const PLACES: [&str; 3] = ["after", "before", "offset"];

/// A link to the same list from another place (RFC 8288).
pub(super) fn page_link(
    path: &str,
    parameters: &[(String, String)],
    rel: &str,
    place: (&str, &str),
) -> String {
    let kept = parameters.iter().filter(|(name, _)| !PLACES.contains(&name.as_str()));
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let query: Vec<String> = kept
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .chain([format!("{}={}", place.0, encoded(place.1))])
        .collect();
    format!("<{path}?{}>; rel=\"{rel}\"", query.join("&"))
}
