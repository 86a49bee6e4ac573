//! The sender of a request: a superuser, or a guest of the rules.

use std::net::IpAddr;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Query;
use super::error::Refusal;
use crate::auth::{Credential, Decision, Scope};
use crate::http::AppState;
use crate::http::edge::authorize;
use crate::http::edge::client::ClientAddress;
use crate::records::RequestValues;
use crate::records::typed::{Caller, CollectionHandle};

/// Whether a request's token is that of a superuser: of a caller with the permission `admin`. An invalid token counts as none.
async fn is_superuser(state: &AppState, head: &Parts) -> Result<(bool, bool), Refusal> {
    let Some(client) = head.extensions.get::<ClientAddress>() else { return Ok((false, false)) };
    let principal = authorize::of_raw_token(state, &head.headers, client.peer).await?;
    // An open service makes nobody a superuser: rules are the access here.
    Ok((principal.may(Scope::Admin, false) == Decision::Allowed, principal.is_known()))
}

/// Refuses all others than superusers.
pub(super) async fn require_superuser(state: &AppState, head: &Parts) -> Result<(), Refusal> {
    match is_superuser(state, head).await? {
        (true, _) => Ok(()),
        (false, true) => Err(Refusal::not_a_superuser()),
        (false, false) => Err(Refusal::token_needed()),
    }
}

/// The caller of a stream. A superuser is known by what their token says, which is no secret and is checked again; all others are guests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Shown(Option<Value>);

impl Shown {
    pub(super) fn is_superuser(&self) -> bool {
        self.0.is_some()
    }
}

/// The caller of a request to a stream.
pub(super) async fn shown(state: &AppState, head: &Parts) -> Result<Shown, Refusal> {
    match is_superuser(state, head).await? {
        (false, _) => Ok(Shown::default()),
        (true, _) => Ok(Shown(authorize::raw_credential(state, &head.headers)?.to_json())),
    }
}

/// Whether the token of a superuser is still valid. If that cannot be decided now, it is.
pub(super) async fn is_still_superuser(state: &AppState, shown: &Shown, peer: IpAddr) -> bool {
    let Some(credential) = shown.0.clone().and_then(Credential::from_json) else { return false };
    match authorize::principal_again(state, &credential, &HeaderMap::new(), peer).await {
        Ok(principal) => principal.may(Scope::Admin, false) == Decision::Allowed,
        Err(refusal) => !refusal.is_denial(),
    }
}

/// The sender of a request about a collection's records, with what its rules read of the request.
pub(super) async fn caller(
    state: &AppState,
    head: &Parts,
    query: &Query,
    collection: &CollectionHandle,
    body: Option<&Map<String, Value>>,
) -> Result<Caller, Refusal> {
    let (is_superuser, _) = is_superuser(state, head).await?;
    let mut caller = Caller { is_superuser, request: RequestValues::default() };
    if is_superuser || collection.reads_request() {
        caller.request = RequestValues {
            context: "default",
            method: if head.method == Method::HEAD { "GET".into() } else { head.method.as_str().into() },
            query: query.members(),
            headers: headers(head),
            body: body.cloned().unwrap_or_default(),
            before: None,
        };
    }
    Ok(caller)
}

/// Headers in snake_case.
fn headers(head: &Parts) -> Map<String, Value> {
    let mut members = Map::new();
    for (name, value) in &head.headers {
        if let Ok(value) = value.to_str() {
            members.entry(name.as_str().replace('-', "_")).or_insert_with(|| value.into());
        }
    }
    members
}
