//! `Authorization`: whoever shows a bearer token is who the token says, or is refused.
//!
//! A request without one is anybody's. Other schemes are passed over, as if they were not there.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use super::Face;
use super::error::ApiError;
use crate::auth::{Principal, Verifier};

/// Who sends a request with these headers (RFC 6750, section 2.1).
pub(super) fn principal(verifier: &Verifier, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(Principal::Anonymous) };
    let (scheme, token) = match value.as_bytes().iter().position(|byte| *byte == b' ') {
        Some(space) => value.as_bytes().split_at(space),
        None => (value.as_bytes(), &b""[..]),
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(Principal::Anonymous);
    }
    // Two of them: which one counts would be a guess.
    let token = std::str::from_utf8(token.trim_ascii()).ok().filter(|_| values.next().is_none());
    token.and_then(|token| verifier.verify(token).ok()).ok_or_else(ApiError::unauthorized)
}

/// For all that goes through the router: refuses bad tokens, and leaves the [`Principal`] with the request.
pub(super) async fn authenticate(
    State(face): State<Arc<Face>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let principal = principal(&face.verifier, request.headers())?;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::config::AuthConfig;

    fn of(values: &[&'static str]) -> Result<Principal, ApiError> {
        let config = AuthConfig { stress_token: Some("good".into()), jwt_secret: None };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        principal(&Verifier::new(&config), &headers)
    }

    #[test]
    fn a_bearer_token_is_good_or_refused_and_other_schemes_are_passed_over() {
        assert_eq!(of(&[]).unwrap(), Principal::Anonymous);
        assert_eq!(of(&["Basic Z29vZA=="]).unwrap(), Principal::Anonymous);
        assert_eq!(of(&["Bearer good"]).unwrap(), Principal::Operator);
        assert_eq!(of(&["bEARER  good "]).unwrap(), Principal::Operator);
        for bad in [&["Bearer"][..], &["Bearer "], &["Bearer bad"], &["Bearer good", "Bearer good"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
