//! `/api/conversations`: conversations, and their messages.

mod append;
mod live;
mod messages;
mod object_reader;

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};
use serde::Serialize;
use utoipa_axum::routes;
use uuid::Uuid;

use super::edge::routes::{Access, Routes};
use super::openapi::bodies::{ConversationRequest, ConversationResponse};
use super::wire::error::ApiError;
use super::wire::{json, pages, path, position, query};
use super::{AppState, Services};
use crate::auth::{Principal, Scope};
use crate::config::limits;
use crate::conversations::{ConversationsError, ListQuery, Metadata, NewConversation, Patch};
use crate::paging::Page;
use object_reader::ObjectReader;

const PATH: &str = "/api/conversations";
const DEFAULT_TITLE: &str = "New Conversation";

/// Every route below `/api/conversations`.
pub(super) fn routes() -> Routes {
    let (reads, writes) = (Access::Scope(Scope::ConversationsRead), Access::Scope(Scope::ConversationsWrite));
    Routes::default()
        .route(reads, routes!(list))
        .route(writes, routes!(create))
        .route(reads, routes!(read))
        .route(writes, routes!(change, delete))
        .route(reads, routes!(messages::list))
        .route(writes, routes!(messages::add))
        .route(reads, routes!(messages::get))
        .route(writes, routes!(append::append))
}

/// `GET /api/conversations`.
#[utoipa::path(
    get,
    path = "/api/conversations",
    tag = "conversations",
    summary = "One's own conversations, newest activity first",
    params(("limit" = Option<u32>, Query, description = "Entries of a page", minimum = 1, maximum = 200), ("after" = Option<String>, Query, description = "What a Link header gave"), ("offset" = Option<u32>, Query, description = "Conversations to pass over"), ("q" = Option<String>, Query, description = "Words of the title or of a message")),
    responses((status = 200, description = "Conversations", body = [ConversationResponse], headers(("link" = String, description = "The pages beside it"), ("x-feed-position" = String, description = "Where /api/events/stream goes on"))))
)]
async fn list(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let parameters = query::parameters(parameters)?;
    let query = ListQuery::parse(&parameters)?;
    let owner = services.accounts.user_of(&principal).await?;
    let (page, position) = services.conversations()?.list(owner, &query).await?;
    let mut response = page_answer(services, PATH, &parameters, &page)?;
    position::add(&mut response, &position)?;
    Ok(response)
}

/// `POST /api/conversations`.
#[utoipa::path(
    post,
    path = "/api/conversations",
    tag = "conversations",
    summary = "Begins a conversation",
    request_body = ConversationRequest,
    responses((status = 201, description = "The conversation", body = ConversationResponse, headers(("location" = String, description = "Its path"))))
)]
async fn create(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (_, body) = read_body(services, request).await?;
    let patch = patch(&body)?;
    let new = NewConversation {
        title: patch.title.unwrap_or_else(|| DEFAULT_TITLE.to_owned()),
        metadata: patch.metadata.unwrap_or_else(Metadata::empty),
    };
    let owner = services.accounts.user_of(&principal).await?;
    let conversation = services.conversations()?.create(owner, new).await?;
    created(services, &format!("{PATH}/{}", conversation.id), &conversation)
}

/// `GET /api/conversations/{id}`.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}",
    tag = "conversations",
    summary = "A conversation",
    params(("id" = Uuid, Path, description = "The conversation")),
    responses(
        (status = 200, description = "The conversation", body = ConversationResponse, headers(("x-feed-position" = String, description = "Where /api/events/stream goes on"))),
        (status = 404, description = "There is no such conversation of one's own"),
    )
)]
async fn read(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = conversation_id(id)?;
    let owner = services.accounts.user_of(&principal).await?;
    let (conversation, position) = services.conversations()?.get(owner, id).await?;
    let mut response = answer(services, StatusCode::OK, &conversation)?;
    position::add(&mut response, &position)?;
    Ok(response)
}

/// `PATCH /api/conversations/{id}`.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}",
    tag = "conversations",
    summary = "Changes a conversation's title or metadata",
    params(("id" = Uuid, Path, description = "The conversation")),
    request_body = ConversationRequest,
    responses(
        (status = 200, description = "The conversation as it is now", body = ConversationResponse),
        (status = 404, description = "There is no such conversation of one's own"),
    )
)]
async fn change(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = conversation_id(id)?;
    let (_, body) = read_body(services, request).await?;
    let patch = patch(&body)?;
    let owner = services.accounts.user_of(&principal).await?;
    answer(services, StatusCode::OK, &services.conversations()?.change(owner, id, &patch).await?)
}

/// `DELETE /api/conversations/{id}`.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}",
    tag = "conversations",
    summary = "Deletes a conversation with its messages",
    params(("id" = Uuid, Path, description = "The conversation")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is no such conversation of one's own"),
    )
)]
async fn delete(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let services = state.services()?;
    let id = conversation_id(id)?;
    let owner = services.accounts.user_of(&principal).await?;
    services.conversations()?.delete(owner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The changes of a conversation in a body; missing and null members change nothing.
fn patch(body: &[u8]) -> Result<Patch, ApiError> {
    let mut members = ObjectReader::of_body(body, limits::MAX_JSON_DEPTH)?;
    let title = members.text("title")?;
    if let Some(title) = &title
        && title.len() > limits::MAX_TITLE_BYTES
    {
        return Err(members.too_large("title", limits::MAX_TITLE_BYTES, None));
    }
    let metadata = members.metadata(limits::MAX_METADATA_BYTES)?;
    members.end()?;
    Ok(Patch { title, metadata })
}

/// Messages of the largest size that a body may hold.
const MESSAGES_OF_BODY: usize = 16;
/// Bytes that a body may have whatever `MAX_MESSAGE_BYTES` is: metadata and titles are in it too.
const LEAST_BODY_BYTES: usize = 4 * 1024 * 1024;

async fn read_body(
    services: &Services,
    request: Request,
) -> Result<(hyper::http::request::Parts, super::wire::body::WholeBody), ApiError> {
    let bytes = (services.conversations()?.max_message_bytes() * MESSAGES_OF_BODY).max(LEAST_BODY_BYTES);
    json::read(services, request, bytes, "MAX_MESSAGE_BYTES").await
}

fn conversation_id(id: Result<Path<Uuid>, PathRejection>) -> Result<Uuid, ConversationsError> {
    path::known(id, ConversationsError::NotFound("conversation"))
}

fn message_id(ids: Result<Path<(Uuid, Uuid)>, PathRejection>) -> Result<(Uuid, Uuid), ConversationsError> {
    path::known(ids, ConversationsError::NotFound("message"))
}

fn answer(services: &Services, status: StatusCode, value: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value).map_err(|_| ApiError::internal())?;
    Ok(json::json(status, json::held(services, body)?))
}

fn created(services: &Services, location: &str, value: &impl Serialize) -> Result<Response, ApiError> {
    let mut response = answer(services, StatusCode::CREATED, value)?;
    response.headers_mut().insert(LOCATION, header(location)?);
    Ok(response)
}

/// A page as an array, with links to its neighbours.
fn page_answer<T: Serialize>(
    services: &Services,
    path: &str,
    parameters: &[(String, String)],
    page: &Page<T>,
) -> Result<Response, ApiError> {
    let mut response = answer(services, StatusCode::OK, &page.entries)?;
    pages::add_links(&mut response, page.links(path, parameters))?;
    Ok(response)
}

fn header(value: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::try_from(value).map_err(|_| ApiError::internal())
}
