//! `/api/files/process-jsonl`: imports of the lines of a file as events, conversations and messages; their progress and
//! rejected lines.

mod progress;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::stream;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::edge::routes::{Access, Routes};
use super::wire::body::{self, BodyLimits, LimitedBody};
use super::wire::encoding::{Decoded, Encoding, decode_whole};
use super::wire::error::ApiError;
use super::wire::json::{self, StartCheck};
use super::wire::{path, query};
use super::{AppState, Services};
use crate::auth::{Principal, Scope};
use crate::config::{Module, limits};
use crate::files::{FilesError, StoredFile};
use crate::imports::{Allowed, CONVERSATIONS_OFF, Kind, Mapping, Plan};
use crate::ingest::text;

/// The name of a file that was sent as lines.
const NAME: &str = "lines.jsonl";
/// Bytes of a body that names a file.
const MAX_NAME_BYTES: usize = 16 * 1024;
/// Rejected lines of a page.
const PAGE: i64 = 1_000;
static X_TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// Every route of imports.
pub(super) fn routes() -> Routes {
    let (read, write) = (Access::Scope(Scope::FilesRead), Access::Scope(Scope::FilesWrite));
    Routes::default()
        .route(write, routes!(process))
        .route(read, routes!(progress::get))
        .route(read, routes!(rejected))
}

#[derive(Serialize, ToSchema)]
#[schema(as = ImportBegun)]
struct ImportResponse {
    file_id: Uuid,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NamedFile)]
struct ImportRequest {
    file_id: Uuid,
}

