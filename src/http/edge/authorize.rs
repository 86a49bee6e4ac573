//! Authorization: the caller of a request, and whether they have the access that its route requires.
//!
//! `credentials` reads the request's token.

use std::borrow::Cow;
use std::net::IpAddr;

use axum::Extension;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request};
use uuid::Uuid;

use super::client::{self, ClientAddress};
use super::routes::Access;
use super::{credentials, origin};
use crate::auth::tickets::TicketHash;
use crate::auth::{
    AuthError, Credential, Decision, Identity, KeyHash, Principal, Scope, Secret, Verification, is_key,
    is_write_only_key,
};
use crate::http::wire::error::ApiError;
use crate::http::wire::rate_limit::RateLimit;
use crate::http::{AppState, EVENTS_NEED};

/// Bytes of a body with events that comes with a write-only key.
const MAX_WRITE_ONLY_BYTES: usize = 1 << 20;
/// The same with the key in the URL, as beacons have it: browsers send no longer ones.
const MAX_BEACON_BYTES: usize = 64 * 1024;

/// The caller of a request, if they have this access. `peer` is the address of the connection, `query` that of an event
/// route.
async fn verify(
    state: &AppState,
    access: Access,
    headers: &HeaderMap,
    query: Option<&str>,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    verify_with(state, access, headers, query, None, peer).await
}

/// As [`verify`]; without another token, the one in the request's body counts.
async fn verify_with(
    state: &AppState,
    access: Access,
    headers: &HeaderMap,
    query: Option<&str>,
    in_body: Option<&str>,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    if let Some(own) = &state.own_origin {
        own.check_host(headers)?;
    }
    let token = match access {
        Access::Public | Access::Rules | Access::Fixed | Access::WakeToken => None,
        _ => credentials::token(headers, query, &state.cors_origins)?.or(in_body.map(Into::into)),
    };
    // A write-only key has origins of its own, which are checked below.
    let names_its_pages =
        access == Access::Scope(Scope::EventsWrite) && token.as_deref().is_some_and(is_write_only_key);
    // What is the same for everybody, every page may read.
    let is_for_pages = names_its_pages || access == Access::Fixed;
    if let Some(own) = state.own_origin.as_ref().filter(|_| !is_for_pages) {
        own.check_site(headers)?;
    }
    if matches!(access, Access::Public | Access::Rules | Access::Fixed | Access::WakeToken) {
        return Ok(Principal::ANONYMOUS);
    }
    let principal = match token {
        None => Principal::ANONYMOUS,
        Some(token) => principal_of(state, &token, headers, peer).await?,
    };
    decide(state, access, headers, principal)
}

/// Rejects requests that an open service rejects whatever their token: to another host, through a proxy, or of another site's page.
pub(super) fn check_host(state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(own) = &state.own_origin else { return Ok(()) };
    own.check_host(headers)?;
    own.check_site(headers)
}

/// The caller of a token, if it is valid.
pub(in crate::http) async fn principal_of(
    state: &AppState,
    token: &str,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    // Both on the heap, as every idle connection holds room for the largest future that it may run.
    if state.verifier.is_stale() {
        Box::pin(state.verifier.freshen()).await;
    }
    match state.verifier.verify(token)? {
        Verification::Verified(principal) => Ok(principal),
        Verification::LookUp(hash) => Box::pin(look_up(state, hash, headers, peer)).await,
    }
}

/// The caller of a route of [`Access::Rules`]: a token may come without a scheme, and an invalid one counts as none.
pub(in crate::http) async fn of_raw_token(
    state: &AppState,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    let Some(token) = raw_token(state, headers) else { return Ok(Principal::ANONYMOUS) };
    match principal_of(state, &token, headers, peer).await {
        Err(refusal) if refusal.is_denial() => Ok(Principal::ANONYMOUS),
        other => other,
    }
}

/// The token of a route of [`Access::Rules`].
pub(in crate::http) fn raw_token<'a>(state: &AppState, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
    let raw = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::trim);
    match raw.filter(|raw| !raw.is_empty() && !raw.contains([' ', '\t'])) {
        Some(raw) => Some(raw.into()),
        None => credentials::token(headers, None, &state.cors_origins).unwrap_or_default(),
    }
}

