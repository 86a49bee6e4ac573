//! Records of typed collections: fields, rules, relations. One store with [`Records`]: the same tables, the same feed.
//!
//! ```text
//! collections (name, schema) ─▶ CatalogSnapshot ─▶ CollectionHandle ─┬─ list, view ─▶ rule and filter ─▶ one statement
//!      ▲        │ changed: a row of the feed, read by every node      ├─ create ──────▶ apply ─▶ rule ─▶ Records (batches)
//!      └─ define (one transaction: schema, data, indexes, view)       ├─ update ──────▶ lock ─▶ rule ─▶ apply ─▶ write
//!                                                                     └─ delete ──────▶ with what names the record
//! ```
//!
//! A rule that reads only the record's own fields is decided in memory, on the state that is changed; any other one by Postgres. The face is
//! `src/http/pocketbase`.

mod accounts;
mod batch;
mod catalog;
mod definitions;
mod deletion;
mod dry_run;
mod expand;
mod files;
mod frequent;
mod links;
mod live;
pub mod logs;
mod mails;
mod meta;
mod read;
mod refresh;
mod rules;
mod second_factors;
pub mod settings;
mod signed_in;
mod store;
mod system;
mod totals;
mod uploads;
mod view;
mod write;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde_json::{Map, Value};

pub use accounts::{AuthRecord, HashError, PasswordHasher};
pub use batch::{BatchFailure, Write, WriteRequest};
pub use catalog::CollectionHandle;
use catalog::{CatalogSnapshot, Definitions};
use definitions::{Plan, PlannedIndex};
pub use dry_run::DryRun;
pub use expand::Expand;
pub use files::RecordFile;
pub use live::ChangedRecord;
pub use mails::{MailKey, MailKind, Otp};
pub use meta::{CollectionsPage, scaffolds};
pub use read::{ListRequest, TypedPage};
use refresh::RefreshTask;
pub use rules::Caller;
pub use second_factors::SecondFactor;
use settings::{AppSettings, RateRule, RateWindows, SettingsError, SettingsStore};
use signed_in::{SignedIn, SignedInTask};
use store::{Defined, TypedStore};
pub use system::SUPERUSERS;
pub use uploads::{Upload, Uploads};

use super::schema::{Violation, Violations};
use super::{Records, RecordsError};
use crate::config::limits;
use crate::db::{Database, DbError};
use crate::files::{Files, FilesError};
use crate::realtime::Realtime;
use crate::supervisor::{Backoff, Supervisor};

