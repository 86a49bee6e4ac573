//! `/api/keys`: API keys for programs.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::super::wire::error::ApiError;
use super::super::wire::{json, pages, path, query};
use super::super::{AppState, Services};
use super::private;
use crate::auth::keys::{KEYS_PAGE, KeyRequest};
use crate::auth::{AuthError, Identity, Principal, Scope, Scopes};

/// The default time for which a replaced key remains valid, in seconds.
const DEFAULT_OVERLAP_S: i64 = 86_400;
/// The most scopes of a request; a set has up to a hundred prefixes.
const MAX_SCOPES: usize = 100;

#[derive(Serialize, ToSchema)]
#[schema(as = NewKey)]
struct NewKeyResponse<'a> {
    id: Uuid,
    /// The key, which is shown only once.
    key: &'a str,
    prefix: &'a str,
    name: &'a str,
    scopes: Vec<String>,
    /// Of a write-only key.
    #[serde(skip_serializing_if = "Option::is_none")]
    origins: Option<&'a [String]>,
}

/// `POST /api/keys`.
#[utoipa::path(
    post,
    path = "/api/keys",
    tag = "keys",
    summary = "Creates a key with at most the caller's permissions",
    request_body = NewKeyRequest,
    responses(
        (status = 201, description = "The key, which is shown only once", body = NewKeyResponse),
        (status = 403, description = "More permissions than the caller has"),
        (status = 404, description = "There is no such key to replace"),
        (status = 409, description = "Too many keys"),
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let request = key_request(json::read_object(services, request).await?)?;
    let owner = owner(services, &principal).await?;
    let made = services.accounts.keys.create(&request, owner, &rights(&principal)).await?;
    let shown = NewKeyResponse {
        id: made.id,
        key: made.secret.reveal(),
        prefix: &made.prefix,
        name: &made.name,
        scopes: request.scopes.names(),
        origins: request.origins.as_deref(),
    };
    Ok(private(StatusCode::CREATED, &shown))
}

/// The key that a client requests.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRequest)]
struct NewKeyRequest {
    /// Its permissions; `events:write` of a write-only key may be left out. `realtime:read:orders/` permits topics whose name begins
    /// with `orders/`.
    #[schema(example = json!(["events:write"]))]
    scopes: Option<Vec<String>>,
    /// A public key for web pages: it only sends events, from pages of its origins.
    write_only: Option<bool>,
    /// The origins of a write-only key's pages, 1 to 20.
    #[schema(example = json!(["https://app.example"]))]
    origins: Option<Vec<String>>,
    /// Its purpose.
    name: Option<String>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    expires: Option<String>,
    /// The key that it replaces.
    replaces: Option<Uuid>,
    /// Seconds for which that key remains valid.
    overlap_s: Option<i64>,
}

fn key_request(request: NewKeyRequest) -> Result<KeyRequest, ApiError> {
    let words = request.scopes.unwrap_or_default();
    if words.len() > MAX_SCOPES {
        return Err(ApiError::invalid(format!("scopes takes up to {MAX_SCOPES} scopes")).field("scopes"));
    }
    let refuse = || ApiError::invalid("scopes contains an unknown scope").field("scopes");
    let sets = words.iter().map(|word| Scopes::parse(word).ok_or_else(refuse));
    let mut scopes: Scopes = sets.collect::<Result<_, _>>()?;
    match (request.write_only.unwrap_or(false), &request.origins) {
        (true, None) => {
            return Err(
                ApiError::invalid("a write-only key requires the origins of its pages").field("origins")
            );
        }
        (false, Some(_)) => {
            return Err(ApiError::invalid("only a write-only key has origins").field("origins"));
        }
        // The only scope that it can have.
        (true, Some(_)) if scopes.is_empty() => scopes = scopes.with(Scope::EventsWrite),
        _ => {}
    }
    let expires = request.expires.map(|text| query::time_us(&text, "expires")).transpose()?;
    let overlap_s = request.overlap_s.unwrap_or(DEFAULT_OVERLAP_S);
    Ok(KeyRequest {
        name: request.name,
        scopes,
        expires_s: expires.map(|expires_us| expires_us.div_euclid(1_000_000)),
        replaces: request.replaces.map(|id| (id, overlap_s)),
        origins: request.origins,
    })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The last key of the previous page.
    after: Option<Uuid>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyResponse<'a> {
    id: Uuid,
    prefix: &'a str,
    name: &'a str,
    scopes: Vec<String>,
    owner: Option<Uuid>,
    created: &'a str,
    expires: Option<&'a str>,
    last_used: Option<&'a str>,
    revoked: Option<&'a str>,
    replaced_by: Option<Uuid>,
    /// Of a write-only key.
    #[serde(skip_serializing_if = "Option::is_none")]
    origins: Option<&'a [String]>,
}

