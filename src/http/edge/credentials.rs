//! The token of a request: `Authorization: Bearer …` or `X-API-Key`, which are equivalent, or an API key in
//! `Authorization: Basic …` or, for a write-only key on an event route, in `?key=`. Streams of changes take a ticket in `?ticket=` instead.
//!
//! Other schemes, and Basic credentials without an API key, are skipped. Cookies are no tokens: the web page's becomes a bearer
//! token before (`web::enter`). Requests with two tokens are
//! rejected as ambiguous.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use percent_encoding::percent_decode_str;

use super::origin;
use crate::auth::{is_key, is_write_only_key};
use crate::http::wire::error::ApiError;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Padding is optional.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The token of a request with these headers and, for an event route, this query (RFC 6750, section 2; RFC 7617).
/// `origins` are those of `CORS_ORIGINS`.
pub(in crate::http) fn token<'a>(
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    origins: &[String],
) -> Result<Option<Cow<'a, str>>, ApiError> {
    let mut shown: Option<Cow<'a, [u8]>> = None;
    let mut show = |token: Cow<'a, [u8]>| match shown.replace(token) {
        None => Ok(()),
        Some(_) => Err(ApiError::unauthorized()),
    };
    for value in headers.get_all(AUTHORIZATION) {
        let bytes = value.as_bytes();
        // Any other byte ends the scheme, a tab too.
        let end = bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
        let (scheme, token) = bytes.split_at(end.unwrap_or(bytes.len()));
        if scheme.eq_ignore_ascii_case(b"bearer") {
            show(token.trim_ascii().into())?;
        } else if scheme.eq_ignore_ascii_case(b"basic")
            && let Some(key) = key_of_basic(token.trim_ascii())
            // Browsers add known Basic credentials to the requests of any page.
            && !origin::is_cross_site(headers, origins)
        {
            show(key.into_bytes().into())?;
        }
    }
    for value in headers.get_all(&X_API_KEY) {
        show(value.as_bytes().trim_ascii().into())?;
    }
    for key in query.into_iter().flat_map(keys_of_query) {
        if !is_write_only_key(&key) {
            return Err(ApiError::key_in_url());
        }
        show(match key {
            Cow::Borrowed(key) => key.as_bytes().into(),
            Cow::Owned(key) => key.into_bytes().into(),
        })?;
    }
    match shown {
        None => Ok(None),
        Some(Cow::Borrowed(token)) => {
            std::str::from_utf8(token).map(|token| Some(token.into())).map_err(|_| ApiError::unauthorized())
        }
        Some(Cow::Owned(token)) => {
            String::from_utf8(token).map(|token| Some(token.into())).map_err(|_| ApiError::unauthorized())
        }
    }
}

/// The tickets in a query's `ticket`.
pub(in crate::http) fn tickets(query: Option<&str>) -> impl Iterator<Item = Cow<'_, str>> {
    let values = query.unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("ticket="));
    values.map(|value| percent_decode_str(value).decode_utf8_lossy())
}

/// Whether the query of an event route contains a write-only key.
pub(in crate::http) fn has_write_only_key(query: Option<&str>) -> bool {
    query.into_iter().flat_map(keys_of_query).any(|key| is_write_only_key(&key))
}

/// The API keys in a query's `key`; values of another form are ignored.
fn keys_of_query(query: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("key="));
    values.filter_map(|value| percent_decode_str(value).decode_utf8().ok()).filter(|value| is_key(value))
}

