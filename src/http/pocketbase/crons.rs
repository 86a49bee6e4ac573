//! `/api/crons`: the periodic tasks of the service, for superusers. And `/api/backups`, which the database's own tools make.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::caller::require_superuser;
use super::error::Refusal;
use super::{Query, answer, no_content};
use crate::http::AppState;

/// An interval as a cron expression; one that does not divide an hour or a day is shown as the next shorter one.
fn expression(interval: Duration) -> String {
    let every = |n: u64| if n == 1 { "*".to_owned() } else { format!("*/{n}") };
    match interval.as_secs() / 60 {
        minutes @ 0..60 => format!("{} * * * *", every(minutes.max(1))),
        minutes @ 60..1_440 => format!("0 {} * * *", every(minutes / 60)),
        minutes => format!("0 0 {} * *", every((minutes / 1_440).min(31))),
    }
}

/// `GET /api/crons`.
#[utoipa::path(
    get,
    path = "/api/crons",
    tag = "collections",
    summary = "The periodic tasks of this node, and how often they run",
    params(("fields" = Option<String>, Query, description = "Only these members")),
    responses(
        (status = 200, description = "A list of id and expression", body = Value),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn list(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let fields = Query::of(&head.uri).projection()?;
    let shown = |(name, interval): (String, Duration)| {
        let cron = json!({"id": name, "expression": expression(interval)});
        fields.as_ref().map_or_else(|| cron.clone(), |fields| fields.apply(&cron))
    };
    let crons: Vec<Value> = state.supervisor.timed().into_iter().map(shown).collect();
    answer(services, &crons)
}

/// `POST /api/crons/{id}`.
#[utoipa::path(
    post,
    path = "/api/crons/{id}",
    tag = "collections",
    summary = "Runs a periodic task of this node now",
    params(("id" = String, Path, description = "Its name", example = "account-clean-up")),
    responses(
        (status = 204, description = "It runs"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
        (status = 404, description = "There is no such task"),
    )
)]
pub(super) async fn run(
    State(state): State<Arc<AppState>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let Path(id) = path.map_err(|_| Refusal::not_found())?;
    match state.supervisor.run_now(&id) {
        true => Ok(no_content()),
        false => Err(Refusal::new(StatusCode::NOT_FOUND, "Missing or invalid cron job.")),
    }
}

/// Any request below `/api/backups`.
pub(super) async fn backups(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let message = "Backups are made by pg_dump, or by the provider of the database.";
    Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_shown_as_expressions() {
        for (seconds, expected) in [
            (60, "* * * * *"),
            (600, "*/10 * * * *"),
            (3_600, "0 * * * *"),
            (21_600, "0 */6 * * *"),
            (86_400, "0 0 * * *"),
            (172_800, "0 0 */2 * *"),
        ] {
            assert_eq!(expression(Duration::from_secs(seconds)), expected);
        }
    }
}
