//! The sender of a request: a superuser, a record that signed in, or a guest of the rules.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Query;
use super::error::{Operation, Refusal};
use super::request_log::LoggedSender;
use super::tokens;
use crate::auth::{Credential, Decision, RecordClaims, RecordTokenKind, Scope};
use crate::http::AppState;
use crate::http::edge::authorize;
use crate::http::edge::client::ClientAddress;
use crate::records::RequestValues;
use crate::records::typed::{AuthRecord, Caller, CollectionHandle};
use crate::time::Millis;

/// The sender of a request, by its token. An invalid token counts as none.
#[derive(Debug)]
pub(super) enum Sender {
    /// Without a token of this API.
    Guest,
    /// A caller of the service without the permission `admin`.
    Other,
    /// A caller of the service with the permission `admin`.
    Admin,
    /// A record that signed in, and the claims of its token.
    Record(Box<(AuthRecord, RecordClaims)>),
}

impl Sender {
    /// The sender of a request.
    pub(super) async fn of(state: &AppState, head: &Parts) -> Result<Self, Refusal> {
        let sender = Self::read(state, head).await?;
        if let Some(logged) = head.extensions.get::<LoggedSender>() {
            logged.set(&sender);
        }
        Ok(sender)
    }

    async fn read(state: &AppState, head: &Parts) -> Result<Self, Refusal> {
        let Some(client) = head.extensions.get::<ClientAddress>() else { return Ok(Self::Guest) };
        if let Some(token) = authorize::raw_token(state, &head.headers)
            && RecordClaims::read(&token).is_some()
        {
            let typed = state.services()?.typed()?;
            let verified = tokens::verify(typed, &token, RecordTokenKind::Auth).await?;
            return Ok(verified.map_or(Self::Guest, |verified| Self::Record(Box::new(verified))));
        }
        let principal = authorize::of_raw_token(state, &head.headers, client.peer).await?;
        // An open service has no superusers: rules are the access here.
        Ok(match principal.may(Scope::Admin, false) {
            Decision::Allowed => Self::Admin,
            _ if principal.is_known() => Self::Other,
            _ => Self::Guest,
        })
    }

    /// The sender of a request for a protected file, by the token in its URL.
    pub(super) async fn of_file_token(state: &AppState, token: &str) -> Result<Self, Refusal> {
        if token.is_empty() {
            return Ok(Self::Guest);
        }
        let verified = tokens::verify(state.services()?.typed()?, token, RecordTokenKind::File).await?;
        Ok(verified.map_or(Self::Guest, |verified| Self::Record(Box::new(verified))))
    }

    /// The caller of an operation on a collection; `values` are made if a rule reads them.
    pub(super) fn caller(
        &self,
        collection: &CollectionHandle,
        values: impl FnOnce() -> RequestValues,
    ) -> Caller {
        let is_superuser = self.is_superuser();
        let mut caller = Caller { is_superuser, request: RequestValues::default() };
        if is_superuser || collection.reads_request() {
            caller.request = values();
        }
        match self.record() {
            None => caller,
            Some(record) => record.caller(caller),
        }
    }

    /// Whether no rule limits it.
    pub(super) fn is_superuser(&self) -> bool {
        match self {
            Self::Guest | Self::Other => false,
            Self::Admin => true,
            Self::Record(verified) => verified.0.is_superuser(),
        }
    }

    /// The record that signed in.
    pub(super) fn record(&self) -> Option<&AuthRecord> {
        match self {
            Self::Record(verified) => Some(&verified.0),
            _ => None,
        }
    }
}

/// Refuses all others than superusers.
pub(super) async fn require_superuser(state: &AppState, head: &Parts) -> Result<(), Refusal> {
    match Sender::of(state, head).await? {
        sender if sender.is_superuser() => Ok(()),
        Sender::Guest => Err(Refusal::token_needed()),
        _ => Err(Refusal::not_a_superuser()),
    }
}

/// The record that a request's token is of; 401 without one.
pub(super) async fn require_record(
    state: &AppState,
    head: &Parts,
) -> Result<(AuthRecord, RecordClaims), Refusal> {
    match Sender::of(state, head).await? {
        Sender::Record(verified) => Ok(*verified),
        _ => Err(Refusal::token_needed()),
    }
}

/// Refuses a record that is of another collection.
pub(super) fn require_of(collection: &CollectionHandle, record: &AuthRecord) -> Result<(), Refusal> {
    if record.collection().definition().id == collection.definition().id {
        return Ok(());
    }
    let name = record.collection().name().as_str();
    let message = format!("The request requires auth record from {name} collection.");
    Err(Refusal::new(StatusCode::FORBIDDEN, message))
}

/// The longest time until the expiry of a token that is waited for, in seconds: a year.
const MAX_LIFETIME_S: u64 = 31_557_600;

/// The caller of a stream, by what is no secret, and is checked again while the stream lasts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Shown {
    #[default]
    Guest,
    /// What the token of an administrator says.
    Key(Option<Value>),
    Record(ShownRecord),
}

