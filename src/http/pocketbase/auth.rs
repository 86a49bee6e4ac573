//! Sign-ins of records: by password, by a token that is prolonged, and by a superuser in another's name.
//!
//! Every kind of sign-in ends in [`SignIn::answer`]: the collection's rule, a second factor if it asks for one, and the token.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use hyper::http::request::Parts;
use serde_json::{Map, Value, json};

use super::alerts::alert_later;
use super::caller::{request_values, require_of, require_record, require_superuser};
use super::error::{Operation, Refusal};
use super::oauth2::providers;
use super::tokens::{TokenDetails, issue};
use super::{Query, answer, answer_shown, body};
use crate::auth::RecordTokenKind;
use crate::http::edge::authorize;
use crate::http::edge::client::ClientAddress;
use crate::http::{AppState, Services};
use crate::records::schema::{AuthOptions, EMAIL, Violation, Violations, text_of};
use crate::records::typed::{
    AuthRecord, Caller, CollectionHandle, Expand, SecondFactor, TypedError, TypedRecords,
};

/// Bytes of a request.
const MAX_BYTES: usize = 64 * 1024;
/// The most characters of an identity and of a password.
const MAX_CHARACTERS: usize = 255;
/// The longest life of a token in another's name, in seconds: a hundred years.
const MAX_LIFETIME_S: i64 = 3_155_760_000;

type CollectionPath = Result<Path<String>, PathRejection>;
type RecordPath = Result<Path<(String, String)>, PathRejection>;

/// An auth collection, by its id or name.
pub(super) async fn collection(
    services: &Services,
    path: CollectionPath,
) -> Result<CollectionHandle, Refusal> {
    let Path(name) = path.map_err(|_| Refusal::not_found())?;
    named(services, &name).await
}

async fn named(services: &Services, name: &str) -> Result<CollectionHandle, Refusal> {
    let missing = |message: &'static str| Refusal::new(StatusCode::NOT_FOUND, message);
    let found = services.typed()?.collection(name).await.map_err(|error| Operation::Read.refuses(error))?;
    let found = found.ok_or_else(|| missing("Missing or invalid collection context."))?;
    match found.auth() {
        Some(_) => Ok(found),
        None => Err(missing("Missing or invalid auth collection context.")),
    }
}

/// The options of an auth collection.
pub(super) fn options(collection: &CollectionHandle) -> Result<&AuthOptions, Refusal> {
    collection.auth().ok_or_else(Refusal::internal)
}

/// A text of a body; `""` if it is left out.
pub(super) fn text(members: &Map<String, Value>, member: &str, is_form: bool) -> Result<String, Refusal> {
    match members.get(member) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) if is_form => Ok(text_of(value)),
        Some(_) => Err(Refusal::not_loaded(Violations::default())),
    }
}

/// Takes a sign-in from the budgets of the client's address and of the account, even if the account does not exist.
pub(super) fn take_sign_in(
    state: &AppState,
    head: &Parts,
    collection: &CollectionHandle,
    identity: &str,
) -> Result<(), Refusal> {
    if let Some(client) = head.extensions.get::<ClientAddress>() {
        state.budgets.take_look_up(client.ip)?;
    }
    Ok(state.budgets.take_record(&collection.definition().id, identity)?)
}

/// Takes a request with a password from the budgets of sign-ins: to hash it costs as much as one. Superusers are not counted.
pub(super) fn take_password(
    state: &AppState,
    head: &Parts,
    caller: &Caller,
    collection: &CollectionHandle,
    id: &str,
    members: &Map<String, Value>,
) -> Result<(), Refusal> {
    let is_secret = |name: &String| {
        name == "oldPassword" || collection.definition().field(name).is_some_and(|field| field.is_secret())
    };
    if caller.is_superuser || !members.keys().any(is_secret) {
        return Ok(());
    }
    if let Some(client) = head.extensions.get::<ClientAddress>() {
        state.budgets.take_look_up(client.ip)?;
    }
    match id {
        "" => Ok(()),
        // Of all guesses of its old password.
        id => Ok(state.budgets.take_record(&collection.definition().id, id)?),
    }
}

/// A sign-in that has proved its record.
pub(super) struct SignIn<'a> {
    pub(super) state: &'a AppState,
    pub(super) head: &'a Parts,
    /// The members of the request's body.
    pub(super) members: &'a Map<String, Value>,
    pub(super) record: AuthRecord,
    /// How it was proved: `password`, `otp`. `None`: by a token, which needs no second factor.
    pub(super) method: Option<&'static str>,
    /// The token of the answer. `None`: a new one.
    pub(super) token: Option<String>,
    /// Beside the record and the token.
    pub(super) meta: Option<Value>,
}

