//! `/api/collections/{collection}/records`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde_json::{Map, Value};

use super::auth::take_password;
use super::caller::{self, Sender, caller};
use super::error::{Operation, Refusal};
use super::multipart::Files;
use super::{PageResponse, Query, answer, answer_json, body, no_content};
use crate::http::openapi::bodies::{RecordRequest, RecordResponse};
use crate::http::{AppState, Services};
use crate::records::schema::Rules;
use crate::records::typed::{Caller, CollectionHandle, Expand, Write, WriteRequest};
use hyper::StatusCode;

type RecordPath = Result<Path<(String, String)>, PathRejection>;
type CollectionPath = Result<Path<String>, PathRejection>;

const MISSING: &str = "Missing collection context.";
const MISSING_OR_INVALID: &str = "Missing or invalid collection context.";

async fn collection(
    services: &Services,
    name: &str,
    message: &'static str,
) -> Result<CollectionHandle, Refusal> {
    let found = services.typed()?.collection(name).await.map_err(|error| Operation::Read.refuses(error))?;
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, message))
}

/// A write: its collection, its sender, and its body with the files in it.
struct Sent {
    collection: CollectionHandle,
    caller: Caller,
    query: Query,
    read: body::Read,
}

impl Sent {
    /// Reads a write of a record of the collection `name`. Files are not kept of a sender for whom the rule is closed.
    async fn read(
        state: &AppState,
        name: &str,
        request: Request,
        is_closed: impl Fn(&Rules) -> bool,
    ) -> Result<Self, Refusal> {
        let services = state.services()?;
        let typed = services.typed()?;
        let found = typed.collection(name).await.map_err(|error| Operation::Read.refuses(error))?;
        let (head, incoming) = request.into_parts();
        let sender = Sender::of(state, &head).await?;
        let is_open = |collection: &&CollectionHandle| {
            sender.is_superuser() || !is_closed(&collection.definition().rules)
        };
        let files = found.as_ref().filter(is_open).map_or(Files::Unknown, Files::Of);
        let request = Request::from_parts(head, incoming);
        let mut read = body::read_with(services, request, typed.max_body_bytes(), files).await?;
        for (member, name) in std::mem::take(&mut read.parts) {
            body::add_file(&mut read.members, &member, name);
        }
        let collection = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, MISSING_OR_INVALID))?;
        let query = Query::of(&read.head.uri);
        let values = || caller::request_values("default", &read.head, &query, Some(&read.members));
        let caller = sender.caller(&collection, values);
        Ok(Self { collection, caller, query, read })
    }
}

fn names(path: RecordPath) -> Result<(String, String), Refusal> {
    path.map(|Path(names)| names).map_err(|_| Refusal::not_found())
}

/// `GET /api/collections/{collection}/records`.
#[utoipa::path(
    get,
    path = "/api/collections/{collection}/records",
    tag = "collections",
    summary = "A page of the records that the caller may list",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "posts"),
        ("filter" = Option<String>, Query, description = "An expression, such as title ~ 'a' && n >= 3"),
        ("sort" = Option<String>, Query, description = "Up to 8 fields, each with a - before it to descend"),
        ("page" = Option<i64>, Query, description = "The page, from 1 on"),
        ("perPage" = Option<i64>, Query, description = "Records on a page, at most 1,000"),
        ("skipTotal" = Option<bool>, Query, description = "Whether the records are not counted"),
        ("expand" = Option<String>, Query, description = "Related records: author,comments_via_post"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "A page: items, page, perPage, totalItems, totalPages", body = Value),
        (status = 403, description = "The list is for superusers"),
        (status = 404, description = "There is no such collection"),
    )
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let Path(name) = path.map_err(|_| Refusal::not_found())?;
    let (head, _) = request.into_parts();
    let query = Query::of(&head.uri);
    let collection = collection(services, &name, MISSING).await?;
    let caller = caller(&state, &head, &query, &collection, None).await?;
    let refuse = |error| Operation::Read.refuses(error);
    let (wanted, fields) = (query.list()?, query.projection()?);
    let typed = services.typed()?;
    let page = typed.list(&collection, &caller, &wanted).await.map_err(refuse)?;
    let expand = Expand::parse(query.get("expand"));
    let shown = typed.shown(&collection, &caller, page.records, &expand).await.map_err(refuse)?;
    let items = shown.into_iter().map(Value::Object).collect();
    answer(services, &PageResponse::new(items, page.page, page.per_page, page.total, fields.as_ref()))
}

/// `GET /api/collections/{collection}/records/{id}`.
#[utoipa::path(
    get,
    path = "/api/collections/{collection}/records/{id}",
    tag = "collections",
    summary = "A record",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "posts"),
        ("id" = String, Path, description = "15 characters of a to z and 0 to 9, unless the collection's id field says otherwise"),
        ("expand" = Option<String>, Query, description = "Related records: author,comments_via_post"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "The record", body = RecordResponse),
        (status = 403, description = "The record is for superusers"),
        (status = 404, description = "There is none that the caller may view"),
    )
)]
pub(super) async fn view(
    State(state): State<Arc<AppState>>,
    path: RecordPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (name, id) = names(path)?;
    let (head, _) = request.into_parts();
    let query = Query::of(&head.uri);
    let collection = collection(services, &name, MISSING).await?;
    let caller = caller(&state, &head, &query, &collection, None).await?;
    let members = services.typed()?.view(&collection, &caller, &id).await;
    let members = members.map_err(|error| Operation::Read.refuses(error))?;
    show(services, &collection, &caller, &query, members).await
}

