//! `/api/v1/dead-letters`: events that could not be stored. They are listed, redriven or discarded.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::ETAG;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::routes::versions;
use crate::config::limits;
use crate::http::AppState;
use crate::http::wire::error::ApiError;
use crate::http::wire::{etag, json, pages, path, query};
use crate::ingest::dead_letters::{
    Body, Cursor, DeadLetter, DeadLetterStore, Filter, Reason, Redriven, Selection,
};
use crate::ingest::json::JsonLimits;
use crate::records::Version;
use crate::routes::{Corrected, ErrorCursor, ErrorFilter, RefusedEvent, Rerouted, RouteError, RouteName};
use crate::typed;

/// The reason of events that a route refused.
const ROUTE: &str = "route";
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
    /// `overload`, `rejected`, `dropped_by_trigger` or `route`.
    reason: Option<String>,
    /// Only the events that this route refused.
    route: Option<String>,
    /// Only the events that a route refused with this SQLSTATE.
    sqlstate: Option<String>,
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
    /// The route that refused it, where the reason is `route`. The event itself is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<&'a str>,
    error: Cow<'a, str>,
    attempts: i32,
    content_type: Option<&'a str>,
    received_at: &'a str,
    failed_at: &'a str,
    bytes: i64,
}

impl<'a> From<&'a RefusedEvent> for DeadLetterResponse<'a> {
    fn from(event: &'a RefusedEvent) -> Self {
        Self {
            id: event.id,
            trace_id: &event.trace_id,
            reason: ROUTE,
            route: Some(&event.route),
            sqlstate: Some(&event.sqlstate),
            error: format!("{} {}", event.sqlstate, event.message).into(),
            attempts: event.attempts,
            content_type: event.content_type.as_deref(),
            received_at: &event.received_at,
            failed_at: &event.failed_at,
            bytes: event.bytes,
        }
    }
}

