//! How far an import is: told once, or whenever it has changed, until it has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use hyper::HeaderMap;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::super::connection::Line;
use super::super::edge::routes::Needs;
use super::super::error::ApiError;
use super::super::openapi::bodies::ProgressShape;
use super::super::{AppState, auth, path, sse};
use crate::auth::{Principal, Scope};
use crate::files::FilesError;
use crate::imports::{Imports, Progress, State as ImportState};

/// Between two looks at how far an import is.
const LOOK: Duration = Duration::from_secs(1);
/// Looks after which a stream says that it is alive, and its token is looked at again.
const LOOKS_A_HEARTBEAT: u32 = 15;

/// `GET /api/files/{id}/progress`.
#[utoipa::path(
    get,
    path = "/api/files/{id}/progress",
    tag = "files",
    summary = "How far the import of a file is",
    params(("id" = Uuid, Path, description = "The file")),
    responses(
        (status = 200, description = "How far it is, once or whenever it has changed", content((ProgressShape = "application/json"), (String = "text/event-stream"))),
        (status = 404, description = "There is no such file of one's own, or it was not processed"),
    )
)]
pub(super) async fn get(
    State(face): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(line): Extension<Line>,
    id: Result<Path<Uuid>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let core = face.core()?;
    let id = path::known(id, FilesError::NotFound)?;
    let owner = core.accounts.user_of(&principal).await?;
    let progress = core.imports.progress(owner, id).await?;
    if !wants_stream(&headers) {
        return Ok(Json(progress).into_response());
    }
    let mut response = Response::new(follow(&face, core.imports.clone(), headers, line, progress)?);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Whether server-sent events are asked for.
fn wants_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        values.flat_map(|value| value.split(',')).map(|item| item.split(';').next().unwrap_or_default());
    types.any(|essence| essence.trim().eq_ignore_ascii_case(sse::MEDIA_TYPE))
}

/// How far it is, whenever that has changed, until it has ended.
fn follow(
    face: &Arc<AppState>,
    imports: Imports,
    headers: HeaderMap,
    line: Line,
    first: Progress,
) -> Result<Body, ApiError> {
    let turn = imports.follow_turn()?;
    let face = Arc::clone(face);
    let draining = face.lifecycle.draining();
    let state =
        Following { face, imports, headers, line, last: None, next: Some(first), looks: 0, _turn: turn };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next_event().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    Ok(Body::from_stream(events.take_until(draining)))
}

struct Following {
    face: Arc<AppState>,
    imports: Imports,
    headers: HeaderMap,
    line: Line,
    last: Option<Progress>,
    next: Option<Progress>,
    looks: u32,
    _turn: OwnedSemaphorePermit,
}

impl Following {
    async fn next_event(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        loop {
            if let Some(progress) = self.next.take().filter(|next| self.last.as_ref() != Some(next)) {
                let json = serde_json::to_vec(&progress).ok()?;
                let name = match progress.state {
                    ImportState::Running => "progress",
                    ImportState::Done => "done",
                    ImportState::Failed => "failed",
                };
                let fields = sse::Fields { event: Some(name), ..sse::Fields::default() };
                sse::write_event(&mut out, fields, &json);
                self.last = Some(progress);
                return Some(out.freeze());
            }
            let last = self.last.as_ref().filter(|last| last.state == ImportState::Running)?;
            self.looks += 1;
            if self.looks == LOOKS_A_HEARTBEAT {
                self.looks = 0;
                let needs = Needs::Scope(Scope::FilesRead);
                if !auth::is_still_admitted(&self.face, needs, &self.headers, self.line.peer()).await {
                    return None;
                }
                sse::write_comment(&mut out);
                return Some(out.freeze());
            }
            tokio::time::sleep(LOOK).await;
            let (imports, id) = (self.imports.clone(), last.file_id);
            // A client that goes must not leave a connection in the middle of a statement.
            let asked = tokio::spawn(async move { imports.look(id).await });
            // A database that is away is asked again; a file that was deleted is not.
            match asked.await.ok()? {
                Ok(progress) => self.next = Some(progress),
                Err(error) if error.is_passing() => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
