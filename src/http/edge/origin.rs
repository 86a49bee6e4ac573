//! Requests that an open service rejects: those of other sites' web pages, and those through a proxy.
//!
//! An open service requires no token, so any web page in a browser on the same machine could call it. Two headers identify
//! such a page: `Host`, if the page's own name resolves to this machine (DNS rebinding), and `Origin` or `Sec-Fetch-Site`,
//! which browsers set and pages cannot. Programs send neither.
//!
//! Behind a reverse proxy on the same machine, requests from anywhere look local. The headers that proxies add identify it.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HOST, HeaderName, HeaderValue, ORIGIN, VIA};

use crate::http::wire::error::ApiError;

static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names and pages that an open service accepts.
#[derive(Debug, Clone)]
pub(in crate::http) struct OwnOrigin {
    /// The address of its listener, in the form of `Host`.
    listens: String,
    /// Origins of web pages that may call (`CORS_ORIGINS`).
    allowed: Vec<String>,
}

impl OwnOrigin {
    /// A service that listens on `host`; pages of the origins `allowed` may call it.
    pub(in crate::http) fn new(host: IpAddr, allowed: &[String]) -> Self {
        let listens = match host {
            IpAddr::V4(host) => host.to_string(),
            IpAddr::V6(host) => format!("[{host}]"),
        };
        Self { listens, allowed: allowed.to_vec() }
    }

    /// Rejects requests to another host, or through a proxy.
    pub(in crate::http) fn check_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if headers.keys().any(is_added_by_proxies) {
            return Err(ApiError::forbidden("behind_proxy", BEHIND_PROXY));
        }
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().map(|host| host.as_bytes());
        if hosts.next().is_some() || host.is_some_and(|host| !self.is_own(host)) {
            return Err(ApiError::forbidden("foreign_host", FOREIGN_HOST));
        }
        Ok(())
    }

    /// Rejects requests of other sites' web pages.
    pub(in crate::http) fn check_site(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if let Some(origin) = headers.get(ORIGIN) {
            let origin = origin.as_bytes();
            let is_allowed = self.allowed.iter().any(|allowed| allowed.as_bytes() == origin);
            return if is_allowed || is_own_page(origin, headers) { Ok(()) } else { Err(cross_site()) };
        }
        // Pages of other origins send no `Origin` with a plain GET.
        match headers.get(&SEC_FETCH_SITE).map(|site| site.as_bytes()) {
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) => Err(cross_site()),
        }
    }

    fn is_own(&self, host: &[u8]) -> bool {
        let name = match host.iter().rposition(|byte| *byte == b':') {
            Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
            _ => host,
        };
        name.eq_ignore_ascii_case(b"localhost")
            || name == b"127.0.0.1"
            || name == b"[::1]"
            || name == self.listens.as_bytes()
    }
}

/// Whether proxies add this header to forwarded requests. Clients do not send it.
fn is_added_by_proxies(name: &HeaderName) -> bool {
    name == FORWARDED || name == VIA || name.as_str().starts_with("x-forwarded-") || name == X_REAL_IP
}

const BEHIND_PROXY: &str = "an open service serves this machine alone, and this request came through a proxy: \
    set AUTH=required, and TRUSTED_PROXIES to the proxy's addresses";
const FOREIGN_HOST: &str =
    "an open service answers to localhost and to its own address only; AUTH=required answers to any name";

/// Rejects requests of other pages than those of a write-only key's `origins`. Every browser sends its page's origin with a
/// POST, so a request without one is not a page's.
pub(in crate::http) fn check_page(headers: &HeaderMap, origins: &[String]) -> Result<(), ApiError> {
    match headers.get(ORIGIN) {
        Some(origin) if origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) => Ok(()),
        _ => Err(ApiError::forbidden("foreign_origin", FOREIGN_ORIGIN)),
    }
}

const FOREIGN_ORIGIN: &str = "a write-only key takes requests of web pages of its own origins only";

/// Rejects the handshakes of WebSockets of pages that are neither the service's own nor of the origins `allowed`. Browsers send the page's
/// origin with every handshake, and apply no CORS to it.
pub(in crate::http) fn check_handshake(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    let is_allowed = |origin: &HeaderValue| {
        allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
            || is_own_page(origin.as_bytes(), headers)
    };
    match headers.get_all(ORIGIN).iter().all(is_allowed) {
        true => Ok(()),
        false => Err(cross_site()),
    }
}

