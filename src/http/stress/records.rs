//! `/api/stress/records`: create, get, update, delete and list.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query as Parameters, Request, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{ETAG, HeaderName, HeaderValue, LINK, LOCATION};
use hyper::{HeaderMap, StatusCode};

use super::super::body::{BodyShare, HeldBody, WholeBody};
use super::super::error::ApiError;
use super::super::{Core, Face, json, query};
use super::{collection, collection_and_id, etag};
use crate::records::{Change, Draft, Fields, Precondition, Query, Record, RecordsError};

static X_TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

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
    for (parameter, value) in query::parameters(parameters)? {
        match parameter.as_str() {
            "fields" => fields = Some(Fields::parse(&value)?),
            _ => return Err(query::unknown_parameter(&parameter)),
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
    for (parameter, value) in query::parameters(parameters)? {
        match (parameter.as_str(), value.as_str()) {
            ("mode", "merge") => replaces = false,
            ("mode", "replace") => replaces = true,
            ("mode", _) => return Err(ApiError::invalid("mode takes merge or replace").field("mode")),
            _ => return Err(query::unknown_parameter(&parameter)),
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
    let parameters = query::parameters(parameters)?;
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
    let mut response = json::json(StatusCode::OK, Body::new(HeldBody::new(body, share)));
    if let Some(next) = &page.next {
        let path = format!("/api/stress/records/{}", name.as_str());
        let link = query::page_link(&path, &parameters, "next", ("after", next));
        let link = HeaderValue::try_from(link).map_err(|_| ApiError::internal())?;
        response.headers_mut().insert(LINK, link);
    }
    if let Some(total) = page.total {
        response.headers_mut().insert(&X_TOTAL_COUNT, total.into());
    }
    Ok(response)
}

/// Reads a record from a request. The body's share of memory is held as long as what is returned beside it.
async fn draft(core: &Core, request: Request) -> Result<(Draft, WholeBody), ApiError> {
    let bytes = core.stress.records.config().max_record_body_bytes();
    let (_, whole) = json::read(core, request, bytes, "MAX_RECORD_BYTES").await?;
    Ok((Draft::parse(whole.bytes(), core.stress.records.max_json_depth())?, whole))
}

fn answer(
    core: &Core,
    status: StatusCode,
    record: &Record,
    fields: Option<&Fields>,
) -> Result<Response, ApiError> {
    let mut body = Vec::with_capacity(record.json_len());
    write(record, fields, &mut body)?;
    let mut response = json::json(status, json::held(core, body)?);
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

/// The error of a look-up that must find nothing.
pub(super) fn found_nothing(found: Result<Record, RecordsError>) -> ApiError {
    found.map_or_else(ApiError::from, |_| ApiError::internal())
}
