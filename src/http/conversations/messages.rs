//! `/api/conversations/{id}/messages`: a conversation's messages, in order.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use hyper::header::LOCATION;
use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::super::openapi::bodies::{MessageResponse, MessagesRequest, MessagesResponse};
use super::super::server::ConnectionHandle;
use super::super::wire::error::ApiError;
use super::super::wire::{position, query};
use super::super::{AppState, Services};
use super::object_reader::ObjectReader;
use super::{PATH, answer, conversation_id, header, live, message_id, page_answer, read_body};
use crate::auth::Principal;
use crate::config::limits;
use crate::conversations::{
    CHAT_MEMBERS, IdempotencyKey, MessageQuery, Metadata, NewMessage, Role, read_content,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest key, in characters.
const MAX_KEY: usize = 255;

/// `GET /api/conversations/{id}/messages`.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages",
    tag = "conversations",
    summary = "A conversation's messages in order",
    params(("id" = Uuid, Path, description = "The conversation"), ("limit" = Option<u32>, Query, description = "Entries of a page", minimum = 1, maximum = 200), ("after" = Option<String>, Query, description = "What a Link header gave"), ("before" = Option<String>, Query, description = "What a Link header gave, or end"), ("live" = Option<String>, Query, description = "sse: goes on with what happens, as server-sent events"), ("last-event-id" = Option<String>, Header, description = "With live: what was seen")),
    responses(
        (status = 200, description = "Messages, or a stream of them", content((Vec<MessageResponse> = "application/json"), (String = "text/event-stream")), headers(("link" = String, description = "The pages beside it"), ("x-feed-position" = String, description = "Where /api/events/stream goes on"))),
        (status = 404, description = "There is no such conversation of one's own"),
    )
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(connection): Extension<ConnectionHandle>,
    headers: HeaderMap,
    id: Result<Path<Uuid>, PathRejection>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = conversation_id(id)?;
    let parameters = query::parameters(parameters)?;
    if parameters.iter().any(|(name, _)| name == "live") {
        let request = live::LiveRequest { conversation: id, parameters, headers, connection, principal };
        return live::get(&state, services, request).await;
    }
    let query = MessageQuery::parse(&parameters)?;
    let owner = services.accounts.user_of(&principal).await?;
    let (page, position) = services.conversations()?.messages(owner, id, &query).await?;
    let mut response = page_answer(services, &format!("{PATH}/{id}/messages"), &parameters, &page)?;
    position::add(&mut response, &position)?;
    Ok(response)
}

/// `GET /api/conversations/{id}/messages/{message}`.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{message}",
    tag = "conversations",
    summary = "A message",
    params(("id" = Uuid, Path, description = "The conversation"), ("message" = Uuid, Path, description = "The message")),
    responses(
        (status = 200, description = "The message", body = MessageResponse, headers(("x-feed-position" = String, description = "Where /api/events/stream goes on"))),
        (status = 404, description = "There is no such message of one's own"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    ids: Result<Path<(Uuid, Uuid)>, PathRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (conversation, id) = message_id(ids)?;
    let owner = services.accounts.user_of(&principal).await?;
    let (message, position) = services.conversations()?.message(owner, conversation, id).await?;
    let mut response = answer(services, StatusCode::OK, &message)?;
    position::add(&mut response, &position)?;
    Ok(response)
}

/// `POST /api/conversations/{id}/messages`: one message, or an array of them, all or none.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/messages",
    tag = "conversations",
    summary = "Adds messages, all or none",
    params(("id" = Uuid, Path, description = "The conversation"), ("idempotency-key" = Option<String>, Header, description = "1 to 255 visible ASCII characters: a repetition is answered as before")),
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "They were added before, with this key", body = MessagesResponse),
        (status = 201, description = "The messages as they were added", body = MessagesResponse, headers(("location" = String, description = "The path of the first"))),
        (status = 404, description = "There is no such conversation of one's own"),
        (status = 422, description = "The key came with another body"),
    )
)]
pub(super) async fn add(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = conversation_id(id)?;
    let (head, body) = read_body(services, request).await?;
    let key = key(&head.headers, &body)?;
    let (messages, is_array) = new_messages(services, &body)?;
    let owner = services.accounts.user_of(&principal).await?;
    let added = services.conversations()?.add(owner, id, messages, key).await?;
    let Some(first) = added.messages.first() else { return Err(ApiError::internal()) };
    let location = format!("{PATH}/{id}/messages/{}", first.id);
    let status = if added.is_repeated { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = match is_array {
        true => answer(services, status, &added.messages)?,
        false => answer(services, status, first)?,
    };
    response.headers_mut().insert(LOCATION, header(&location)?);
    Ok(response)
}

/// The request's key, with the hash of its body.
fn key(headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let bytes = value.as_bytes();
    // The header is a string of RFC 9651, which stands in quotes; many clients leave them out.
    let bare = bytes.strip_prefix(b"\"").and_then(|bytes| bytes.strip_suffix(b"\"")).unwrap_or(bytes);
    let text = std::str::from_utf8(bare).ok().filter(|text| {
        (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let refuse = || {
        let message = format!("idempotency-key takes 1 to {MAX_KEY} visible ASCII characters");
        ApiError::invalid(message).field(IDEMPOTENCY_KEY)
    };
    Ok(Some(IdempotencyKey {
        text: text.ok_or_else(refuse)?.to_owned(),
        hash: Sha256::digest(body).to_vec(),
    }))
}

/// The messages of a body, and whether it is an array.
fn new_messages(services: &Services, body: &[u8]) -> Result<(Vec<NewMessage>, bool), ApiError> {
    let depth = limits::MAX_JSON_DEPTH;
    let (each, is_array) = ObjectReader::of_each(body, limits::MAX_MESSAGES_PER_APPEND, depth)?;
    if each.is_empty() {
        return Err(ApiError::invalid("the body takes at least one message").field("body"));
    }
    let max_bytes = services.conversations()?.max_message_bytes();
    let messages =
        each.into_iter().map(|members| new_message(members, max_bytes, limits::MAX_METADATA_BYTES, depth));
    Ok((messages.collect::<Result<_, _>>()?, is_array))
}

fn new_message(
    mut members: ObjectReader<'_>,
    max_bytes: usize,
    max_metadata_bytes: usize,
    max_depth: usize,
) -> Result<NewMessage, ApiError> {
    let role = members.needed_text("role")?;
    let role = Role::parse(&role).ok_or_else(|| members.refuse("role", Role::TAKES))?;
    let content = members.value("content")?;
    let mut others = Vec::new();
    for (name, _) in CHAT_MEMBERS {
        others.extend(members.value(name)?.map(|raw| (name, raw)));
    }
    let content = read_content(content, &others, max_bytes, max_depth);
    let content = content.map_err(|invalid| match invalid.is_too_large {
        true => members.too_large(invalid.member, max_bytes, Some("MAX_MESSAGE_BYTES")),
        false => members.refuse(invalid.member, &invalid.why),
    })?;
    let done = members.truth("done")?.unwrap_or(true);
    if !done && !content.is_text() {
        return Err(
            members.refuse("done", "takes true for content that is not a text: nothing can be added to it")
        );
    }
    let new = NewMessage {
        role,
        content,
        token_count: members.number("token_count")?,
        metadata: members.metadata(max_metadata_bytes)?.unwrap_or_else(Metadata::empty),
        done,
    };
    members.end()?;
    Ok(new)
}