/// What the token of a request of [`Access::Rules`] says.
pub(in crate::http) fn raw_credential(state: &AppState, headers: &HeaderMap) -> Result<Credential, ApiError> {
    Ok(match raw_token(state, headers) {
        Some(token) => state.verifier.credential(&token)?,
        None => Credential::Anonymous,
    })
}

/// The caller whose token said this, if it is still valid.
pub(in crate::http) async fn principal_again(
    state: &AppState,
    credential: &Credential,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    if state.verifier.is_stale() {
        Box::pin(state.verifier.freshen()).await;
    }
    match state.verifier.verify_again(credential)? {
        Verification::Verified(principal) => Ok(principal),
        Verification::LookUp(hash) => Box::pin(look_up(state, hash, headers, peer)).await,
    }
}

/// What the token of a request says.
pub(in crate::http) fn credential(state: &AppState, headers: &HeaderMap) -> Result<Credential, ApiError> {
    Ok(match credentials::token(headers, None, &state.cors_origins)? {
        Some(token) => state.verifier.credential(&token)?,
        None => Credential::Anonymous,
    })
}

/// Returns a caller who has this access.
fn decide(
    state: &AppState,
    access: Access,
    headers: &HeaderMap,
    principal: Principal,
) -> Result<Principal, ApiError> {
    let is_write_only = matches!(principal.identity, Identity::WriteOnlyKey { .. });
    let decision = match access {
        Access::Public | Access::Rules | Access::Fixed | Access::WakeToken | Access::Optional => {
            Decision::Allowed
        }
        // The key is public, so it gives no access to an account.
        Access::SignedIn | Access::Topics | Access::Paths(_) if is_write_only => Decision::Forbidden,
        Access::Topics | Access::Paths(_) => Decision::Allowed,
        Access::SignedIn if principal.is_known() => Decision::Allowed,
        Access::SignedIn => Decision::Unknown,
        Access::Scope(scope) => principal.may(scope, state.verifier.is_open()),
        Access::Events => principal.may(Scope::EventsWrite, state.verifier.is_open()),
    };
    match (decision, access) {
        (Decision::Allowed, Access::Scope(_)) => {
            if let Identity::WriteOnlyKey { origins, .. } = &principal.identity {
                origin::check_page(headers, origins)?;
            }
            Ok(principal)
        }
        (Decision::Allowed, _) => Ok(principal),
        (Decision::Forbidden, Access::Scope(scope)) => Err(ApiError::lacks(scope)),
        (Decision::Forbidden, _) => Err(ApiError::forbidden("forbidden", ONLY_EVENTS)),
        _ => Err(ApiError::token_needed()),
    }
}

pub(in crate::http) const ONLY_EVENTS: &str = "a write-only key sends events and does nothing else";

/// A permission that depends on what a request names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) enum Requirement {
    /// A scope.
    Scope(Scope),
    /// To subscribe to the published topic, or the table, of this name.
    Topic(Box<str>),
    /// A scope for the stream of this path.
    Stream(Scope, Box<str>),
    /// A scope for some stream. The streams of the request are not known yet.
    SomeStream(Scope),
}

impl Requirement {
    /// Checks that a caller has it.
    pub(in crate::http) fn check(&self, state: &AppState, principal: &Principal) -> Result<(), ApiError> {
        let is_open = state.verifier.is_open();
        let (decision, scope) = match self {
            Self::Scope(scope) => (principal.may(*scope, is_open), *scope),
            Self::Topic(name) => {
                (principal.may_with(Scope::RealtimeRead, name, is_open), Scope::RealtimeRead)
            }
            Self::SomeStream(scope) => (principal.may_with_some(*scope, is_open), *scope),
            Self::Stream(scope, path) => (principal.may_with(*scope, path, is_open), *scope),
        };
        match decision {
            Decision::Allowed => Ok(()),
            Decision::Forbidden => Err(ApiError::lacks(scope)),
            Decision::Unknown => Err(ApiError::token_needed()),
        }
    }
}

