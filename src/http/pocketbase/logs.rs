//! `/api/logs`: the log of requests, for superusers.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::Value;

use super::caller::require_superuser;
use super::error::{Operation, Refusal};
use super::{PageResponse, Query, answer, answer_shown, no_content};
use crate::http::AppState;
use crate::records::typed::TypedError;

/// `GET /api/logs`.
#[utoipa::path(
    get,
    path = "/api/logs",
    tag = "collections",
    summary = "A page of the log of requests",
    params(
        ("filter" = Option<String>, Query, description = "An expression over id, created, level, message and members of data, such as data.status"),
        ("sort" = Option<String>, Query, description = "Some of these, or @rowid, each with a - before it to descend"),
        ("page" = Option<i64>, Query, description = "The page, from 1 on"),
        ("perPage" = Option<i64>, Query, description = "Entries on a page, at most 1,000"),
        ("skipTotal" = Option<bool>, Query, description = "Whether the entries are not counted"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "A page: items, page, perPage, totalItems, totalPages", body = Value),
        (status = 400, description = "The filter or the order is refused"),
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
    let listed = services.request_logs()?.list(&wanted).await;
    let page = listed.map_err(|error| Operation::Read.refuses(error))?;
    answer(services, &PageResponse::new(page.items, page.page, page.per_page, page.total, fields.as_ref()))
}

/// `DELETE /api/logs`.
#[utoipa::path(
    delete,
    path = "/api/logs",
    tag = "collections",
    summary = "Deletes all entries of the log of requests",
    responses(
        (status = 204, description = "They are deleted"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn clear(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    services.request_logs()?.clear().await.map_err(|error| Operation::Read.refuses(error))?;
    Ok(no_content())
}

/// `GET /api/logs/stats`.
#[utoipa::path(
    get,
    path = "/api/logs/stats",
    tag = "collections",
    summary = "The numbers of entries by hour",
    params(
        ("filter" = Option<String>, Query, description = "As for the list"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "A list of total and date", body = Value),
        (status = 400, description = "The filter is refused"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn stats(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let query = Query::of(&head.uri);
    let hours = services.request_logs()?.stats(query.get("filter")).await;
    let hours: Vec<Value> = hours.map_err(|error| match error {
        TypedError::InvalidQuery => Refusal::new(StatusCode::BAD_REQUEST, "Invalid filter format."),
        other => Operation::Read.refuses(other),
    })?;
    let hours = match query.projection()? {
        None => hours,
        Some(fields) => hours.iter().map(|hour| fields.apply(hour)).collect(),
    };
    answer(services, &hours)
}

/// `GET /api/logs/{id}`.
#[utoipa::path(
    get,
    path = "/api/logs/{id}",
    tag = "collections",
    summary = "An entry of the log of requests",
    params(
        ("id" = String, Path, description = "Its id"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    responses(
        (status = 200, description = "The entry", body = Value),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn view(
    State(state): State<Arc<AppState>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let Path(id) = path.map_err(|_| Refusal::not_found())?;
    let entry = services.request_logs()?.view(&id).await.map_err(|error| Operation::Read.refuses(error))?;
    answer_shown(services, &Query::of(&head.uri), &entry)
}