/// `POST /api/collections/{collection}/records`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/records",
    tag = "collections",
    summary = "Creates a record",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "posts"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    request_body(content = RecordRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The record", body = RecordResponse),
        (status = 400, description = "Values are refused, or the rule does not hold"),
        (status = 403, description = "Creations are for superusers"),
        (status = 404, description = "There is no such collection"),
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let Path(name) = path.map_err(|_| Refusal::not_found())?;
    let typed = services.typed()?;
    let sent = Sent::read(&state, &name, request, |rules| rules.create_rule.is_none()).await?;
    let Sent { collection, caller, query, read } = sent;
    let (fields, refuse) = (query.projection()?, |error| Operation::CreateRecord.refuses(error));
    take_password(&state, &read.head, &caller, &collection, "", &read.members)?;
    if !read.uploads.is_empty() {
        let (write, expand) = (Write::Create, Expand::parse(query.get("expand")));
        let request = WriteRequest { collection, caller, write, body: read.members, expand, fields };
        let record = typed.write_alone(request, read.uploads).await.map_err(refuse)?;
        return answer_json(services, record);
    }
    let members = typed.create(&collection, &caller, read.members).await.map_err(refuse)?;
    show(services, &collection, &caller, &query, members).await
}

/// `PATCH /api/collections/{collection}/records/{id}`.
#[utoipa::path(
    patch,
    path = "/api/collections/{collection}/records/{id}",
    tag = "collections",
    summary = "Changes a record; modifiers such as n+ count on top of what is stored",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "posts"),
        ("id" = String, Path, description = "15 characters of a to z and 0 to 9, unless the collection's id field says otherwise"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    request_body(content = RecordRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The record as it is now", body = RecordResponse),
        (status = 400, description = "Values are refused"),
        (status = 403, description = "Changes are for superusers"),
        (status = 404, description = "There is none that the caller may change"),
    )
)]
pub(super) async fn update(
    State(state): State<Arc<AppState>>,
    path: RecordPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (name, id) = names(path)?;
    let typed = services.typed()?;
    let sent = Sent::read(&state, &name, request, |rules| rules.update_rule.is_none()).await?;
    let Sent { collection, caller, query, read } = sent;
    let (fields, refuse) = (query.projection()?, |error| Operation::UpdateRecord.refuses(error));
    take_password(&state, &read.head, &caller, &collection, &id, &read.members)?;
    if collection.definition().sets_files(&read.members) {
        let (write, expand) = (Write::Update(id), Expand::parse(query.get("expand")));
        let request = WriteRequest { collection, caller, write, body: read.members, expand, fields };
        let record = typed.write_alone(request, read.uploads).await.map_err(refuse)?;
        return answer_json(services, record);
    }
    let members = typed.update(&collection, &caller, &id, &read.members).await.map_err(refuse)?;
    show(services, &collection, &caller, &query, members).await
}

/// `DELETE /api/collections/{collection}/records/{id}`.
#[utoipa::path(
    delete,
    path = "/api/collections/{collection}/records/{id}",
    tag = "collections",
    summary = "Deletes a record, and what follows of it by relations",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "posts"),
        ("id" = String, Path, description = "15 characters of a to z and 0 to 9, unless the collection's id field says otherwise"),
    ),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 400, description = "A required relation names it"),
        (status = 403, description = "Deletions are for superusers"),
        (status = 404, description = "There is none that the caller may delete"),
    )
)]
pub(super) async fn delete(
    State(state): State<Arc<AppState>>,
    path: RecordPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (name, id) = names(path)?;
    let (head, _) = request.into_parts();
    let query = Query::of(&head.uri);
    let collection = collection(services, &name, MISSING_OR_INVALID).await?;
    let caller = caller(&state, &head, &query, &collection, None).await?;
    let deleted = services.typed()?.delete(&collection, &caller, &id).await;
    deleted.map_err(|error| Operation::DeleteRecord.refuses(error))?;
    Ok(no_content())
}

/// The answer with one record.
async fn show(
    services: &Services,
    collection: &CollectionHandle,
    caller: &Caller,
    query: &Query,
    members: Map<String, Value>,
) -> Result<Response, Refusal> {
    let expand = Expand::parse(query.get("expand"));
    let shown = services.typed()?.shown(collection, caller, vec![members], &expand).await;
    let mut shown = shown.map_err(|error| Operation::Read.refuses(error))?;
    let shown = shown.pop().unwrap_or_default();
    match query.projection()? {
        None => answer(services, &shown),
        Some(fields) => answer(services, &fields.apply_to(&shown)),
    }
}
