//! Cross-origin requests of web pages (CORS, of the Fetch standard): pages of `CORS_ORIGINS` may call every route and read its
//! answers, and pages with a write-only key in the URL may send events.
//!
//! "Credentials" in the sense of that standard are allowed, as browsers always send beacons with them. It is safe because they
//! are ignored: the web page's cookie counts below `/ui/` alone, which takes no call of another origin, and Basic credentials are skipped in cross-site requests.

use axum::body::Body;
use axum::response::Response;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, StatusCode, Uri};

use super::credentials;
use crate::http::is_event_route;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// For a preflight that names none.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-encoding, content-type, idempotency-key, if-match, if-none-match, last-event-id, prefer, producer-epoch, \
     producer-id, producer-seq, stream-closed, stream-compaction, stream-expires-at, stream-fork-offset, stream-fork-sub-offset, \
     stream-forked-from, stream-retention, stream-seq, stream-ttl, x-api-key, x-request-id, x-trace-id",
);
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "accept-ranges, content-disposition, content-range, etag, link, location, preference-applied, \
     producer-epoch, producer-expected-seq, producer-received-seq, producer-seq, ratelimit, ratelimit-policy, retry-after, \
     stream-closed, stream-cursor, stream-first-offset, stream-next-offset, stream-sse-data-encoding, stream-up-to-date, www-authenticate, x-ack, x-duplicate, x-feed-position, x-receipt, x-request-id, x-total-count, x-trace-id",
);
/// Seconds for which a browser may cache a preflight's answer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origin of a request, if its pages may call. With a write-only key in the URL they may: a preflight does not verify the
/// key, and the request itself is rejected if the key is invalid or has other origins. The same holds for routes whose key is in the body,
/// which are for the pages of all sites (`is_for_pages`).
pub(in crate::http) fn allowed(
    origins: &[String],
    uri: &Uri,
    headers: &HeaderMap,
    is_for_pages: bool,
) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let is_named = || origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes());
    let has_key = || is_event_route(uri.path()) && credentials::has_write_only_key(uri.query());
    (is_for_pages || is_named() || has_key()).then(|| origin.clone())
}

/// The answer to a preflight of an allowed origin; `None`: the request is no preflight.
///
/// Tracers add headers to every request of a page (`traceparent`, `baggage`, `sentry-trace`), and a browser blocks a request
/// with a header that is not allowed: so all requested headers are allowed. Unknown headers are harmless.
pub(in crate::http) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response> {
    if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|names| is_list_of_names(names));
    let allowed = asked.cloned().unwrap_or(REQUEST_HEADERS);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    Some(response)
}

fn is_list_of_names(names: &HeaderValue) -> bool {
    let is_in_list = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, \t".contains(byte);
    !names.is_empty() && names.as_bytes().iter().all(is_in_list)
}

/// Allows pages of an origin to read an answer.
pub(in crate::http) fn let_read(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    headers.append(VARY, HeaderValue::from_static("origin"));
}
