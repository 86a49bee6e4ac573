//! Security headers of every answer, and the id of its request in the log.

use hyper::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};
use uuid::Uuid;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
static PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// Characters of a client's request id.
const MAX_REQUEST_ID: usize = 128;

/// The client's request id if it is valid, else a new one.
pub(in crate::http) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let theirs = headers.get(&X_REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    theirs.cloned().unwrap_or_else(|| {
        // It names a request in the log, and is no secret: the system's random numbers would cost a call each.
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        let text = id.hyphenated();
        // A UUID is always a valid header value.
        HeaderValue::from_str(text.encode_lower(&mut Uuid::encode_buffer()))
            .unwrap_or(HeaderValue::from_static("none"))
    })
}

/// Writes the headers of an answer. Answers are data: a browser must not run them, guess their type, or show them in a frame.
/// Pages for browsers have a policy of their own, which is kept.
pub(in crate::http) fn write(headers: &mut HeaderMap, request_id: HeaderValue, by_tls: bool) {
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(policy);
    nosniff(headers);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let none = HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()");
    headers.insert(PERMISSIONS_POLICY.clone(), none);
    headers.insert(X_REQUEST_ID.clone(), request_id);
    if by_tls {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(STRICT_TRANSPORT_SECURITY, year);
    }
}

/// Writes the only one of these headers that answers to events have too: they hold no document, and are kept short.
pub(in crate::http) fn nosniff(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Keeps pages of other sites from embedding an answer: streams have any content type. Scripts of `CORS_ORIGINS` may read it.
pub(in crate::http) fn same_origin(headers: &mut HeaderMap) {
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY.clone(), HeaderValue::from_static("same-origin"));
}
