//! `POST /api/conversations/{id}/messages/{message}/append`: appends a chunk to a message that is being written.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::openapi::bodies::AppendRequest;
use super::super::wire::error::ApiError;
use super::super::{AppState, Services};
use super::object_reader::ObjectReader;
use super::{answer, message_id, read_body};
use crate::auth::Principal;
use crate::config::limits;
use crate::conversations::MessageChunk;

#[derive(Serialize, ToSchema)]
#[schema(as = Appended)]
struct AppendResponse {
    id: Uuid,
    /// The offset of the next chunk.
    length: i32,
    done: bool,
}

#[utoipa::path(
    post,
    path = "/api/conversations/{id}/messages/{message}/append",
    tag = "conversations",
    summary = "Adds text to a message that is being written",
    params(("id" = Uuid, Path, description = "The conversation"), ("message" = Uuid, Path, description = "The message")),
    request_body = AppendRequest,
    responses(
        (status = 200, description = "How long it is now", body = AppendResponse),
        (status = 404, description = "There is no such message of one's own"),
        (status = 409, description = "It has another length, or is done"),
    )
)]
pub(super) async fn append(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    ids: Result<Path<(Uuid, Uuid)>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (conversation, id) = message_id(ids)?;
    let (_, body) = read_body(services, request).await?;
    let chunk = chunk(services, &body)?;
    let owner = services.accounts.user_of(&principal).await?;
    let response = AppendResponse { id, length: chunk.end(), done: chunk.done };
    services.conversations()?.append(owner, conversation, id, chunk).await?;
    answer(services, StatusCode::OK, &response)
}

fn chunk(services: &Services, body: &[u8]) -> Result<MessageChunk, ApiError> {
    let mut members = ObjectReader::of_body(body, limits::MAX_JSON_DEPTH)?;
    let content = members.needed_text("content")?;
    let max_bytes = services.conversations()?.max_message_bytes();
    if content.len() > max_bytes {
        return Err(members.too_large("content", max_bytes, Some("MAX_MESSAGE_BYTES")));
    }
    let at = members.number("at")?.ok_or_else(|| members.refuse("at", "has to be there"))?;
    let done = members.truth("done")?.unwrap_or(false);
    members.end()?;
    Ok(MessageChunk { at, content, done })
}
