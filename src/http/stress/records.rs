//! `/api/stress/records`: create, get, update, delete and list.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query as Parameters, Request, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LINK, LOCATION};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::batch::decode::{Encoding, decode_whole};
use super::super::body::{self, BodyLimits, BodyShare, HeldBody, LimitedBody, WholeBody};
use super::super::error::ApiError;
use super::super::{Core, Face, events};
use super::{collection, collection_and_id, etag};
use crate::records::{Change, Draft, Fields, Precondition, Query, Record, RecordsError};

static X_TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// From here on, what is held of an answer is counted.
const SMALL_ANSWER_BYTES: usize = 16 * 1024;

/// `POST /api/stress/records/{collection}`.
pub(super) async fn create(
    State(face): State<Arc<Face>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let core = face.core()?;
    let name = collection(path)?;
    let (draft, _whole) = draft(core, request).await?;
    let record = core.stress.records.create(&name, draft).await?;
    let mut response = answer(core, StatusCode::CREATED, &record, None)?;
    let location = format!("/api/stress/records/{}/{}", name.as_str(), record.id.as_str());
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::try_from(location).map_err(|_| ApiError::internal())?);
    Ok(response)
}

/// `GET /api/stress/records/{collection}/{id}`.
pub(super) async fn get(
    State(face): State<Arc<Face>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    parameters: Result<Parameters<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let core = face.core()?;
    let (name, id) = collection_and_id(path)?;
    let mut fields = None;
    for (parameter, value) in query(parameters)? {
        match parameter.as_str() {
            "fields" => fields = Some(Fields::parse(&value)?),
            _ => return Err(unknown_parameter(&parameter)),
        }
    }
    let record = core.stress.records.get(&name, id).await?;
    if etag::is_known(&headers, record.version)? {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        response.headers_mut().insert(ETAG, etag::tag(record.version));
        return Ok(response);
    }
    answer(core, StatusCode::OK, &record, fields.as_ref())
}

/// `PUT /api/stress/records/{collection}/{id}`: merges, or replaces with `?mode=replace`.
pub(super) async fn put(
    State(face): State<Arc<Face>>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameters: Result<Parameters<Vec<(String, String)>>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut replaces = false;
    for (parameter, value) in query(parameters)? {
        match (parameter.as_str(), value.as_str()) {
            ("mode", "merge") => replaces = false,
            ("mode", "replace") => replaces = true,
            ("mode", _) => return Err(ApiError::invalid("mode takes merge or replace").field("mode")),
            _ => return Err(unknown_parameter(&parameter)),
        }
    }
    change(&face, path, request, replaces).await
}

/// `PATCH /api/stress/records/{collection}/{id}`.
pub(super) async fn patch(
    State(face): State<Arc<Face>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    change(&face, path, request, false).await
}

async fn change(
    face: &Face,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
    replaces: bool,
) -> Result<Response, ApiError> {
    let core = face.core()?;
    let (name, id) = collection_and_id(path)?;
    let precondition = etag::if_match(request.headers())?;
    let (draft, _whole) = draft(core, request).await?;
    if draft.id.is_some_and(|sent| sent != id) {
        return Err(ApiError::invalid("a record's id cannot be changed").field("id"));
    }
    let change = if replaces { Change::Replace(draft.data) } else { Change::Merge(draft.data) };
    let record = core.stress.records.change(&name, id, &precondition, &change).await?;
    answer(core, StatusCode::OK, &record, None)
}

