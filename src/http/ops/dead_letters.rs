//! `/api/v1/dead-letters`: events that could not be stored. They are listed, redriven or discarded.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::config::limits;
use crate::http::AppState;
use crate::http::wire::error::ApiError;
use crate::http::wire::{pages, path, query};
use crate::ingest::dead_letters::{
    Body, Cursor, DeadLetter, DeadLetterStore, Filter, Reason, Redriven, Selection,
};
use crate::ingest::json::JsonLimits;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 1000;
/// Dead letters of one redrive; the answer reports whether more remain.
const MAX_REDRIVEN: usize = 10_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Dead letters on a page.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<i64>,
    /// `overload`, `rejected` or `dropped_by_trigger`.
    reason: Option<String>,
    /// RFC 3339.
    #[param(format = DateTime)]
    since: Option<String>,
    /// RFC 3339.
    #[param(format = DateTime)]
    until: Option<String>,
    /// The value of a `Link` header.
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct DeadLetterResponse<'a> {
    id: Uuid,
    trace_id: &'a str,
    reason: &'a str,
    error: &'a str,
    attempts: i32,
    content_type: Option<&'a str>,
    received_at: &'a str,
    failed_at: &'a str,
    bytes: i64,
}

impl<'a> From<&'a DeadLetter> for DeadLetterResponse<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        Self {
            id: letter.id,
            trace_id: &letter.trace_id,
            reason: &letter.reason,
            error: &letter.error,
            attempts: letter.attempts,
            content_type: letter.content_type.as_deref(),
            received_at: &letter.received_at,
            failed_at: &letter.failed_at,
            bytes: letter.bytes,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = WholeDeadLetter)]
struct WholeDeadLetterResponse<'a> {
    #[serde(flatten)]
    listed: DeadLetterResponse<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// `utf-8` or `base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_encoding: Option<&'static str>,
}

/// `GET /api/v1/dead-letters`.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    tag = "events",
    summary = "Events that could not be stored, newest first",
    params(ListQuery),
    responses((status = 200, description = "Dead letters without their bodies", body = [DeadLetterResponse], headers(("link" = String, description = "The next page"))))
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit takes 1 to {MAX_LIMIT}")).field("limit"));
    }
    let filter = filter(query.reason.clone(), query.since.as_deref(), query.until.as_deref())?;
    let after = query.after.as_deref().map(cursor).transpose()?;
    let page = store(&state)?.list(&filter, after, limit).await?;
    let listed: Vec<DeadLetterResponse<'_>> = page.iter().map(DeadLetterResponse::from).collect();
    let mut response = Json(listed).into_response();
    if let Some(last) = page.last().filter(|_| page.len() as i64 == limit) {
        let position = format!("{}_{}", last.failed_at_us, last.id);
        let parameters = query.parameters(limit);
        pages::add_link(&mut response, "/api/v1/dead-letters", &parameters, "next", ("after", &position))?;
    }
    Ok(response)
}

/// `GET /api/v1/dead-letters/{id}`.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters/{id}",
    tag = "events",
    summary = "A dead letter with its body",
    params(("id" = Uuid, Path, description = "The dead letter")),
    responses(
        (status = 200, description = "The dead letter", body = WholeDeadLetterResponse),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Response, ApiError> {
    let Some((letter, body)) = store(&state)?.get(path::known(id, no_such_letter())?).await? else {
        return Err(no_such_letter());
    };
    let mut whole = WholeDeadLetterResponse {
        listed: DeadLetterResponse::from(&letter),
        payload: None,
        body: None,
        body_encoding: None,
    };
    match body {
        Body::Json(text) => {
            whole.payload = Some(RawValue::from_string(text).map_err(|_| ApiError::internal())?);
        }
        Body::Bytes(bytes) => match String::from_utf8(bytes.to_vec()) {
            Ok(text) => (whole.body, whole.body_encoding) = (Some(text), Some("utf-8")),
            Err(_) => (whole.body, whole.body_encoding) = (Some(STANDARD.encode(&bytes)), Some("base64")),
        },
    }
    Ok(Json(whole).into_response())
}

/// `DELETE /api/v1/dead-letters/{id}`.
#[utoipa::path(
    delete,
    path = "/api/v1/dead-letters/{id}",
    tag = "events",
    summary = "Discards a dead letter",
    params(("id" = Uuid, Path, description = "The dead letter")),
    responses(
        (status = 204, description = "It is discarded"),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn discard(
    State(state): State<Arc<AppState>>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    match store(&state)?.discard(path::known(id, no_such_letter())?).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_such_letter()),
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Redrive)]
struct RedriveRequest {
    ids: Option<Vec<Uuid>>,
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    all: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Redriven)]
struct RedriveResponse {
    redriven: u64,
    refused: u64,
    more: bool,
}

