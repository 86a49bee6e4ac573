//! `GET /api/files/{collection}/{record}/{name}`: files of records, and their previews.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use hyper::{Method, StatusCode};
use serde_json::json;

use super::caller::{self, Sender};
use super::error::{Operation, Refusal};
use super::tokens::{self, TokenDetails};
use super::{Query, answer};
use crate::auth::RecordTokenKind;
use crate::files::{AttachedFile, FilesError, Preview, PreviewSize};
use crate::http::files::range::{self, RangeSelection};
use crate::http::files::{deadline, disposition, download};
use crate::http::openapi::bodies::AnyBytes;
use crate::http::server::ConnectionHandle;
use crate::http::wire::body::MemoryPermit;
use crate::http::wire::etag;
use crate::http::wire::json::held;
use crate::http::{AppState, Services};
use crate::records::typed::{CollectionHandle, RecordFile};

/// For 30 days: a name is that of one content.
const CACHED: &str = "max-age=2592000, stale-while-revalidate=86400";
/// The same, not by caches that others share.
const CACHED_PRIVATELY: &str = "private, max-age=2592000, stale-while-revalidate=86400";
/// No scripts, and an origin of its own.
const SANDBOX: &str = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox";
/// The size of previews that no field has to list.
const ALWAYS: &str = "100x100";

type FilePath = Result<Path<(String, String, String)>, PathRejection>;

/// `GET /api/files/{collection}/{record}/{name}`, and `HEAD`.
#[utoipa::path(
    get,
    path = "/api/files/{collection}/{record}/{name}",
    tag = "collections",
    summary = "A file of a record",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "posts"),
        ("record" = String, Path, description = "The record's id"),
        ("name" = String, Path, description = "The file's name in the record"),
        ("thumb" = Option<String>, Query, description = "A size of the field's thumbs, or 100x100"),
        ("download" = Option<String>, Query, description = "1: as an attachment"),
        ("token" = Option<String>, Query, description = "Of POST /api/files/token, for protected files"),
        ("range" = Option<String>, Header, description = "bytes=0-99"),
    ),
    responses(
        (status = 200, description = "The file", body = AnyBytes, content_type = "*/*", headers(("etag" = String, description = "Its content's hash"), ("content-disposition" = String, description = "Its name"))),
        (status = 206, description = "A range of it", body = AnyBytes, content_type = "*/*", headers(("content-range" = String, description = "Which"))),
        (status = 304, description = "It is the file that is known"),
        (status = 404, description = "There is none that the caller may read"),
        (status = 416, description = "It has no such range"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(connection): Extension<ConnectionHandle>,
    path: FilePath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let Path((collection, id, name)) = path.map_err(|_| Refusal::not_found())?;
    let (head, _) = request.into_parts();
    let query = Query::of(&head.uri);
    let refuse = |error| Operation::Read.refuses(error);
    let typed = services.typed()?;
    let collection = typed
        .collection(&collection)
        .await
        .map_err(refuse)?
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Missing or invalid collection context."))?;
    let found = typed.file(&collection, &id, &name).await.map_err(refuse)?;
    if found.is_protected {
        let sender = Sender::of_file_token(&state, query.get("token")).await?;
        let values = || caller::request_values("protectedFile", &head, &query, None);
        let caller = sender.caller(&collection, values);
        typed.expect_file_view(&collection, &caller, &id).await.map_err(refuse)?;
    }
    let served = Served { services, name: &name, found: &found, query: &query };
    let preview = served.preview().await?;
    served.answer(&collection, preview, connection, &head.method, &head.headers).await
}

/// A file that is answered with.
struct Served<'a> {
    services: &'a Services,
    name: &'a str,
    found: &'a RecordFile,
    query: &'a Query,
}

