//! JSON bodies of requests and answers.

use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::body::{self, BodyLimits, CountedBody, LimitedBody, MemoryPermit, WholeBody};
use super::encoding::{Encoding, decode_whole};
use super::error::ApiError;
use crate::http::Services;
use crate::ingest::text;
use crate::offload::{self, INLINE_BYTES};
use crate::typed;

/// The size from which answers count against the memory budget.
const SMALL_ANSWER_BYTES: usize = 16 * 1024;

/// Rejects a body of another declared type than JSON in UTF-8, the encoding of JSON between systems (RFC 8259, section 8.1).
/// That standard has no parameter `charset`, but a body that names another charset would be misread.
pub(in crate::http) fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    if !headers.contains_key(CONTENT_TYPE) {
        return Ok(());
    }
    let essence = media_type(headers)?;
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(unsupported("content-type takes application/json, in UTF-8"))
}

/// The declared media type of a text, in lower case and without parameters; empty if none is declared.
///
/// # Errors
///
/// 415 for a charset other than UTF-8 and its subsets.
pub(in crate::http) fn media_type(headers: &HeaderMap) -> Result<String, ApiError> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = declared.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        // A value may be quoted (RFC 9110, section 5.6.6).
        let value = value.trim().trim_matches('"').trim();
        if name.trim().eq_ignore_ascii_case("charset") && !value.is_empty() && !text::is_utf_8(value) {
            return Err(unsupported("the charset is UTF-8 or ASCII; send the text as UTF-8"));
        }
    }
    Ok(essence)
}

/// 415: another media type, or another charset.
pub(in crate::http) fn unsupported(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message).field("content-type")
}

/// Rejects JSON, or lines of it, that begin like UTF-16 or UTF-32.
pub(in crate::http) fn check_start(start: &[u8]) -> Result<(), ApiError> {
    match text::is_utf_16_or_32(start) {
        true => Err(unsupported("the body is UTF-16 or UTF-32; send it as UTF-8")),
        false => Ok(()),
    }
}

/// As [`check_start`], for a body that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(in crate::http) struct StartCheck {
    first: Option<u8>,
    is_done: bool,
}

impl StartCheck {
    /// Checks the next piece.
    pub(in crate::http) fn look(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        if self.is_done {
            return Ok(());
        }
        for byte in piece.iter().take(2) {
            if let Some(first) = self.first.replace(*byte) {
                self.is_done = true;
                return check_start(&[first, *byte]);
            }
        }
        Ok(())
    }
}

/// Reads a JSON body of up to `bytes`, which is the limit of `setting`.
pub(in crate::http) async fn read(
    services: &Services,
    request: Request,
    bytes: usize,
    setting: &'static str,
) -> Result<(Parts, WholeBody), ApiError> {
    let (head, body) = request.into_parts();
    let limits = BodyLimits { bytes, setting, deadline: Instant::now() + services.limits.body_timeout };
    let mut body = LimitedBody::new(&head, body, limits);
    match read_whole(services, &head, &mut body).await {
        Ok(whole) => Ok((head, whole)),
        Err(refusal) => {
            body.discard().await;
            Err(refusal)
        }
    }
}

async fn read_whole(
    services: &Services,
    head: &Parts,
    body: &mut LimitedBody,
) -> Result<WholeBody, ApiError> {
    check_json(&head.headers)?;
    let whole = match Encoding::of(&head.headers)? {
        Encoding::Identity => body::read_whole(body, &services.bodies).await?,
        encoding => decode_whole(body, encoding, &services.bodies).await?,
    };
    check_start(&whole)?;
    Ok(whole.without_mark())
}

/// Bytes of a small object.
const SMALL_OBJECT_BYTES: usize = 16 * 1024;

/// Reads a small JSON object as a type; an empty body is an empty object.
///
/// # Errors
///
/// 400 names the member at fault.
pub(in crate::http) async fn read_object<T: DeserializeOwned>(
    services: &Services,
    request: Request,
) -> Result<T, ApiError> {
    let (_, body) = read(services, request, SMALL_OBJECT_BYTES, "the limit of this route").await?;
    let json: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { &body };
    Ok(typed::from_slice(json)?)
}

/// Parses a body, off this thread if it is large. The body, with its memory permit, stays with the work until it has ended.
pub(in crate::http) async fn parse<T: Send + 'static>(
    body: WholeBody,
    parse: impl FnOnce(&WholeBody) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, WholeBody), ApiError> {
    if body.len() <= INLINE_BYTES {
        return Ok((parse(&body)?, body));
    }
    let parsed = offload(move || parse(&body).map(|parsed| (parsed, body)));
    // On the heap, as every idle connection holds room for the largest future that it may run.
    Box::pin(parsed).await?
}

/// Runs work on a large document on a blocking thread.
pub(in crate::http) async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    offload::run(work).await.map_err(|error| {
        tracing::error!(error = error.to_string(), "work on a large document failed");
        ApiError::internal()
    })
}

/// An answer's body. A large one counts against the memory budget until the client has read it.
pub(in crate::http) fn held(services: &Services, bytes: Vec<u8>) -> Result<Body, ApiError> {
    if bytes.len() <= SMALL_ANSWER_BYTES {
        return Ok(Body::from(bytes));
    }
    let mut permit = MemoryPermit::new(&services.bodies);
    permit.grow(bytes.len())?;
    Ok(Body::new(CountedBody::new(bytes, permit)))
}

/// A JSON answer.
pub(in crate::http) fn json(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_taken_in_utf_8_and_in_nothing_else() {
        let taken = |declared: &'static str| {
            check_json(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(declared))])).is_ok()
        };
        assert!(check_json(&HeaderMap::new()).is_ok());
        for good in [
            "application/json",
            "Application/JSON;",
            "application/problem+json",
            "application/json; charset=utf-8",
            "application/json;Charset=\"UTF-8\"; version=1",
            "application/json; charset=utf8",
            "application/json; charset = US-ASCII",
            "application/json; charset=",
        ] {
            assert!(taken(good), "{good}");
        }
        for bad in [
            "",
            "text/json",
            "text/plain; charset=utf-8",
            "application/json; charset=utf-16",
            "application/json; version=1 ; CHARSET=\"utf-16le\"",
            "application/vnd.a+json;charset=iso-8859-1",
            "application/json; charset=utf-8; charset=utf-16",
        ] {
            assert!(!taken(bad), "{bad}");
        }
    }
}
