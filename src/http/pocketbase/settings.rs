//! `/api/settings`, for superusers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value};

use super::accounts::check_email;
use super::auth::text;
use super::caller::require_superuser;
use super::error::{Operation, Refusal};
use super::mails::{RecordMail, not_sent};
use super::{Query, answer_shown, body, no_content};
use crate::http::openapi::bodies::SettingsRequest;
use crate::http::{AppState, Services};
use crate::outbound::mail::Attempts;
use crate::records::schema::{AuthOptions, EMAIL, MailTemplate, Violation, Violations};
use crate::records::typed::SUPERUSERS;
use crate::records::typed::settings::{AppSettings, SettingsError};

/// Bytes of a change.
const MAX_BYTES: usize = 1 << 20;

fn show(services: &Services, query: &Query, settings: &AppSettings) -> Result<Response, Refusal> {
    answer_shown(services, query, &settings.shown())
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
    let read = body::read_form(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let query = Query::of(&read.head.uri);
    query.projection()?;
    let changed = services.typed()?.change_settings(&read.members).await;
    match changed.map_err(|error| Operation::Read.refuses(error))? {
        Ok(settings) => show(services, &query, &settings),
        Err(SettingsError::Format) => Err(Refusal::not_loaded(Violations::default())),
        Err(SettingsError::Refused(violations)) => {
            Err(Refusal::of_values("An error occurred while saving the new settings.", violations))
        }
    }
}

/// The mail of a template's name, and its words in a test.
fn test_mail<'a>(
    auth: &'a AuthOptions,
    name: &str,
) -> Option<(&'a MailTemplate, [(&'static str, &'static str); 2])> {
    let token = [("TOKEN", "__pb_test_token__"); 2];
    Some(match name {
        "verification" => (&auth.verification_template, token),
        "password-reset" => (&auth.reset_password_template, token),
        "email-change" => (&auth.confirm_email_change_template, token),
        "otp" => (&auth.otp.email_template, [("OTP", "123456"), ("OTP_ID", "_PB_TEST_OTP_ID_")]),
        "login-alert" => (&auth.auth_alert.email_template, [("ALERT_INFO", "TEST_IP TEST_USER_AGENT"); 2]),
        _ => return None,
    })
}

/// `POST /api/settings/test/email`.
#[utoipa::path(
    post,
    path = "/api/settings/test/email",
    tag = "collections",
    summary = "Sends a mail of a template, and waits for it",
    request_body(content = Value, content_type = "application/json", description = "email, template, and perhaps collection"),
    responses(
        (status = 204, description = "The mail server has the mail"),
        (status = 400, description = "Values are refused, or the mail was not sent"),
        (status = 401, description = "A token is required"),
        (status = 403, description = "The token is not a superuser's"),
    )
)]
pub(super) async fn test_email(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    const FAILED: &str = "Failed to send the test email.";
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    require_superuser(&state, &read.head).await?;
    let member = |name| text(&read.members, name, read.is_form);
    let (email, template, name) = (member(EMAIL)?, member("template")?, member("collection")?);
    let typed = services.typed()?;
    let mut violations = Violations::default();
    check_email(&mut violations, EMAIL, &email);
    let wanted = if name.is_empty() { SUPERUSERS } else { name.as_str() };
    let found = typed.collection(wanted).await.map_err(|error| Operation::Read.refuses(error))?;
    let auth = found.as_ref().and_then(|found| Some((found, found.auth()?)));
    if auth.is_none() {
        let message = "Must be a valid auth collection id or name.";
        violations.add("collection", Violation::new("invalid_auth_collection", message));
    }
    let mail = auth.and_then(|(found, auth)| Some((found, test_mail(auth, &template)?)));
    if template.is_empty() {
        violations.add("template", Violation::required());
    } else if mail.is_none() && auth.is_some() {
        violations.add("template", Violation::new("in_invalid", "Must be a valid value."));
    }
    let Some((collection, (template, words))) = mail.filter(|_| violations.is_empty()) else {
        return Err(Refusal::of_values(FAILED, violations));
    };
    let definition = collection.definition();
    let member = |name: &str| (name.to_owned(), Value::from(format!("__pb_test_{name}__")));
    let mut members: Map<String, Value> = definition.fields.iter().map(|field| member(&field.name)).collect();
    members.insert(EMAIL.into(), email.as_str().into());
    let settings = typed.settings().await.map_err(|error| Operation::Read.refuses(error))?;
    let mail = RecordMail {
        settings: &settings,
        template,
        definition,
        members: &members,
        recipient: &email,
        words: &words,
    };
    let failed = |error| not_sent(FAILED, &error);
    mail.begin(services.mailer()?, Attempts::One).map_err(failed)?.sent().await.map_err(failed)?;
    Ok(no_content())
}