impl SignIn<'_> {
    /// The answer: the record and a token; 401 where a second factor is needed.
    pub(super) async fn answer(self) -> Result<Response, Refusal> {
        let services = self.state.services()?;
        let typed = services.typed()?;
        let query = Query::of(&self.head.uri);
        let refuse = |error| Operation::Read.refuses(error);
        if self.record.is_superuser()
            && let Some(client) = self.head.extensions.get::<ClientAddress>()
            && !typed.settings().await.map_err(refuse)?.admits_superuser_from(client.ip)
        {
            return Err(Refusal::not_from_there());
        }
        let context = self.method.unwrap_or("default");
        let request = request_values(context, self.head, &query, Some(self.members));
        let caller = Caller { is_superuser: false, request };
        if !typed.may_sign_in(&self.record, &caller).await.map_err(refuse)? {
            let message = "The request doesn't satisfy the collection requirements to authenticate.";
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        if let Some(method) = self.method
            && let Some(mfa_id) = self.second_factor(typed, method, &caller, &query).await?
        {
            // Without the form of errors.
            let mut response = answer(services, &json!({"mfaId": mfa_id}))?;
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(response);
        }
        if self.method.is_some() {
            alert_later(services, self.head, &self.record)?;
        }
        let token = match self.token {
            Some(token) => token,
            None => {
                let details = TokenDetails { is_refreshable: true, ..TokenDetails::default() };
                issue(&self.record, RecordTokenKind::Auth, details)?
            }
        };
        let own = self.record.caller(caller);
        let expand = Expand::parse(query.get("expand"));
        let members = vec![self.record.members().clone()];
        let shown = typed.shown(self.record.collection(), &own, members, &expand).await.map_err(refuse)?;
        let record = shown.into_iter().next().unwrap_or_default();
        let mut body = json!({"record": record, "token": token});
        if let (Some(meta), Value::Object(members)) = (self.meta, &mut body) {
            members.insert("meta".into(), meta);
        }
        answer_shown(services, &query, &body)
    }

    /// The id of a new session that waits for a second factor. `None`: none is needed, or this was it.
    async fn second_factor(
        &self,
        typed: &TypedRecords,
        method: &str,
        caller: &Caller,
        query: &Query,
    ) -> Result<Option<String>, Refusal> {
        let refuse = |error| Operation::Read.refuses(error);
        if !typed.needs_second_factor(&self.record, caller).await.map_err(refuse)? {
            return Ok(None);
        }
        let in_body = self.members.get("mfaId").and_then(Value::as_str).unwrap_or_default();
        let mfa_id = if in_body.is_empty() { query.get("mfaId") } else { in_body };
        if mfa_id.is_empty() {
            return typed.begin_second_factor(&self.record, method).await.map(Some).map_err(refuse);
        }
        let bad = |message: &'static str| Refusal::new(StatusCode::BAD_REQUEST, message);
        match typed.end_second_factor(&self.record, method, mfa_id).await.map_err(refuse)? {
            SecondFactor::Done => Ok(None),
            SecondFactor::SameMethod => Err(bad("A different authentication method is required.")),
            SecondFactor::Unknown => Err(bad("Invalid or expired MFA session.")),
        }
    }
}

/// The violations of a form, as an error.
pub(super) fn refused(violations: Violations) -> Result<(), Refusal> {
    violations.into_result().map_err(|violations| Operation::Form.refuses(TypedError::Refused(violations)))
}

/// `POST /api/collections/{collection}/auth-with-password`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/auth-with-password",
    tag = "collections",
    summary = "Signs a record in by its password",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "users"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    request_body(content = Value, content_type = "application/json", description = "identity, password, and perhaps identityField"),
    responses(
        (status = 200, description = "record and token", body = Value),
        (status = 400, description = "The identity or the password is wrong"),
        (status = 401, description = "A second factor is needed: mfaId"),
        (status = 403, description = "Passwords are off, or the collection's rule does not hold"),
        (status = 404, description = "There is no such auth collection"),
        (status = 429, description = "Too many sign-ins"),
    )
)]
pub(super) async fn with_password(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    let passwords = &options(&collection)?.password_auth;
    if !passwords.enabled {
        let message = "The collection is not configured to allow password authentication.";
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    let member = |name| text(&read.members, name, read.is_form);
    let (identity, password, field) = (member("identity")?, member("password")?, member("identityField")?);
    let mut violations = Violations::default();
    for (member, value) in [("identity", &identity), ("password", &password)] {
        if value.is_empty() {
            violations.add(member, Violation::required());
        } else if value.chars().count() > MAX_CHARACTERS {
            violations.add(member, Violation::out_of_range(1, MAX_CHARACTERS));
        }
    }
    if !field.is_empty() && !passwords.identity_fields.contains(&field) {
        violations.add("identityField", Violation::new("in_invalid", "Must be a valid value."));
    }
    refused(violations)?;
    take_sign_in(&state, &read.head, &collection, &identity)?;
    let typed = services.typed()?;
    let refuse = |error| Operation::Read.refuses(error);
    let mut fields: Vec<&str> = match field.as_str() {
        "" => passwords.identity_fields.iter().map(String::as_str).collect(),
        field => vec![field],
    };
    // An identity that is one record's email and another one's name is the email.
    fields.sort_by_key(|field| *field != EMAIL);
    let mut found = None;
    for field in fields {
        if found.is_none() {
            found = typed.by_identity(&collection, field, &identity).await.map_err(refuse)?;
        }
    }
    let is_right = typed.is_password(found.as_ref(), &password).await.map_err(refuse)?;
    let Some(record) = found.filter(|_| is_right) else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Failed to authenticate."));
    };
    let (head, members) = (&read.head, &read.members);
    SignIn { state: &state, head, members, record, method: Some("password"), token: None, meta: None }
        .answer()
        .await
}