/// `GET /api/keys`: the caller's keys; an administrator's list has all keys.
#[utoipa::path(
    get,
    path = "/api/keys",
    tag = "keys",
    summary = "The caller's keys; all keys for administrators",
    params(ListQuery),
    responses((status = 200, description = "Keys, newest first", body = [KeyResponse], headers(("link" = String, description = "The next page"))))
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) =
        query.map_err(|_| ApiError::invalid("the only parameter is after, a key's id").field("after"))?;
    let services = state.services()?;
    let keys = services.accounts.keys.list(visible_owner(services, &principal).await?, query.after).await?;
    let shown: Vec<KeyResponse<'_>> = keys
        .iter()
        .map(|key| KeyResponse {
            id: key.id,
            prefix: &key.prefix,
            name: &key.name,
            scopes: key.scopes.names(),
            owner: key.owner,
            created: &key.created,
            expires: key.expires.as_deref(),
            last_used: key.last_used.as_deref(),
            revoked: key.revoked.as_deref(),
            replaced_by: key.replaced_by,
            origins: key.origins.as_deref(),
        })
        .collect();
    let mut response = private(StatusCode::OK, &shown);
    if let Some(last) = keys.last().filter(|_| keys.len() == KEYS_PAGE) {
        pages::add_link(&mut response, "/api/keys", &[], "next", ("after", &last.id.to_string()))?;
    }
    Ok(response)
}

/// `DELETE /api/keys/{id}`: revokes a key of the caller; administrators revoke any.
#[utoipa::path(
    delete,
    path = "/api/keys/{id}",
    tag = "keys",
    summary = "Revokes a key",
    params(("id" = Uuid, Path, description = "The key")),
    responses(
        (status = 204, description = "It is revoked"),
        (status = 404, description = "The caller has no such key"),
    )
)]
pub(super) async fn revoke(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let id = path::known(id, AuthError::NotFound("key"))?;
    let services = state.services()?;
    let owner = visible_owner(services, &principal).await?;
    services.accounts.keys.revoke(&id.to_string(), owner).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The permissions that a caller may grant: those of their token, even on an open service.
fn rights(principal: &Principal) -> Scopes {
    principal.permissions.clone().unwrap_or_default()
}

/// The owner of a new key. Keys without the scope `admin` create no keys: a leaked key could otherwise create others that
/// survive its revocation.
async fn owner(services: &Services, principal: &Principal) -> Result<Option<Uuid>, AuthError> {
    match principal.identity {
        Identity::Key { .. } if !rights(principal).allow(Scope::Admin) => Err(AuthError::NotAUser),
        _ => services.accounts.user_of(principal).await,
    }
}

/// The owner of the keys that a caller can list and revoke; `None`: all keys, for administrators.
async fn visible_owner(services: &Services, principal: &Principal) -> Result<Option<Uuid>, AuthError> {
    if rights(principal).allow(Scope::Admin) {
        return Ok(None);
    }
    let owner = services.accounts.user_of(principal).await?;
    owner.map(Some).ok_or(AuthError::NotAUser)
}
