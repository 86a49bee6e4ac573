//! `/api/auth`: registration, log-in and log-out, and the caller's sessions.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{HeaderMap, USER_AGENT};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::edge::client::ClientAddress;
use super::super::wire::error::ApiError;
use super::super::wire::{json, path};
use super::super::{AppState, Services};
use super::private;
use crate::auth::sessions::{Client, Grant};
use crate::auth::users::{Email, Password, User};
use crate::auth::{AuthError, Identity, Principal, Scopes, Secret};

/// Characters of a `User-Agent` that are stored.
const MAX_USER_AGENT: usize = 256;

/// The credentials of a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Credentials)]
struct CredentialsRequest {
    /// At most 254 bytes.
    #[schema(example = "ada@example.com")]
    email: String,
    /// 8 to 256 bytes.
    #[schema(example = "correct horse")]
    password: String,
}

/// The token of a log-in, or of the last exchange.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RefreshToken)]
struct RefreshRequest {
    refresh_token: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = User)]
struct UserResponse<'a> {
    id: Uuid,
    email: &'a str,
    permissions: Vec<String>,
    created: &'a str,
}

impl<'a> From<&'a User> for UserResponse<'a> {
    fn from(user: &'a User) -> Self {
        let permissions = user.permissions.names();
        Self { id: user.id, email: &user.email, permissions, created: &user.created }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
struct TokensResponse<'a> {
    access_token: &'a str,
    refresh_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
}

fn tokens(grant: &Grant) -> Response {
    let tokens = TokensResponse {
        access_token: grant.access.reveal(),
        refresh_token: grant.refresh.reveal(),
        token_type: "Bearer",
        expires_in: grant.expires_in_s,
    };
    private(StatusCode::OK, &tokens)
}

/// `POST /api/auth/register`.
#[utoipa::path(
    post,
    path = "/api/auth/register",
    tag = "users",
    summary = "Registers a user",
    request_body = CredentialsRequest,
    responses(
        (status = 201, description = "The user", body = UserResponse),
        (status = 403, description = "Registration is off (REGISTRATION)"),
        (status = 409, description = "The email is in use"),
    )
)]
pub(super) async fn register(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    if !state.takes_registrations {
        return Err(AuthError::RegistrationOff.into());
    }
    let (email, password) = credentials(services, request).await?;
    let user = services.accounts.users.add(&email, password, Scopes::of_a_registered_user()).await?;
    Ok(private(StatusCode::CREATED, &UserResponse::from(&user)))
}

/// `POST /api/auth/login`.
#[utoipa::path(
    post,
    path = "/api/auth/login",
    tag = "users",
    summary = "Starts a session",
    request_body = CredentialsRequest,
    responses(
        (status = 200, description = "Tokens", body = TokensResponse),
        (status = 401, description = "Wrong email or password"),
    )
)]
pub(super) async fn login(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let client = client(&request);
    let (email, password) = credentials(services, request).await?;
    Ok(tokens(&start_session(&state, email, password, &client).await?))
}

/// Starts a session of the user with this email and password.
pub(in crate::http) async fn start_session(
    state: &AppState,
    email: Email,
    password: Password,
    client: &Client,
) -> Result<Grant, ApiError> {
    let accounts = &state.services()?.accounts;
    state.budgets.take_account(&email)?;
    let user = accounts.users.sign_in(&email, password).await?;
    Ok(accounts.sessions.begin(&user, client).await?)
}

/// `POST /api/auth/refresh`.
#[utoipa::path(
    post,
    path = "/api/auth/refresh",
    tag = "users",
    summary = "Exchanges a refresh token, which is valid once",
    request_body = RefreshRequest,
    responses(
        (status = 200, description = "Tokens", body = TokensResponse),
        (status = 401, description = "The token is invalid"),
    )
)]
pub(super) async fn refresh(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let RefreshRequest { refresh_token } = json::read_object(services, request).await?;
    let token = Secret::new(refresh_token);
    Ok(tokens(&services.accounts.sessions.refresh(&token).await?))
}

/// `POST /api/auth/logout`: ends the session of the request's token.
#[utoipa::path(
    post,
    path = "/api/auth/logout",
    tag = "users",
    summary = "Ends the session of the request's token",
    responses((status = 204, description = "It has ended"))
)]
pub(super) async fn logout(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
) -> Result<StatusCode, ApiError> {
    let (user, session) = session(&principal)?;
    state.services()?.accounts.sessions.end(Some(user), Some(&[session])).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize, ToSchema)]
