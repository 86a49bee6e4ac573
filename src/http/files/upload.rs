//! `POST /api/files/upload`: `multipart/form-data` (RFC 7578), each part with a filename a file.

use std::io;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::TryStreamExt;
use hyper::StatusCode;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use multer::Multipart;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::openapi::bodies::UploadForm;
use super::super::wire::body::{BodyLimits, LimitedBody};
use super::super::wire::error::ApiError;
use super::super::wire::json;
use super::super::{AppState, Services};
use super::deadline;
use super::multipart::{BytesReceived, MAX_PART_HEAD_BYTES, PartChunks, boundary, malformed};
use super::part_name::{self, PartName};
use crate::auth::Principal;
use crate::config::limits;
use crate::files::{FilesError, StoredFile, Upload};

#[derive(Serialize, ToSchema)]
struct UploadResponse {
    files: Vec<Stored>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UploadedFile)]
struct Stored {
    id: uuid::Uuid,
    filename: String,
    size: u64,
    mime_type: String,
    sha256: String,
}

impl From<StoredFile> for Stored {
    fn from(file: StoredFile) -> Self {
        let StoredFile { id, filename, size, mime_type, sha256, .. } = file;
        Self { id, filename, size, mime_type, sha256: sha256.to_string() }
    }
}

/// `POST /api/files/upload`.
#[utoipa::path(
    post,
    path = "/api/files/upload",
    tag = "files",
    summary = "Stores files, all or none",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "The files", body = UploadResponse),
        (status = 413, description = "Too large (MAX_FILE_BYTES), more than 20, or beyond the quota (FILE_QUOTA_BYTES)"),
        (status = 415, description = "Not multipart/form-data, or a file is not what was declared"),
        (status = 507, description = "The disk is full"),
    )
)]
pub(super) async fn post(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (head, body) = request.into_parts();
    let config = services.files()?.config();
    let most = config.max_file_bytes.saturating_add(MAX_PART_HEAD_BYTES);
    let bytes = most.saturating_mul(limits::MAX_FILES_PER_UPLOAD as u64);
    let limits = BodyLimits {
        bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        setting: "MAX_FILE_BYTES × 20",
        deadline: deadline(services, 0),
    };
    let mut body = LimitedBody::new(&head, body, limits);
    let stored = store(services, &principal, head.headers.get(CONTENT_TYPE), &mut body).await;
    // Bytes after the last part are ignored (RFC 2046, section 5.1.1), but read so that the client sees the response.
    body.discard().await;
    let stored = match stored {
        Ok(stored) => stored,
        Err(refusal) => {
            state.metrics.file_uploads_refused.with_label_values(&[refusal.code()]).inc();
            return Err(refusal);
        }
    };
    let uploaded = UploadResponse { files: stored.into_iter().map(Stored::from).collect() };
    let shown = serde_json::to_vec(&uploaded).map_err(|_| ApiError::internal())?;
    Ok(json::json(StatusCode::CREATED, Body::from(shown)))
}

async fn store(
    services: &Services,
    principal: &Principal,
    content_type: Option<&hyper::header::HeaderValue>,
    body: &mut LimitedBody,
) -> Result<Vec<StoredFile>, ApiError> {
    let boundary = boundary(content_type)?;
    if body.announced() > body.limits().bytes as u64 {
        return Err(body.limits().too_large());
    }
    let owner = services.accounts.user_of(principal).await?;
    let mut upload = services.files()?.begin(owner, body.announced()).await?;
    let pace = BytesReceived::default();
    body.keep_rate(limits::FILE_MIN_RATE);
    let mut pieces = PartChunks::new(body, &pace);
    let taken = take_parts(&mut pieces, &pace, boundary, &mut upload).await;
    // The body's own error is more precise than that of its parts.
    let refused = pieces.take_refusal();
    match (refused, taken) {
        (_, Ok(())) => Ok(upload.finish().await?),
        (Some(refusal), Err(_)) => Err(refusal),
        (None, Err(refusal)) => Err(refusal),
    }
}

async fn take_parts(
    pieces: &mut PartChunks<'_>,
    pace: &BytesReceived,
    boundary: String,
    upload: &mut Upload,
) -> Result<(), ApiError> {
    let mut parts = Multipart::new(pieces, boundary);
    loop {
        pace.expect_head();
        let Some(mut part) = parts.next_field().await.map_err(|error| malformed(&error))? else {
            return Ok(());
        };
        pace.expect_content();
        let disposition = part.headers().get(CONTENT_DISPOSITION).map_or(&b""[..], |value| value.as_bytes());
        let name = match part_name::read(disposition) {
            PartName::File(name) => name,
            PartName::Field => {
                // Fields beside the files are ignored.
                while part.chunk().await.map_err(|error| malformed(&error))?.is_some() {}
                continue;
            }
            PartName::Unreadable(field) => {
                let field = field.chars().take(100).collect::<String>();
                return Err(ApiError::invalid("a file's name is UTF-8, or names its charset").field(field));
            }
        };
        if name.is_empty() {
            // A file input without a chosen file.
            while let Some(piece) = part.chunk().await.map_err(|error| malformed(&error))? {
                if !piece.is_empty() {
                    return Err(ApiError::from(FilesError::nameless()));
                }
            }
            continue;
        }
        let declared = match part.headers().get(CONTENT_TYPE) {
            None => None,
            Some(declared) => Some(declared.to_str().map(str::to_owned).map_err(|_| {
                FilesError::Invalid { field: "content-type", message: "a file's type is visible ASCII" }
            })?),
        };
        let mut broken = None;
        let content = part.map_err(|error| {
            broken = Some(malformed(&error));
            io::Error::from(io::ErrorKind::InvalidData)
        });
        match (upload.add(&name, declared.as_deref(), content).await, broken) {
            (Err(FilesError::Source(_)), Some(refusal)) => return Err(refusal),
            (added, _) => added?,
        }
    }
}
