//! Who sends a request, and whether he may: what every request passes before its route is called.
//!
//! A token comes as `Authorization: Bearer …` or as `X-API-Key`, which are the same. Other schemes are passed over, as if
//! they were not there. Cookies are never looked at, and no token is taken from a URL.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::header::{ALLOW, AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::Face;
use super::client::{self, ClientAddress};
use super::error::ApiError;
use super::limits::Quota;
use super::permissions::{self, Needs};
use super::query;
use crate::auth::{AuthError, Decision, KeyHash, Principal, Shown};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who sends a request with these headers, if he may do what needs this. It came from `peer`.
async fn admit(face: &Face, needs: Needs, headers: &HeaderMap, peer: IpAddr) -> Result<Principal, ApiError> {
    if let Some(own) = &face.own_origin {
        own.check_host(headers)?;
        own.check_site(headers)?;
    }
    if needs == Needs::Nothing {
        return Ok(Principal::ANONYMOUS);
    }
    let principal = match token(headers)? {
        None => Principal::ANONYMOUS,
        Some(token) => {
            // Both on the heap, as every idle connection holds room for the largest future that it may run.
            if face.verifier.is_stale() {
                Box::pin(face.verifier.freshen()).await;
            }
            match face.verifier.verify(token)? {
                Shown::Known(principal) => principal,
                Shown::Ask(hash) => Box::pin(look_up(face, hash, headers, peer)).await?,
            }
        }
    };
    let decision = match needs {
        Needs::Nothing | Needs::GoodIfShown => Decision::Allowed,
        Needs::SignedIn if principal.is_known() => Decision::Allowed,
        Needs::SignedIn => Decision::Unknown,
        Needs::Scope(scope) => principal.may(scope, face.verifier.is_open()),
    };
    match (decision, needs) {
        (Decision::Allowed, _) => Ok(principal),
        (Decision::Forbidden, Needs::Scope(scope)) => Err(ApiError::lacks(scope)),
        _ => Err(ApiError::token_needed()),
    }
}

/// Whether who sent a request with these headers may still do what needs this. Where it cannot be told now, he may.
pub(super) async fn is_still_admitted(face: &Face, needs: Needs, headers: &HeaderMap, peer: IpAddr) -> bool {
    match admit(face, needs, headers, peer).await {
        Ok(_) => true,
        Err(refusal) => !refusal.is_denial(),
    }
}

/// Whether a request with events may be taken, and what is left of its sender's budget.
pub(super) async fn admit_events(
    face: &Face,
    needs: Needs,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Option<Quota>, ApiError> {
    let principal = admit(face, needs, headers, peer).await?;
    // Whose address it is need not be known where nothing is counted.
    if !face.budgets.count_events() {
        return Ok(None);
    }
    let client = client::client(peer, headers, &face.trusted_proxies);
    face.budgets.take_events(&principal, client.ip)
}

/// Asks the database. Whoever makes up keys must not keep it busy, so this counts as a log-in does.
async fn look_up(
    face: &Face,
    hash: KeyHash,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    face.budgets.take_look_up(client::client(peer, headers, &face.trusted_proxies).ip)?;
    Ok(face.core()?.accounts.look_up(hash).await?)
}

/// The token that is shown (RFC 6750, section 2.1).
fn token(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let mut shown = None;
    for value in headers.get_all(AUTHORIZATION) {
        let bytes = value.as_bytes();
        // Whatever ends the scheme: a token behind a tab is still one that is shown.
        let end = bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
        let (scheme, token) = bytes.split_at(end.unwrap_or(bytes.len()));
        if scheme.eq_ignore_ascii_case(b"bearer") {
            // Two of them: which one counts would be a guess.
            if shown.replace(token.trim_ascii()).is_some() {
                return Err(AuthError::Invalid);
            }
        }
    }
    for value in headers.get_all(&X_API_KEY) {
        if shown.replace(value.as_bytes().trim_ascii()).is_some() {
            return Err(AuthError::Invalid);
        }
    }
    shown.map(|token| std::str::from_utf8(token).map_err(|_| AuthError::Invalid)).transpose()
}

/// Where a request comes from that no connection brought.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// For all that goes through the router: lets nobody through who may not, and leaves the [`Principal`] with the request.
pub(super) async fn authorize(
    State(face): State<Arc<Face>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let matched = request.extensions().get::<MatchedPath>();
    let needs = matched.map(|path| permissions::needs(request.method(), path.as_str()));
    let asked = match needs {
        Some(Ok(needs)) => needs,
        // Nothing is called, but a token that is shown has to be good everywhere.
        None | Some(Err(_)) => Needs::GoodIfShown,
    };
    let client = request.extensions().get::<ClientAddress>().copied();
    let (peer, address) = client.map_or((NOWHERE, NOWHERE), |client| (client.peer, client.ip));
    let principal = admit(&face, asked, request.headers(), peer).await?;
    let quota = face.budgets.take(request.method(), asked, &principal, address)?;
    if let Some(Err(allowed)) = needs {
        return Ok(not_allowed(&allowed));
    }
    if needs.is_some() {
        query::check(request.uri().query())?;
    }
    request.extensions_mut().insert(principal);
    let mut response = next.run(request).await;
    if let Some(quota) = quota.filter(|_| response.status() != StatusCode::TOO_MANY_REQUESTS) {
        quota.write(response.headers_mut());
    }
    Ok(response)
}

fn not_allowed(allowed: &str) -> Response {
    let mut response = ApiError::method_not_allowed().into_response();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Result<Option<String>, AuthError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        token(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn a_token_is_bearer_or_x_api_key_and_other_schemes_are_passed_over() {
        let good = Some("good".to_owned());
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("authorization", "Basic Z29vZA==")]).unwrap(), None);
        assert_eq!(of(&[("authorization", "Bearer good")]).unwrap(), good);
        assert_eq!(of(&[("authorization", "bEARER  good ")]).unwrap(), good);
        assert_eq!(of(&[("x-api-key", "good")]).unwrap(), good);
        assert_eq!(of(&[("authorization", "Basic x"), ("x-api-key", "good")]).unwrap(), good);
        assert_eq!(of(&[("authorization", "Bearer")]).unwrap(), Some(String::new()));
        assert_eq!(of(&[("authorization", "Bearer\tgood")]).unwrap(), good);
        assert_eq!(of(&[("authorization", "Bearer, x")]).unwrap(), Some(", x".to_owned()));
        assert_eq!(of(&[("authorization", "Basic x"), ("authorization", "Bearer good")]).unwrap(), good);
        assert_eq!(of(&[("cookie", "token=good")]).unwrap(), None);
        for two in [
            [("authorization", "Bearer good"), ("authorization", "Bearer good")],
            [("authorization", "Bearer good"), ("x-api-key", "good")],
            [("x-api-key", "good"), ("x-api-key", "good")],
        ] {
            assert!(of(&two).is_err(), "{two:?}");
        }
    }
}
