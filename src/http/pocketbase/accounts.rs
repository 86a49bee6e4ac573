//! What accounts do by mail: prove an address, set a forgotten password, change an address.
//!
//! A request for a mail is answered before the mail is made, and alike for addresses that no record has: the same statements run for them.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::Map;

use super::auth::{collection, options, refused, take_sign_in, text};
use super::body::{self, Read};
use super::caller::{require_of, require_record};
use super::error::{Operation, Refusal};
use super::mails::{BackgroundMail, RecordMail};
use super::no_content;
use super::tokens::{TokenDetails, issue, verify};
use crate::auth::{RecordClaims, RecordTokenKind};
use crate::http::{AppState, Services};
use crate::outbound::mail::Attempts;
use crate::records::schema::{
    AuthOptions, EMAIL, MailTemplate, PASSWORD, VERIFIED, Violation, Violations, is_email,
};
use crate::records::typed::{AuthRecord, Caller, CollectionHandle, MailKey, MailKind, TypedError};

/// Bytes of a request.
const MAX_BYTES: usize = 64 * 1024;
/// The most characters of an address and of a password.
const MAX_CHARACTERS: usize = 255;
/// Of a password that confirms a change.
const MAX_CONFIRMED: usize = 100;

type CollectionPath = Result<Path<String>, PathRejection>;

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

fn is_superusers(collection: &CollectionHandle) -> bool {
    collection.definition().is_superusers()
}

/// Adds the violation of a text that is left out or too long. Whether it has none.
fn check_text(violations: &mut Violations, member: &str, text: &str, min: usize, max: usize) -> bool {
    let violation = match text.chars().count() {
        0 => Violation::required(),
        length if length < min || length > max => Violation::out_of_range(min, max),
        _ => return true,
    };
    violations.add(member, violation);
    false
}

/// Adds the violation of a text that is no address.
pub(super) fn check_email(violations: &mut Violations, member: &str, text: &str) -> bool {
    let is_text = check_text(violations, member, text, 1, MAX_CHARACTERS);
    if is_text && !is_email(text) {
        violations.add(member, Violation::new("is_email", "Must be a valid email address."));
        return false;
    }
    is_text
}

/// The address of a form.
pub(super) fn email(read: &Read) -> Result<String, Refusal> {
    let address = text(&read.members, EMAIL, read.is_form)?;
    let mut violations = Violations::default();
    check_email(&mut violations, EMAIL, &address);
    refused(violations)?;
    Ok(address)
}

fn failed(error: TypedError) -> Refusal {
    Operation::Read.refuses(error)
}

/// A mail with a token, which is made and sent in the background.
struct TokenMail {
    kind: RecordTokenKind,
    template: fn(&AuthOptions) -> &MailTemplate,
    key: MailKey,
}

impl TokenMail {
    fn verification(collection: &CollectionHandle, address: &str) -> Self {
        let key = MailKey::new(MailKind::Verification, collection, address);
        Self { kind: RecordTokenKind::Verification, template: |auth| &auth.verification_template, key }
    }

    fn password_reset(collection: &CollectionHandle, address: &str) -> Self {
        let key = MailKey::new(MailKind::PasswordReset, collection, address);
        Self { kind: RecordTokenKind::PasswordReset, template: |auth| &auth.reset_password_template, key }
    }

    /// Answers a request for the mail. It is sent to the record that has the address, if `takes` holds for it and its last mail was sent a while ago.
    async fn answer(
        self,
        services: &Services,
        collection: &CollectionHandle,
        address: &str,
        takes: fn(&AuthRecord) -> bool,
    ) -> Result<Response, Refusal> {
        let (typed, mailer) = (services.typed()?, services.mailer()?);
        let Self { kind, template, key } = self;
        let record = typed.by_identity(collection, EMAIL, address).await.map_err(failed)?;
        let is_left = typed.take_mail(key).await.map_err(failed)?;
        let Some(record) = record.filter(|record| is_left && takes(record)) else { return Ok(no_content()) };
        let record = Arc::new(record);
        let mail = BackgroundMail { record: Arc::clone(&record), template };
        let words = async move {
            let token = issue(&record, kind, TokenDetails::default());
            token.map(|token| Some(vec![("TOKEN", token)])).map_err(|_| TypedError::Failed)
        };
        let sender = typed.clone();
        mail.send(typed.clone(), mailer.clone(), words, move |is_sent| async move {
            match is_sent {
                true => Ok(()),
                // The user may ask again at once.
                false => sender.return_mail(key).await,
            }
        });
        Ok(no_content())
    }
}

