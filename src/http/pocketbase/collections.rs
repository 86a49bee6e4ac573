//! `/api/collections`, for superusers.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::caller::require_superuser;
use super::error::{Operation, Refusal};
use super::{PageResponse, Query, answer, answer_shown, body, no_content};
use crate::http::openapi::bodies::{CollectionRequest, CollectionResponse};
use crate::http::{AppState, Services};
use crate::records::schema::{Violation, Violations};
use crate::records::typed::{CollectionHandle, TypedError};

/// Bytes of a definition, and of an import.
const MAX_BYTES: usize = 1 << 20;
const MAX_IMPORT_BYTES: usize = 8 << 20;

type CollectionPath = Result<Path<String>, PathRejection>;

/// The answer with one collection.
fn show(services: &Services, query: &Query, collection: &CollectionHandle) -> Result<Response, Refusal> {
    answer_shown(services, query, &collection.shown())
}

fn name(path: CollectionPath) -> Result<String, Refusal> {
    path.map(|Path(name)| name).map_err(|_| Refusal::not_found())
}

/// `GET /api/collections`.
#[utoipa::path(
    get,
    path = "/api/collections",
    tag = "collections",
    summary = "A page of the collections",
    params(
        ("filter" = Option<String>, Query, description = "An expression over id, name, type, system, created and updated"),
        ("sort" = Option<String>, Query, description = "Some of these, each with a - before it to descend"),
        ("page" = Option<i64>, Query, description = "The page, from 1 on"),
        ("perPage" = Option<i64>, Query, description = "Collections on a page, at most 1,000"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "A page: items, page, perPage, totalItems, totalPages", body = Value),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn list(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let query = Query::of(&head.uri);
    let (wanted, fields) = (query.list()?, query.projection()?);
    let listed = services.typed()?.list_collections(&wanted).await;
    let page = listed.map_err(|error| Operation::Read.refuses(error))?;
    let items = page.collections.iter().map(CollectionHandle::shown).collect();
    answer(services, &PageResponse::new(items, page.page, page.per_page, page.total, fields.as_ref()))
}

/// `POST /api/collections`.
#[utoipa::path(
    post,
    path = "/api/collections",
    tag = "collections",
    summary = "Creates a collection",
    request_body(content = CollectionRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The collection", body = CollectionResponse),
        (status = 400, description = "Its definition is refused"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let query = Query::of(&read.head.uri);
    let created = services.typed()?.create_collection(&Value::Object(read.members)).await;
    show(services, &query, &created.map_err(|error| Operation::CreateCollection.refuses(error))?)
}

/// `GET /api/collections/{collection}`.
#[utoipa::path(
    get,
    path = "/api/collections/{collection}",
    tag = "collections",
    summary = "A collection",
    params(("collection" = String, Path, description = "Its name or its id", example = "posts")),
    responses(
        (status = 200, description = "The collection", body = CollectionResponse),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn view(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let found = services.typed()?.collection(&name(path)?).await;
    let found = found.map_err(|error| Operation::Read.refuses(error))?.ok_or_else(Refusal::not_found)?;
    show(services, &Query::of(&head.uri), &found)
}

/// `PATCH /api/collections/{collection}`.
#[utoipa::path(
    patch,
    path = "/api/collections/{collection}",
    tag = "collections",
    summary = "Changes a collection: fields are kept by id, then by name, and dropped with their data if left out",
    params(("collection" = String, Path, description = "Its name or its id", example = "posts")),
    request_body(content = CollectionRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The collection as it is now", body = CollectionResponse),
        (status = 400, description = "Its definition is refused"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn update(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let changed = services.typed()?.change_collection(&name(path)?, &Value::Object(read.members)).await;
    let changed = changed.map_err(|error| Operation::UpdateCollection.refuses(error))?;
    show(services, &Query::of(&read.head.uri), &changed)
}

/// `DELETE /api/collections/{collection}`.
#[utoipa::path(
    delete,
    path = "/api/collections/{collection}",
    tag = "collections",
    summary = "Deletes a collection with its records",
    params(("collection" = String, Path, description = "Its name or its id", example = "posts")),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 400, description = "A relation of another collection leads to it"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn delete(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let deleted = services.typed()?.delete_collection(&name(path)?).await;
    deleted.map_err(|error| Operation::DeleteCollection.refuses(error))?;
    Ok(no_content())
}

/// `DELETE /api/collections/{collection}/truncate`.
#[utoipa::path(
    delete,
    path = "/api/collections/{collection}/truncate",
    tag = "collections",
    summary = "Deletes all records of a collection, and what follows of them by relations",
    params(("collection" = String, Path, description = "Its name or its id", example = "posts")),
    responses(
        (status = 204, description = "They are deleted"),
        (status = 400, description = "A required relation names one"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is no such collection"),
    )
)]
pub(super) async fn truncate(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let typed = services.typed()?;
    let refuse = |error| Operation::DeleteRecord.refuses(error);
    let found = typed.collection(&name(path)?).await.map_err(refuse)?.ok_or_else(Refusal::not_found)?;
    typed.truncate(&found).await.map_err(refuse)?;
    Ok(no_content())
}

/// `PUT /api/collections/import`.
#[utoipa::path(
    put,
    path = "/api/collections/import",
    tag = "collections",
    summary = "Creates and changes collections by their ids or names, all or none of them",
    request_body(
        content = Value,
        content_type = "application/json",
        description = "collections, and deleteMissing: whether collections and fields that are not named are deleted with their data",
        example = json!({"collections": [], "deleteMissing": false})
    ),
    responses(
        (status = 204, description = "They are as the body has them"),
        (status = 400, description = "A collection is refused"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn import(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_IMPORT_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let collections: &[Value] = match read.members.get("collections") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(collections)) => collections.as_slice(),
        Some(_) => return Err(Refusal::generic()),
    };
    let deletes_missing = match read.members.get("deleteMissing") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(deletes)) => *deletes,
        Some(_) => return Err(Refusal::generic()),
    };
    if collections.is_empty() {
        let mut violations = Violations::default();
        violations.add("collections", Violation::required());
        return Err(Operation::Form.refuses(TypedError::Refused(violations)));
    }
    let imported = services.typed()?.import_collections(collections, deletes_missing).await;
    imported.map_err(|error| Operation::ImportCollections.refuses(error))?;
    Ok(no_content())
}

/// `GET /api/collections/meta/scaffolds`.
#[utoipa::path(
    get,
    path = "/api/collections/meta/scaffolds",
    tag = "collections",
    summary = "An empty collection of each type",
    responses(
        (status = 200, description = "By type", body = Value),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn scaffolds(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let scaffolds = crate::records::typed::scaffolds().map_err(|error| Operation::Read.refuses(error))?;
    answer(services, &scaffolds)
}

/// Characters of a query that is tried.
const MAX_QUERY: usize = 5_000;

/// `POST /api/collections/meta/dry-run-view`.
#[utoipa::path(
    post,
    path = "/api/collections/meta/dry-run-view",
    tag = "collections",
    summary = "Runs the query of a view without making one",
    request_body(
        content = Value,
        content_type = "application/json",
        description = "query: a SELECT over collections",
        example = json!({"query": "SELECT id FROM posts"})
    ),
    responses(
        (status = 200, description = "fields: those of the view; sample: its first records, at most 10", body = Value),
        (status = 400, description = "The query is invalid: the message has the reason"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn dry_run_view(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let query = match read.members.get("query") {
        None | Some(Value::Null) => "",
        Some(Value::String(query)) => query.as_str(),
        Some(_) => return Err(Refusal::not_loaded(Violations::default())),
    };
    let mut violations = Violations::default();
    if query.is_empty() {
        violations.add("query", Violation::required());
    } else if query.chars().count() > MAX_QUERY {
        let message = format!("The length must be no more than {MAX_QUERY}.");
        let violation = Violation::new("length_too_long", message).with("max", MAX_QUERY).with("min", 0);
        violations.add("query", violation);
    }
    violations
        .into_result()
        .map_err(|violations| Operation::Form.refuses(TypedError::Refused(violations)))?;
    let tried = services.typed()?.dry_run_view(query).await;
    match tried.map_err(|error| Operation::Read.refuses(error))? {
        Ok(tried) => {
            let shown = json!({"fields": tried.fields, "sample": tried.sample});
            match Query::of(&read.head.uri).projection()? {
                None => answer(services, &shown),
                Some(fields) => answer(services, &fields.apply(&shown)),
            }
        }
        Err(reason) => {
            let message = format!("Invalid view query. Raw error: \n{reason}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, super::error::sentence(&message)))
        }
    }
}
