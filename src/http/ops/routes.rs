//! `/api/v1/routes`: the user's own tables.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{ETAG, IF_MATCH};
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::AppState;
use crate::http::wire::error::ApiError;
use crate::http::wire::{etag, json, path};
use crate::records::{Precondition, Version};
use crate::routes::{
    Changed, CheckReport, Definition, ListedRoute, MOST_EVENTS, RouteError, RouteName, RouteStore, Sample,
    Suggestion,
};

/// How long a request waits for COPYs and for a vacuum.
const PATIENCE: Duration = Duration::from_secs(3);
/// Events of a suggestion.
const SAMPLE: u64 = 10_000;
const MOST_SAMPLED: u64 = 100_000;

/// The definition of a route.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RouteDefinition)]
struct DefinitionRequest {
    /// The target: an existing table with its schema.
    #[schema(example = "app.signups")]
    into: String,
    /// One select over `batch`, which has the columns of requests; its columns are named as those of the target.
    sql: String,
    /// Columns of a unique index of the target: of two events of a batch with one key the newer one wins.
    #[serde(default)]
    key: Vec<String>,
    /// `do update set …` or `do nothing`; without it a key's row gets the other columns of the event.
    on_conflict: Option<String>,
    /// The role that the route runs as; `tidegate_routes` by default.
    role: Option<String>,
    /// An event whose row the target refuses becomes a dead letter, and is not stored.
    #[serde(default)]
    strict: bool,
    /// One batch at a time: for several routes into one table.
    #[serde(default)]
    serial: bool,
    /// Of a new route: whether it is enabled; true by default.
    enabled: Option<bool>,
    /// Of a new route: route the stored events, too.
    #[serde(default)]
    backfill: bool,
}

impl DefinitionRequest {
    fn definition(&self) -> Definition {
        Definition {
            into: self.into.clone(),
            sql: self.sql.clone(),
            key: self.key.clone(),
            on_conflict: self.on_conflict.clone(),
            role: self.role.clone(),
            strict: self.strict,
            serial: self.serial,
        }
    }
}

/// A route.
#[derive(Serialize, ToSchema)]
#[schema(as = Route)]
struct RouteResponse<'a> {
    name: &'a str,
    into: &'a str,
    sql: &'a str,
    key: &'a [String],
    on_conflict: Option<&'a str>,
    role: &'a str,
    strict: bool,
    serial: bool,
    /// The select combines rows, so a batch is taken or refused as a whole.
    whole: bool,
    /// `live`, `suspended` or `disabled`.
    state: &'static str,
    version: i64,
    created_at: &'a str,
    updated_at: &'a str,
    /// Remarks about a new definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(flatten)]
    stats: StatsResponse<'a>,
}

/// What a route did.
#[derive(Serialize, ToSchema)]
#[schema(as = RouteStats)]
struct StatsResponse<'a> {
    /// Rows written.
    rows: i64,
    /// Rows refused, including those that were taken later.
    refused: i64,
    /// Events that are refused now; `/api/v1/dead-letters` lists them.
    errors: i64,
    /// Events that wait until the route is live again.
    deferred: i64,
    batches: i64,
    /// Time in the route's function.
    seconds: f64,
    /// When and why it was last suspended.
    suspended_at: Option<&'a str>,
    sqlstate: Option<&'a str>,
    error: Option<&'a str>,
    backfill: Option<BackfillResponse>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RouteBackfill)]
struct BackfillResponse {
    /// Stored events that were routed so far.
    events: i64,
    done: bool,
}

impl<'a> From<&'a ListedRoute> for RouteResponse<'a> {
    fn from(route: &'a ListedRoute) -> Self {
        Self {
            name: &route.name,
            into: &route.into,
            sql: &route.sql,
            key: &route.key,
            on_conflict: route.on_conflict.as_deref(),
            role: &route.role,
            strict: route.strict,
            serial: route.serial,
            whole: route.whole,
            state: route.state.name(),
            version: route.version,
            created_at: &route.created_at,
            updated_at: &route.updated_at,
            notes: Vec::new(),
            stats: StatsResponse::from(route),
        }
    }
}