/// `POST /api/collections/{collection}/request-verification`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/request-verification",
    tag = "collections",
    summary = "Sends a mail that proves an address; the answer is the same if no record has it",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "email"),
    responses(
        (status = 204, description = "A record with this address gets a mail, one in two minutes"),
        (status = 400, description = "The address is refused"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn request_verification(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    if is_superusers(&collection) {
        return Err(bad("All superusers are verified by default."));
    }
    let address = email(&read)?;
    let mail = TokenMail::verification(&collection, &address);
    mail.answer(services, &collection, &address, |record| !record.is_verified()).await
}

/// `POST /api/collections/{collection}/request-password-reset`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/request-password-reset",
    tag = "collections",
    summary = "Sends a mail by which a forgotten password can be set; the answer is the same if no record has the address",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "email"),
    responses(
        (status = 204, description = "A record with this address gets a mail, one in two minutes"),
        (status = 400, description = "The address is refused, or passwords are off"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn request_password_reset(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    if !options(&collection)?.password_auth.enabled {
        return Err(bad("The collection is not configured to allow password authentication."));
    }
    let address = email(&read)?;
    let mail = TokenMail::password_reset(&collection, &address);
    mail.answer(services, &collection, &address, |_| true).await
}

/// The record of a form's token. `None`: the violation has been added.
async fn of_token(
    services: &Services,
    collection: &CollectionHandle,
    token: &str,
    kind: RecordTokenKind,
    violations: &mut Violations,
) -> Result<Option<(AuthRecord, RecordClaims)>, Refusal> {
    if token.is_empty() {
        violations.add("token", Violation::required());
        return Ok(None);
    }
    let unread = RecordClaims::read(token);
    let said = |claim: fn(&RecordClaims) -> Option<&String>| {
        unread.as_ref().and_then(claim).is_some_and(|text| !text.is_empty())
    };
    let violation = match kind {
        RecordTokenKind::Verification if !said(|claims| claims.email.as_ref()) => {
            Violation::new("invalid_token_claims", "Missing email token claim.")
        }
        RecordTokenKind::EmailChange if !said(|claims| claims.new_email.as_ref()) => {
            Violation::new("invalid_token_payload", "Invalid token payload - newEmail must be set.")
        }
        _ => match verify(services.typed()?, token, kind).await? {
            None => Violation::new("invalid_token", "Invalid or expired token."),
            Some((record, _)) if record.collection().definition().id != collection.definition().id => {
                Violation::new(
                    "token_collection_mismatch",
                    "The provided token is for different auth collection.",
                )
            }
            Some((record, claims))
                if kind == RecordTokenKind::Verification
                    && claims.email.as_deref() != Some(record.email()) =>
            {
                let message = "The record email doesn't match with the requested token claims.";
                Violation::new("token_email_mismatch", message)
            }
            Some(found) => return Ok(Some(found)),
        },
    };
    violations.add("token", violation);
    Ok(None)
}

/// `POST /api/collections/{collection}/confirm-verification`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/confirm-verification",
    tag = "collections",
    summary = "Proves a record's address by the token of a mail",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "token"),
    responses(
        (status = 204, description = "The record is verified"),
        (status = 400, description = "The token is not valid"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn confirm_verification(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    if is_superusers(&collection) {
        return Err(bad("All superusers are verified by default."));
    }
    let token = text(&read.members, "token", read.is_form)?;
    let mut violations = Violations::default();
    let found =
        of_token(services, &collection, &token, RecordTokenKind::Verification, &mut violations).await?;
    refused(violations)?;
    let typed = services.typed()?;
    if let Some((record, _)) = found {
        if !record.is_verified() {
            // Another person may have signed up with this address, and may use the password once passwords are on.
            let new_password = !options(&collection)?.password_auth.enabled;
            typed.verify(&record, new_password).await.map_err(failed)?;
        }
        typed.return_mail(TokenMail::verification(&collection, record.email()).key).await.map_err(failed)?;
    }
    Ok(no_content())
}

/// `POST /api/collections/{collection}/confirm-password-reset`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/confirm-password-reset",
    tag = "collections",
    summary = "Sets a record's password by the token of a mail; all its tokens are void then, and its address is proven",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "token, password, passwordConfirm"),
    responses(
        (status = 204, description = "The password is set"),
        (status = 400, description = "The token is not valid, or the password is refused"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn confirm_password_reset(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    let member = |name| text(&read.members, name, read.is_form);
    let (token, password, confirm) = (member("token")?, member(PASSWORD)?, member("passwordConfirm")?);
    let mut violations = Violations::default();
    let kind = RecordTokenKind::PasswordReset;
    let found = of_token(services, &collection, &token, kind, &mut violations).await?;
    check_text(&mut violations, PASSWORD, &password, 1, MAX_CHARACTERS);
    if confirm.is_empty() {
        violations.add("passwordConfirm", Violation::required());
    } else if confirm != password {
        violations.add("passwordConfirm", Violation::new("values_mismatch", "Values don't match."));
    }
    refused(violations)?;
    let Some((record, claims)) = found else { return Err(Refusal::internal()) };
    let mut body = Map::new();
    body.insert(PASSWORD.into(), password.as_str().into());
    body.insert("passwordConfirm".into(), password.into());
    if claims.email.as_deref() == Some(record.email()) {
        body.insert(VERIFIED.into(), true.into());
    }
    let typed = services.typed()?;
    let changed = typed.update(&collection, &Caller::superuser(), record.id(), &body).await;
    changed.map_err(|error| match error {
        TypedError::Refused(violations) => Refusal::of_values("Failed to set new password.", violations),
        other => failed(other),
    })?;
    typed.return_mail(TokenMail::password_reset(&collection, record.email()).key).await.map_err(failed)?;
    Ok(no_content())
}

/// `POST /api/collections/{collection}/request-email-change`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/request-email-change",
    tag = "collections",
    summary = "Sends a mail to a new address of the record whose token is sent; its token makes it the record's",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "newEmail"),
    responses(
        (status = 204, description = "The mail is sent"),
        (status = 400, description = "The address is refused, or the mail was not sent"),
        (status = 401, description = "A record's token is required"),
        (status = 403, description = "The token is of another collection"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn request_email_change(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let (record, _) = require_record(&state, &read.head).await?;
    let collection = collection(services, path).await?;
    require_of(&collection, &record)?;
    if is_superusers(&collection) {
        return Err(bad("All superusers can change their emails directly."));
    }
    let new_email = text(&read.members, "newEmail", read.is_form)?;
    let typed = services.typed()?;
    let mut violations = Violations::default();
    if check_email(&mut violations, "newEmail", &new_email) {
        if new_email == record.email() {
            violations.add("newEmail", Violation::new("not_in_invalid", "Must not be in list."));
        } else {
            let other = typed.by_identity(&collection, EMAIL, &new_email).await.map_err(failed)?;
            if other.is_some_and(|other| other.id() != record.id()) {
                let violation = Violation::new("invalid_new_email", "Invalid new email address.");
                violations.add("newEmail", violation);
            }
        }
    }
    refused(violations)?;
    let settings = typed.settings().await.map_err(failed)?;
    let details = TokenDetails { new_email: Some(new_email.clone()), ..TokenDetails::default() };
    let token = issue(&record, RecordTokenKind::EmailChange, details)?;
    let mail = RecordMail {
        settings: &settings,
        template: &options(&collection)?.confirm_email_change_template,
        definition: collection.definition(),
        members: record.members(),
        recipient: &new_email,
        words: &[("TOKEN", token.as_str())],
    };
    let not_sent = |_| bad("Failed to request email change.");
    mail.begin(services.mailer()?, Attempts::One).map_err(not_sent)?.sent().await.map_err(not_sent)?;
    Ok(no_content())
}

/// `POST /api/collections/{collection}/confirm-email-change`.
#[utoipa::path(
    post,
    path = "/api/collections/{collection}/confirm-email-change",
    tag = "collections",
    summary = "Changes a record's address by the token of a mail and its password; all its tokens are void then",
    params(("collection" = String, Path, description = "Its name or its id", example = "users")),
    request_body(content = Value, content_type = "application/json", description = "token, password"),
    responses(
        (status = 204, description = "The record has the new address"),
        (status = 400, description = "The token or the password is not valid"),
        (status = 404, description = "There is no such auth collection"),
    )
)]
pub(super) async fn confirm_email_change(
    State(state): State<Arc<AppState>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read_form(services, request, MAX_BYTES).await?;
    let collection = collection(services, path).await?;
    if is_superusers(&collection) {
        return Err(bad("All superusers can change their emails directly."));
    }
    let member = |name| text(&read.members, name, read.is_form);
    let (token, password) = (member("token")?, member(PASSWORD)?);
    let typed = services.typed()?;
    let mut violations = Violations::default();
    let kind = RecordTokenKind::EmailChange;
    let mut found = of_token(services, &collection, &token, kind, &mut violations).await?;
    let new_email = found.as_ref().and_then(|(_, claims)| claims.new_email.clone()).unwrap_or_default();
    if found.is_some() && typed.by_identity(&collection, EMAIL, &new_email).await.map_err(failed)?.is_some() {
        violations.add("token", Violation::new("invalid_token_email", "The new email address is invalid."));
        found = None;
    }
    let record = found.map(|(record, _)| record);
    // A stolen session could ask for a change, and guess the password here.
    if let Some(record) = &record {
        take_sign_in(&state, &read.head, &collection, record.id())?;
    }
    if check_text(&mut violations, PASSWORD, &password, 1, MAX_CONFIRMED)
        && !typed.is_password(record.as_ref(), &password).await.map_err(failed)?
    {
        let message = "Missing or invalid auth record password.";
        violations.add(PASSWORD, Violation::new("invalid_password", message));
    }
    refused(violations)?;
    let Some(record) = record else { return Err(Refusal::internal()) };
    let mut body = Map::new();
    body.insert(EMAIL.into(), new_email.into());
    body.insert(VERIFIED.into(), true.into());
    let changed = typed.update(&collection, &Caller::superuser(), record.id(), &body).await;
    changed.map_err(|error| match error {
        TypedError::Refused(violations) => Refusal::of_values("Failed to confirm email change.", violations),
        other => failed(other),
    })?;
    Ok(no_content())
}