/// What a caller showed, which is checked again while a stream lasts.
#[derive(Debug)]
pub(in crate::http) enum Proof {
    /// The headers of the request.
    Headers(HeaderMap),
    /// A token that came later.
    Token(Secret),
    /// A ticket, which is used up: what its caller's token said.
    Ticket(Box<Credential>),
}

/// The caller of a ticket, for the handler of its request.
#[derive(Debug, Clone)]
pub(in crate::http) struct TicketCaller(Credential);

impl Proof {
    /// That of a request: its ticket, or else its headers.
    pub(in crate::http) fn new(ticket: Option<Extension<TicketCaller>>, headers: HeaderMap) -> Self {
        match ticket {
            Some(Extension(TicketCaller(credential))) => Self::Ticket(Box::new(credential)),
            None => Self::Headers(headers),
        }
    }

    /// The caller, if it is still valid.
    pub(in crate::http) async fn principal(
        &self,
        state: &AppState,
        peer: IpAddr,
    ) -> Result<Principal, ApiError> {
        match self {
            Self::Headers(headers) => verify(state, Access::Topics, headers, None, peer).await,
            Self::Token(token) => {
                let headers = HeaderMap::new();
                let principal = principal_of(state, token.reveal(), &headers, peer).await?;
                decide(state, Access::Topics, &headers, principal)
            }
            Self::Ticket(credential) => {
                let headers = HeaderMap::new();
                let principal = principal_again(state, credential, &headers, peer).await?;
                decide(state, Access::Topics, &headers, principal)
            }
        }
    }
}

/// The access of a stream's caller.
#[derive(Debug)]
pub(in crate::http) struct StreamAccess {
    /// What they showed.
    pub(in crate::http) proof: Proof,
    /// What the stream requires.
    pub(in crate::http) requirements: Vec<Requirement>,
}

impl StreamAccess {
    /// The access to a stream that requires a scope.
    pub(in crate::http) fn of_scope(scope: Scope, headers: HeaderMap) -> Self {
        Self { proof: Proof::Headers(headers), requirements: vec![Requirement::Scope(scope)] }
    }

    /// Whether the caller still has it. If that cannot be decided now, they have.
    pub(in crate::http) async fn is_held(&self, state: &AppState, peer: IpAddr) -> bool {
        match self.proof.principal(state, peer).await {
            Ok(principal) => self.requirements.iter().all(|one| one.check(state, &principal).is_ok()),
            Err(refusal) => !refusal.is_denial(),
        }
    }
}

/// An admitted request.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) principal: Principal,
    /// Of a request with a ticket.
    pub(super) ticket: Option<TicketCaller>,
    /// The rest of the caller's budget; `None`: their requests are not counted.
    pub(super) quota: Option<RateLimit>,
}

impl Admission {
    /// That of a request whose handler finds its caller.
    pub(super) const BY_HANDLER: Self = Self { principal: Principal::ANONYMOUS, ticket: None, quota: None };
}

/// Authorizes a request, and takes it from its caller's budget.
pub(super) async fn admit<B>(
    state: &AppState,
    access: Access,
    request: &Request<B>,
    client: ClientAddress,
) -> Result<Admission, ApiError> {
    let headers = request.headers();
    let mut tickets = match (access, request.method()) {
        (Access::Topics, &Method::GET) => credentials::tickets(request.uri().query()),
        _ => credentials::tickets(None),
    };
    let (principal, ticket) = match tickets.next() {
        None => (verify(state, access, headers, None, client.peer).await?, None),
        Some(_) if tickets.next().is_some() => return Err(ApiError::unauthorized()),
        Some(ticket) => {
            let (principal, credential) = Box::pin(redeem(state, &ticket, headers, client)).await?;
            (principal, Some(TicketCaller(credential)))
        }
    };
    let quota = state.budgets.take(request.method(), access, &principal, client.ip)?;
    Ok(Admission { principal, ticket, quota })
}