/// `DELETE /api/stress/records/{collection}/{id}`.
pub(super) async fn delete(
    State(face): State<Arc<Face>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let core = face.core()?;
    let (name, id) = collection_and_id(path)?;
    let precondition: Precondition = etag::if_match(&headers)?;
    core.stress.records.change(&name, id, &precondition, &Change::Delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/stress/records/{collection}`.
pub(super) async fn list(
    State(face): State<Arc<Face>>,
    path: Result<Path<String>, PathRejection>,
    parameters: Result<Parameters<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let core = face.core()?;
    let name = collection(path)?;
    let parameters = query(parameters)?;
    let query = Query::parse(&parameters)?;
    let page = core.stress.records.list(&name, &query).await?;
    // Held until the client has read it: pages of slow readers add up.
    let mut share = BodyShare::new(&core.bodies);
    share.grow(page.records.iter().map(Record::json_len).sum())?;
    let mut body = vec![b'['];
    for (index, record) in page.records.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write(record, query.fields.as_ref(), &mut body)?;
    }
    body.push(b']');
    let mut response = json(StatusCode::OK, Body::new(HeldBody::new(body, share)));
    if let Some(next) = &page.next {
        let link = next_link(name.as_str(), &parameters, next);
        let link = HeaderValue::try_from(link).map_err(|_| ApiError::internal())?;
        response.headers_mut().insert(LINK, link);
    }
    if let Some(total) = page.total {
        response.headers_mut().insert(&X_TOTAL_COUNT, total.into());
    }
    Ok(response)
}

fn query(
    parameters: Result<Parameters<Vec<(String, String)>>, QueryRejection>,
) -> Result<Vec<(String, String)>, ApiError> {
    let Parameters(parameters) =
        parameters.map_err(|_| ApiError::invalid("the query cannot be read").field("query"))?;
    Ok(parameters)
}

fn unknown_parameter(name: &str) -> ApiError {
    ApiError::invalid("there is no such parameter").field(name.chars().take(100).collect::<String>())
}

/// Reads a record from a request. The body's share of memory is held as long as what is returned beside it.
async fn draft(core: &Core, request: Request) -> Result<(Draft, WholeBody), ApiError> {
    let (head, body) = request.into_parts();
    let limits = BodyLimits {
        bytes: core.stress.records.config().max_record_body_bytes(),
        setting: "MAX_RECORD_BYTES",
        deadline: Instant::now() + core.limits.body_timeout,
    };
    let mut body = LimitedBody::new(&head, body, limits);
    let read = read(core, &head, &mut body).await;
    if read.is_err() {
        body.discard().await;
    }
    read
}

async fn read(core: &Core, head: &Parts, body: &mut LimitedBody) -> Result<(Draft, WholeBody), ApiError> {
    takes_json(&head.headers)?;
    let whole = match events::encoding(&head.headers)? {
        Encoding::Identity => body::read_whole(body, &core.bodies).await?,
        encoding => decode_whole(body, encoding, &core.bodies).await?,
    };
    Ok((Draft::parse(whole.bytes(), core.stress.records.max_json_depth())?, whole))
}

/// Refuses a body that says that it is something else than JSON.
pub(in super::super) fn takes_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(declared) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let declared = declared.to_str().unwrap_or_default().to_ascii_lowercase();
    let essence = declared.split(';').next().unwrap_or_default().trim();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let message = "content-type takes application/json";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
        .field("content-type"))
}

fn answer(
    core: &Core,
    status: StatusCode,
    record: &Record,
    fields: Option<&Fields>,
) -> Result<Response, ApiError> {
    let mut body = Vec::with_capacity(record.json_len());
    write(record, fields, &mut body)?;
    let body = if body.len() <= SMALL_ANSWER_BYTES {
        Body::from(body)
    } else {
        let mut share = BodyShare::new(&core.bodies);
        share.grow(body.len())?;
        Body::new(HeldBody::new(body, share))
    };
    let mut response = json(status, body);
    response.headers_mut().insert(ETAG, etag::tag(record.version));
    Ok(response)
}

fn write(record: &Record, fields: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), ApiError> {
    match fields {
        None => record.write_json(out),
        Some(fields) => fields.write_json(record, out).map_err(|_| ApiError::internal())?,
    }
    Ok(())
}

pub(super) fn json(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The same list, from where the page ended.
fn next_link(name: &str, parameters: &[(String, String)], after: &str) -> String {
    let kept = parameters.iter().filter(|(name, _)| !matches!(name.as_str(), "after" | "offset"));
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let query: Vec<String> = kept
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .chain([format!("after={}", encoded(after))])
        .collect();
    format!("</api/stress/records/{name}?{}>; rel=\"next\"", query.join("&"))
}

/// The error of a look-up that must find nothing.
pub(super) fn found_nothing(found: Result<Record, RecordsError>) -> ApiError {
    found.map_or_else(ApiError::from, |_| ApiError::internal())
}
