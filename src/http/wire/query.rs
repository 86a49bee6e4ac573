//! Parameters of requests: queries, JSON bodies, times.

use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::ApiError;
use super::json::offload;
use crate::ingest::text;
use crate::offload::INLINE_BYTES;
use crate::typed;

/// Parses a JSON body, off this thread if it is large.
///
/// # Errors
///
/// 400 names what is wrong with it.
pub(in crate::http) async fn json<T: DeserializeOwned + Send + 'static>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        hyper::StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large("the body is larger than 2 MiB"),
        _ => ApiError::invalid("the body broke off before its end"),
    })?;
    let parse = |body: &[u8]| typed::from_slice(text::without_mark(body));
    Ok(match body.len() {
        ..=INLINE_BYTES => parse(&body)?,
        _ => offload(move || parse(&body)).await??,
    })
}

/// A time of RFC 3339, in microseconds of Unix time.
pub(in crate::http) fn time_us(text: &str, field: &'static str) -> Result<i64, ApiError> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => Ok((time.unix_timestamp_nanos() / 1000) as i64),
        Err(_) => {
            let message = format!("{field} takes a time such as 2026-01-31T12:00:00Z (RFC 3339)");
            Err(ApiError::invalid(message).field(field))
        }
    }
}

/// Checks that a query can be decoded. Later decoders replace invalid UTF-8, and keep a `%` without two digits: a mistyped
/// filter would find other rows instead of an error.
pub(in crate::http) fn check(query: Option<&str>) -> Result<(), ApiError> {
    let query = query.unwrap_or_default().as_bytes();
    let is_digit = |at: usize| query.get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_whole = |(at, byte): (usize, &u8)| *byte != b'%' || (is_digit(at + 1) && is_digit(at + 2));
    let refused = |message: &'static str| Err(ApiError::invalid(message).field("query"));
    if !query.iter().enumerate().all(is_whole) {
        return refused("the query has a % that two hexadecimal digits do not follow");
    }
    // Names and values are decoded one by one, so no character may extend across a separator.
    let mut parts = query.split(|byte| matches!(byte, b'&' | b'='));
    if parts.any(|part| percent_decode(part).decode_utf8().is_err()) {
        return refused("the query decodes to something that is not UTF-8");
    }
    Ok(())
}

/// A name or a value of a checked query: `+` is a space.
pub(in crate::http) fn decoded(text: &str) -> String {
    percent_decode(text.replace('+', " ").as_bytes()).decode_utf8_lossy().into_owned()
}

/// The names and values of a query, decoded.
pub(in crate::http) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// All parameters, in order.
pub(in crate::http) fn parameters(
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Vec<(String, String)>, ApiError> {
    let Query(parameters) =
        parameters.map_err(|_| ApiError::invalid("the query cannot be read").field("query"))?;
    Ok(parameters)
}

/// The error of an unknown parameter. Only the start of a long name is repeated.
pub(in crate::http) fn unknown_parameter(name: &str) -> ApiError {
    ApiError::invalid("there is no such parameter").field(name.chars().take(100).collect::<String>())
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_that_cannot_be_decoded_is_told_from_one_that_can() {
        for good in ["", "a=b&c", "a=%20%C3%A9+&=&&%26=%3d", "a=é", "100%25"] {
            assert!(check(Some(good)).is_ok(), "{good}");
        }
        for bad in ["%", "a=%", "a=%2", "a=%zz", "a=%+1", "%ff=a", "a=%C3&b=%A9", "a=%ed%a0%80", "a=100%"] {
            assert!(check(Some(bad)).is_err(), "{bad}");
        }
        assert!(check(None).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_encoded_can_be_decoded(text in any::<String>()) {
            let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
            prop_assert!(check(Some(&encoded)).is_ok());
        }

        #[test]
        fn whatever_is_let_through_is_decoded_without_loss(query in "[a-z%0-9A-F&=]{0,40}") {
            if check(Some(&query)).is_ok() {
                for part in query.split(['&', '=']) {
                    prop_assert!(percent_decode(part.as_bytes()).decode_utf8().is_ok());
                }
            }
        }
    }
}
