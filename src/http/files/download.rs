//! `GET /api/files/{id}`: a file's content as an attachment, never displayed in the service's origin.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
};
use hyper::{Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::super::AppState;
use super::super::openapi::bodies::AnyBytes;
use super::super::server::ConnectionHandle;
use super::super::wire::error::ApiError;
use super::super::wire::{etag, path};
use super::range::{self, RangeSelection};
use super::{deadline, disposition};
use crate::auth::Principal;
use crate::files::{FilesError, StoredFile};

/// Bytes read and held at a time.
const PIECE_BYTES: u64 = 128 * 1024;

/// `GET /api/files/{id}`, and `HEAD`.
#[utoipa::path(
    get,
    path = "/api/files/{id}",
    tag = "files",
    summary = "A file's content",
    params(("id" = Uuid, Path, description = "The file"), ("range" = Option<String>, Header, description = "bytes=0-99"), ("if-none-match" = Option<String>, Header, description = "A tag that is known"), ("if-range" = Option<String>, Header, description = "The tag that the range is of")),
    responses(
        (status = 200, description = "The content", body = AnyBytes, content_type = "*/*", headers(("etag" = String, description = "Its content's hash"), ("content-disposition" = String, description = "Its name"))),
        (status = 206, description = "A range of it", body = AnyBytes, content_type = "*/*", headers(("content-range" = String, description = "Which"))),
        (status = 304, description = "It is the content that is known"),
        (status = 404, description = "There is no such file of one's own"),
        (status = 416, description = "It has no such range"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(connection): Extension<ConnectionHandle>,
    id: Result<Path<Uuid>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = path::known(id, FilesError::NotFound)?;
    let owner = services.accounts.user_of(&principal).await?;
    let file = services.files()?.find(owner, id).await?;
    // A content has one hash: the tag is a strong one.
    let tag = format!("\"{}\"", file.sha256);
    if etag::is_known_tag(&headers, &tag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        describe(response.headers_mut(), &tag)?;
        return Ok(response);
    }
    // A range refers to the response of GET (RFC 9110, section 14.2).
    let part =
        if method == Method::GET { range::part(&headers, &tag, file.size) } else { RangeSelection::Whole };
    let (status, bytes) = match part {
        RangeSelection::Whole => (StatusCode::OK, 0..file.size),
        RangeSelection::Bytes(bytes) => (StatusCode::PARTIAL_CONTENT, bytes),
        RangeSelection::Unsatisfiable => return unsatisfiable(&file),
    };
    // Opened before the head is sent, so that errors get a status.
    let content = services.files()?.open(&file).await?;
    let length = bytes.end - bytes.start;
    let body = if method == Method::GET {
        let permit = services.files()?.download_permit()?;
        let until = deadline(services, length);
        // Repeated for each chunk, as it holds for one response.
        let before_each = move || connection.read_by(until);
        Body::from_stream(pieces(file.id, Arc::new(content), bytes.clone(), permit, before_each))
    } else {
        Body::empty()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let answer = response.headers_mut();
    describe(answer, &tag)?;
    let media_type = HeaderValue::try_from(&file.mime_type);
    answer.insert(CONTENT_TYPE, media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    answer.insert(CONTENT_DISPOSITION, disposition::attachment(&file.filename));
    answer.insert(CONTENT_LENGTH, length.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{}", bytes.start, bytes.end - 1, file.size);
        answer.insert(CONTENT_RANGE, HeaderValue::try_from(range).map_err(|_| ApiError::internal())?);
    }
    Ok(response)
}

/// The headers of every response about a content, also of a 304.
fn describe(headers: &mut HeaderMap, tag: &str) -> Result<(), ApiError> {
    headers.insert(ETAG, HeaderValue::try_from(tag).map_err(|_| ApiError::internal())?);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Private to its owner, and revalidated each time: it may have been deleted.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // If it is displayed nevertheless, then without scripts and in an opaque origin.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    Ok(())
}

fn unsatisfiable(file: &StoredFile) -> Result<Response, ApiError> {
    let message = "the range has no byte of the file";
    let refusal = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message);
    let mut response = refusal.field("range").into_response();
    let range = format!("bytes */{}", file.size);
    let range = HeaderValue::try_from(range).map_err(|_| ApiError::internal())?;
    response.headers_mut().insert(CONTENT_RANGE, range);
    Ok(response)
}

/// The bytes of a file in chunks, read on blocking threads. `permit` is held until the end.
pub(in crate::http) fn pieces(
    id: impl Display + Clone + Send + 'static,
    content: Arc<File>,
    bytes: Range<u64>,
    permit: OwnedSemaphorePermit,
    before_each: impl Fn() + Send + 'static,
) -> impl Stream<Item = Result<Bytes, FilesError>> + Send + 'static {
    stream::unfold((bytes, permit), move |(rest, permit)| {
        before_each();
        let (content, id) = (Arc::clone(&content), id.clone());
        async move {
            if rest.is_empty() {
                return None;
            }
            let end = rest.end.min(rest.start + PIECE_BYTES);
            let (at, length) = (rest.start, (end - rest.start) as usize);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                content.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            let piece = read.await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
            if let Err(error) = &piece {
                // The status is sent already: the connection is closed before the body's end.
                tracing::error!(file.id = %id, error = error.to_string(), "a download breaks off");
            }
            Some((piece.map_err(FilesError::Disk), (end..rest.end, permit)))
        }
    })
}