/// The API key in Basic credentials: the user, or else the password.
fn key_of_basic(credentials: &[u8]) -> Option<String> {
    let text = String::from_utf8(BASE64.decode(credentials).ok()?).ok()?;
    let (user, password) = text.split_once(':').unwrap_or((&text, ""));
    [user, password].into_iter().find(|part| is_key(part)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Result<Option<String>, ()> {
        with_query(pairs, None)
    }

    fn with_query(pairs: &[(&'static str, &str)], query: Option<&str>) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let token = token(&headers, query, &["https://app.example".into()]);
        token.map(|token| token.map(Cow::into_owned)).map_err(drop)
    }

    #[test]
    fn a_token_is_bearer_or_x_api_key_and_other_schemes_are_skipped() {
        let good = Ok(Some("good".to_owned()));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("authorization", "Basic Z29vZA==")]), Ok(None));
        assert_eq!(of(&[("authorization", "Bearer good")]), good);
        assert_eq!(of(&[("authorization", "bEARER  good ")]), good);
        assert_eq!(of(&[("x-api-key", "good")]), good);
        assert_eq!(of(&[("authorization", "Basic x"), ("x-api-key", "good")]), good);
        assert_eq!(of(&[("authorization", "Bearer")]), Ok(Some(String::new())));
        assert_eq!(of(&[("authorization", "Bearer\tgood")]), good);
        assert_eq!(of(&[("authorization", "Bearer, x")]), Ok(Some(", x".to_owned())));
        assert_eq!(of(&[("authorization", "Basic x"), ("authorization", "Bearer good")]), good);
        assert_eq!(of(&[("cookie", "token=good")]), Ok(None));
        for two in [
            [("authorization", "Bearer good"), ("authorization", "Bearer good")],
            [("authorization", "Bearer good"), ("x-api-key", "good")],
            [("x-api-key", "good"), ("x-api-key", "good")],
        ] {
            assert!(of(&two).is_err(), "{two:?}");
        }
    }

    #[test]
    fn an_api_key_is_taken_out_of_basic_credentials_but_not_across_sites() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for text in ["tg_a:", "tg_a", ":tg_a", "anyone:tg_a", "tg_a:tg_b", "tg_a:secret:x"] {
            assert_eq!(of(&[("authorization", &basic(text))]), Ok(Some("tg_a".into())), "{text}");
            let unpadded = format!("basic  {}", STANDARD_NO_PAD.encode(text));
            assert_eq!(of(&[("authorization", &unpadded)]), Ok(Some("tg_a".into())), "{text}");
        }
        for text in ["ada:secret", "", ":", "a:b:tg_a", "TG_a:"] {
            assert_eq!(of(&[("authorization", &basic(text))]), Ok(None), "{text}");
        }
        for bad in ["Basic", "Basic !", "Basic dGdf=YQ", "Basic /w=="] {
            assert_eq!(of(&[("authorization", bad)]), Ok(None), "{bad}");
        }
        let key = basic("tg_a:");
        let from =
            |site, origin| of(&[("authorization", &key), ("sec-fetch-site", site), ("origin", origin)]);
        assert_eq!(from("same-origin", "https://own.example"), Ok(Some("tg_a".into())));
        assert_eq!(from("cross-site", "https://app.example"), Ok(Some("tg_a".into())));
        assert_eq!(from("cross-site", "https://evil.example"), Ok(None));
        assert_eq!(from("same-site", "null"), Ok(None));
        // Over plain HTTP browsers send no `Sec-Fetch-Site`.
        let over_http =
            |origin| of(&[("authorization", &key), ("host", "own.example:3000"), ("origin", origin)]);
        assert_eq!(over_http("http://evil.example"), Ok(None));
        assert_eq!(over_http("null"), Ok(None));
        assert_eq!(over_http("http://own.example:3000"), Ok(Some("tg_a".into())));
        assert_eq!(over_http("https://app.example"), Ok(Some("tg_a".into())));
        assert!(of(&[("authorization", &key), ("x-api-key", "good")]).is_err());
    }

    #[test]
    fn a_url_takes_write_only_keys_alone() {
        let of = |query| with_query(&[], Some(query));
        for query in ["key=tg_w_a", "ack=queued&key=tg_w_a&x", "key=tg%5Fw_a", "key=tg_w_a&key=other"] {
            assert_eq!(of(query), Ok(Some("tg_w_a".into())), "{query}");
            assert!(has_write_only_key(Some(query)), "{query}");
        }
        for query in
            ["", "key", "key=", "key=other", "api_key=tg_w_a", "KEY=tg_w_a", "key=%ff", "x=key=tg_w_a"]
        {
            assert_eq!(of(query), Ok(None), "{query}");
            assert!(!has_write_only_key(Some(query)), "{query}");
        }
        for query in ["key=tg_a", "key=tg_w_a&key=tg_w_a", "key=tg_w_a&key=tg_b"] {
            assert!(of(query).is_err(), "{query}");
        }
        assert!(with_query(&[("x-api-key", "good")], Some("key=tg_w_a")).is_err());
        assert_eq!(with_query(&[("x-api-key", "good")], Some("key=other")), Ok(Some("good".into())));
    }

    proptest! {
        #[test]
        fn no_credentials_make_reading_panic(bytes: Vec<u8>, query in ".{0,40}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&[b"Basic ", &bytes[..]].concat()) {
                headers.append(AUTHORIZATION, value);
            }
            let _any = token(&headers, Some(&query), &[]);
        }
    }
}