/// Uses a ticket up; returns its caller. It takes the place of a token, so there may be no other.
async fn redeem(
    state: &AppState,
    ticket: &str,
    headers: &HeaderMap,
    client: ClientAddress,
) -> Result<(Principal, Credential), ApiError> {
    // The rules for hosts and sites hold for tickets too.
    let shown = verify(state, Access::Topics, headers, None, client.peer).await?;
    if shown.is_known() {
        return Err(ApiError::unauthorized());
    }
    let hash = TicketHash::of(ticket).ok_or(AuthError::InvalidTicket)?;
    state.budgets.take_ticket(client.ip)?;
    let credential = state.services()?.accounts.tickets.redeem(&hash).await?;
    let principal = principal_again(state, &credential, headers, client.peer).await?;
    Ok((decide(state, Access::Topics, headers, principal)?, credential))
}

/// Limits of an admitted request with events.
#[derive(Debug, Default)]
pub(in crate::http) struct EventsAdmission {
    /// The rest of the caller's budget; `None`: their requests are not counted.
    pub(in crate::http) quota: Option<RateLimit>,
    /// A limit of its body below that of the route.
    pub(in crate::http) max_body_bytes: Option<usize>,
    /// Its write-only key, which has a key space of its own for idempotency keys.
    pub(in crate::http) key_space: Option<Uuid>,
}

/// Authorizes a request with events, and takes it from its caller's budget.
pub(super) async fn admit_events(
    state: &AppState,
    head: &Parts,
    peer: IpAddr,
) -> Result<EventsAdmission, ApiError> {
    let principal = verify(state, EVENTS_NEED, &head.headers, head.uri.query(), peer).await?;
    take_events(state, &principal, &head.headers, head.uri.query(), peer)
}

/// Whether a request has a token in its headers.
pub(in crate::http) fn has_token(state: &AppState, headers: &HeaderMap) -> Result<bool, ApiError> {
    credentials::token(headers, None, &state.cors_origins).map(|token| token.is_some())
}

/// The limit of a body that is read before its caller is known; `None`: callers need no token.
pub(in crate::http) fn max_bytes_without_token(state: &AppState) -> Option<usize> {
    (!state.verifier.is_open()).then_some(MAX_WRITE_ONLY_BYTES)
}

/// As [`admit_events`], for a request in another protocol, whose key may be in its body. Keys of other services are no tokens.
pub(in crate::http) async fn admit_intake(
    state: &AppState,
    headers: &HeaderMap,
    in_body: Option<&str>,
    peer: IpAddr,
) -> Result<EventsAdmission, ApiError> {
    let key = in_body.filter(|key| is_key(key));
    let principal = verify_with(state, EVENTS_NEED, headers, None, key, peer).await?;
    take_events(state, &principal, headers, None, peer)
}

/// Takes a request with events from its caller's budget.
fn take_events(
    state: &AppState,
    principal: &Principal,
    headers: &HeaderMap,
    query: Option<&str>,
    peer: IpAddr,
) -> Result<EventsAdmission, ApiError> {
    let key_space = match principal.identity {
        Identity::WriteOnlyKey { id, .. } => Some(id),
        _ => None,
    };
    // The client's address is only needed to count.
    if key_space.is_none() && !state.budgets.count_events() {
        return Ok(EventsAdmission::default());
    }
    let client = client::client(peer, headers, &state.trusted_proxies);
    Ok(EventsAdmission {
        quota: state.budgets.take_events(principal, client.ip)?,
        max_body_bytes: key_space.map(|_| match credentials::has_write_only_key(query) {
            true => MAX_BEACON_BYTES,
            false => MAX_WRITE_ONLY_BYTES,
        }),
        key_space,
    })
}

/// Looks a key up in the database. Made-up keys must not keep it busy, so a look-up counts as a log-in.
async fn look_up(
    state: &AppState,
    hash: KeyHash,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Principal, ApiError> {
    state.budgets.take_look_up(client::client(peer, headers, &state.trusted_proxies).ip)?;
    Ok(state.services()?.accounts.look_up(hash).await?)
}
