//! `/api/stress/records`: create, get, update, delete and list.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query as Parameters, Request, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{ETAG, HeaderName, HeaderValue, LOCATION};
use hyper::{HeaderMap, StatusCode};
use utoipa_axum::routes;

use super::edge::routes::{Access, Routes};
use super::openapi::bodies::{RecordRequest, RecordResponse};
use super::wire::body::{CountedBody, MemoryPermit, WholeBody};
use super::wire::error::ApiError;
use super::wire::json::{self, offload};
use super::wire::{etag, pages, position, query};
use super::{AppState, Services};
use crate::auth::{Principal, Scope};
use crate::config::limits;
use crate::offload::INLINE_BYTES;
use crate::records::{
    Change, Draft, Fields, ListQuery, Name, Precondition, Record, RecordId, RecordsError, RequestAuth,
};

static X_TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// Every route of records.
pub(super) fn routes() -> Routes {
    let (read, write) = (Access::Scope(Scope::RecordsRead), Access::Scope(Scope::RecordsWrite));
    Routes::default()
        .route(read, routes!(list))
        .route(write, routes!(create))
        .route(read, routes!(get))
        .route(write, routes!(put, patch, delete))
}

/// `POST /api/stress/records/{collection}`.
#[utoipa::path(
    post,
    path = "/api/stress/records/{collection}",
    tag = "records",
    summary = "Creates a record",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items")),
    request_body(content = RecordRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "The record", body = RecordResponse, headers(("etag" = String, description = "Its version"), ("location" = String, description = "Its path"))),
        (status = 404, description = "There is no such collection (RECORDS_AUTO_CREATE)"),
        (status = 409, description = "The id is in use, or there are too many collections"),
    )
)]
async fn create(
    State(state): State<Arc<AppState>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let name = collection(path)?;
    let (draft, _whole) = draft(services, request).await?;
    let record = services.records()?.create(&name, draft).await?;
    let location = format!("/api/stress/records/{}/{}", name.as_str(), record.id.as_str());
    let mut response = answer(services, StatusCode::CREATED, record, None).await?;
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::try_from(location).map_err(|_| ApiError::internal())?);
    Ok(response)
}

/// `GET /api/stress/records/{collection}/{id}`.
#[utoipa::path(
    get,
    path = "/api/stress/records/{collection}/{id}",
    tag = "records",
    summary = "A record",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"), ("id" = String, Path, description = "15 characters of a to z and 0 to 9"), ("fields" = Option<String>, Query, description = "Only these members: a,b.c"), ("if-none-match" = Option<String>, Header, description = "The client's version")),
    responses(
        (status = 200, description = "The record", body = RecordResponse, headers(("etag" = String, description = "Its version"), ("x-feed-position" = String, description = "Where /api/events/stream goes on"))),
        (status = 304, description = "The client has this version"),
        (status = 404, description = "There is none"),
    )
)]
async fn get(
    State(state): State<Arc<AppState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    parameters: Result<Parameters<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (name, id) = collection_and_id(path)?;
    let mut fields = None;
    for (parameter, value) in query::parameters(parameters)? {
        match parameter.as_str() {
            "fields" => fields = Some(Fields::parse(&value)?),
            _ => return Err(query::unknown_parameter(&parameter)),
        }
    }
    let (record, position) = services.records()?.get(&name, id).await?;
    let mut response = match etag::is_known(&headers, record.version)? {
        true => {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            response.headers_mut().insert(ETAG, etag::tag(record.version));
            response
        }
        false => answer(services, StatusCode::OK, record, fields).await?,
    };
    position::add(&mut response, &position)?;
    Ok(response)
}

/// `PUT /api/stress/records/{collection}/{id}`: merges, or replaces with `?mode=replace`.
#[utoipa::path(
    put,
    path = "/api/stress/records/{collection}/{id}",
    tag = "records",
    summary = "Changes a record by a merge patch (RFC 7396), or replaces it",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"), ("id" = String, Path, description = "15 characters of a to z and 0 to 9"), ("mode" = Option<String>, Query, description = "merge, or replace"), ("if-match" = Option<String>, Header, description = "The version to change")),
    request_body(content = RecordRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The record as it is now", body = RecordResponse, headers(("etag" = String, description = "Its version"))),
        (status = 404, description = "There is none"),
        (status = 409, description = "A unique value is in use"),
        (status = 412, description = "It has another version"),
    )
)]
async fn put(
    State(state): State<Arc<AppState>>,
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
    change(&state, path, request, replaces).await
}

/// `PATCH /api/stress/records/{collection}/{id}`.
#[utoipa::path(
    patch,
    path = "/api/stress/records/{collection}/{id}",
    tag = "records",
    summary = "Changes a record by a merge patch (RFC 7396)",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"), ("id" = String, Path, description = "15 characters of a to z and 0 to 9"), ("if-match" = Option<String>, Header, description = "The version to change")),
    request_body(content = RecordRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The record as it is now", body = RecordResponse, headers(("etag" = String, description = "Its version"))),
        (status = 404, description = "There is none"),
        (status = 409, description = "A unique value is in use"),
        (status = 412, description = "It has another version"),
    )
)]
async fn patch(
    State(state): State<Arc<AppState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    change(&state, path, request, false).await
}

async fn change(
    state: &AppState,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
    replaces: bool,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let (name, id) = collection_and_id(path)?;
    let precondition = etag::if_match(request.headers())?;
    let (draft, _whole) = draft(services, request).await?;
    if draft.id.is_some_and(|sent| sent != id) {
        return Err(ApiError::invalid("a record's id cannot be changed").field("id"));
    }
    let change = if replaces { Change::Replace(draft.data) } else { Change::Merge(draft.data) };
    let record = services.records()?.change(&name, id, &precondition, &change).await?;
    answer(services, StatusCode::OK, record, None).await
}