/// `POST /api/collections/{collection}/auth-refresh`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/auth-refresh",
    tag = "collections",
    summary = "A new token for the one that is sent; the same one if it cannot be prolonged",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "users"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "record and token", body = Value),
        (status = 401, description = "A record's token is required"),
        (status = 403, description = "The token is of another collection, or the collection's rule does not hold"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn refresh(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    let (record, claims) = require_record(&state, &read.head).await?;
    let collection = collection(services, path).await?;
    require_of(&collection, &record)?;
    let token = match claims.refreshable {
        Some(true) => None,
        // It came with the request.
        _ => authorize::raw_token(&state, &read.head.headers).map(|token| token.into_owned()),
    };
    let (head, members) = (&read.head, &read.members);
    SignIn { state: &state, head, members, record, method: None, token, meta: None }.answer().await
}

/// `POST /api/collections/{collection}/impersonate/{id}`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/impersonate/{id}",
    tag = "collections",
    summary = "A token of another record, which cannot be prolonged; for superusers",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "users"),
        ("id" = String, Path, description = "The record's id"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    request_body(content = Value, content_type = "application/json", description = "duration, in seconds; 0: the collection's"),
    responses(
        (status = 200, description = "record and token", body = Value),
        (status = 400, description = "The duration is refused"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is no such record"),
    )
)]
pub(super) async fn impersonate(
    State(state): State<Arc<AppState>>,
    path: RecordPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let Path((name, id)) = path.map_err(|_| Refusal::not_found())?;
    let collection = named(services, &name).await?;
    let bad = || Refusal::not_loaded(Violations::default());
    let duration = match read.members.get("duration") {
        None | Some(Value::Null) => 0,
        Some(duration) => duration.as_i64().ok_or_else(bad)?,
    };
    if duration < 0 {
        let mut violations = Violations::default();
        let violation = Violation::new("min_greater_equal_than_required", "Must be no less than 0.");
        violations.add("duration", violation.with("threshold", 0));
        refused(violations)?;
    }
    let record = services.typed()?.auth_record(&collection.definition().id, &id).await;
    let record = record.map_err(|error| Operation::Read.refuses(error))?.ok_or_else(Refusal::not_found)?;
    let lifetime_s = (duration > 0).then_some(duration.min(MAX_LIFETIME_S));
    let details = TokenDetails { is_refreshable: false, lifetime_s, new_email: None };
    let token = Some(issue(&record, RecordTokenKind::Auth, details)?);
    let (head, members) = (&read.head, &read.members);
    SignIn { state: &state, head, members, record, method: None, token, meta: None }.answer().await
}

/// `GET /api/collections/{collection}/auth-methods`.
#[utoipa::path(
    get,
    path = "/api/collections/{collection}/auth-methods",
    tag = "collections",
    summary = "The ways to sign in",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "users"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "password, oauth2, otp and mfa", body = Value),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn methods(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let collection = collection(services, path).await?;
    let options = options(&collection)?;
    let passwords = &options.password_auth;
    let fields: &[String] = if passwords.enabled { &passwords.identity_fields } else { &[] };
    let has = |name: &str| fields.iter().any(|field| field == name);
    let (mfa, otp) = (&options.mfa, &options.otp);
    let seconds = |is_on: bool, duration: i64| if is_on { duration } else { 0 };
    let methods = json!({
        "password": {"enabled": passwords.enabled, "identityFields": fields},
        "oauth2": {"enabled": options.oauth2.enabled, "providers": providers(options)?},
        "mfa": {"enabled": mfa.enabled, "duration": seconds(mfa.enabled, mfa.duration)},
        "otp": {"enabled": otp.enabled, "duration": seconds(otp.enabled, otp.duration)},
        // Of clients of former versions.
        "authProviders": [], "usernamePassword": has("username"), "emailPassword": has(EMAIL),
    });
    answer_shown(services, &Query::of(request.uri()), &methods)
}
