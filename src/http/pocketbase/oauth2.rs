//! Sign-ins by a provider of identities (OpenID Connect), and the redirect that ends the provider's part.
//!
//! ```text
//! client: GET /api/realtime, topic @oauth2 ─▶ opens authURL with state = its client id ─▶ provider
//!     ─▶ /api/oauth2-redirect?state&code, on any node ─▶ event @oauth2 {state, code} ─▶ client: POST auth-with-oauth2 {code}
//! ```

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Query;
use super::auth::{SignIn, collection, options, text};
use super::body;
use super::caller::{Sender, request_values};
use super::error::{Operation, Refusal};
use super::realtime::send_redirect;
use crate::auth::id_token_claims;
use crate::http::{AppState, Services};
use crate::outbound::oidc::{CodeExchange, ProviderTokens, encoded};
use crate::records::schema::{
    AuthOptions, DateText, EMAIL, Kind, PASSWORD, PROVIDERS, VERIFIED, Violation, Violations, generate,
};
use crate::records::typed::{AuthRecord, Caller, CollectionHandle, TypedError, TypedRecords};
use crate::time::Millis;

/// Bytes of a request.
const MAX_BYTES: usize = 1 << 20;
/// Where the redirect leads, relative to its own path.
const DONE: &str = "oauth2-redirect/success";
const FAILED: &str = "oauth2-redirect/failure";
const SCOPES: &str = "openid email profile";

type CollectionPath = Result<Path<String>, PathRejection>;

fn bad(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

fn failed(error: TypedError) -> Refusal {
    Operation::Read.refuses(error)
}

/// A provider of a collection.
struct Provider<'a>(&'a Map<String, Value>);

impl<'a> Provider<'a> {
    /// Those that are known.
    fn all(auth: &'a AuthOptions) -> impl Iterator<Item = Self> {
        let known = |provider: &Self| PROVIDERS.contains(&provider.text("name"));
        auth.oauth2.providers.iter().map(Self).filter(known)
    }

    fn text(&self, member: &str) -> &'a str {
        self.0.get(member).and_then(Value::as_str).unwrap_or_default()
    }

    fn has_pkce(&self) -> bool {
        self.0.get("pkce").and_then(Value::as_bool).unwrap_or(true)
    }

    fn extra(&self, member: &str) -> Option<&'a Value> {
        self.0.get("extra")?.get(member)
    }

    /// As a client that is to sign in needs it.
    fn shown(&self) -> Result<Value, Refusal> {
        let random =
            |characters: u8| generate(&format!("[a-zA-Z0-9]{{{characters}}}")).ok_or_else(Refusal::internal);
        let (state, verifier) = (random(30)?, random(43)?);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let mut query = vec![
            ("client_id", self.text("clientId")),
            ("response_type", "code"),
            ("scope", SCOPES),
            ("state", state.as_str()),
        ];
        if self.has_pkce() {
            query.extend([("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")]);
        }
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let url = self.text("authURL");
        let joint = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{joint}{}&redirect_uri=", query.join("&"));
        let name = Some(self.text("displayName")).filter(|name| !name.is_empty()).unwrap_or("OIDC");
        let (verifier, challenge, method) = match self.has_pkce() {
            true => (verifier.as_str(), challenge.as_str(), "S256"),
            false => ("", "", ""),
        };
        Ok(json!({
            "name": self.text("name"), "displayName": name, "logo": "", "state": state, "authURL": url, "authUrl": url,
            "codeVerifier": verifier, "codeChallenge": challenge, "codeChallengeMethod": method,
        }))
    }
}

/// The providers of a collection, for its list of ways to sign in.
pub(super) fn providers(auth: &AuthOptions) -> Result<Vec<Value>, Refusal> {
    if !auth.oauth2.enabled {
        return Ok(Vec::new());
    }
    Provider::all(auth).map(|provider| provider.shown()).collect()
}

/// A user of a provider.
struct ProviderUser {
    id: String,
    name: String,
    username: String,
    avatar_url: String,
    /// Empty, unless the provider says that it is proven.
    email: String,
    raw: Map<String, Value>,
    tokens: ProviderTokens,
}