/// The least time between two looks for a collection that is not known.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// An operation on typed collections that failed.
#[derive(Debug, thiserror::Error)]
pub enum TypedError {
    /// Values are refused.
    #[error("values are refused")]
    Refused(Violations),
    /// A definition has a member of another type than it takes.
    #[error("the definition has a member of another type than it takes")]
    Format,
    /// There is no such record or collection, or the caller may not know of it.
    #[error("there is no such record")]
    NotFound,
    /// The rule is for superusers.
    #[error("only superusers may do this")]
    Forbidden,
    /// The rule of creations does not hold.
    #[error("the rule does not hold")]
    RuleFails,
    /// A filter or an order cannot be read, or a rule.
    #[error("the query cannot be read")]
    InvalidQuery,
    /// A filter or an order has names that are for superusers.
    #[error("only superusers may filter by {0}")]
    SuperusersName(&'static str),
    /// Records of these collections need the record or the collection.
    #[error("it is needed by {0}")]
    Needed(String),
    /// The last superuser cannot be deleted.
    #[error("the last superuser cannot be deleted")]
    LastSuperuser,
    /// A collection of the system cannot be deleted.
    #[error("a collection of the system cannot be deleted")]
    System,
    /// The system has no random bytes for a secret, or a password could not be hashed.
    #[error("a secret could not be made")]
    Failed,
    /// Records of a view are not written.
    #[error("records of a view are not written")]
    IsView,
    /// It would be too large, or something else is in its way; the reason is for the caller.
    #[error("{0}")]
    Blocked(String),
    /// The store of records failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The store of files failed.
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl From<DbError> for TypedError {
    fn from(error: DbError) -> Self {
        Self::Records(error.into())
    }
}

impl TypedError {
    fn refused(member: &str, violation: Violation) -> Self {
        let mut violations = Violations::default();
        violations.add(member, violation);
        Self::Refused(violations)
    }
}

/// What accounts take from the service.
#[derive(Debug, Clone)]
pub struct AccountSettings {
    /// Hashes passwords.
    pub hasher: Arc<dyn PasswordHasher>,
    /// Whether everyone may sign up in the collection `users` of a new database.
    pub users_are_open: bool,
}

/// Typed collections and their records; cheap to clone.
#[derive(Debug, Clone)]
pub struct TypedRecords {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: Records,
    store: TypedStore,
    catalog: RwLock<Option<Arc<CatalogSnapshot>>>,
    hasher: Arc<dyn PasswordHasher>,
    /// Whether everyone may sign up in the collection `users` of a new database.
    users_are_open: bool,
    /// The records of connected callers.
    signed_in: SignedIn,
    /// Whether the collections of the system are known to be there.
    has_system: AtomicBool,
    /// The last look for an unknown collection.
    looked: tokio::sync::Mutex<Option<Instant>>,
    settings_store: SettingsStore,
    settings: RwLock<Option<Arc<AppSettings>>>,
    rate_windows: RateWindows,
}

impl TypedRecords {
    /// Starts to follow the catalogue. Statements share the quota of `database`.
    pub fn start(
        records: &Records,
        database: &Database,
        files: &Files,
        realtime: &Realtime,
        accounts: AccountSettings,
        supervisor: &Supervisor,
    ) -> Self {
        let typed = Self::with_files(records, database, Some(files), accounts);
        let task = RefreshTask::new(typed.clone(), realtime.clone());
        let backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };
        supervisor.periodic("collections", Duration::ZERO, backoff, task);
        let task = SignedInTask::new(typed.clone(), realtime.clone());
        supervisor.periodic("signed-in-records", signed_in::INTERVAL, backoff, task);
        typed.keep_files_swept(files, supervisor);
        let cleaned = typed.clone();
        let clean_up = move || {
            let typed = cleaned.clone();
            async move { typed.clean_up().await }
        };
        supervisor.periodic("account-clean-up", mails::CLEANUP_INTERVAL, backoff, clean_up);
        typed
    }

    /// Typed collections without the task that follows the catalogue: for a command that ends soon.
    pub fn new(records: &Records, database: &Database, accounts: AccountSettings) -> Self {
        Self::with_files(records, database, None, accounts)
    }

    fn with_files(
        records: &Records,
        database: &Database,
        files: Option<&Files>,
        accounts: AccountSettings,
    ) -> Self {
        let inner = Inner {
            records: records.clone(),
            store: TypedStore::new(database, files, database.statement_timeout()),
            catalog: RwLock::default(),
            hasher: accounts.hasher,
            users_are_open: accounts.users_are_open,
            signed_in: SignedIn::default(),
            has_system: AtomicBool::new(false),
            looked: tokio::sync::Mutex::default(),
            settings_store: SettingsStore::new(database),
            settings: RwLock::default(),
            rate_windows: RateWindows::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The limits of records.
    pub fn max_body_bytes(&self) -> usize {
        self.inner.records.settings().max_body_bytes
    }

    /// The collection with this id or name.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn collection(&self, name: &str) -> Result<Option<CollectionHandle>, TypedError> {
        if let Some(found) = CollectionHandle::find(&self.catalog().await?, name) {
            return Ok(Some(found));
        }
        // On the heap, as every idle stream holds room for the largest future that it may run.
        Box::pin(self.look_up(name)).await
    }

    /// The same of one that is not known: it may be new, and its row of the feed not here yet.
    async fn look_up(&self, name: &str) -> Result<Option<CollectionHandle>, TypedError> {
        let mut looked = self.inner.looked.lock().await;
        if looked.is_none_or(|last| last.elapsed() >= LOOK_INTERVAL) {
            self.refresh().await?;
            *looked = Some(Instant::now());
        }
        drop(looked);
        Ok(CollectionHandle::find(&self.catalog().await?, name))
    }

    /// All collections, in the order of their creation.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn collections(&self) -> Result<Vec<CollectionHandle>, TypedError> {
        Ok(CollectionHandle::all(&self.catalog().await?).collect())
    }

    async fn catalog(&self) -> Result<Arc<CatalogSnapshot>, TypedError> {
        let known = self.inner.catalog.read().clone();
        match known {
            Some(known) => Ok(known),
            None => Box::pin(self.refresh()).await,
        }
    }

    /// Reads the catalogue anew.
    async fn refresh(&self) -> Result<Arc<CatalogSnapshot>, TypedError> {
        self.make_system().await?;
        let definitions = Definitions::of(self.inner.store.definitions().await?);
        let shared = definitions.all.iter().filter(|collection| !collection.definition.is_private());
        let names: HashMap<_, _> =
            shared.map(|collection| (collection.name.clone(), collection.number)).collect();
        self.inner.records.keep_collections(&names);
        let known = self.inner.catalog.read().clone();
        if let Some(known) = known.filter(|known| known.definitions.all == definitions.all) {
            // Its totals and judgements are still right.
            return Ok(known);
        }
        let catalog = Arc::new(CatalogSnapshot::new(definitions, &self.inner.store));
        let before = self.inner.catalog.write().replace(Arc::clone(&catalog));
        if before.is_none_or(|before| before.definitions.all != catalog.definitions.all) {
            // They hold their collections as they were.
            self.inner.signed_in.clear();
        }
        Ok(catalog)
    }

    /// Creates a collection.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn create_collection(&self, body: &Value) -> Result<CollectionHandle, TypedError> {
        let plan = |definitions: &Definitions| Plan::create(definitions, body);
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        self.define(plan).await?;
        self.collection(name).await?.ok_or(TypedError::NotFound)
    }

