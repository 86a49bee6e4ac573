//! `/api/settings`, for superusers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use hyper::StatusCode;

use super::caller::require_superuser;
use super::error::{Operation, Refusal};
use super::{Query, answer, body};
use crate::http::openapi::bodies::SettingsRequest;
use crate::http::{AppState, Services};
use crate::records::typed::settings::{AppSettings, SettingsError};

/// Bytes of a change.
const MAX_BYTES: usize = 1 << 20;

fn show(services: &Services, query: &Query, settings: &AppSettings) -> Result<Response, Refusal> {
    let shown = settings.shown();
    match query.projection()? {
        None => answer(services, &shown),
        Some(fields) => answer(services, &fields.apply(&shown)),
    }
}

/// `GET /api/settings`.
#[utoipa::path(
    get,
    path = "/api/settings",
    tag = "collections",
    summary = "The settings of the application, without secrets",
    params(("fields" = Option<String>, Query, description = "Only these members")),
    responses(
        (status = 200, description = "All sections", body = Value),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn view(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let (head, _) = request.into_parts();
    require_superuser(&state, &head).await?;
    let settings = services.typed()?.settings().await;
    show(services, &Query::of(&head.uri), &*settings.map_err(|error| Operation::Read.refuses(error))?)
}

/// `PATCH /api/settings`.
#[utoipa::path(
    patch,
    path = "/api/settings",
    tag = "collections",
    summary = "Changes settings of the application; sections merge, and a secret that is left out stays",
    request_body(content = SettingsRequest, content_type = "application/json"),
    params(("fields" = Option<String>, Query, description = "Only these members")),
    responses(
        (status = 200, description = "All sections as they are now", body = Value),
        (status = 400, description = "Values are refused"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn update(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let unreadable =
        || Refusal::new(StatusCode::BAD_REQUEST, "An error occurred while loading the submitted data.");
    let read = body::read(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let query = Query::of(&read.head.uri);
    query.projection()?;
    let changed = services.typed()?.change_settings(&read.members).await;
    match changed.map_err(|error| Operation::Read.refuses(error))? {
        Ok(settings) => show(services, &query, &settings),
        Err(SettingsError::Format) => Err(unreadable()),
        Err(SettingsError::Refused(violations)) => {
            Err(Refusal::of_values("An error occurred while saving the new settings.", violations))
        }
    }
}