impl ProviderUser {
    /// The user behind a code.
    async fn of_code(
        services: &Services,
        provider: &Provider<'_>,
        members: &Map<String, Value>,
    ) -> Result<Self, Refusal> {
        let client = services.providers()?;
        let text = |member: &str| members.get(member).and_then(Value::as_str).unwrap_or_default();
        let exchange = CodeExchange {
            token_url: provider.text("tokenURL"),
            client_id: provider.text("clientId"),
            client_secret: provider.text("clientSecret"),
            code: text("code"),
            code_verifier: if provider.has_pkce() { text("codeVerifier") } else { "" },
            redirect_url: if text("redirectURL").is_empty() {
                text("redirectUrl")
            } else {
                text("redirectURL")
            },
        };
        let tokens = client.exchange(exchange).await.map_err(|error| {
            tracing::debug!(error = error.to_string(), "a provider gave no token");
            bad("Failed to fetch OAuth2 token.")
        })?;
        let no_user = |error: &dyn std::fmt::Display| {
            tracing::debug!(error = error.to_string(), "a provider gave no user");
            bad("Failed to fetch OAuth2 user.")
        };
        let raw = match provider.text("userInfoURL") {
            "" => {
                let keys =
                    match provider.extra("jwksURL").and_then(Value::as_str).filter(|url| !url.is_empty()) {
                        Some(url) => Some(client.keys(url).await.map_err(|error| no_user(&error))?),
                        None => None,
                    };
                let issuers: Vec<String> = match provider.extra("issuers") {
                    Some(Value::Array(all)) => {
                        all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
                    }
                    Some(Value::String(one)) => vec![one.clone()],
                    _ => Vec::new(),
                };
                id_token_claims(&tokens.id_token, provider.text("clientId"), &issuers, keys.as_deref())
                    .ok_or_else(|| no_user(&"its ID token is not valid"))?
            }
            url => client.user(url, &tokens.access_token).await.map_err(|error| no_user(&error))?,
        };
        let said = |member: &str| raw.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_proven = match raw.get("email_verified") {
            Some(Value::Bool(proven)) => *proven,
            Some(Value::String(proven)) => proven == "true" || proven == "1",
            Some(Value::Number(proven)) => proven.as_i64() == Some(1),
            _ => false,
        };
        let id = match raw.get("sub") {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => String::new(),
        };
        if id.is_empty() || id.contains('\0') {
            return Err(no_user(&"it has no id"));
        }
        Ok(Self {
            id,
            name: said("name"),
            username: said("preferred_username"),
            avatar_url: said("picture"),
            email: if is_proven { said(EMAIL) } else { String::new() },
            raw,
            tokens,
        })
    }

    fn meta(&self, is_new: bool) -> Value {
        let lifetime_s = self.tokens.lifetime_s;
        let expiry = (lifetime_s > 0)
            .then(|| DateText::at(Millis(Millis::now().0.saturating_add(lifetime_s.saturating_mul(1_000)))));
        json!({
            "id": self.id, "name": self.name, "username": self.username, "email": self.email, "isNew": is_new,
            "avatarURL": self.avatar_url, "accessToken": self.tokens.access_token,
            "refreshToken": self.tokens.refresh_token,
            "expiry": expiry.as_ref().map_or("", DateText::as_str), "rawUser": self.raw,
        })
    }
}