/// A record that signed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ShownRecord {
    /// The id of its collection.
    pub(super) collection: String,
    pub(super) id: String,
    /// Of its token key: another password or email makes another one.
    key: String,
    /// Of the secret of its collection's tokens.
    secret: String,
    /// The first second of Unix time at which the token is not valid.
    expires_s: i64,
}

impl ShownRecord {
    fn of(record: &AuthRecord, expires_s: i64) -> Self {
        let secret = record.collection().auth().map_or("", |auth| auth.auth_token.secret.as_str());
        Self {
            collection: record.collection().definition().id.clone(),
            id: record.id().to_owned(),
            key: fingerprint(record.token_key()),
            secret: fingerprint(secret),
            expires_s,
        }
    }
}

/// Of a secret of much more than 128 random bits, which it does not reveal.
fn fingerprint(secret: &str) -> String {
    let hash = Sha256::digest(secret.as_bytes());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Shown {
    /// Whether the stream of this caller may become that of another one: a guest's may.
    pub(super) fn may_become(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Guest, _) => true,
            (Self::Record(own), Self::Record(other)) => {
                (&own.collection, &own.id) == (&other.collection, &other.id)
            }
            (own, other) => own == other,
        }
    }

    /// The time until the token of a record expires. `None`: it is of another kind, whose validity is checked now and then.
    pub(super) fn expires_in(&self) -> Option<Duration> {
        let Self::Record(record) = self else { return None };
        let now_s = Millis::now().0.div_euclid(1_000);
        let left_s = u64::try_from(record.expires_s.saturating_sub(now_s)).unwrap_or_default();
        // No clock of this process runs for longer.
        Some(Duration::from_secs(left_s.min(MAX_LIFETIME_S)))
    }

    /// The identity to which kept positions are bound: the same for each token of it, and one for all guests.
    pub(super) fn identity(&self) -> String {
        let said = match self {
            Self::Guest | Self::Key(None) => return "guest".to_owned(),
            Self::Record(record) => return format!("{}/{}", record.collection, record.id),
            Self::Key(Some(said)) => said,
        };
        let mut said = said.clone();
        if let Some(members) = said.as_object_mut() {
            for of_one_token in ["session", "issued_s", "expires_s", "scopes"] {
                members.remove(of_one_token);
            }
        }
        format!("key/{}", fingerprint(&said.to_string()))
    }

    /// The owner of kept positions, whose number is bounded: the identity, or the address of a guest.
    pub(super) fn owner(&self, head: &Parts) -> String {
        if *self != Self::Guest {
            return self.identity();
        }
        let address = head.extensions.get::<ClientAddress>().map(|client| client.ip);
        match address {
            // A client has a whole network of these.
            Some(IpAddr::V6(ip)) => format!("guest:{:x}/64", ip.to_bits() >> 64),
            Some(ip) => format!("guest:{ip}"),
            None => "guest".to_owned(),
        }
    }
}

/// The caller of a request to a stream.
pub(super) async fn shown(state: &AppState, head: &Parts) -> Result<Shown, Refusal> {
    match Sender::of(state, head).await? {
        Sender::Guest | Sender::Other => Ok(Shown::default()),
        Sender::Admin => Ok(Shown::Key(authorize::raw_credential(state, &head.headers)?.to_json())),
        Sender::Record(verified) => Ok(Shown::Record(ShownRecord::of(&verified.0, verified.1.exp))),
    }
}

/// The record that a stream's caller signed in as. `None`: it is gone, or its tokens are void. If that cannot be decided now, it is an error.
pub(super) async fn record_again(
    state: &AppState,
    shown: &ShownRecord,
) -> Result<Option<Arc<AuthRecord>>, Refusal> {
    let record = state.services()?.typed()?.signed_in(&shown.collection, &shown.id).await;
    let record = record.map_err(|error| Operation::Read.refuses(error))?;
    Ok(record.filter(|record| ShownRecord::of(record, shown.expires_s) == *shown))
}

/// Whether the token of an administrator is still valid. If that cannot be decided now, it is.
pub(super) async fn is_still_superuser(state: &AppState, shown: &Shown, peer: IpAddr) -> bool {
    let Shown::Key(Some(shown)) = shown else { return false };
    let Some(credential) = Credential::from_json(shown.clone()) else { return false };
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
    let sender = Sender::of(state, head).await?;
    Ok(sender.caller(collection, || request_values("default", head, query, body)))
}

/// What rules read of a request, but for its sender.
pub(super) fn request_values(
    context: &'static str,
    head: &Parts,
    query: &Query,
    body: Option<&Map<String, Value>>,
) -> RequestValues {
    RequestValues {
        context,
        method: if head.method == Method::HEAD { "GET".into() } else { head.method.as_str().into() },
        query: query.members(),
        headers: headers(head),
        body: body.cloned().unwrap_or_default(),
        before: None,
        auth: None,
    }
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