impl<'a> From<&'a DeadLetter> for DeadLetterResponse<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        Self {
            id: letter.id,
            trace_id: &letter.trace_id,
            reason: &letter.reason,
            route: None,
            sqlstate: None,
            error: Cow::Borrowed(&letter.error),
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
    let of_routes =
        query.reason.as_deref() == Some(ROUTE) || query.route.is_some() || query.sqlstate.is_some();
    let reason = query.reason.clone().filter(|reason| reason != ROUTE);
    if let (true, Some(_)) = (of_routes, &reason) {
        return Err(ApiError::invalid("route and sqlstate go with reason=route").field("reason"));
    }
    check_sqlstate(query.sqlstate.as_deref())?;
    if let Some(route) = &query.route {
        RouteName::parse(route)
            .map_err(|_| ApiError::invalid("route takes the name of a route").field("route"))?;
    }
    let filter = filter(reason, query.since.as_deref(), query.until.as_deref())?;
    let after = query.after.as_deref().map(cursor).transpose()?;
    let services = state.services()?;
    let (mut letters, mut refused) = (Vec::new(), Vec::new());
    if !of_routes {
        letters = store(&state)?.list(&filter, after.map(|(letter, _)| letter), limit).await?;
    }
    if of_routes || filter.reason.is_none() {
        let filter = ErrorFilter {
            route: query.route.clone(),
            sqlstate: query.sqlstate.clone(),
            since_us: filter.since_us,
            until_us: filter.until_us,
        };
        let after = after.map(|(letter, route)| ErrorCursor {
            failed_at_us: letter.failed_at_us,
            id: letter.id,
            // A page that ended with a dead letter has all routes of that event before it.
            route: route.unwrap_or(0),
        });
        refused = services.routes.errors.list(&filter, after, limit).await?;
    }
    // Two lists of one order. The number of a route is above 0.
    let letters =
        letters.iter().map(|letter| ((letter.failed_at_us, letter.id, 0), DeadLetterResponse::from(letter)));
    let refused = refused
        .iter()
        .map(|event| ((event.failed_at_us, event.id, event.route_id), DeadLetterResponse::from(event)));
    let mut page: Vec<_> = letters.chain(refused).collect();
    page.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
    page.truncate(limit as usize);
    let last = page.last().filter(|_| page.len() as i64 == limit).map(|(place, _)| *place);
    let listed: Vec<DeadLetterResponse<'_>> = page.into_iter().map(|(_, letter)| letter).collect();
    let mut response = Json(listed).into_response();
    if let Some((failed_at_us, id, route)) = last {
        let position = match route {
            0 => format!("{failed_at_us}_{id}"),
            route => format!("{failed_at_us}_{id}_{route}"),
        };
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
    let id = path::known(id, no_such_letter())?;
    if let Some((letter, body)) = store(&state)?.get(id).await? {
        let version = letter.version;
        return whole(DeadLetterResponse::from(&letter), body, version);
    }
    let Some((event, payload, body, version)) = state.services()?.routes.errors.get(id).await? else {
        return Err(no_such_letter());
    };
    whole(DeadLetterResponse::from(&event), payload.map_or(Body::Bytes(body), Body::Json), version)
}

fn whole(listed: DeadLetterResponse<'_>, body: Body, version: i64) -> Result<Response, ApiError> {
    let mut whole = WholeDeadLetterResponse { listed, payload: None, body: None, body_encoding: None };
    match body {
        Body::Json(text) => {
            whole.payload = Some(RawValue::from_string(text).map_err(|_| ApiError::internal())?);
        }
        Body::Bytes(bytes) => match String::from_utf8(bytes.to_vec()) {
            Ok(text) => (whole.body, whole.body_encoding) = (Some(text), Some("utf-8")),
            Err(_) => (whole.body, whole.body_encoding) = (Some(STANDARD.encode(&bytes)), Some("base64")),
        },
    }
    let mut response = Json(whole).into_response();
    response.headers_mut().insert(ETAG, etag::tag(Version(version)));
    Ok(response)
}

/// The content of a dead letter, corrected.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterCorrection)]
struct CorrectionRequest {
    /// JSON.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
}

/// `PATCH /api/v1/dead-letters/{id}`.
#[utoipa::path(
    patch,
    path = "/api/v1/dead-letters/{id}",
    tag = "events",
    summary = "Corrects the payload of a dead letter; a redrive stores it then",
    params(("id" = Uuid, Path, description = "The dead letter"), ("if-match" = Option<String>, Header, description = "Its content has this version")),
    request_body = CorrectionRequest,
    responses(
        (status = 204, description = "It is corrected", headers(("etag" = String, description = "The version of its content"))),
        (status = 404, description = "There is none"),
        (status = 412, description = "Its content has another version"),
    )
)]
pub(super) async fn correct(
    State(state): State<Arc<AppState>>,
    id: Result<Path<Uuid>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let id = path::known(id, no_such_letter())?;
    let versions = versions(request.headers())?;
    let (_, read) = json::read(services, request, state.limits.event_bytes, "MAX_EVENT_BYTES").await?;
    let body: CorrectionRequest = typed::from_slice(&read)?;
    let payload = body.payload.get();
    let corrected = match store(&state)?.correct(id, payload.as_bytes(), versions.as_deref()).await? {
        Some(version) => version.map_or(Corrected::Mismatch, Corrected::Done),
        None => services.routes.errors.correct(id, payload, versions.as_deref()).await?,
    };
    match corrected {
        Corrected::Done(version) => {
            let tag = etag::tag(Version(version));
            Ok((StatusCode::NO_CONTENT, [(ETAG, tag)]).into_response())
        }
        Corrected::Mismatch => {
            let message = "the content has another version";
            Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message))
        }
        Corrected::NotFound => Err(no_such_letter()),
    }
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
    let id = path::known(id, no_such_letter())?;
    // The errors of routes are forgotten; the event stays stored.
    match store(&state)?.discard(id).await? || state.services()?.routes.errors.discard(id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_such_letter()),
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Redrive)]
struct RedriveRequest {
    ids: Option<Vec<Uuid>>,
    /// Run this route alone, over the events that it refused: all, those of `ids`, or those with `sqlstate`.
    route: Option<String>,
    sqlstate: Option<String>,
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
    /// Of a route: events that are no longer stored. Their errors are forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
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
    if body.ids.as_ref().is_some_and(|ids| ids.len() > MAX_REDRIVEN) {
        return Err(ApiError::invalid(format!("ids takes at most {MAX_REDRIVEN}")).field("ids"));
    }
    if let Some(route) = &body.route {
        return redrive_route(&state, route, &body).await;
    }
    if body.sqlstate.is_some() || body.reason.as_deref() == Some(ROUTE) {
        return Err(ApiError::invalid("route is needed: events that a route refused are redriven by route")
            .field("route"));
    }
    let filter = filter(body.reason, body.since.as_deref(), body.until.as_deref())?;
    let filtered = filter.reason.is_some() || filter.since_us.is_some() || filter.until_us.is_some();
    match (&body.ids, body.all, filtered) {
        (None, false, false) => {
            return Err(ApiError::invalid("ids, a filter (reason, since, until) or all is needed"));
        }
        (Some(_), true, _) | (_, true, true) => {
            return Err(ApiError::invalid("all goes with neither ids nor a filter").field("all"));
        }
        _ => {}
    }
    let selection = Selection { ids: body.ids, filter };
    let limits = JsonLimits { depth: limits::MAX_JSON_DEPTH, bytes: state.limits.event_bytes };
    let hook = state.services()?.routes.hook();
    let done = store(&state)?.redrive(&selection, limits, MAX_REDRIVEN, &*hook).await?;
    let Redriven { stored, refused, more } = done;
    Ok(Json(RedriveResponse { redriven: stored, refused, missing: None, more }).into_response())
}

