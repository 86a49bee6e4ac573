//! Accounts at other services that records sign in by (`_externalAuths`), and the places that they signed in from (`_authOrigins`).

use serde_json::{Map, Value};

use super::mails::quoted;
use super::{AuthRecord, Caller, CollectionHandle, TypedError, TypedRecords};

const LINKS: &str = "_externalAuths";
const ORIGINS: &str = "_authOrigins";
/// Links of one record that are deleted at once; it has one of each provider.
const MAX_LINKS: i64 = 1_000;

impl TypedRecords {
    /// The record of a collection that is linked to a provider's user.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn linked_record(
        &self,
        collection: &CollectionHandle,
        provider: &str,
        user: &str,
    ) -> Result<Option<AuthRecord>, TypedError> {
        let collection_id = &collection.definition().id;
        let filter = format!(
            "collectionRef = {} && provider = {} && providerId = {}",
            quoted(collection_id),
            quoted(provider),
            quoted(user),
        );
        let found = self.listed(&self.system(LINKS).await?, filter, "", 1).await?;
        match found.first().and_then(|link| link.get("recordRef")).and_then(Value::as_str) {
            Some(record) => self.auth_record(collection_id, record).await,
            None => Ok(None),
        }
    }

    /// Links a record to a provider's user.
    ///
    /// # Errors
    ///
    /// [`TypedError::Refused`]: another record is linked to it.
    pub async fn link(&self, record: &AuthRecord, provider: &str, user: &str) -> Result<(), TypedError> {
        let links = self.system(LINKS).await?;
        let members = [
            ("collectionRef", record.collection().definition().id.as_str()),
            ("recordRef", record.id()),
            ("provider", provider),
            ("providerId", user),
        ];
        let body = members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        self.create(&links, &Caller::superuser(), body).await.map(drop)
    }

    /// Deletes all links of a record.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn unlink_all(&self, record: &AuthRecord) -> Result<(), TypedError> {
        let links = self.system(LINKS).await?;
        let filter = format!(
            "collectionRef = {} && recordRef = {}",
            quoted(&record.collection().definition().id),
            quoted(record.id()),
        );
        for link in self.listed(&links, filter, "", MAX_LINKS).await? {
            let id = link.get("id").and_then(Value::as_str).unwrap_or_default();
            match self.delete(&links, &Caller::superuser(), id).await {
                Ok(()) | Err(TypedError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The places that are kept of a record; the oldest ones are forgotten.
const MAX_ORIGINS: usize = 5;

impl TypedRecords {
    /// Records a place that a record signs in from. Whether it is new, and not the first one.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn add_origin(&self, record: &AuthRecord, fingerprint: &str) -> Result<bool, TypedError> {
        let origins = self.system(ORIGINS).await?;
        let collection_id = record.collection().definition().id.as_str();
        let filter =
            format!("collectionRef = {} && recordRef = {}", quoted(collection_id), quoted(record.id()),);
        let known = self.listed(&origins, filter, "-updated", MAX_LINKS).await?;
        let text = |origin: &Map<String, Value>, name: &str| {
            origin.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if known.iter().any(|origin| text(origin, "fingerprint") == fingerprint) {
            return Ok(false);
        }
        let members =
            [("collectionRef", collection_id), ("recordRef", record.id()), ("fingerprint", fingerprint)];
        let body = members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        match self.create(&origins, &Caller::superuser(), body).await {
            Ok(_) => {}
            // Another sign-in from there was first.
            Err(TypedError::Refused(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        for old in known.iter().skip(MAX_ORIGINS - 1) {
            match self.delete(&origins, &Caller::superuser(), &text(old, "id")).await {
                Ok(()) | Err(TypedError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(!known.is_empty())
    }
}