/// `POST /api/collections/{collection}/auth-with-oauth2`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/auth-with-oauth2",
    tag = "collections",
    summary = "Signs a record in by a provider's code; a user without a record gets one, if the collection's rule admits it",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "users"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    request_body(content = Value, content_type = "application/json", description = "provider, code, codeVerifier, redirectURL, createData"),
    responses(
        (status = 200, description = "record, token, and meta: the provider's user", body = Value),
        (status = 400, description = "The provider refuses the code, or the record is refused"),
        (status = 401, description = "A second factor is needed: mfaId"),
        (status = 403, description = "Providers are off, or the collection's rule does not hold"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn with_oauth2(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    let auth = options(&collection)?;
    if !auth.oauth2.enabled {
        let message = "The collection is not configured to allow OAuth2 authentication.";
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    let member = |name| text(&read.members, name, read.is_form);
    let (name, code) = (member("provider")?, member("code")?);
    member("codeVerifier")?;
    member("redirectURL")?;
    let provider = Provider::all(auth).find(|provider| provider.text("name") == name);
    let mut violations = Violations::default();
    if name.is_empty() {
        violations.add("provider", Violation::required());
    } else if provider.is_none() {
        let message = format!("Provider with name {name} is missing or is not enabled.");
        violations.add("provider", Violation::new("invalid_provider", message).with("name", name.as_str()));
    }
    if code.is_empty() {
        violations.add("code", Violation::required());
    }
    let Some(provider) = provider.filter(|_| violations.is_empty()) else {
        return Err(Refusal::not_loaded(violations));
    };
    let sender = Sender::of(&state, &read.head).await?;
    let user = ProviderUser::of_code(services, &provider, &read.members).await?;
    let typed = services.typed()?;
    let linked = typed.linked_record(&collection, &name, &user.id).await.map_err(failed)?;
    let own = sender.record().filter(|own| own.collection().definition().id == collection.definition().id);
    let found = match (linked, own) {
        (Some(linked), _) => Some((linked, true)),
        (None, Some(own)) => Some((own.clone(), false)),
        (None, None) if user.email.is_empty() => None,
        (None, None) => typed
            .by_identity(&collection, EMAIL, &user.email)
            .await
            .map_err(failed)?
            .map(|known| (known, false)),
    };
    let is_new = found.is_none();
    let record = match found {
        Some((record, is_linked)) => {
            let is_own = own.is_some_and(|own| own.id() == record.id());
            let keeps_link = adapt(typed, &record, &user, is_own).await?;
            if !(is_linked && keeps_link) {
                typed.link(&record, &name, &user.id).await.map_err(refuse_link)?;
            }
            record
        }
        None => {
            let create_data = read.members.get("createData").and_then(Value::as_object).cloned();
            let query = Query::of(&read.head.uri);
            let create = Creation { typed, collection: &collection, auth, user: &user };
            let payload = create.payload(create_data.unwrap_or_default())?;
            let request = request_values("oauth2", &read.head, &query, Some(&payload));
            let caller = Caller { is_superuser: sender.is_superuser(), request };
            let record = create.record(caller, payload).await?;
            if let Err(error) = typed.link(&record, &name, &user.id).await {
                // Another request has made the record of the same user meanwhile.
                typed.delete(&collection, &Caller::superuser(), record.id()).await.map_err(failed)?;
                return Err(refuse_link(error));
            }
            record
        }
    };
    // As the changes above left it.
    let record = typed.auth_record(&collection.definition().id, record.id()).await.map_err(failed)?;
    let record = record.ok_or_else(|| bad("Failed to authenticate."))?;
    let (head, members, meta) = (&read.head, &read.members, Some(user.meta(is_new)));
    SignIn { state: &state, head, members, record, method: Some("oauth2"), token: None, meta }.answer().await
}

fn refuse_link(error: TypedError) -> Refusal {
    match error {
        TypedError::Refused(_) => bad("Failed to authenticate."),
        other => failed(other),
    }
}

fn random_password(body: &mut Map<String, Value>) -> Result<(), Refusal> {
    let password = generate("[a-zA-Z0-9]{30}").ok_or_else(Refusal::internal)?;
    body.insert(PASSWORD.into(), password.as_str().into());
    body.insert("passwordConfirm".into(), password.into());
    Ok(())
}

/// Changes a known record to what the provider proved. An account with an unproven address may be another person's: it loses its password, and its
/// other providers. Whether it keeps its links.
async fn adapt(
    typed: &TypedRecords,
    record: &AuthRecord,
    user: &ProviderUser,
    is_own: bool,
) -> Result<bool, Refusal> {
    let mut body = Map::new();
    if !is_own && !record.is_verified() {
        random_password(&mut body)?;
    }
    if record.email().is_empty() && !user.email.is_empty() {
        body.insert(EMAIL.into(), user.email.as_str().into());
    }
    if !record.is_verified() && (record.email().is_empty() || record.email() == user.email) {
        body.insert(VERIFIED.into(), true.into());
    }
    if !record.is_verified() {
        typed.unlink_all(record).await.map_err(failed)?;
    }
    if !body.is_empty() {
        let changed = typed.update(record.collection(), &Caller::superuser(), record.id(), &body).await;
        changed.map_err(|error| Operation::UpdateRecord.refuses(error))?;
    }
    Ok(record.is_verified())
}

/// The record of a new user.
struct Creation<'a> {
    typed: &'a TypedRecords,
    collection: &'a CollectionHandle,
    auth: &'a AuthOptions,
    user: &'a ProviderUser,
}

impl Creation<'_> {
    /// What the client sends for the record, and what the provider says of the user.
    fn payload(&self, mut payload: Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
        if self.collection.definition().is_superusers() {
            return Err(bad("Failed to authenticate."));
        }
        if payload.get(EMAIL).and_then(Value::as_str).unwrap_or_default().is_empty() {
            payload.insert(EMAIL.into(), self.user.email.as_str().into());
        }
        let mapped = &self.auth.oauth2.mapped_fields;
        let user = self.user;
        for (field, value) in [
            (&mapped.id, &user.id),
            (&mapped.name, &user.name),
            (&mapped.username, &user.username),
            (&mapped.avatar_url, &user.avatar_url),
        ] {
            let is_there = self
                .collection
                .definition()
                .field(field)
                .is_some_and(|field| !matches!(field.kind, Kind::File { .. }));
            if is_there && !payload.contains_key(field.as_str()) {
                payload.insert(field.clone(), value.as_str().into());
            }
        }
        if !payload.contains_key(PASSWORD) {
            random_password(&mut payload)?;
        }
        Ok(payload)
    }

    async fn record(&self, caller: Caller, payload: Map<String, Value>) -> Result<AuthRecord, Refusal> {
        let made = self.typed.create(self.collection, &caller, payload).await;
        let made = made.map_err(|error| Operation::CreateRecord.refuses(error))?;
        let id = made.get("id").and_then(Value::as_str).unwrap_or_default();
        let record = self.typed.auth_record(&self.collection.definition().id, id).await.map_err(failed)?;
        let record = record.ok_or_else(Refusal::not_found)?;
        if record.email() == self.user.email && !record.is_verified() {
            self.typed.verify(&record, false).await.map_err(failed)?;
        }
        Ok(record)
    }
}

/// `GET /api/oauth2-redirect`.
#[utoipa::path(
    get,
    path = "/api/oauth2-redirect",
    tag = "collections",
    summary = "Where a provider sends a user back to; the client that waits gets the code",
    params(
        ("state" = Option<String>, Query, description = "The id of the client's stream"),
        ("code" = Option<String>, Query, description = "The provider's code"),
        ("error" = Option<String>, Query, description = "The provider's refusal"),
    ),
    responses((status = 307, description = "To a page that can be closed"))
)]
pub(super) async fn redirect(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = Query::of(request.uri());
    let [id, code, error] = ["state", "code", "error"].map(|name| query.get(name).to_owned());
    redirected(state.services()?, StatusCode::TEMPORARY_REDIRECT, &id, &code, &error).await
}