async fn redrive_route(state: &AppState, route: &str, body: &RedriveRequest) -> Result<Response, ApiError> {
    if body.all
        || body.since.is_some()
        || body.until.is_some()
        || body.reason.as_deref().is_some_and(|reason| reason != ROUTE)
    {
        return Err(ApiError::invalid("route goes with ids and sqlstate alone").field("route"));
    }
    check_sqlstate(body.sqlstate.as_deref())?;
    let name = RouteName::parse(route).map_err(|_| RouteError::NotFound(route.to_owned()))?;
    let errors = &state.services()?.routes.errors;
    let sqlstate = body.sqlstate.as_deref();
    let done = errors.redrive(&name, body.ids.as_deref(), sqlstate, MAX_REDRIVEN as u64).await?;
    let Rerouted { taken, refused, missing, more } = done;
    Ok(Json(RedriveResponse { redriven: taken, refused, missing: Some(missing), more }).into_response())
}

fn check_sqlstate(sqlstate: Option<&str>) -> Result<(), ApiError> {
    let is_one = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match sqlstate.is_none_or(is_one) {
        true => Ok(()),
        false => {
            Err(ApiError::invalid("sqlstate takes five letters and digits, such as 22P02").field("sqlstate"))
        }
    }
}

fn store(state: &AppState) -> Result<DeadLetterStore, ApiError> {
    Ok(DeadLetterStore::new(&state.services()?.database))
}

fn filter(reason: Option<String>, since: Option<&str>, until: Option<&str>) -> Result<Filter, ApiError> {
    if reason.as_deref().is_some_and(|reason| !Reason::names().contains(&reason)) {
        let message = format!("reason takes one of {}, {ROUTE}", Reason::names().join(", "));
        return Err(ApiError::invalid(message).field("reason"));
    }
    Ok(Filter {
        reason,
        since_us: since.map(|text| query::time_us(text, "since")).transpose()?,
        until_us: until.map(|text| query::time_us(text, "until")).transpose()?,
    })
}

/// The last dead letter of a page, and the route of one that a route refused.
fn cursor(text: &str) -> Result<(Cursor, Option<i32>), ApiError> {
    let parse = || {
        let mut parts = text.split('_');
        let (failed_at_us, id) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let route = parts.next().map(|route| route.parse().ok().filter(|route| *route > 0));
        let route = match route {
            Some(None) => return None,
            route => route.flatten(),
        };
        parts.next().is_none().then_some((Cursor { failed_at_us, id }, route))
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
            ("route", self.route.as_ref()),
            ("sqlstate", self.sqlstate.as_ref()),
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