/// `POST /api/v1/dead-letters/redrive`.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/redrive",
    tag = "events",
    summary = "Stores dead letters again",
    request_body = RedriveRequest,
    responses((status = 200, description = "The outcome", body = RedriveResponse))
)]
pub(super) async fn redrive(
    State(state): State<Arc<AppState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body: RedriveRequest = query::json(body).await?;
    let filter = filter(body.reason, body.since.as_deref(), body.until.as_deref())?;
    let filtered = filter.reason.is_some() || filter.since_us.is_some() || filter.until_us.is_some();
    match (&body.ids, body.all, filtered) {
        (None, false, false) => {
            return Err(ApiError::invalid("ids, a filter (reason, since, until) or all is needed"));
        }
        (Some(_), true, _) | (_, true, true) => {
            return Err(ApiError::invalid("all goes with neither ids nor a filter").field("all"));
        }
        (Some(ids), ..) if ids.len() > MAX_REDRIVEN => {
            return Err(ApiError::invalid(format!("ids takes at most {MAX_REDRIVEN}")).field("ids"));
        }
        _ => {}
    }
    let selection = Selection { ids: body.ids, filter };
    let limits = JsonLimits { depth: limits::MAX_JSON_DEPTH, bytes: state.limits.event_bytes };
    let Redriven { stored, refused, more } = store(&state)?.redrive(&selection, limits, MAX_REDRIVEN).await?;
    Ok(Json(RedriveResponse { redriven: stored, refused, more }).into_response())
}

fn store(state: &AppState) -> Result<DeadLetterStore, ApiError> {
    Ok(DeadLetterStore::new(&state.services()?.database))
}

fn filter(reason: Option<String>, since: Option<&str>, until: Option<&str>) -> Result<Filter, ApiError> {
    if reason.as_deref().is_some_and(|reason| !Reason::names().contains(&reason)) {
        let message = format!("reason takes one of {}", Reason::names().join(", "));
        return Err(ApiError::invalid(message).field("reason"));
    }
    Ok(Filter {
        reason,
        since_us: since.map(|text| query::time_us(text, "since")).transpose()?,
        until_us: until.map(|text| query::time_us(text, "until")).transpose()?,
    })
}

fn cursor(text: &str) -> Result<Cursor, ApiError> {
    let parse = || {
        let (failed_at_us, id) = text.split_once('_')?;
        Some(Cursor { failed_at_us: failed_at_us.parse().ok()?, id: id.parse().ok()? })
    };
    parse().ok_or_else(|| ApiError::invalid("after takes the value of a Link header").field("after"))
}

impl ListQuery {
    /// The parameters, without the page's position.
    fn parameters(&self, limit: i64) -> Vec<(String, String)> {
        let limit = limit.to_string();
        let all = [
            ("limit", Some(&limit)),
            ("reason", self.reason.as_ref()),
            ("since", self.since.as_ref()),
            ("until", self.until.as_ref()),
        ];
        let given = |(name, value): (&str, Option<&String>)| Some((name.to_owned(), value?.clone()));
        all.into_iter().filter_map(given).collect()
    }
}

fn no_such_letter() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such dead letter")
}
