//! Sign-ins by two methods.

use serde_json::{Map, Value};

use super::catalog::CollectionHandle;
use super::rules::{Caller, parse};
use super::store::{ListStatement, Reads};
use super::write::{members_of, of_record};
use super::{AuthRecord, TypedError, TypedRecords};
use crate::records::RecordId;
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::generate;
use crate::time::Millis;

/// The collection of sign-ins that wait for a second factor.
const MFAS: &str = "_mfas";

/// The outcome of a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondFactor {
    /// It was the second one.
    Done,
    /// It is the method of the first one.
    SameMethod,
    /// There is no such sign-in, or it has expired.
    Unknown,
}

impl TypedRecords {
    /// Whether a sign-in of a record takes two methods.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn needs_second_factor(
        &self,
        record: &AuthRecord,
        caller: &Caller,
    ) -> Result<bool, TypedError> {
        let Some(mfa) = record.collection().auth().map(|auth| &auth.mfa).filter(|mfa| mfa.enabled) else {
            return Ok(false);
        };
        if mfa.rule.is_empty() {
            return Ok(true);
        }
        let caller = record.caller(caller.clone());
        let (catalog, id) = (&record.collection().catalog.definitions, &record.collection().definition().id);
        // A rule that cannot be read any more excepts no record.
        let Ok(rule) = parse(&mfa.rule, &caller.request, catalog, id) else { return Ok(true) };
        match rule.matches(record.members(), Millis::now()).map_err(|_| TypedError::InvalidQuery)? {
            Some(holds) => Ok(holds),
            None => match RecordId::parse(record.id()) {
                Some(id) => self.exists(Reads::Pool, record.collection(), id.as_str(), &rule).await,
                None => Ok(true),
            },
        }
    }

    /// Begins a sign-in by two methods after the first one; returns its id.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn begin_second_factor(&self, record: &AuthRecord, method: &str) -> Result<String, TypedError> {
        let sessions = self.collection(MFAS).await?.ok_or(TypedError::Failed)?;
        self.forget_expired(&sessions, record).await?;
        let mut body = Map::new();
        // The id is all that the second request shows: the system's randomness makes it.
        body.insert("id".into(), generate("[a-z0-9]{15}").ok_or(TypedError::Failed)?.into());
        body.insert("collectionRef".into(), record.collection().definition().id.as_str().into());
        body.insert("recordRef".into(), record.id().into());
        body.insert("method".into(), method.into());
        let made = self.create(&sessions, &Caller::superuser(), body).await?;
        Ok(made.get("id").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Deletes the sign-ins of a record that no second method can end any more.
    async fn forget_expired(
        &self,
        sessions: &CollectionHandle,
        record: &AuthRecord,
    ) -> Result<(), TypedError> {
        let lifetime_s = record.collection().auth().map_or(0, |auth| auth.mfa.duration);
        let mut parameters = Parameters::default();
        let id = parameters.bind(Parameter::Text(record.id().to_owned()));
        let since = Millis(Millis::now().0.saturating_sub(lifetime_s.saturating_mul(1_000)));
        let since = parameters.bind(Parameter::Time(since));
        let conditions = format!("(data ->> 'recordRef') collate \"C\" = {id} and created < {since}");
        let (order, limit) = ("id".to_owned(), 100);
        let statement = ListStatement { conditions, order, parameters, limit, offset: 0, counted: None };
        let expired = self.inner.store.list(Reads::Pool, sessions.number(), statement, usize::MAX).await?;
        for session in expired.map(|(records, _)| records).unwrap_or_default() {
            match self.delete(sessions, &Caller::superuser(), session.id.as_str()).await {
                Ok(()) | Err(TypedError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends a sign-in by two methods with the second one.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn end_second_factor(
        &self,
        record: &AuthRecord,
        method: &str,
        session: &str,
    ) -> Result<SecondFactor, TypedError> {
        let sessions = self.collection(MFAS).await?.ok_or(TypedError::Failed)?;
        let Some(id) = RecordId::parse(session) else { return Ok(SecondFactor::Unknown) };
        let found = match self.inner.records.look_up(sessions.statements(), id).await.map_err(of_record) {
            Ok(found) => found,
            Err(TypedError::NotFound) => return Ok(SecondFactor::Unknown),
            Err(error) => return Err(error),
        };
        let age_s = Millis::now().0.saturating_sub(found.created.0) / 1_000;
        let members = members_of(&found, sessions.definition());
        let is = |member: &str, value: &str| members.get(member).and_then(Value::as_str) == Some(value);
        let lifetime_s = record.collection().auth().map_or(0, |auth| auth.mfa.duration);
        let is_own =
            is("collectionRef", &record.collection().definition().id) && is("recordRef", record.id());
        if !is_own || age_s >= lifetime_s {
            return Ok(SecondFactor::Unknown);
        }
        if is("method", method) {
            return Ok(SecondFactor::SameMethod);
        }
        // Of two requests with one session the first one deletes it.
        match self.delete(&sessions, &Caller::superuser(), session).await {
            Ok(()) => Ok(SecondFactor::Done),
            Err(TypedError::NotFound) => Ok(SecondFactor::Unknown),
            Err(error) => Err(error),
        }
    }
}