impl<'a> From<&'a ListedRoute> for StatsResponse<'a> {
    fn from(route: &'a ListedRoute) -> Self {
        let (state, error) =
            route.error.as_ref().map(|(state, error)| (state.as_str(), error.as_str())).unzip();
        Self {
            rows: route.rows,
            refused: route.refused,
            errors: route.errors,
            deferred: route.deferred,
            batches: route.batches,
            seconds: route.microseconds as f64 / 1e6,
            suspended_at: route.suspended_at.as_deref(),
            sqlstate: state,
            error,
            backfill: route.backfill.map(|fill| BackfillResponse { events: fill.events, done: fill.is_done }),
        }
    }
}

/// `GET /api/v1/routes`.
#[utoipa::path(
    get,
    path = "/api/v1/routes",
    tag = "routes",
    summary = "All routes, by name",
    responses((status = 200, description = "The routes", body = [RouteResponse]))
)]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let routes = store(&state)?.list().await?;
    let listed: Vec<RouteResponse<'_>> = routes.iter().map(RouteResponse::from).collect();
    Ok(axum::Json(listed).into_response())
}

/// `GET /api/v1/routes/{name}`.
#[utoipa::path(
    get,
    path = "/api/v1/routes/{name}",
    tag = "routes",
    summary = "A route",
    params(("name" = String, Path, description = "The route")),
    responses(
        (status = 200, description = "The route", body = RouteResponse, headers(("etag" = String, description = "Its version"))),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    answer(&state, &known(name)?, StatusCode::OK, Vec::new()).await
}

/// `PUT /api/v1/routes/{name}`.
#[utoipa::path(
    put,
    path = "/api/v1/routes/{name}",
    tag = "routes",
    summary = "Adds a route, or gives it another definition",
    params(("name" = String, Path, description = "a-z, 0-9, _ and -"), ("if-match" = Option<String>, Header, description = "The route has this version")),
    request_body = DefinitionRequest,
    responses(
        (status = 200, description = "It has another definition", body = RouteResponse, headers(("etag" = String, description = "Its version"))),
        (status = 201, description = "It is added", body = RouteResponse, headers(("etag" = String, description = "Its version"))),
        (status = 409, description = "The role of routes needs more rights, or the request does not fit the route's state"),
        (status = 412, description = "It has another version"),
    )
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let name = RouteName::parse(&path::known(name, no_such_route())?)?;
    let (versions, is_conditional) = (versions(request.headers())?, request.headers().contains_key(IF_MATCH));
    let body: DefinitionRequest = json::read_object(services, request).await?;
    let (routes, definition) = (&services.routes, body.definition());
    let replaced = match routes.store.replace(&name, &definition, versions.as_deref()).await {
        Err(RouteError::NotFound(_)) if !is_conditional => None,
        Err(RouteError::NotFound(_)) => return Err(RouteError::VersionMismatch.into()),
        replaced => Some(replaced?),
    };
    let changed = match replaced {
        Some(_) if body.backfill || body.enabled.is_some() => {
            let message = "enabled and backfill are for a new route; an existing one has /enable, /disable and /backfill";
            return Err(ApiError::invalid(message).field(if body.backfill { "backfill" } else { "enabled" }));
        }
        Some(replaced) => replaced,
        None => {
            let is_enabled = body.enabled.unwrap_or(true);
            if !is_enabled && body.backfill {
                return Err(ApiError::invalid("a backfill enables the route").field("backfill"));
            }
            let (enables, fills) = (is_enabled, body.backfill);
            routes.store.add(&name, &definition, enables, fills, PATIENCE, |_| ()).await?
        }
    };
    routes.changed();
    let status = if changed.changed == Changed::Added { StatusCode::CREATED } else { StatusCode::OK };
    answer(&state, &name, status, changed.notes).await
}

