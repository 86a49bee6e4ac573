//! Mails to accounts: how often an address gets one, and one-time passwords.

use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::write::{members_of, of_record};
use super::{AuthRecord, Caller, CollectionHandle, ListRequest, TypedError, TypedRecords};
use crate::records::RecordId;
use crate::records::schema::{DateText, PASSWORD, generate};
use crate::supervisor::{Next, StepError};
use crate::time::Millis;

/// The time in which an address gets one mail of a kind.
const MAIL_INTERVAL: Duration = Duration::from_secs(120);
/// The collections of one-time passwords, and of sign-ins that wait for a second factor.
const OTPS: &str = "_otps";
const MFAS: &str = "_mfas";
/// Valid one-time passwords of a record. Beyond, the last one is used again.
const MAX_OTPS: i64 = 9;
/// The interval between two removals of what has expired, and the records that one removes of a collection.
pub(super) const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);
const CLEANUP_RECORDS: i64 = 1_000;

/// The kinds of mails that are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailKind {
    /// To prove an address.
    Verification,
    /// To set a forgotten password.
    PasswordReset,
}

/// One mail of a kind to an address of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailKey([u8; 32]);

impl MailKey {
    /// Of a mail to an address, which may be unknown.
    pub fn new(kind: MailKind, collection: &CollectionHandle, address: &str) -> Self {
        let kind = match kind {
            MailKind::Verification => "verification",
            MailKind::PasswordReset => "password-reset",
        };
        let text = format!("{kind}\n{}\n{}", collection.definition().id, address.to_lowercase());
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// A one-time password that was sent.
#[derive(Debug)]
pub struct Otp {
    /// Its id.
    pub id: String,
    /// The record that it signs in.
    pub record: AuthRecord,
    /// The address that it was sent to; `""`: not yet.
    pub sent_to: String,
    hash: Option<String>,
}

impl TypedRecords {
    /// Takes the one mail that an address may get in two minutes. Whether there was one left.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn take_mail(&self, key: MailKey) -> Result<bool, TypedError> {
        Ok(self.inner.store.take_mail(&key.0, MAIL_INTERVAL).await?)
    }

    /// Gives back a mail that was not sent, or whose purpose is done.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn return_mail(&self, key: MailKey) -> Result<(), TypedError> {
        Ok(self.inner.store.return_mail(&key.0).await?)
    }

    pub(super) async fn system(&self, name: &str) -> Result<CollectionHandle, TypedError> {
        self.collection(name).await?.ok_or(TypedError::Failed)
    }

    /// A new id of a one-time password, and a password of as many digits as the collection says. The second request shows the id, and no more
    /// is known of it elsewhere.
    ///
    /// # Errors
    ///
    /// [`TypedError::Failed`] without randomness.
    pub fn new_otp(collection: &CollectionHandle) -> Result<(String, String), TypedError> {
        let digits = collection.auth().map_or(8, |auth| auth.otp.length);
        let made = generate("[a-z0-9]{15}").zip(generate(&format!("[0-9]{{{digits}}}")));
        made.ok_or(TypedError::Failed)
    }

