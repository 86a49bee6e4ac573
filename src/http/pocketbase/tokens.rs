//! Tokens of records that sign in: which secret signs which type, and the record of a token.

use super::error::{Operation, Refusal};
use crate::auth::{RecordClaims, RecordTokenKind};
use crate::records::schema::{AuthOptions, TokenOptions};
use crate::records::typed::{AuthRecord, TypedRecords};

/// The options of a type of token.
fn options(auth: &AuthOptions, kind: RecordTokenKind) -> &TokenOptions {
    match kind {
        RecordTokenKind::Auth => &auth.auth_token,
        RecordTokenKind::File => &auth.file_token,
        RecordTokenKind::Verification => &auth.verification_token,
        RecordTokenKind::PasswordReset => &auth.password_reset_token,
        RecordTokenKind::EmailChange => &auth.email_change_token,
    }
}

/// What a new token says beside its record and type.
#[derive(Debug, Default)]
pub(super) struct TokenDetails {
    /// Whether a sign-in can be prolonged.
    pub(super) is_refreshable: bool,
    /// Seconds; `None`: those of the collection.
    pub(super) lifetime_s: Option<i64>,
    /// The email that a record is to have.
    pub(super) new_email: Option<String>,
}

/// A new token of a record.
pub(super) fn issue(
    record: &AuthRecord,
    kind: RecordTokenKind,
    details: TokenDetails,
) -> Result<String, Refusal> {
    let auth = record.collection().auth().ok_or_else(Refusal::internal)?;
    let options = options(auth, kind);
    let lifetime_s = details.lifetime_s.unwrap_or(options.duration);
    let mut claims = RecordClaims::new(kind, &record.collection().definition().id, record.id(), lifetime_s);
    match kind {
        RecordTokenKind::Auth => claims.refreshable = Some(details.is_refreshable),
        RecordTokenKind::File => {}
        RecordTokenKind::Verification | RecordTokenKind::PasswordReset | RecordTokenKind::EmailChange => {
            claims.email = Some(record.email().to_owned());
            claims.new_email = details.new_email;
        }
    }
    claims.sign(record.token_key(), &options.secret).map_err(|_| Refusal::internal())
}

/// The record and the claims of a token of a type. `None`: it is not valid, or its record is gone.
pub(super) async fn verify(
    typed: &TypedRecords,
    token: &str,
    kind: RecordTokenKind,
) -> Result<Option<(AuthRecord, RecordClaims)>, Refusal> {
    let Some(claims) = RecordClaims::read(token).filter(|claims| claims.kind == kind) else {
        return Ok(None);
    };
    let record = typed.auth_record(&claims.collection_id, &claims.id).await;
    let Some(record) = record.map_err(|error| Operation::Read.refuses(error))? else { return Ok(None) };
    let definition = record.collection().definition();
    let is_valid = definition.id == claims.collection_id
        && definition
            .auth
            .as_ref()
            .is_some_and(|auth| claims.are_of(token, kind, record.token_key(), &options(auth, kind).secret));
    Ok(is_valid.then_some((record, claims)))
}
