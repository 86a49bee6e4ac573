//! Rules of RFC 9112 that hyper does not check: the end of a request's body, and its host.
//!
//! Two programs that read these differently see different requests in the same bytes (request smuggling). Ambiguous requests are
//! therefore rejected, and the connection is closed after the answer.

use axum::response::{IntoResponse, Response};
use hyper::header::{CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, Version};

use crate::http::wire::error::ApiError;

/// Checks a request's framing and host. The authority of a target in absolute form takes the place of `Host`.
///
/// Returns the answer to one that is rejected: 501 for a transfer coding other than `chunked`, 400 for a missing, repeated or
/// malformed host.
pub(in crate::http) fn reject<B>(request: &mut Request<B>) -> Option<Response> {
    let mut response = check(request).err()?.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

fn check<B>(request: &mut Request<B>) -> Result<(), ApiError> {
    // hyper rejects codings that do not end with chunked (section 6.3).
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        let message =
            "transfer-encoding takes chunked alone; content-encoding takes gzip, deflate, zstd or br";
        let refusal = ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message);
        return Err(refusal.field("transfer-encoding"));
    }
    let refuse = |message: &'static str| Err(ApiError::invalid(message).field("host"));
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, is_repeated) = (hosts.next(), hosts.next().is_some());
    match host {
        _ if is_repeated => return refuse("a request has one Host"),
        None if request.version() >= Version::HTTP_11 => return refuse("a request names its Host"),
        Some(host) if !is_host(host.as_bytes()) => {
            return refuse("Host takes a name or an address, and a port");
        }
        _ => {}
    }
    if let Some(authority) = request.uri().authority() {
        if !is_host(authority.as_str().as_bytes()) {
            return refuse("the target's authority takes a name or an address, and a port");
        }
        let host = HeaderValue::try_from(authority.as_str());
        let host =
            host.map_err(|_| ApiError::invalid("the target's authority cannot be read").field("host"))?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// Whether this is a host with or without a port. It is empty for a target without an authority (section 3.2).
fn is_host(host: &[u8]) -> bool {
    is_plain_host(host) || (!host.contains(&b'@') && Authority::try_from(host).is_ok())
}

/// Whether this is empty, or a name or an IPv4 address with or without a port, as nearly all hosts are. Parsing an
/// [`Authority`] would copy every request's host.
fn is_plain_host(host: &[u8]) -> bool {
    let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    let (name, port) = host.split_at(end);
    let is_in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    match port {
        [] => name.iter().all(is_in_name),
        [_, port @ ..] => {
            !name.is_empty()
                && name.iter().all(is_in_name)
                && (1..=5).contains(&port.len())
                && port.iter().all(u8::is_ascii_digit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, target: &str, headers: &[(&'static str, &str)]) -> Result<String, u16> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        if let Some(response) = reject(&mut request) {
            return Err(response.status().as_u16());
        }
        let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
        Ok(host.unwrap_or_default())
    }

    #[test]
    fn a_request_has_one_host_and_that_of_its_target_counts() {
        let of = |target: &str, headers: &[(&'static str, &str)]| status(Version::HTTP_11, target, headers);
        assert_eq!(of("/", &[("host", "localhost:1")]), Ok("localhost:1".into()));
        assert_eq!(of("/", &[("host", "")]), Ok(String::new()));
        assert_eq!(of("http://evil.example/a", &[("host", "localhost")]), Ok("evil.example".into()));
        assert_eq!(of("http://[::1]:3000/a", &[("host", "x")]), Ok("[::1]:3000".into()));
        assert_eq!(status(Version::HTTP_10, "/", &[]), Ok(String::new()));
        for (target, headers) in [
            ("/", &[][..]),
            ("http://localhost/", &[]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "a/b")]),
            ("/", &[("host", "a, b")]),
            ("/", &[("host", "user@localhost")]),
            ("http://user@localhost/", &[("host", "localhost")]),
        ] {
            assert_eq!(of(target, headers), Err(400), "{target} {headers:?}");
        }
        assert_eq!(status(Version::HTTP_10, "/", &[("host", "a"), ("host", "b")]), Err(400));
    }

    #[test]
    fn a_plain_host_is_one_that_parses() {
        for plain in ["", "a", "localhost:3000", "10.0.0.1", "a-b.example:65535"] {
            assert!(is_plain_host(plain.as_bytes()), "{plain}");
            assert!(plain.is_empty() || Authority::try_from(plain).is_ok(), "{plain}");
        }
        for other in
            [":1", "a:", "a:1x", "a:123456", "[::1]:1", "a:1:2", "a@b", "a b", "a/b", "a_b", "\u{e9}"]
        {
            assert!(!is_plain_host(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn chunked_is_the_only_transfer_coding() {
        let of = |codings: &[&str]| {
            let codings = codings.iter().map(|coding| ("transfer-encoding", *coding));
            status(Version::HTTP_11, "/", &[("host", "a")].into_iter().chain(codings).collect::<Vec<_>>())
        };
        assert!(of(&["chunked"]).is_ok() && of(&["Chunked "]).is_ok());
        for other in [
            &["gzip, chunked"][..],
            &["gzip", "chunked"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["x"],
            &[""],
        ] {
            assert_eq!(of(other), Err(501), "{other:?}");
        }
    }
}