/// `POST /api/files/process-jsonl`.
#[utoipa::path(
    post,
    path = "/api/files/process-jsonl",
    tag = "files",
    summary = "Stores the lines of a file as events, conversations or messages",
    description = "A parameter map.<field>=<member> names the member of a line that holds a field.",
    params(("kind" = Option<String>, Query, description = "event, conversation or message; by default each line has a member kind")),
    request_body(content((ImportRequest = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 202, description = "The file is stored, and its import noted", body = ImportResponse, headers(("location" = String, description = "The path of its progress"))),
        (status = 404, description = "There is no such file of one's own"),
        (status = 409, description = "The file was processed already"),
        (status = 413, description = "Too large (MAX_FILE_BYTES), or beyond the quota (FILE_QUOTA_BYTES)"),
        (status = 507, description = "The disk is full"),
    )
)]
async fn process(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let plan = plan(&state, &principal, parameters)?;
    // Before anything is read: a file that is stored without its import would be useless.
    let permit = services.imports()?.permit()?;
    let owner = services.accounts.user_of(&principal).await?;
    let file = file(services, owner, request).await?;
    services.imports()?.begin(permit, owner, &file, plan).await?;
    let mut response = (StatusCode::ACCEPTED, Json(ImportResponse { file_id: file.id })).into_response();
    let location = format!("/api/files/{}/progress", file.id);
    let location = HeaderValue::try_from(location).map_err(|_| ApiError::internal())?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn plan(
    state: &AppState,
    principal: &Principal,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Plan, ApiError> {
    let parameters = query::parameters(parameters)?;
    let (mut kind, mut mapping) = (None, Mapping::default());
    for (name, value) in &parameters {
        match name.strip_prefix("map.") {
            Some(field) => mapping.set(field, value)?,
            None if name == "kind" => {
                let refuse = || ApiError::invalid("kind takes event, conversation or message").field("kind");
                kind = Some(Kind::parse(value).ok_or_else(refuse)?);
            }
            None => return Err(query::unknown_parameter(name)),
        }
    }
    let scopes = principal.scopes(state.verifier.is_open());
    let allowed = Allowed::which(|kind| scopes.allow(scope(kind)));
    match kind {
        Some(kind @ (Kind::Conversation | Kind::Message)) if !state.modules.has(Module::Conversations) => {
            Err(ApiError::invalid(format!("kind takes no {}: {CONVERSATIONS_OFF}", kind.name()))
                .field("kind"))
        }
        Some(kind) if !allowed.has(kind) => Err(ApiError::lacks(scope(kind))),
        kind => Ok(Plan { kind, mapping, allowed }),
    }
}

/// The scope for lines of a kind.
fn scope(kind: Kind) -> Scope {
    match kind {
        Kind::Event => Scope::EventsWrite,
        Kind::Conversation | Kind::Message => Scope::ConversationsWrite,
    }
}

/// The file that a request names, or that its lines become.
async fn file(services: &Services, owner: Option<Uuid>, request: Request) -> Result<StoredFile, ApiError> {
    let (head, body) = request.into_parts();
    let (content, encoding) = (content(&head.headers)?, Encoding::of(&head.headers)?);
    let limits = match content {
        BodyKind::Name => BodyLimits {
            bytes: MAX_NAME_BYTES,
            setting: "a body that names a file",
            deadline: Instant::now() + services.limits.body_timeout,
        },
        BodyKind::Lines => lines_limits(services)?,
    };
    let mut body = LimitedBody::new(&head, body, limits);
    let file = match content {
        BodyKind::Name => named(services, owner, &mut body, encoding).await,
        BodyKind::Lines => lines(services, owner, &mut body, encoding).await,
    };
    if file.is_err() {
        body.discard().await;
    }
    file
}

/// The deadline is for the first byte; further bytes extend it (`FILE_MIN_RATE`).
fn lines_limits(services: &Services) -> Result<BodyLimits, ApiError> {
    Ok(BodyLimits {
        bytes: usize::try_from(services.files()?.config().max_file_bytes).unwrap_or(usize::MAX),
        setting: "MAX_FILE_BYTES",
        deadline: Instant::now() + services.limits.body_timeout,
    })
}

/// The content of a body.
enum BodyKind {
    /// JSON that names a file.
    Name,
    /// The lines themselves.
    Lines,
}

fn content(headers: &HeaderMap) -> Result<BodyKind, ApiError> {
    match json::media_type(headers)?.as_str() {
        "" | "application/json" => Ok(BodyKind::Name),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(BodyKind::Lines)
        }
        _ => Err(json::unsupported(
            "content-type takes application/json for a file's id, or application/x-ndjson for the lines themselves",
        )),
    }
}

async fn named(
    services: &Services,
    owner: Option<Uuid>,
    body: &mut LimitedBody,
    encoding: Encoding,
) -> Result<StoredFile, ApiError> {
    let whole = match encoding {
        Encoding::Identity => body::read_whole(body, &services.bodies).await?,
        encoding => decode_whole(body, encoding, &services.bodies).await?,
    };
    let named: ImportRequest = serde_json::from_slice(text::without_mark(&whole))
        .map_err(|_| ApiError::invalid("the body takes {\"file_id\": a file's id}").field("file_id"))?;
    Ok(services.files()?.find(owner, named.file_id).await?)
}

/// Stores the decoded lines of a body.
async fn lines(
    services: &Services,
    owner: Option<Uuid>,
    body: &mut LimitedBody,
    encoding: Encoding,
) -> Result<StoredFile, ApiError> {
    let announced = body.announced();
    if announced > body.limits().bytes as u64 {
        return Err(body.limits().too_large());
    }
    body.keep_rate(limits::FILE_MIN_RATE);
    let decoded = Decoded::new(body, encoding, &services.bodies).await?;
    let mut refusal = None;
    let pieces = stream::unfold(
        (decoded, StartCheck::default(), &mut refusal),
        |(mut decoded, mut start, refusal)| async move {
            let piece = match decoded.next().await {
                Ok(None) => return None,
                Ok(Some(piece)) => start.look(&piece).map(|()| piece),
                Err(refusal) => Err(refusal),
            };
            let piece = piece.map_err(|why| {
                *refusal = Some(why);
                io::Error::from(io::ErrorKind::InvalidData)
            });
            Some((piece, (decoded, start, refusal)))
        },
    );
    let kept = {
        let pieces = pin!(pieces);
        services.files()?.keep(owner, NAME, Some("application/x-ndjson"), announced, pieces).await
    };
    // The body's own error is the most precise one.
    kept.map_err(|error| refusal.unwrap_or_else(|| error.into()))
}

/// `GET /api/files/{id}/rejected`: NDJSON.
#[utoipa::path(
    get,
    path = "/api/files/{id}/rejected",
    tag = "files",
    summary = "Lines that were left out, and why",
    params(("id" = Uuid, Path, description = "The file")),
    responses(
        (status = 200, description = "An object of line and reason a line", body = String, content_type = "application/x-ndjson", headers(("x-total-count" = String, description = "How many there are"))),
        (status = 404, description = "There is no such file of one's own, or it was not processed"),
    )
)]
async fn rejected(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = path::known(id, FilesError::NotFound)?;
    let owner = services.accounts.user_of(&principal).await?;
    let progress = services.imports()?.progress(owner, id).await?;
    let imports = services.imports()?.clone();
    let pages = stream::try_unfold((imports, 0), move |(imports, after)| async move {
        let lines = imports.rejected(id, after, PAGE).await.map_err(std::io::Error::other)?;
        let Some((last, _)) = lines.last() else { return Ok(None) };
        let last = *last;
        Ok::<_, std::io::Error>(Some((ndjson(&lines)?, (imports, last))))
    });
    let mut response = Response::new(Body::from_stream(pages));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(&X_TOTAL_COUNT, progress.rejected.into());
    Ok(response)
}

#[derive(Serialize)]
struct RejectedLine<'a> {
    line: i64,
    reason: &'a str,
}

fn ndjson(lines: &[(i64, String)]) -> Result<Bytes, std::io::Error> {
    let mut out = Vec::new();
    for (line, reason) in lines {
        serde_json::to_writer(&mut out, &RejectedLine { line: *line, reason })?;
        out.push(b'\n');
    }
    Ok(out.into())
}