/// `DELETE /api/stress/records/{collection}/{id}`.
#[utoipa::path(
    delete,
    path = "/api/stress/records/{collection}/{id}",
    tag = "records",
    summary = "Deletes a record",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"), ("id" = String, Path, description = "15 characters of a to z and 0 to 9"), ("if-match" = Option<String>, Header, description = "The version to delete")),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 404, description = "There is none"),
        (status = 412, description = "It has another version"),
    )
)]
async fn delete(
    State(state): State<Arc<AppState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let services = state.services()?;
    let (name, id) = collection_and_id(path)?;
    let precondition: Precondition = etag::if_match(&headers)?;
    services.records()?.change(&name, id, &precondition, &Change::Delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/stress/records/{collection}`.
#[utoipa::path(
    get,
    path = "/api/stress/records/{collection}",
    tag = "records",
    summary = "A page of a collection",
    description = "Filters are parameters filter_<field>=operator:value, and one expression.",
    params(
        ("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"),
        ("filter" = Option<String>, Query, description = "An expression, such as state = 'open' && priority >= 3"),
        ("limit" = Option<u32>, Query, description = "Records on a page", minimum = 1, maximum = 1000),
        ("sortBy" = Option<String>, Query, description = "Up to 8 fields, each with a - before it to descend"),
        ("after" = Option<String>, Query, description = "The value of a Link header"),
        ("offset" = Option<u32>, Query, description = "Records to skip"),
        ("fields" = Option<String>, Query, description = "Only these members: a,b.c"),
        ("count" = Option<String>, Query, description = "exact"),
    ),
    responses(
        (status = 200, description = "Records", body = [RecordResponse], headers(("link" = String, description = "The next page"), ("x-feed-position" = String, description = "Where /api/events/stream goes on"), ("x-total-count" = String, description = "The number of all records, with count=exact"))),
        (status = 404, description = "There is no such collection"),
    )
)]
async fn list(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Result<Path<String>, PathRejection>,
    parameters: Result<Parameters<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let name = collection(path)?;
    let parameters = query::parameters(parameters)?;
    let query = ListQuery::parse(&parameters, RequestAuth(&principal.attributes()))?;
    let (page, position) = services.records()?.list(&name, &query).await?;
    // Until the client has read it: the pages of slow clients add up.
    let mut permit = MemoryPermit::new(&services.bodies);
    let bytes = page.entries.iter().map(Record::json_len).sum();
    permit.grow(bytes)?;
    let path = format!("/api/stress/records/{}", name.as_str());
    let links: Vec<String> = page.links(&path, &parameters).collect();
    let (records, fields) = (page.entries, query.fields);
    let body = serialize(bytes, move || {
        let mut body = vec![b'['];
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            write(record, fields.as_ref(), &mut body)?;
        }
        body.push(b']');
        Ok((body, permit))
    });
    let (body, permit) = body.await?;
    let mut response = json::json(StatusCode::OK, Body::new(CountedBody::new(body, permit)));
    pages::add_links(&mut response, links)?;
    position::add(&mut response, &position)?;
    if let Some(total) = page.total {
        response.headers_mut().insert(&X_TOTAL_COUNT, total.into());
    }
    Ok(response)
}

/// Reads a record from a request. The returned body holds the record's memory permit.
async fn draft(services: &Services, request: Request) -> Result<(Draft, WholeBody), ApiError> {
    let bytes = services.records()?.settings().max_body_bytes;
    let (_, whole) = json::read(services, request, bytes, "MAX_EVENT_BYTES").await?;
    let max_depth = limits::MAX_JSON_DEPTH;
    json::parse(whole, move |whole| Ok(Draft::parse(whole.bytes(), max_depth)?)).await
}

async fn answer(
    services: &Services,
    status: StatusCode,
    record: Record,
    fields: Option<Fields>,
) -> Result<Response, ApiError> {
    let version = record.version;
    let bytes = record.json_len();
    let body = serialize(bytes, move || {
        let mut body = Vec::with_capacity(bytes);
        write(&record, fields.as_ref(), &mut body)?;
        Ok(body)
    });
    let mut response = json::json(status, json::held(services, body.await?)?);
    response.headers_mut().insert(ETAG, etag::tag(version));
    Ok(response)
}

/// Runs `write`, which writes about `bytes`, off this thread if they are many.
async fn serialize<T: Send + 'static>(
    bytes: usize,
    write: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match bytes {
        ..=INLINE_BYTES => write(),
        _ => offload(write).await?,
    }
}

fn write(record: &Record, fields: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), ApiError> {
    match fields {
        None => record.write_json(out),
        Some(fields) => fields.write_json(record, out).map_err(|_| ApiError::internal())?,
    }
    Ok(())
}

pub(super) fn collection(path: Result<Path<String>, PathRejection>) -> Result<Name, ApiError> {
    let Path(name) = path.map_err(|_| bad_name())?;
    Name::parse(&name).ok_or_else(bad_name)
}

pub(super) fn collection_and_id(
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<(Name, RecordId), ApiError> {
    let Path((name, id)) = path.map_err(|_| bad_name())?;
    let name = Name::parse(&name).ok_or_else(bad_name)?;
    // A malformed id identifies no record.
    Ok((name, RecordId::parse(&id).ok_or(RecordsError::NotFound)?))
}

/// The collection of a record's path, for any id.
pub(super) fn collection_of_record(
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Name, ApiError> {
    let Path((name, _)) = path.map_err(|_| bad_name())?;
    Name::parse(&name).ok_or_else(bad_name)
}

fn bad_name() -> ApiError {
    ApiError::invalid("a collection's name is a letter or _, then letters, digits or _, at most 63")
        .field("collection")
}
