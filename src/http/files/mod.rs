//! `/api/files`: upload, list, download and delete files.

pub(super) mod disposition;
pub(super) mod download;
pub(super) mod multipart;
pub(super) mod part_name;
pub(super) mod range;
mod upload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::edge::routes::{Access, Routes};
use super::wire::error::ApiError;
use super::wire::{json, pages, path, query};
use super::{AppState, Services};
use crate::auth::{Principal, Scope};
use crate::config::limits;
use crate::files::{FileQuery, FilesError, StoredFile};

/// Every route below `/api/files`.
pub(super) fn routes() -> Routes {
    let (read, write) = (Access::Scope(Scope::FilesRead), Access::Scope(Scope::FilesWrite));
    Routes::default()
        .route(read, routes!(list))
        .route(write, routes!(upload::post))
        .route(read, routes!(download::get))
        .route(write, routes!(delete))
}

/// A file as returned.
#[derive(Serialize, ToSchema)]
#[schema(as = File)]
struct FileResponse<'a> {
    id: Uuid,
    filename: &'a str,
    size: u64,
    mime_type: &'a str,
    sha256: String,
    uploaded_at: &'a str,
    processed: bool,
}

impl<'a> From<&'a StoredFile> for FileResponse<'a> {
    fn from(file: &'a StoredFile) -> Self {
        Self {
            id: file.id,
            filename: &file.filename,
            size: file.size,
            mime_type: &file.mime_type,
            sha256: file.sha256.to_string(),
            uploaded_at: &file.uploaded_at,
            processed: file.processed,
        }
    }
}

/// `GET /api/files`.
#[utoipa::path(
    get,
    path = "/api/files",
    tag = "files",
    summary = "One's own files, newest first",
    params(("limit" = Option<u32>, Query, description = "Entries of a page", minimum = 1, maximum = 1000), ("after" = Option<String>, Query, description = "What a Link header gave"), ("offset" = Option<u32>, Query, description = "Files to pass over")),
    responses((status = 200, description = "Files", body = [FileResponse], headers(("link" = String, description = "The next page"))))
)]
async fn list(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let parameters = query::parameters(parameters)?;
    let query = FileQuery::parse(&parameters)?;
    let owner = services.accounts.user_of(&principal).await?;
    let page = services.files()?.list(owner, &query).await?;
    let files: Vec<FileResponse<'_>> = page.entries.iter().map(FileResponse::from).collect();
    let body = serde_json::to_vec(&files).map_err(|_| ApiError::internal())?;
    let mut response = json::json(StatusCode::OK, json::held(services, body)?);
    pages::add_links(&mut response, page.links("/api/files", &parameters))?;
    Ok(response)
}

/// `DELETE /api/files/{id}`.
#[utoipa::path(
    delete,
    path = "/api/files/{id}",
    tag = "files",
    summary = "Deletes a file",
    params(("id" = Uuid, Path, description = "The file")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is no such file of one's own"),
    )
)]
async fn delete(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let services = state.services()?;
    let id = path::known(id, FilesError::NotFound)?;
    let owner = services.accounts.user_of(&principal).await?;
    // The import's lanes hold rows that are to be deleted, so it ends first.
    if let Some(imports) = &services.modules.imports {
        imports.stop(owner, id).await?;
    }
    services.files()?.delete(owner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The deadline for `bytes` in either direction: a slower client would keep a place from others.
pub(super) fn deadline(services: &Services, bytes: u64) -> Instant {
    let rate = limits::FILE_MIN_RATE;
    Instant::now() + services.limits.body_timeout + Duration::from_secs(bytes / rate)
}
