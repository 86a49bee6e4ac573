//! Who sends a request, and whether he may: what every request passes before its route is called.
//!
//! The token that it shows is read by `credentials`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::header::{ALLOW, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use uuid::Uuid;

use super::client::{self, ClientAddress};
use super::permissions::{self, Needs};
use super::quota::Quota;
use super::{credentials, origin};
use crate::auth::{Decision, KeyHash, Principal, Scope, Shown, Who, is_write_only_key};
use crate::http::AppState;
use crate::http::wire::error::ApiError;
use crate::http::wire::query;

/// The bytes of a body with events that comes with a write-only key. What pages send by beacons has 64 KiB.
const MAX_WRITE_ONLY_BYTES: usize = 1 << 20;

/// The sender of a request with these headers, if they may do what needs this. It came from `peer`; `query` is that of an
/// event route.
async fn admit(
    state: &AppState,
    needs: Needs,
    headers: &HeaderMap,
    query: Option<&str>,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    if let Some(own) = &state.own_origin {
        own.check_host(headers)?;
    }
    let token = match needs {
        Needs::Nothing => None,
        _ => credentials::token(headers, query, &state.cors_origins)?,
    };
    // A write-only key names the pages that may use it itself; it is checked below.
    let names_its_pages =
        needs == Needs::Scope(Scope::EventsWrite) && token.as_deref().is_some_and(is_write_only_key);
    if let Some(own) = state.own_origin.as_ref().filter(|_| !names_its_pages) {
        own.check_site(headers)?;
    }
    if needs == Needs::Nothing {
        return Ok(Principal::ANONYMOUS);
    }
    let principal = match token {
        None => Principal::ANONYMOUS,
        Some(token) => {
            // Both on the heap, as every idle connection holds room for the largest future that it may run.
            if state.verifier.is_stale() {
                Box::pin(state.verifier.freshen()).await;
            }
            match state.verifier.verify(&token)? {
                Shown::Known(principal) => principal,
                Shown::Ask(hash) => Box::pin(look_up(state, hash, headers, peer)).await?,
            }
        }
    };
    let is_write_only = matches!(principal.who, Who::WriteOnlyKey { .. });
    let decision = match needs {
        Needs::Nothing | Needs::GoodIfShown => Decision::Allowed,
        // It is published, so it has no part in anyone's account.
        Needs::SignedIn if is_write_only => Decision::Forbidden,
        Needs::SignedIn if principal.is_known() => Decision::Allowed,
        Needs::SignedIn => Decision::Unknown,
        Needs::Scope(scope) => principal.may(scope, state.verifier.is_open()),
    };
    match (decision, needs) {
        (Decision::Allowed, Needs::Scope(_)) => {
            if let Who::WriteOnlyKey { origins, .. } = &principal.who {
                origin::check_page(headers, origins)?;
            }
            Ok(principal)
        }
        (Decision::Allowed, _) => Ok(principal),
        (Decision::Forbidden, Needs::Scope(scope)) => Err(ApiError::lacks(scope)),
        (Decision::Forbidden, _) => Err(ApiError::forbidden("forbidden", ONLY_EVENTS)),
        _ => Err(ApiError::token_needed()),
    }
}

const ONLY_EVENTS: &str = "a write-only key sends events and does nothing else";

/// Whether the sender of a request with these headers may still do what needs this. Where that is not known now, they may.
pub(in crate::http) async fn is_still_admitted(
    state: &AppState,
    needs: Needs,
    headers: &HeaderMap,
    peer: IpAddr,
) -> bool {
    match admit(state, needs, headers, None, peer).await {
        Ok(_) => true,
        Err(refusal) => !refusal.is_denial(),
    }
}

/// Limits of an admitted request with events.
#[derive(Debug, Default)]
pub(in crate::http) struct EventsAdmission {
    /// What is left of its sender's budget; `None`: it is not counted.
    pub(in crate::http) quota: Option<Quota>,
    /// A limit of its body below that of the route.
    pub(in crate::http) max_body_bytes: Option<usize>,
    /// The write-only key that it comes with, among whose events alone its idempotency keys count.
    pub(in crate::http) key_space: Option<Uuid>,
}

/// Whether a request with events may be taken, and within which limits.
pub(in crate::http) async fn admit_events(
    state: &AppState,
    needs: Needs,
    head: &Parts,
    peer: IpAddr,
) -> Result<EventsAdmission, ApiError> {
    let headers = &head.headers;
    let principal = admit(state, needs, headers, head.uri.query(), peer).await?;
    let key_space = match principal.who {
        Who::WriteOnlyKey { id, .. } => Some(id),
        _ => None,
    };
    // Whose address it is need not be known where nothing is counted.
    if key_space.is_none() && !state.budgets.count_events() {
        return Ok(EventsAdmission::default());
    }
    let client = client::client(peer, headers, &state.trusted_proxies);
    Ok(EventsAdmission {
        quota: state.budgets.take_events(&principal, client.ip)?,
        max_body_bytes: key_space.map(|_| MAX_WRITE_ONLY_BYTES),
        key_space,
    })
}

/// Asks the database. Whoever makes up keys must not keep it busy, so this counts as a log-in does.
async fn look_up(
    state: &AppState,
    hash: KeyHash,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    state.budgets.take_look_up(client::client(peer, headers, &state.trusted_proxies).ip)?;
    Ok(state.services()?.accounts.look_up(hash).await?)
}

/// Where a request comes from that no connection brought.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// For all that goes through the router: lets nobody through who may not, and leaves the [`Principal`] with the request.
pub(in crate::http) async fn authorize(
    State(state): State<Arc<AppState>>,
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
    let principal = admit(&state, asked, request.headers(), None, peer).await?;
    let quota = state.budgets.take(request.method(), asked, &principal, address)?;
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