/// `POST /api/oauth2-redirect`.
#[utoipa::path(
    post,
    path = "/api/oauth2-redirect",
    tag = "collections",
    summary = "As GET, for providers that answer with a form",
    request_body(content = Value, content_type = "application/x-www-form-urlencoded", description = "state, code, error"),
    responses((status = 303, description = "To a page that can be closed"))
)]
pub(super) async fn redirect_form(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let member = |name| text(&read.members, name, read.is_form).unwrap_or_default();
    let [id, code, error] = ["state", "code", "error"].map(member);
    redirected(services, StatusCode::SEE_OTHER, &id, &code, &error).await
}

async fn redirected(
    services: &Services,
    status: StatusCode,
    id: &str,
    code: &str,
    error: &str,
) -> Result<Response, Refusal> {
    let mut data = json!({"state": id, "code": code});
    if !error.is_empty()
        && let Some(data) = data.as_object_mut()
    {
        data.insert("error".into(), error.into());
    }
    let is_awaited = send_redirect(services, id, data).await?;
    let is_done = is_awaited && error.is_empty() && !code.is_empty();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let page = if is_done { DONE } else { FAILED };
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(page));
    Ok(response)
}

/// `GET /api/oauth2-redirect/{outcome}`: a page for the user, without the code in its address.
pub(super) async fn page(path: Result<Path<String>, PathRejection>) -> Result<Response, Refusal> {
    let (title, message) = match path.as_ref().map(|Path(outcome)| outcome.as_str()) {
        Ok("success") => ("Signed in", "You can close this window and go back to the application."),
        Ok("failure") => {
            ("Not signed in", "You can close this window, go back to the application and try again.")
        }
        _ => return Err(Refusal::not_found()),
    };
    let html = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head><body><h1>{title}</h1><p>{message}</p></body></html>"
    );
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
