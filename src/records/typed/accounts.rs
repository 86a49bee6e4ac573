//! Records of auth collections: their sign-in, the passwords that a change brings, and the callers who may manage them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use super::catalog::CollectionHandle;
use super::rules::{Access, Caller, RuleKind};
use super::store::{ListStatement, Reads};
use super::system::SUPERUSERS;
use super::write::{members_of, of_record};
use super::{TypedError, TypedRecords};
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::{
    AuthOptions, Definition, EMAIL, EMAIL_VISIBILITY, PASSWORD, TOKEN_KEY, VERIFIED, Violation, Violations,
    text_of, token_key,
};
use crate::records::{AuthValues, RecordId, RecordsError, TypedExpression};
use crate::time::Millis;

/// The member that repeats a new password, and the one with the present password.
const PASSWORD_CONFIRM: &str = "passwordConfirm";
const OLD_PASSWORD: &str = "oldPassword";

/// Hashes passwords, within the limits that all accounts share.
pub trait PasswordHasher: fmt::Debug + Send + Sync {
    /// The hash of a password.
    fn hash(&self, password: String) -> BoxFuture<'_, Result<String, HashError>>;

    /// Whether a password matches a hash. Without one it does not, after the same time.
    fn is_right(&self, password: String, hash: Option<String>) -> BoxFuture<'_, Result<bool, HashError>>;
}

/// A password that could not be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashError {
    /// Too many passwords wait.
    Overloaded,
    /// The hash could not be computed.
    Failed,
}

impl From<HashError> for TypedError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Overloaded => RecordsError::Overloaded.into(),
            HashError::Failed => Self::Failed,
        }
    }
}

/// A record of an auth collection, with its secrets.
#[derive(Clone)]
pub struct AuthRecord {
    collection: CollectionHandle,
    members: Map<String, Value>,
}

impl fmt::Debug for AuthRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let collection = self.collection.name().as_str();
        f.debug_struct("AuthRecord")
            .field("collection", &collection)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl AuthRecord {
    /// Its collection.
    pub fn collection(&self) -> &CollectionHandle {
        &self.collection
    }

    /// All members, secrets among them.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// Its email; `""`: none.
    pub fn email(&self) -> &str {
        self.text(EMAIL)
    }

    /// Its part of the key of its tokens.
    pub fn token_key(&self) -> &str {
        self.text(TOKEN_KEY)
    }

    /// Whether its email is proven.
    pub fn is_verified(&self) -> bool {
        self.members.get(VERIFIED) == Some(&Value::Bool(true))
    }

    /// Whether it is a superuser.
    pub fn is_superuser(&self) -> bool {
        self.collection.definition().is_superusers()
    }

    /// `@request.auth` of its requests.
    pub fn values(&self) -> AuthValues {
        let definition = self.collection.definition();
        let mut members = self.members.clone();
        members.retain(|name, _| {
            name != TOKEN_KEY && definition.field(name).is_none_or(|field| !field.is_secret())
        });
        members.insert("collectionId".into(), definition.id.as_str().into());
        members.insert("collectionName".into(), self.collection.name().as_str().into());
        AuthValues { collection: definition.id.clone(), id: self.id().to_owned(), members }
    }

    /// The caller that signed in as it, in requests with the values of `caller`.
    #[must_use]
    pub fn caller(&self, mut caller: Caller) -> Caller {
        caller.is_superuser = self.is_superuser();
        caller.request.auth = Some(Arc::new(self.values()));
        caller
    }

    fn text(&self, member: &str) -> &str {
        self.members.get(member).and_then(Value::as_str).unwrap_or_default()
    }
}

impl CollectionHandle {
    /// Its options of sign-ins; `None`: its records do not sign in.
    pub fn auth(&self) -> Option<&AuthOptions> {
        self.definition().auth.as_deref()
    }
}