    /// The last one-time password of a record, if it has too many valid ones. For an unknown record (`None`) the same is asked.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn surplus_otp(
        &self,
        collection: &CollectionHandle,
        record: Option<&AuthRecord>,
    ) -> Result<Option<String>, TypedError> {
        let lifetime_s = collection.auth().map_or(0, |auth| auth.otp.duration);
        let filter = format!(
            "collectionRef = {} && recordRef = {} && created > {}",
            quoted(&collection.definition().id),
            quoted(record.map_or("none", AuthRecord::id)),
            quoted(DateText::at(before_s(lifetime_s)).as_str()),
        );
        let found = self.listed(&self.system(OTPS).await?, filter, "-created", MAX_OTPS + 1).await?;
        let last = found.first().and_then(|otp| otp.get("id")).and_then(Value::as_str).map(str::to_owned);
        Ok(last.filter(|_| found.len() as i64 > MAX_OTPS))
    }

    pub(super) async fn listed(
        &self,
        collection: &CollectionHandle,
        filter: String,
        sort: &str,
        most: i64,
    ) -> Result<Vec<Map<String, Value>>, TypedError> {
        let wanted =
            ListRequest { filter, sort: sort.to_owned(), page: 1, per_page: most, skips_total: true };
        Ok(self.list(collection, &Caller::superuser(), &wanted).await?.records)
    }

    /// Keeps a one-time password of a record.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn add_otp(&self, record: &AuthRecord, id: &str, password: &str) -> Result<(), TypedError> {
        let otps = self.system(OTPS).await?;
        let members = [
            ("id", id),
            ("collectionRef", record.collection().definition().id.as_str()),
            ("recordRef", record.id()),
            (PASSWORD, password),
        ];
        let body = members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        self.create(&otps, &Caller::superuser(), body).await.map(drop)
    }

    /// Records the address that a one-time password was sent to: its use proves that one.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn otp_sent(&self, id: &str, address: &str) -> Result<(), TypedError> {
        let otps = self.system(OTPS).await?;
        let body = std::iter::once(("sentTo".to_owned(), address.into())).collect();
        self.update(&otps, &Caller::superuser(), id, &body).await.map(drop)
    }

    /// A valid one-time password of a collection's record. `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn otp(&self, collection: &CollectionHandle, id: &str) -> Result<Option<Otp>, TypedError> {
        let otps = self.system(OTPS).await?;
        let Some(id) = RecordId::parse(id) else { return Ok(None) };
        let found = match self.inner.records.look_up(otps.statements(), id).await.map_err(of_record) {
            Ok(found) => found,
            Err(TypedError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let members = members_of(&found, otps.definition());
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let lifetime_s = collection.auth().map_or(0, |auth| auth.otp.duration);
        let collection_id = &collection.definition().id;
        if text("collectionRef") != *collection_id || found.created.0 <= before_s(lifetime_s).0 {
            return Ok(None);
        }
        let record = self.auth_record(collection_id, &text("recordRef")).await?;
        let hash = Some(text(PASSWORD)).filter(|hash| !hash.is_empty());
        Ok(record.map(|record| Otp { id: id.as_str().to_owned(), record, sent_to: text("sentTo"), hash }))
    }

    /// Whether a password is a one-time password's, which it uses up. Without one it is not, after the same time.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn use_otp(&self, otp: Option<&Otp>, password: &str) -> Result<bool, TypedError> {
        let hash = otp.and_then(|otp| otp.hash.clone());
        let is_right = self.inner.hasher.is_right(password.to_owned(), hash).await?;
        let Some(otp) = otp.filter(|_| is_right) else { return Ok(false) };
        // Of two requests with one password the first one deletes it.
        self.delete_otp(&otp.id).await
    }

    /// Deletes a one-time password. Whether it was there.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn delete_otp(&self, id: &str) -> Result<bool, TypedError> {
        match self.delete(&self.system(OTPS).await?, &Caller::superuser(), id).await {
            Ok(()) => Ok(true),
            Err(TypedError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Records that the email of an account is proven. With `new_password` the present password, which another person may have chosen before,
    /// is replaced by a random one, and all tokens are void.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn verify(&self, record: &AuthRecord, new_password: bool) -> Result<(), TypedError> {
        let mut body: Map<String, Value> = Map::new();
        body.insert("verified".into(), true.into());
        if new_password {
            let password = generate("[a-zA-Z0-9]{30}").ok_or(TypedError::Failed)?;
            body.insert(PASSWORD.into(), password.as_str().into());
            body.insert("passwordConfirm".into(), password.into());
        }
        self.update(record.collection(), &Caller::superuser(), record.id(), &body).await.map(drop)
    }

    /// Deletes one-time passwords and waiting sign-ins that have expired.
    pub(super) async fn clean_up(&self) -> Result<Next, StepError> {
        let cleaned = async {
            for collection in self.collections().await? {
                let Some(auth) = collection.auth() else { continue };
                for (name, lifetime_s) in [(OTPS, auth.otp.duration), (MFAS, auth.mfa.duration)] {
                    let of = self.system(name).await?;
                    let filter = format!(
                        "collectionRef = {} && created < {}",
                        quoted(&collection.definition().id),
                        quoted(DateText::at(before_s(lifetime_s)).as_str()),
                    );
                    for expired in self.listed(&of, filter, "", CLEANUP_RECORDS).await? {
                        let id = expired.get("id").and_then(Value::as_str).unwrap_or_default();
                        match self.delete(&of, &Caller::superuser(), id).await {
                            // Another node was first.
                            Ok(()) | Err(TypedError::NotFound) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
            Ok(())
        };
        cleaned.await.map(|()| Next::Interval).map_err(|error: TypedError| StepError::new(error.to_string()))
    }
}

/// A time before now.
fn before_s(seconds: i64) -> Millis {
    Millis(Millis::now().0.saturating_sub(seconds.saturating_mul(1_000)))
}

/// A text of a filter.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