#[schema(as = Me)]
struct MeResponse<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    permissions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Uuid>,
}

/// `GET /api/auth/me`: the caller, as their token identifies them.
#[utoipa::path(
    get,
    path = "/api/auth/me",
    tag = "users",
    summary = "The caller, as their token identifies them",
    responses((status = 200, description = "The caller", body = MeResponse))
)]
pub(super) async fn me(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = services.accounts.user_of(&principal).await?;
    let user = match id {
        Some(id) => services.accounts.users.find(id).await?,
        None => None,
    };
    let (kind, session, key) = match principal.identity {
        Identity::Anonymous => return Err(ApiError::token_needed()),
        Identity::Operator => ("operator", None, None),
        // A deleted user's tokens are invalid.
        Identity::User { .. } if user.is_none() => return Err(AuthError::Invalid.into()),
        Identity::User { session, .. } => ("user", Some(session), None),
        Identity::External { .. } => ("user", None, None),
        Identity::Key { id, .. } | Identity::WriteOnlyKey { id, .. } => ("key", None, Some(id)),
    };
    let me = MeResponse {
        kind,
        id,
        email: user.as_ref().map(|user| user.email.as_str()).filter(|email| !email.is_empty()),
        permissions: principal.scopes(state.verifier.is_open()).names(),
        created: user.as_ref().map(|user| user.created.as_str()),
        session,
        key,
    };
    Ok(private(StatusCode::OK, &me))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionResponse<'a> {
    id: Uuid,
    created: &'a str,
    last_used: &'a str,
    expires: &'a str,
    user_agent: Option<&'a str>,
    address: Option<&'a str>,
    current: bool,
}

/// `GET /api/auth/sessions`: the caller's current sessions.
#[utoipa::path(
    get,
    path = "/api/auth/sessions",
    tag = "users",
    summary = "The caller's current sessions",
    responses((status = 200, description = "Sessions", body = [SessionResponse]))
)]
pub(super) async fn sessions(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
) -> Result<Response, ApiError> {
    let (user, current) = session(&principal)?;
    let listed = state.services()?.accounts.sessions.list(user).await?;
    let shown: Vec<SessionResponse<'_>> = listed
        .iter()
        .map(|session| SessionResponse {
            id: session.id,
            created: &session.created,
            last_used: &session.last_used,
            expires: &session.expires,
            user_agent: session.client.user_agent.as_deref(),
            address: session.client.address.as_deref(),
            current: session.id == current,
        })
        .collect();
    Ok(private(StatusCode::OK, &shown))
}

/// `DELETE /api/auth/sessions/{id}`: ends a session of the caller.
#[utoipa::path(
    delete,
    path = "/api/auth/sessions/{id}",
    tag = "users",
    summary = "Ends a session of the caller",
    params(("id" = Uuid, Path, description = "The session")),
    responses(
        (status = 204, description = "It has ended"),
        (status = 404, description = "The caller has no such session"),
    )
)]
pub(super) async fn end_session(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let (user, _) = session(&principal)?;
    let id = path::known(id, AuthError::NotFound("session"))?;
    match state.services()?.accounts.sessions.end(Some(user), Some(&[id])).await? {
        0 => Err(AuthError::NotFound("session").into()),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// The user and the session of a log-in's token.
fn session(principal: &Principal) -> Result<(Uuid, Uuid), AuthError> {
    match principal.identity {
        Identity::User { id, session } => Ok((id, session)),
        _ => Err(AuthError::NotAUser),
    }
}

async fn credentials(services: &Services, request: Request) -> Result<(Email, Password), ApiError> {
    let CredentialsRequest { email, password } = json::read_object(services, request).await?;
    Ok((Email::parse(&email)?, Password::parse(password)?))
}

/// The client of a request, for the list of sessions.
pub(in crate::http) fn client(request: &Request) -> Client {
    let agent = |headers: &HeaderMap| {
        let text = String::from_utf8_lossy(headers.get(USER_AGENT)?.as_bytes()).into_owned();
        Some(text.chars().take(MAX_USER_AGENT).collect())
    };
    let address = request.extensions().get::<ClientAddress>();
    Client { user_agent: agent(request.headers()), address: address.map(|address| address.ip.to_string()) }
}