/// `DELETE /api/v1/routes/{name}`.
#[utoipa::path(
    delete,
    path = "/api/v1/routes/{name}",
    tag = "routes",
    summary = "Removes a route, with its errors; its table stays",
    params(("name" = String, Path, description = "The route"), ("if-match" = Option<String>, Header, description = "The route has this version")),
    responses(
        (status = 204, description = "It is removed"),
        (status = 404, description = "There is none"),
        (status = 412, description = "It has another version"),
    )
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let versions = versions(&headers)?;
    // Where the trigger cannot be dropped now, it does nothing, and the task drops it.
    store(&state)?.remove(&known(name)?, versions.as_deref(), PATIENCE, |_| ()).await?;
    state.services()?.routes.changed();
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/routes/{name}/enable`.
#[utoipa::path(
    post,
    path = "/api/v1/routes/{name}/enable",
    tag = "routes",
    summary = "Routes events again, deferred ones first",
    params(("name" = String, Path, description = "The route"), ("if-match" = Option<String>, Header, description = "The route has this version")),
    responses(
        (status = 200, description = "The route, `live`, or `suspended` until it has caught up", body = RouteResponse, headers(("etag" = String, description = "Its version"))),
        (status = 404, description = "There is none"),
        (status = 412, description = "It has another version"),
    )
)]
pub(super) async fn enable(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = known(name)?;
    store(&state)?.enable(&name, true, versions(&headers)?.as_deref()).await?;
    state.services()?.routes.changed();
    answer(&state, &name, StatusCode::OK, Vec::new()).await
}

/// `POST /api/v1/routes/{name}/disable`.
#[utoipa::path(
    post,
    path = "/api/v1/routes/{name}/disable",
    tag = "routes",
    summary = "Lets events pass a route",
    params(("name" = String, Path, description = "The route"), ("if-match" = Option<String>, Header, description = "The route has this version")),
    responses(
        (status = 200, description = "The route, `disabled`", body = RouteResponse, headers(("etag" = String, description = "Its version"))),
        (status = 404, description = "There is none"),
        (status = 412, description = "It has another version"),
    )
)]
pub(super) async fn disable(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = known(name)?;
    store(&state)?.enable(&name, false, versions(&headers)?.as_deref()).await?;
    answer(&state, &name, StatusCode::OK, Vec::new()).await
}

/// `POST /api/v1/routes/{name}/backfill`.
#[utoipa::path(
    post,
    path = "/api/v1/routes/{name}/backfill",
    tag = "routes",
    summary = "Enables a route that was never live, and routes the stored events",
    params(("name" = String, Path, description = "The route"), ("if-match" = Option<String>, Header, description = "The route has this version")),
    responses(
        (status = 202, description = "The backfill is under way, by this request or an earlier one", body = RouteResponse, headers(("etag" = String, description = "Its version"))),
        (status = 404, description = "There is none"),
        (status = 409, description = "It was live, so events would be routed twice"),
        (status = 412, description = "It has another version"),
    )
)]
pub(super) async fn backfill(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = known(name)?;
    let versions = versions(&headers)?;
    let store = store(&state)?;
    let is_under_way = |route: ListedRoute| route.backfill.is_some_and(|backfill| !backfill.is_done);
    match store.begin_backfill(&name, versions.as_deref(), PATIENCE, |_| ()).await {
        // The request is repeated.
        Err(RouteError::Conflict(_)) if is_under_way(store.get(&name).await?) => {}
        begun => {
            begun?;
        }
    }
    state.services()?.routes.changed();
    answer(&state, &name, StatusCode::ACCEPTED, Vec::new()).await
}

/// `GET /api/v1/routes/{name}/stats`.
#[utoipa::path(
    get,
    path = "/api/v1/routes/{name}/stats",
    tag = "routes",
    summary = "What a route did, and has still to do",
    params(("name" = String, Path, description = "The route")),
    responses((status = 200, description = "Its counts", body = StatsResponse), (status = 404, description = "There is none"))
)]
pub(super) async fn stats(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let route = store(&state)?.get(&known(name)?).await?;
    Ok(axum::Json(StatsResponse::from(&route)).into_response())
}

/// A definition to try.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RouteCheck)]
struct CheckRequest {
    #[schema(example = "app.signups")]
    into: String,
    sql: String,
    #[serde(default)]
    key: Vec<String>,
    on_conflict: Option<String>,
    role: Option<String>,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    serial: bool,
    /// The number of the newest stored events to try, at most 1,000.
    #[schema(minimum = 1, maximum = 1000)]
    newest: Option<usize>,
    /// Payloads to try instead, at most 1,000.
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    events: Option<Vec<Box<RawValue>>>,
}

/// What a definition would do.
#[derive(Serialize, ToSchema)]
#[schema(as = RouteCheckResult)]
struct CheckResponse {
    /// The select's columns.
    columns: Vec<String>,
    notes: Vec<String>,
    events: u64,
    /// Rows that would be written.
    rows: i64,
    /// Events that would be refused.
    refused: i64,
    /// Their errors, the most frequent first, at most 20.
    errors: Vec<CheckErrorResponse>,
    /// The error for which the route would be suspended.
    suspends: Option<String>,
    /// The plan of its insert over the events, as `explain` prints it: a line each.
    plan: Vec<String>,
    /// The route's share of the time that Postgres needs to store the events.
    share: f64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RouteCheckError)]
struct CheckErrorResponse {
    sqlstate: String,
    error: String,
    events: i64,
    /// One of the events.
    example: Uuid,
}

impl From<CheckReport> for CheckResponse {
    fn from(report: CheckReport) -> Self {
        let errors = report.errors.into_iter().map(|error| CheckErrorResponse {
            sqlstate: error.sqlstate,
            error: error.message,
            events: error.events,
            example: error.example,
        });
        Self {
            columns: report.columns,
            notes: report.notes,
            events: report.events,
            rows: report.rows,
            refused: report.refused,
            errors: errors.collect(),
            suspends: report.suspends.map(|(state, error)| format!("{state} {error}")),
            plan: report.plan,
            share: report.share,
        }
    }
}

/// `POST /api/v1/routes/check`.
#[utoipa::path(
    post,
    path = "/api/v1/routes/check",
    tag = "routes",
    summary = "Tries a definition, and changes nothing",
    request_body = CheckRequest,
    responses((status = 200, description = "What it would do", body = CheckResponse))
)]
pub(super) async fn check(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let body: CheckRequest = json::read_object(services, request).await?;
    let sample = match (body.newest, &body.events) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("events goes without newest").field("newest")),
        (Some(newest), None) if !(1..=MOST_EVENTS).contains(&newest) => {
            return Err(ApiError::invalid(format!("newest takes 1 to {MOST_EVENTS}")).field("newest"));
        }
        (newest, None) => Sample::Newest(newest.unwrap_or(MOST_EVENTS)),
        (None, Some(events)) if events.len() > MOST_EVENTS => {
            return Err(ApiError::invalid(format!("events takes up to {MOST_EVENTS}")).field("events"));
        }
        (None, Some(events)) => {
            let events: Vec<&str> = events.iter().map(|event| event.get()).collect();
            Sample::Given(format!("[{}]", events.join(",")))
        }
    };
    let definition = Definition {
        into: body.into,
        sql: body.sql,
        key: body.key,
        on_conflict: body.on_conflict,
        role: body.role,
        strict: body.strict,
        serial: body.serial,
    };
    let report = services.routes.store.check(&definition, &sample).await?;
    Ok(axum::Json(CheckResponse::from(report)).into_response())
}

/// What to derive a table and a route from.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RouteSuggest)]
struct SuggestRequest {
    /// The table to suggest.
    #[schema(example = "app.signups")]
    into: String,
    /// A condition on events; all by default.
    #[serde(rename = "where")]
    #[schema(example = "payload->>'event' = 'signup'")]
    condition: Option<String>,
    /// Columns of the table's key: a newer event updates its row.
    #[serde(default)]
    key: Vec<String>,
    /// The number of the newest events to read; 10,000 by default, at most 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    sample: Option<u64>,
}

/// A table and a route.
#[derive(Serialize, ToSchema)]
#[schema(as = RouteSuggestion)]
struct SuggestResponse<'a> {
    /// Events that were read.
    read: u64,
    /// Events for which the condition holds, and whose payload is an object.
    events: u64,
    columns: Vec<ColumnResponse<'a>>,
    /// The statement that creates the table.
    create_table: &'a str,
    into: &'a str,
    sql: &'a str,
    key: &'a [String],
}

#[derive(Serialize, ToSchema)]
#[schema(as = SuggestedColumn)]
struct ColumnResponse<'a> {
    /// The member of the payload.
    member: &'a str,
    name: &'a str,
    r#type: &'a str,
    nullable: bool,
    /// Events that have the member.
    events: u64,
}

impl<'a> From<&'a Suggestion> for SuggestResponse<'a> {
    fn from(suggestion: &'a Suggestion) -> Self {
        let columns = suggestion.columns.iter().map(|column| ColumnResponse {
            member: &column.member,
            name: &column.name,
            r#type: column.sql_type,
            nullable: column.is_nullable,
            events: column.events,
        });
        Self {
            read: suggestion.read,
            events: suggestion.events,
            columns: columns.collect(),
            create_table: &suggestion.table,
            into: &suggestion.definition.into,
            sql: &suggestion.definition.sql,
            key: &suggestion.definition.key,
        }
    }
}

/// `POST /api/v1/routes/suggest`.
#[utoipa::path(
    post,
    path = "/api/v1/routes/suggest",
    tag = "routes",
    summary = "Derives a table and a route from recent events, and changes nothing",
    request_body = SuggestRequest,
    responses((status = 200, description = "The table and the route", body = SuggestResponse))
)]
pub(super) async fn suggest(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let body: SuggestRequest = json::read_object(services, request).await?;
    let sample = body.sample.unwrap_or(SAMPLE);
    if !(1..=MOST_SAMPLED).contains(&sample) {
        return Err(ApiError::invalid(format!("sample takes 1 to {MOST_SAMPLED}")).field("sample"));
    }
    let condition = body.condition.as_deref().unwrap_or("true");
    let suggestion = services.routes.store.suggest(&body.into, condition, &body.key, sample).await?;
    Ok(axum::Json(SuggestResponse::from(&suggestion)).into_response())
}

async fn answer(
    state: &AppState,
    name: &RouteName,
    status: StatusCode,
    notes: Vec<String>,
) -> Result<Response, ApiError> {
    let route = store(state)?.get(name).await?;
    let shown = RouteResponse { notes, ..RouteResponse::from(&route) };
    let mut response = (status, axum::Json(shown)).into_response();
    response.headers_mut().insert(ETAG, etag::tag(Version(route.version)));
    Ok(response)
}

/// The versions of `If-Match`; `None`: any.
pub(super) fn versions(headers: &HeaderMap) -> Result<Option<Vec<i64>>, ApiError> {
    Ok(match etag::if_match(headers)? {
        Precondition::None => None,
        Precondition::OneOf(versions) => Some(versions.iter().map(|version| version.0).collect()),
    })
}

/// The name of an existing route: another text names none.
fn known(name: Result<Path<String>, PathRejection>) -> Result<RouteName, ApiError> {
    RouteName::parse(&path::known(name, no_such_route())?).map_err(|_| no_such_route())
}

fn store(state: &AppState) -> Result<&RouteStore, ApiError> {
    Ok(&state.services()?.routes.store)
}

fn no_such_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such route")
}
