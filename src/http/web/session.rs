//! `/ui/session`: sign-in for the page. Tokens are kept in cookies that scripts cannot read.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue, SET_COOKIE};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::enter::{REFRESH, TOKEN, cookie, set_cookie};
use crate::auth::sessions::Grant;
use crate::auth::users::{Email, Password};
use crate::auth::{AuthError, Identity, Principal, Secret, Verification};
use crate::http::AppState;
use crate::http::accounts::{client, private, start_session};
use crate::http::edge::authorize;
use crate::http::edge::client::ClientAddress;
use crate::http::wire::error::ApiError;
use crate::http::wire::json;

/// The paths to which browsers send the cookies.
const TOKEN_PATH: &str = "/ui";
const REFRESH_PATH: &str = "/ui/session";

/// An email and a password, or a token: a key, the operator's token, or a JWT of an issuer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInRequest {
    email: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// The caller, as their cookie identifies them.
#[derive(Serialize)]
struct SessionResponse {
    /// `anonymous`, `user`, `key` or `operator`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    permissions: Vec<String>,
    /// Whether the caller has a session, which can be refreshed and listed.
    session: bool,
}

/// `GET /ui/session`.
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
) -> Result<Response, ApiError> {
    let (kind, session) = match principal.identity {
        Identity::Anonymous => ("anonymous", false),
        Identity::Operator => ("operator", false),
        Identity::User { .. } => ("user", true),
        Identity::External { .. } => ("user", false),
        Identity::Key { .. } | Identity::WriteOnlyKey { .. } => ("key", false),
    };
    let mut user = None;
    if let Identity::User { id, .. } = principal.identity {
        user = state.services()?.accounts.users.find(id).await?;
        // A deleted user's tokens are invalid.
        if user.is_none() {
            return Err(AuthError::Invalid.into());
        }
    }
    let shown = SessionResponse {
        kind,
        id: user.as_ref().map(|user| user.id),
        email: user.map(|user| user.email).filter(|email| !email.is_empty()),
        permissions: principal.scopes(state.verifier.is_open()).names(),
        session,
    };
    Ok(private(StatusCode::OK, &shown))
}

/// `POST /ui/session`.
pub(super) async fn sign_in(
    State(state): State<Arc<AppState>>,
    Extension(address): Extension<ClientAddress>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (client, headers) = (client(&request), request.headers().clone());
    let body: SignInRequest = json::read_object(services, request).await?;
    match body {
        SignInRequest { email: Some(email), password: Some(password), token: None } => {
            let (email, password) = (Email::parse(&email)?, Password::parse(password)?);
            let grant = start_session(&state, email, password, &client).await?;
            with_session(&state, &grant, address.by_tls)
        }
        SignInRequest { email: None, password: None, token: Some(token) } => {
            let token = token.trim();
            let principal = authorize::principal_of(&state, token, &headers, address.peer).await?;
            if matches!(principal.identity, Identity::WriteOnlyKey { .. }) {
                return Err(ApiError::forbidden("forbidden", authorize::ONLY_EVENTS));
            }
            let mut response = StatusCode::NO_CONTENT.into_response();
            // It ends with the browser, as the token's lifetime is unknown here.
            add(&mut response, set_cookie(TOKEN, token, TOKEN_PATH, None, address.by_tls)?);
            add(&mut response, forget(REFRESH, REFRESH_PATH, address.by_tls)?);
            Ok(response)
        }
        _ => Err(ApiError::invalid("sign-in takes email and password, or token").field("email")),
    }
}

/// `POST /ui/session/refresh`.
pub(super) async fn refresh(
    State(state): State<Arc<AppState>>,
    Extension(address): Extension<ClientAddress>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let token = cookie(&headers, REFRESH).ok_or_else(ApiError::token_needed)?;
    match services.accounts.sessions.refresh(&token).await {
        Ok(grant) => with_session(&state, &grant, address.by_tls),
        // The cookies of an ended session are useless.
        Err(error @ AuthError::Invalid) => {
            let mut response = ApiError::from(error).into_response();
            clear(&mut response, address.by_tls)?;
            Ok(response)
        }
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /ui/session`: ends the session, and removes the cookies.
pub(super) async fn sign_out(
    State(state): State<Arc<AppState>>,
    Extension(address): Extension<ClientAddress>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some((user, session)) = session(&state, &headers).await? {
        state.services()?.accounts.sessions.end(Some(user), Some(&[session])).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    clear(&mut response, address.by_tls)?;
    Ok(response)
}

/// The user and the session of the cookies. Where the access token has expired, the refresh token still names them.
async fn session(state: &AppState, headers: &HeaderMap) -> Result<Option<(Uuid, Uuid)>, ApiError> {
    let of = |token: &Secret| match state.verifier.verify(token.reveal()) {
        Ok(Verification::Verified(Principal { identity: Identity::User { id, session }, .. })) => {
            Some((id, session))
        }
        _ => None,
    };
    if let Some(found) = cookie(headers, TOKEN).as_ref().and_then(of) {
        return Ok(Some(found));
    }
    let Some(token) = cookie(headers, REFRESH) else { return Ok(None) };
    match state.services()?.accounts.sessions.refresh(&token).await {
        Ok(grant) => Ok(of(&grant.access)),
        Err(AuthError::Invalid) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The answer that keeps a session's tokens in cookies.
fn with_session(state: &AppState, grant: &Grant, by_tls: bool) -> Result<Response, ApiError> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    // As long as the session: by an expired token the page knows that there is another one to be had.
    let life_s = Some(state.web()?.refresh_token_s);
    add(&mut response, set_cookie(TOKEN, grant.access.reveal(), TOKEN_PATH, life_s, by_tls)?);
    add(&mut response, set_cookie(REFRESH, grant.refresh.reveal(), REFRESH_PATH, life_s, by_tls)?);
    Ok(response)
}

fn clear(response: &mut Response, by_tls: bool) -> Result<(), ApiError> {
    add(response, forget(TOKEN, TOKEN_PATH, by_tls)?);
    add(response, forget(REFRESH, REFRESH_PATH, by_tls)?);
    Ok(())
}

/// `Set-Cookie` that removes a cookie.
fn forget(name: &str, path: &str, by_tls: bool) -> Result<HeaderValue, ApiError> {
    set_cookie(name, "", path, Some(0), by_tls)
}

fn add(response: &mut Response, cookie: HeaderValue) {
    response.headers_mut().append(SET_COOKIE, cookie);
}