    /// Changes a collection, and its records to its new fields.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn change_collection(&self, name: &str, body: &Value) -> Result<CollectionHandle, TypedError> {
        let known = self.collection(name).await?.ok_or(TypedError::NotFound)?;
        let id = &known.definition().id;
        self.define(|definitions| Plan::change(definitions, id, body)).await?;
        let changed = self.collection(id).await?.ok_or(TypedError::NotFound)?;
        if changed.name() != known.name() {
            let renamed =
                self.inner.settings_store.rename_collection(known.name().as_str(), changed.name().as_str());
            self.keep_settings(renamed.await?);
            self.inner.records.wake();
        }
        Ok(changed)
    }

    /// Deletes a collection with its records.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn delete_collection(&self, name: &str) -> Result<(), TypedError> {
        let id = self.collection(name).await?.ok_or(TypedError::NotFound)?.definition().id.clone();
        self.define(|definitions| Plan::delete(definitions, &id)).await
    }

    /// The settings of the application.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`], if they have not been read yet.
    pub async fn settings(&self) -> Result<Arc<AppSettings>, TypedError> {
        let known = self.inner.settings.read().clone();
        match known {
            Some(known) => Ok(known),
            None => self.refresh_settings().await,
        }
    }

    /// The settings of the application. `None`: they have not been read yet.
    pub fn known_settings(&self) -> Option<Arc<AppSettings>> {
        self.inner.settings.read().clone()
    }

    /// Merges `patch` into the settings of the application; `Ok(Err(_))`: they are refused.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn change_settings(
        &self,
        patch: &Map<String, Value>,
    ) -> Result<Result<Arc<AppSettings>, SettingsError>, TypedError> {
        let changed = self.inner.settings_store.change(patch).await?;
        self.inner.records.wake();
        Ok(changed.map(|settings| self.keep_settings(settings)))
    }

    /// Takes a request of an address from the window of a limit of the settings. `bucket` names what is counted together. Whether there was
    /// one left.
    pub fn take_request(&self, rule: &RateRule, bucket: &str, address: IpAddr) -> bool {
        self.inner.rate_windows.take(rule, bucket, address, Instant::now())
    }

    /// Reads the settings anew.
    async fn refresh_settings(&self) -> Result<Arc<AppSettings>, TypedError> {
        Ok(self.keep_settings(self.inner.settings_store.read().await?))
    }

    fn keep_settings(&self, settings: AppSettings) -> Arc<AppSettings> {
        let mut known = self.inner.settings.write();
        if let Some(known) = known.as_ref().filter(|known| ***known == settings) {
            return Arc::clone(known);
        }
        self.inner.rate_windows.clear();
        Arc::clone(known.insert(Arc::new(settings)))
    }

    /// Creates, changes and, if asked to, deletes collections, all or none of them.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn import_collections(
        &self,
        bodies: &[Value],
        deletes_missing: bool,
    ) -> Result<(), TypedError> {
        self.define(|definitions| Plan::import(definitions, bodies, deletes_missing)).await
    }

    async fn define(
        &self,
        plan: impl Fn(&Definitions) -> Result<Vec<Plan>, TypedError>,
    ) -> Result<(), TypedError> {
        let decide = |stored| plan(&Definitions::of(stored));
        let defined = self.inner.store.define(limits::MAX_COLLECTIONS, decide).await?;
        self.refresh().await?;
        self.inner.records.wake();
        match defined {
            Defined::Done => Ok(()),
            Defined::Refused(refusal) => Err(refusal),
            Defined::InUse => {
                let message =
                    "something in the database depends on the view of the collection, such as another view";
                Err(TypedError::Blocked(message.into()))
            }
            Defined::InvalidView(reason) => Err(definitions::refused_view(&reason)),
            Defined::NotUnique(PlannedIndex { at, name, .. }) => {
                let message = format!("Failed to create index {name} - UNIQUE constraint failed.");
                let mut of_index = Violations::default();
                of_index.add(&at.to_string(), Violation::new("invalid_index_expression", message));
                let mut violations = Violations::default();
                violations.add_all("indexes", of_index);
                Err(TypedError::Refused(violations))
            }
        }
    }
}
