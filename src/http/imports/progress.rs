//! The progress of an import: once, or as a stream until the import ends.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::BytesMut;
use hyper::HeaderMap;
use hyper::header::ACCEPT;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::AppState;
use super::super::edge::authorize::StreamAccess;
use super::super::event_stream::{Close, EventSource, EventStream};
use super::super::openapi::bodies::ProgressResponse;
use super::super::server::ConnectionHandle;
use super::super::wire::error::ApiError;
use super::super::wire::{path, sse};
use crate::auth::{Principal, Scope};
use crate::files::FilesError;
use crate::imports::{Imports, Progress, State as ImportState};

/// The interval at which an import's progress is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The interval of heartbeats, at which the access is checked again.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `GET /api/files/{id}/progress`.
#[utoipa::path(
    get,
    path = "/api/files/{id}/progress",
    tag = "files",
    summary = "How far the import of a file is",
    params(("id" = Uuid, Path, description = "The file")),
    responses(
        (status = 200, description = "How far it is, once or whenever it has changed", content((ProgressResponse = "application/json"), (String = "text/event-stream"))),
        (status = 404, description = "There is no such file of one's own, or it was not processed"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(connection): Extension<ConnectionHandle>,
    id: Result<Path<Uuid>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = path::known(id, FilesError::NotFound)?;
    let owner = services.accounts.user_of(&principal).await?;
    let progress = services.imports()?.progress(owner, id).await?;
    if !wants_stream(&headers) {
        return Ok(Json(progress).into_response());
    }
    let source = ProgressSource {
        file_id: progress.file_id,
        imports: services.imports()?.clone(),
        last: None,
        next: Some(progress),
        polled: Instant::now(),
        _permit: services.imports()?.subscribe()?,
    };
    let stream = EventStream {
        state: Arc::clone(&state),
        connection,
        heartbeat: HEARTBEAT,
        access: Some(StreamAccess::of_scope(Scope::FilesRead, headers)),
        retry_ms: None,
    };
    Ok(stream.respond(source))
}

/// Whether server-sent events are asked for.
fn wants_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        values.flat_map(|value| value.split(',')).map(|item| item.split(';').next().unwrap_or_default());
    types.any(|essence| essence.trim().eq_ignore_ascii_case(sse::MEDIA_TYPE))
}

/// The progress of an import, whenever it has changed, until the import ends.
struct ProgressSource {
    imports: Imports,
    file_id: Uuid,
    last: Option<Progress>,
    next: Option<Progress>,
    polled: Instant,
    _permit: OwnedSemaphorePermit,
}

impl ProgressSource {
    /// Polls the progress. A database that is away is polled again; a deleted file ends the stream.
    async fn poll(&mut self) -> Result<(), Close> {
        self.polled = Instant::now();
        match self.imports.progress_of(self.file_id).await {
            Ok(progress) => self.next = Some(progress),
            Err(error) if error.is_passing() => {}
            Err(_) => return Err(Close::Ended("failed")),
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.state != ImportState::Running)
    }
}

impl EventSource for ProgressSource {
    async fn ready(&mut self) {
        if self.next.is_none() && !self.has_ended() {
            tokio::time::sleep_until(self.polled + POLL_INTERVAL).await;
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.has_ended() {
            return Err(Close::Ended("complete"));
        }
        if self.next.is_none() {
            self.poll().await?;
        }
        let Some(progress) = self.next.take().filter(|next| self.last.as_ref() != Some(next)) else {
            return Ok(());
        };
        let json = serde_json::to_vec(&progress).map_err(|_| Close::Ended("failed"))?;
        let name = match progress.state {
            ImportState::Running => "progress",
            ImportState::Done => "done",
            ImportState::Failed => "failed",
        };
        sse::write_event(out, sse::Fields { event: Some(name), ..sse::Fields::default() }, &json);
        self.last = Some(progress);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_sent_to_whoever_names_its_media_type() {
        let wants = |value: &'static str| {
            wants_stream(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]))
        };
        assert!(wants("text/event-stream") && wants("application/json, Text/Event-Stream;q=0.5"));
        assert!(!wants("*/*") && !wants("application/json") && !wants_stream(&HeaderMap::new()));
    }
}
