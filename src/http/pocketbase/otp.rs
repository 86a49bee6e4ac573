//! Sign-ins by one-time passwords, which come by mail.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::json;

use super::accounts::email;
use super::auth::{SignIn, collection, options, refused, take_sign_in, text};
use super::error::{Operation, Refusal};
use super::mails::BackgroundMail;
use super::{answer, body};
use crate::http::AppState;
use crate::http::edge::client::ClientAddress;
use crate::outbound::mail::Mailer;
use crate::records::schema::{EMAIL, PASSWORD, Violation, Violations};
use crate::records::typed::settings::RateRule;
use crate::records::typed::{AuthRecord, CollectionHandle, TypedError, TypedRecords};

/// Bytes of a request.
const MAX_BYTES: usize = 64 * 1024;
/// The most characters of an id and of a password.
const MAX_ID: usize = 255;
const MAX_PASSWORD: usize = 71;
/// Wrong passwords for a record from one address, and the seconds in which they count.
const MAX_TRIES: i64 = 5;
const TRIES_S: i64 = 180;

type CollectionPath = Result<Path<String>, PathRejection>;

fn failed(error: TypedError) -> Refusal {
    Operation::Read.refuses(error)
}

fn require_otp(collection: &CollectionHandle) -> Result<(), Refusal> {
    match options(collection)?.otp.enabled {
        true => Ok(()),
        false => {
            let message = "The collection is not configured to allow OTP authentication.";
            Err(Refusal::new(StatusCode::FORBIDDEN, message))
        }
    }
}

/// `POST /api/collections/{collection}/request-otp`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/request-otp",
    tag = "collections",
    summary = "Sends a one-time password by mail; the answer is the same if no record has the address",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "email"),
    responses(
        (status = 200, description = "otpId, which the sign-in takes with the password", body = Value),
        (status = 400, description = "The address is refused"),
        (status = 403, description = "One-time passwords are off"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn request_otp(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    require_otp(&collection)?;
    let address = email(&read)?;
    let (typed, mailer) = (services.typed()?, services.mailer()?);
    let record = typed.by_identity(&collection, EMAIL, &address).await.map_err(failed)?;
    let surplus = typed.surplus_otp(&collection, record.as_ref()).await.map_err(failed)?;
    let (id, password) = TypedRecords::new_otp(&collection).map_err(failed)?;
    let shown = match (record, surplus) {
        (_, Some(last)) => last,
        (None, None) => id,
        (Some(record), None) => {
            let shown = id.clone();
            send(typed, mailer, record, id, password);
            shown
        }
    };
    answer(services, &json!({"otpId": shown}))
}

/// Keeps and sends a one-time password, after the answer, which an unknown address gets as soon. One that cannot be sent is deleted.
fn send(typed: &TypedRecords, mailer: &Mailer, record: AuthRecord, id: String, password: String) {
    let record = Arc::new(record);
    let mail = BackgroundMail { record: Arc::clone(&record), template: |auth| &auth.otp.email_template };
    let (adder, settler) = (typed.clone(), typed.clone());
    let (otp_id, address) = (id.clone(), record.email().to_owned());
    let words = async move {
        adder.add_otp(&record, &id, &password).await?;
        Ok(Some(vec![("OTP", password), ("OTP_ID", id)]))
    };
    mail.send(typed.clone(), mailer.clone(), words, move |is_sent| async move {
        match is_sent {
            true => settler.otp_sent(&otp_id, &address).await,
            false => settler.delete_otp(&otp_id).await.map(drop),
        }
    });
}

/// `POST /api/collections/{collection}/auth-with-otp`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/auth-with-otp",
    tag = "collections",
    summary = "Signs a record in by a one-time password; proves its address",
    params(
        ("collection" = String, Path, description = "Its name or its id", example = "users"),
        ("expand" = Option<String>, Query, description = "Related records"),
        ("fields" = Option<String>, Query, description = "Only these members"),
    ),
    request_body(content = Value, content_type = "application/json", description = "otpId, password, and mfaId as a second factor"),
    responses(
        (status = 200, description = "record and token", body = Value),
        (status = 400, description = "The password is wrong, used or expired"),
        (status = 401, description = "A second factor is needed: mfaId"),
        (status = 403, description = "One-time passwords are off, or the collection's rule does not hold"),
        (status = 404, description = "There is no such auth collection"),
        (status = 429, description = "Too many wrong passwords"),
    )
)]
pub(super) async fn with_otp(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    require_otp(&collection)?;
    let member = |name| text(&read.members, name, read.is_form);
    let (id, password) = (member("otpId")?, member(PASSWORD)?);
    let mut violations = Violations::default();
    for (member, value, most) in [("otpId", &id, MAX_ID), (PASSWORD, &password, MAX_PASSWORD)] {
        match value.chars().count() {
            0 => violations.add(member, Violation::required()),
            length if length > most => violations.add(member, Violation::out_of_range(1, most)),
            _ => {}
        }
    }
    refused(violations)?;
    let typed = services.typed()?;
    let otp = typed.otp(&collection, &id).await.map_err(failed)?;
    take_sign_in(&state, &read.head, &collection, otp.as_ref().map_or(id.as_str(), |otp| otp.record.id()))?;
    if let (Some(otp), Some(client)) = (&otp, read.head.extensions.get::<ClientAddress>()) {
        let tries = RateRule { duration: TRIES_S, max_requests: MAX_TRIES, ..RateRule::default() };
        if !typed.take_request(&tries, &format!("otp {}", otp.record.id()), client.ip) {
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests."));
        }
    }
    let is_right = typed.use_otp(otp.as_ref(), &password).await.map_err(failed)?;
    let Some(otp) = otp.filter(|_| is_right) else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Invalid or expired OTP."));
    };
    let mut record = otp.record;
    if !record.is_verified() && !otp.sent_to.is_empty() && otp.sent_to == record.email() {
        // Another person may have signed up with this address before. With a second factor the password is still of use.
        let new_password = !options(&collection)?.mfa.enabled;
        typed.verify(&record, new_password).await.map_err(failed)?;
        let changed = typed.auth_record(&collection.definition().id, record.id()).await.map_err(failed)?;
        record = changed.ok_or_else(Refusal::not_found)?;
    }
    let (head, members) = (&read.head, &read.members);
    SignIn { state: &state, head, members, record, method: Some("otp"), token: None, meta: None }
        .answer()
        .await
}