/// Whether a request is of another site's page, and of none of the `allowed` origins.
pub(in crate::http) fn is_cross_site(headers: &HeaderMap, allowed: &[String]) -> bool {
    let is_allowed =
        |origin: &HeaderValue| allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes());
    let origin = headers.get(ORIGIN);
    if origin.is_some_and(is_allowed) {
        return false;
    }
    match headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        Some(site) => !matches!(site, b"same-origin" | b"none"),
        // Browsers send it over TLS and to loopback only; `Origin` they send everywhere, except with a GET.
        None => origin.is_some_and(|origin| !is_own_page(origin.as_bytes(), headers)),
    }
}

/// Rejects requests of other pages than the service's own. One that is no read has to be marked by its browser: as of the same origin, or with
/// the page's own `Origin`. A read may be a link that a user follows, or a program's.
pub(in crate::http) fn check_own_page(headers: &HeaderMap, is_read: bool) -> Result<(), ApiError> {
    let is_marked = || {
        let site = headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        let is_own = |origin: &HeaderValue| is_own_page(origin.as_bytes(), headers);
        site == Some(b"same-origin") || headers.get(ORIGIN).is_some_and(is_own)
    };
    match !is_cross_site(headers, &[]) && (is_read || is_marked()) {
        true => Ok(()),
        false => Err(ApiError::forbidden("cross_site", OWN_PAGES)),
    }
}

const OWN_PAGES: &str =
    "paths below /ui/ are for this service's own pages; programs use the paths of the API";

/// Whether an origin is that of this service's own pages. The scheme is not compared, as a proxy may add TLS.
fn is_own_page(origin: &[u8], headers: &HeaderMap) -> bool {
    let site = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    site.is_some() && site == headers.get(HOST).map(HeaderValue::as_bytes)
}

fn cross_site() -> ApiError {
    ApiError::forbidden("cross_site", "a page of another origin may not call this service (CORS_ORIGINS)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_served(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let own = OwnOrigin::new("127.0.0.2".parse().unwrap(), &["https://app.example".into()]);
        own.check_host(&headers).and_then(|()| own.check_site(&headers)).is_ok()
    }

    #[test]
    fn programs_and_pages_of_our_own_are_served() {
        for pairs in [
            &[][..],
            &[("host", "localhost")],
            &[("host", "LocalHost:3000")],
            &[("host", "127.0.0.1:3000")],
            &[("host", "127.0.0.2:1")],
            &[("host", "[::1]:3000")],
            &[("host", "localhost:3000"), ("origin", "http://localhost:3000")],
            &[("host", "localhost:3000"), ("sec-fetch-site", "same-origin")],
            &[("host", "localhost:3000"), ("sec-fetch-site", "none")],
            &[
                ("host", "localhost:3000"),
                ("origin", "https://app.example"),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            assert!(is_served(pairs), "{pairs:?}");
        }
    }

    #[test]
    fn names_of_others_pages_of_others_and_proxies_are_not() {
        for pairs in [
            &[("host", "127.0.0.1:3000"), ("x-forwarded-for", "203.0.113.9")][..],
            &[("host", "127.0.0.1:3000"), ("x-forwarded-for", "")],
            &[("host", "127.0.0.1:3000"), ("x-forwarded-proto", "https")],
            &[("host", "127.0.0.1:3000"), ("x-forwarded-host", "events.example")],
            &[("host", "127.0.0.1:3000"), ("forwarded", "for=203.0.113.9")],
            &[("host", "127.0.0.1:3000"), ("via", "1.1 caddy")],
            &[("host", "127.0.0.1:3000"), ("x-real-ip", "203.0.113.9")],
            &[("host", "evil.example")],
            &[("host", "evil.example:3000")],
            &[("host", "localhost.evil.example")],
            &[("host", "127.0.0.1.evil.example:80")],
            &[("host", "localhost:x")],
            &[("host", "")],
            &[("host", "localhost"), ("host", "evil.example")],
            &[("host", "localhost:3000"), ("origin", "http://localhost:5173")],
            &[("host", "localhost:3000"), ("origin", "null")],
            &[("host", "localhost:3000"), ("origin", "http://evil.example")],
            &[("host", "localhost:3000"), ("origin", "https://app.example.evil")],
            &[("host", "localhost:3000"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost:3000"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(!is_served(pairs), "{pairs:?}");
        }
    }
}