impl TypedRecords {
    /// A record of the auth collection with this id or name. `None`: there is none, or the collection is none.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn auth_record(&self, collection: &str, id: &str) -> Result<Option<AuthRecord>, TypedError> {
        let Some(collection) = self.collection(collection).await?.filter(|found| found.auth().is_some())
        else {
            return Ok(None);
        };
        let Some(id) = RecordId::parse(id) else { return Ok(None) };
        match self.inner.records.look_up(collection.statements(), id).await.map_err(of_record) {
            Ok(record) => {
                let members = members_of(&record, collection.definition());
                Ok(Some(AuthRecord { collection, members }))
            }
            Err(TypedError::NotFound | TypedError::Records(RecordsError::UnknownCollection)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record of an auth collection whose field, which has a unique index, has this value. Where the index ignores the case of letters,
    /// so does this. `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn by_identity(
        &self,
        collection: &CollectionHandle,
        field: &str,
        value: &str,
    ) -> Result<Option<AuthRecord>, TypedError> {
        let definition = collection.definition();
        let indexes = definition.parsed_indexes();
        let index = indexes.iter().find(|index| index.is_unique_of(field));
        let known = definition.field(field).filter(|field| !field.is_secret() && field.name != TOKEN_KEY);
        let (Some(index), Some(_)) = (index, known) else { return Ok(None) };
        // Postgres has no NUL in texts.
        if value.is_empty() || value.contains('\0') {
            return Ok(None);
        }
        let ignores_case = index.columns.first().is_some_and(|column| column.ignores_case);
        let mut parameters = Parameters::default();
        let value = parameters.bind(Parameter::Text(value.to_owned()));
        let stored =
            if field == "id" { "id".to_owned() } else { format!("(data ->> '{field}') collate \"C\"") };
        // The second condition is that of the index, which Postgres cannot infer from a parameter.
        let conditions = match ignores_case {
            true => format!("lower({stored}) = lower({value} collate \"C\") and {stored} <> ''"),
            false => format!("{stored} = {value} and {stored} <> ''"),
        };
        let (order, limit) = ("id".to_owned(), 1);
        let statement = ListStatement { conditions, order, parameters, limit, offset: 0, counted: None };
        let listed = self.inner.store.list(Reads::Pool, collection.number(), statement, usize::MAX).await?;
        let record = listed.and_then(|(records, _)| records.into_iter().next());
        Ok(record
            .map(|record| AuthRecord { collection: collection.clone(), members: record.members(definition) }))
    }

    /// Creates a superuser, or sets the password of the one with this email; returns the id.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn set_superuser(&self, email: &str, password: &str) -> Result<String, TypedError> {
        let collection = self.collection(SUPERUSERS).await?.ok_or(TypedError::Failed)?;
        let mut body = Map::new();
        body.insert(PASSWORD.into(), password.into());
        body.insert(PASSWORD_CONFIRM.into(), password.into());
        let members = match self.by_identity(&collection, EMAIL, email).await? {
            Some(known) => self.update(&collection, &Caller::superuser(), known.id(), &body).await?,
            None => {
                body.insert(EMAIL.into(), email.into());
                self.create(&collection, &Caller::superuser(), body).await?
            }
        };
        Ok(members.get("id").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Whether a password is that of a record. Without a record it is not, after the same time.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`] while too many passwords are checked.
    pub async fn is_password(&self, record: Option<&AuthRecord>, password: &str) -> Result<bool, TypedError> {
        let hash = record.map(|record| record.text(PASSWORD).to_owned()).filter(|hash| !hash.is_empty());
        Ok(self.inner.hasher.is_right(password.to_owned(), hash).await?)
    }

    /// Whether the collection's rule lets a record sign in.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn may_sign_in(&self, record: &AuthRecord, caller: &Caller) -> Result<bool, TypedError> {
        let caller = record.caller(caller.clone());
        // Superusers are bound by the rule of their own collection, too.
        let caller = Caller { is_superuser: false, ..caller };
        self.holds_for_record(Reads::Pool, &record.collection, RuleKind::Auth, &caller, &record.members).await
    }

    /// Whether a rule of a stored record's collection holds for it; one for superusers does not.
    async fn holds_for_record(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        kind: RuleKind,
        caller: &Caller,
        members: &Map<String, Value>,
    ) -> Result<bool, TypedError> {
        match collection.access(kind, caller) {
            Ok(Access::Granted) => Ok(true),
            Ok(Access::If(rule)) => {
                match rule.matches(members, Millis::now()).map_err(|_| TypedError::InvalidQuery)? {
                    Some(holds) => Ok(holds),
                    None => {
                        let id = members.get("id").and_then(Value::as_str).and_then(RecordId::parse);
                        let Some(id) = id else { return Ok(false) };
                        self.exists(reads, collection, id.as_str(), &rule).await
                    }
                }
            }
            Err(TypedError::Forbidden | TypedError::InvalidQuery) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a caller manages a stored account: sets its email, its password and `verified` as they like.
    pub(super) async fn manages(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        caller: &Caller,
        members: &Map<String, Value>,
    ) -> Result<bool, TypedError> {
        if caller.is_superuser {
            return Ok(true);
        }
        match collection.auth().is_some() {
            true => self.holds_for_record(reads, collection, RuleKind::Manage, caller, members).await,
            false => Ok(false),
        }
    }

    /// Whether a caller would manage an account that is not stored yet.
    pub(super) async fn would_manage(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        caller: &Caller,
        members: &Map<String, Value>,
        now: Millis,
    ) -> Result<bool, TypedError> {
        if caller.is_superuser {
            return Ok(true);
        }
        match collection.access(RuleKind::Manage, caller) {
            Ok(Access::Granted) => Ok(true),
            Ok(Access::If(rule)) => self.decide(reads, collection, &rule, members, (now, now)).await,
            Err(TypedError::Forbidden | TypedError::InvalidQuery) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The ids of the records whose email a caller sees.
    pub(super) async fn emails_seen(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        caller: &Caller,
        records: &[Map<String, Value>],
    ) -> Result<HashSet<String>, TypedError> {
        let mut seen = HashSet::new();
        if collection.auth().is_none() || caller.is_superuser {
            return Ok(seen);
        }
        let id = |record: &Map<String, Value>| {
            record.get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let collection_id = &collection.definition().id;
        let manage = match collection.access(RuleKind::Manage, caller) {
            Ok(Access::If(rule)) => Some(rule),
            Ok(Access::Granted) => {
                seen.extend(records.iter().map(id));
                return Ok(seen);
            }
            Err(_) => None,
        };
        let mut asked = Vec::new();
        for record in records {
            let id = id(record);
            if caller.is(collection_id, &id) {
                seen.insert(id);
                continue;
            }
            if record.get(EMAIL_VISIBILITY) == Some(&Value::Bool(true)) {
                continue;
            }
            match manage.as_ref().map(|rule| rule.matches(record, Millis::now())) {
                Some(Ok(Some(true))) => drop(seen.insert(id)),
                Some(Ok(None)) => asked.push(id),
                _ => {}
            }
        }
        if let (Some(rule), false) = (manage, asked.is_empty()) {
            seen.extend(self.those_of(reads, collection, asked, &rule).await?);
        }
        Ok(seen)
    }

    /// Those of some ids whose records an expression holds for.
    async fn those_of(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        ids: Vec<String>,
        expression: &TypedExpression,
    ) -> Result<Vec<String>, TypedError> {
        let limit = ids.len();
        let mut parameters = Parameters::default();
        let among = format!("id = any({})", parameters.bind(Parameter::Texts(ids)));
        let table = |id: &str| self.table(collection, id);
        let holds = expression.compile(Millis::now(), &table, &mut parameters);
        let (conditions, order) = (format!("{among} and {holds}"), "id".to_owned());
        let statement = ListStatement { conditions, order, parameters, limit, offset: 0, counted: None };
        let listed = self.inner.store.list(reads, collection.number(), statement, usize::MAX).await?;
        let records = listed.map(|(records, _)| records).unwrap_or_default();
        Ok(records.iter().map(|record| record.id.as_str().to_owned()).collect())
    }

    /// Hashes the new passwords of a body, by their fields. Values that their fields refuse are left out: the change itself is refused.
    pub(super) async fn hashed(
        &self,
        definition: &Definition,
        body: &Map<String, Value>,
    ) -> Result<HashMap<String, Value>, TypedError> {
        let mut hashes = HashMap::new();
        for field in definition.fields.iter().filter(|field| field.is_secret()) {
            let Some(Ok(Value::String(password))) = body.get(&field.name).map(|sent| field.coerce(sent))
            else {
                continue;
            };
            if password.is_empty() || field.validate(&Value::String(password.clone())).is_err() {
                continue;
            }
            hashes.insert(field.name.clone(), self.inner.hasher.hash(password).await?.into());
        }
        Ok(hashes)
    }

    /// The violations of a change of an account that concern its passwords. `before` is the stored record; `None`: it is new.
    pub(super) async fn check_passwords(
        &self,
        before: Option<&Map<String, Value>>,
        body: &Map<String, Value>,
        manages: bool,
    ) -> Result<Violations, TypedError> {
        let sent = |member: &str| body.get(member).map_or_else(String::new, text_of);
        let (password, confirm, old) = (sent(PASSWORD), sent(PASSWORD_CONFIRM), sent(OLD_PASSWORD));
        let mut violations = Violations::default();
        if before.is_some() && password.is_empty() && confirm.is_empty() && old.is_empty() {
            return Ok(violations);
        }
        if password.is_empty() {
            violations.add(PASSWORD, Violation::required());
        }
        if confirm.is_empty() {
            violations.add(PASSWORD_CONFIRM, Violation::required());
        } else if confirm != password {
            violations.add(PASSWORD_CONFIRM, mismatch());
        }
        let Some(before) = before.filter(|_| !manages) else { return Ok(violations) };
        if old.is_empty() {
            violations.add(OLD_PASSWORD, Violation::required());
        } else if violations.is_empty() {
            let hash = before.get(PASSWORD).and_then(Value::as_str).unwrap_or_default().to_owned();
            let hash = Some(hash).filter(|hash| !hash.is_empty());
            if !self.inner.hasher.is_right(old, hash).await? {
                let message = "Missing or invalid old password.";
                violations.add(OLD_PASSWORD, Violation::new("invalid_old_password", message));
            }
        }
        Ok(violations)
    }

    /// Whether another auth collection has a record with this id.
    pub(super) async fn is_id_of_others(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        id: RecordId,
    ) -> Result<bool, TypedError> {
        for other in CollectionHandle::all(&collection.catalog) {
            let is_other = other.auth().is_some() && other.number() != collection.number();
            if is_other
                && !self.inner.store.known_ids(reads, other.number(), &[id.as_str()]).await?.is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn mismatch() -> Violation {
    Violation::new("values_mismatch", "Values don't match.")
}

/// Checks the members that only managers set, and makes a new token key where the password or the email has changed: all tokens are void then.
///
/// # Errors
///
/// [`TypedError::Refused`]; [`TypedError::Failed`] without randomness.
pub(super) fn settle(
    definition: &Definition,
    before: Option<&Map<String, Value>>,
    after: &mut Map<String, Value>,
    manages: bool,
) -> Result<(), TypedError> {
    if definition.auth.is_none() {
        return Ok(());
    }
    if definition.is_superusers() {
        after.insert(VERIFIED.into(), true.into());
    }
    let was = |member: &str| before.and_then(|before| before.get(member)).unwrap_or(&Value::Null);
    let is = |member: &str| after.get(member).unwrap_or(&Value::Null);
    let mut violations = Violations::default();
    if !manages {
        let is_true = |value: &Value| *value == Value::Bool(true);
        if is_true(was(VERIFIED)) != is_true(is(VERIFIED)) {
            violations.add(VERIFIED, mismatch());
        }
        if before.is_some() && was(EMAIL) != is(EMAIL) {
            violations.add(EMAIL, mismatch());
        }
    }
    violations.into_result().map_err(TypedError::Refused)?;
    let has_changed = [PASSWORD, EMAIL].into_iter().any(|member| was(member) != is(member));
    if before.is_some() && has_changed && was(TOKEN_KEY) == is(TOKEN_KEY) {
        after.insert(TOKEN_KEY.into(), token_key().ok_or(TypedError::Failed)?.into());
    }
    Ok(())
}
