//! The entrance of requests below `/ui/`: their cookie, and the route of the API that they name.
//!
//! Browsers add cookies to requests of any page. Three rules keep other pages out: the cookie is `SameSite=Strict`; a request that a browser
//! marks as another site's is rejected; and a request that changes something has to be marked as this service's own. Elements that load
//! what a user stored as a script or a document of their own are rejected, too: the page's policy trusts its own origin.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Method, Request, Uri};

use crate::auth::Secret;
use crate::http::AppState;
use crate::http::edge::origin;
use crate::http::wire::error::ApiError;

/// The prefix of the page's own requests.
pub(super) const PREFIX: &str = "/ui/";
/// The cookie with an access token, a key or the operator's token.
pub(super) const TOKEN: &str = "tidegate_token";
/// The cookie with a refresh token.
pub(super) const REFRESH: &str = "tidegate_refresh";

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// Below these paths are routes of the API.
const OF_API: [&str; 3] = ["/api/", "/v1/", "/_test/"];

/// Lets a request below `/ui/` in: checks its page, puts the token of its cookie into `Authorization`, and names the API's route by that
/// route's own path. Other requests stay as they are: their cookies are never read.
pub(in crate::http) fn enter<B>(state: &AppState, request: &mut Request<B>) -> Result<(), ApiError> {
    if state.web.is_none() || !request.uri().path().starts_with(PREFIX) {
        return Ok(());
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    origin::check_own_page(request.headers(), is_read)?;
    if let Some(uri) = of_api(request.uri()) {
        check_element(request.headers())?;
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    let has_token = headers.contains_key(AUTHORIZATION) || headers.contains_key(&X_API_KEY);
    if !has_token && let Some(token) = cookie(headers, TOKEN) {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
            .map_err(|_| ApiError::unauthorized())?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(())
}

/// The URI of the API's route that a URI below `/ui/` names.
fn of_api(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix("/ui")?;
    if !OF_API.iter().any(|prefix| rest.starts_with(prefix)) {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

/// Rejects the requests of elements that would run an answer, or show it as a part of a page.
fn check_element(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(&SEC_FETCH_DEST).map(HeaderValue::as_bytes) {
        // `document` is a download that a user follows.
        None | Some(b"empty" | b"document" | b"websocket") => Ok(()),
        Some(_) => Err(ApiError::forbidden(
            "forbidden",
            "answers below /ui/ are for scripts, and are none themselves",
        )),
    }
}

/// The value of a cookie. Two of one name are none: a page of a sibling domain may have set one of them.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<Secret> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(own, _)| *own == name).map(|(_, value)| value);
    let value = named.next()?;
    if named.next().is_some() {
        return None;
    }
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
    (!token.is_empty()).then(|| Secret::new(token))
}

/// `Set-Cookie` with a token, below a path; without a life it ends with the browser. `by_tls`: it is sent over TLS only.
pub(super) fn set_cookie(
    name: &str,
    token: &str,
    path: &str,
    life_s: Option<u64>,
    by_tls: bool,
) -> Result<HeaderValue, ApiError> {
    let value = URL_SAFE_NO_PAD.encode(token);
    let life = life_s.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    let secure = if by_tls { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict{life}{secure}");
    let mut header = HeaderValue::try_from(text).map_err(|_| ApiError::internal())?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(cookies: &[&str]) -> HeaderMap {
        cookies.iter().map(|value| (COOKIE, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_cookie_reads_back_and_two_of_a_name_are_none() {
        let set = set_cookie(TOKEN, "a;b, c\"", "/ui", Some(7), true).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; Path=/ui; HttpOnly; SameSite=Strict; Max-Age=7; Secure"), "{set}");
        let pair = set.split(';').next().unwrap();
        let read = |cookies: &[&str]| cookie(&headers(cookies), TOKEN).map(|token| token.reveal().to_owned());
        assert_eq!(read(&[&format!("x=1; {pair}; y")]).as_deref(), Some("a;b, c\""));
        assert_eq!(read(&[&format!("{pair}; {pair}")]), None);
        assert_eq!(read(&[pair, pair]), None);
        for other in
            ["", "tidegate_token=", "tidegate_token=!", "tidegate_token", "xtidegate_token=YQ", "=YQ"]
        {
            assert_eq!(read(&[other]), None, "{other}");
        }
        assert!(!set_cookie(TOKEN, "a", "/ui", None, false).unwrap().to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn only_routes_of_the_api_have_another_path_below_ui() {
        let of = |uri: &str| of_api(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(of("/ui/api/health?x=/ui/api/").as_deref(), Some("/api/health?x=/ui/api/"));
        assert_eq!(of("/ui/v1/stream/a%2Fb").as_deref(), Some("/v1/stream/a%2Fb"));
        assert_eq!(of("/ui/_test/inject-error").as_deref(), Some("/_test/inject-error"));
        for other in
            ["/ui/events", "/ui/session", "/ui/apix", "/ui/metrics", "/ui//api/health", "/ui/ui/api/x"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_cookies_make_reading_panic(bytes: Vec<u8>, token in ".{1,40}") {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _any = cookie(&HeaderMap::from_iter([(COOKIE, value)]), TOKEN);
            }
            let set = set_cookie(TOKEN, &token, "/ui", None, false).unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let read = cookie(&headers(&[pair]), TOKEN).unwrap();
            prop_assert_eq!(read.reveal(), token);
        }
    }
}