impl Served<'_> {
    /// The preview that is asked for, with its size. `None`: the original is the answer.
    async fn preview(&self) -> Result<Option<(Preview, &str)>, Refusal> {
        let asked = self.query.get("thumb");
        let is_listed = asked == ALWAYS || self.found.thumbs.iter().any(|thumb| thumb == asked);
        let Some(size) = PreviewSize::parse(asked).filter(|_| is_listed) else { return Ok(None) };
        let budget = Arc::clone(&self.services.bodies);
        let admit = move |bytes: u64| {
            let mut permit = MemoryPermit::new(&budget);
            permit.grow(usize::try_from(bytes).ok()?).ok()?;
            Some(permit)
        };
        let files = self.services.typed()?.files().map_err(|error| Operation::Read.refuses(error))?;
        let preview = files.preview(&self.found.file, size, admit).await;
        Ok(preview.map(|preview| (preview, asked)))
    }

    async fn answer(
        &self,
        collection: &CollectionHandle,
        preview: Option<(Preview, &str)>,
        connection: ConnectionHandle,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let file = &self.found.file;
        let (name, size, tag, mime_type) = match &preview {
            None => {
                (self.name.to_owned(), file.size, format!("\"{}\"", file.sha256), media_type(file, self.name))
            }
            Some((preview, size)) => (
                format!("{size}_{}", self.name),
                preview.bytes.len() as u64,
                format!("\"{}.{size}\"", file.sha256),
                preview.mime_type.to_owned(),
            ),
        };
        let modified = UNIX_EPOCH + Duration::from_secs(file.uploaded_s);
        let mut response = Response::new(Body::empty());
        self.describe(response.headers_mut(), &tag, modified)?;
        if is_known(headers, &tag, modified) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let shown = match is_shown(&mime_type) && !is_true(self.query.get("download")) {
            true => disposition::inline(&name),
            false => disposition::attachment(&name),
        };
        response.headers_mut().insert(CONTENT_DISPOSITION, shown);
        // A range refers to the response of GET (RFC 9110, section 14.2).
        let part =
            if method == Method::GET { range::part(headers, &tag, size) } else { RangeSelection::Whole };
        let bytes = match part {
            RangeSelection::Whole => 0..size,
            RangeSelection::Bytes(bytes) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
                let range = HeaderValue::try_from(range).map_err(|_| Refusal::internal())?;
                response.headers_mut().insert(CONTENT_RANGE, range);
                bytes
            }
            RangeSelection::Unsatisfiable => return unsatisfiable(size),
        };
        let media_type = HeaderValue::try_from(mime_type);
        let media_type = media_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        let length = bytes.end - bytes.start;
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        let refuse = |error: FilesError| Operation::Read.refuses(error.into());
        let files = self.services.typed()?.files().map_err(|error| Operation::Read.refuses(error))?;
        *response.body_mut() = match preview {
            _ if method != Method::GET => Body::empty(),
            Some((preview, _)) => {
                let whole = preview.bytes;
                let (from, to) = (bytes.start as usize, bytes.end as usize);
                held(self.services, whole.get(from..to).unwrap_or_default().to_vec())?
            }
            None => {
                // Opened before the head is sent, so that errors get a status.
                let content = Arc::new(files.open_attached(file).await.map_err(refuse)?);
                let permit = files.download_permit().map_err(refuse)?;
                let until = deadline(self.services, length);
                // Repeated for each chunk, as it holds for one response.
                let before_each = move || connection.read_by(until);
                let id = format!("{}/{}", collection.name().as_str(), self.name);
                Body::from_stream(download::pieces(id, content, bytes, permit, before_each))
            }
        };
        Ok(response)
    }

    /// The headers of every answer about a file, also of a 304.
    fn describe(&self, headers: &mut HeaderMap, tag: &str, modified: SystemTime) -> Result<(), Refusal> {
        headers.insert(ETAG, HeaderValue::try_from(tag).map_err(|_| Refusal::internal())?);
        let modified = HeaderValue::try_from(httpdate::fmt_http_date(modified));
        headers.insert(LAST_MODIFIED, modified.map_err(|_| Refusal::internal())?);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let cached = if self.found.is_protected { CACHED_PRIVATELY } else { CACHED };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cached));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
        Ok(())
    }
}

/// Whether the client has the file: by the tag, or else by the time, which counts where there is no tag (RFC 9110, section 13.1.3).
fn is_known(headers: &HeaderMap, tag: &str, modified: SystemTime) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        return etag::is_known_tag(headers, tag);
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    since.and_then(|since| httpdate::parse_http_date(since).ok()).is_some_and(|since| modified <= since)
}

fn unsatisfiable(size: u64) -> Result<Response, Refusal> {
    let range = HeaderValue::try_from(format!("bytes */{size}")).map_err(|_| Refusal::internal())?;
    let message = "The range has no byte of the file.";
    Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, message).with_header(CONTENT_RANGE, range))
}

/// Whether a browser shows a file of this type, rather than storing it. None that has scripts.
fn is_shown(mime_type: &str) -> bool {
    let (kind, subtype) = mime_type.split_once('/').unwrap_or_default();
    match kind {
        "image" => !subtype.starts_with("svg"),
        "video" | "audio" => true,
        _ => mime_type == "application/pdf",
    }
}

/// The media type of a file: that of its content, and of texts that of the name, where a page needs it.
fn media_type(file: &AttachedFile, name: &str) -> String {
    let is_text = file.mime_type.starts_with("text/");
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("css") if is_text => "text/css; charset=utf-8".into(),
        Some("js" | "mjs") if is_text => "text/javascript; charset=utf-8".into(),
        Some("svg") if is_text => "image/svg+xml".into(),
        _ if is_text => format!("{}; charset=utf-8", file.mime_type),
        _ => file.mime_type.clone(),
    }
}

/// A flag of a query, as Go reads it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// `POST /api/files/token`.
#[utoipa::path(
    post,
    path = "/api/files/token",
    tag = "collections",
    summary = "A token for protected files, for three minutes",
    responses(
        (status = 200, description = "The token", body = serde_json::Value),
        (status = 401, description = "The caller is not signed in"),
    )
)]
pub(super) async fn token(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    let fields = Query::of(&head.uri).projection()?;
    let (record, _) = caller::require_record(&state, &head).await?;
    let token = tokens::issue(&record, RecordTokenKind::File, TokenDetails::default())?;
    let shown = json!({"token": token});
    answer(services, &fields.map_or_else(|| shown.clone(), |fields| fields.apply(&shown)))
}
