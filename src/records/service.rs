//! The handle that faces hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::collections::{Collection, Collections};
use super::list::{Page, Query};
use super::model::{Millis, Name, Record, RecordId, Version};
use super::store::{New, Outcome, Store};
use super::{Data, Draft, RecordsError, merge};
use crate::config::{PoolQuotas, RecordsConfig};
use crate::db::{BatchExecutor, BatchWork, Database, Outcomes};
use crate::realtime::store::ChangeKeeper;
use crate::supervisor::Supervisor;

/// Records of a group.
const MAX_REQUESTS: usize = 128;
/// Groups of look-ups at once.
const READERS: usize = 2;
/// How often another id is made for a record whose id was taken by chance.
const MAX_IDS: usize = 3;

/// What records are built from.
#[derive(Debug, Clone)]
pub struct RecordsSettings {
    /// Limits.
    pub records: RecordsConfig,
    /// How the pool is shared out.
    pub shares: PoolQuotas,
    /// Whether a first write makes its collection.
    pub makes_collections: bool,
    /// Levels of JSON that a record may have.
    pub max_json_depth: usize,
}

/// Records; cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: RecordsSettings,
    collections: Collections,
    store: Store,
    creations: BatchExecutor<Creations>,
    lookups: BatchExecutor<LookUps>,
}

/// What a client makes of a record.
#[derive(Debug, Clone)]
pub enum Change {
    /// Its members are merged into the record's (RFC 7396).
    Merge(Data),
    /// They take the place of the record's.
    Replace(Data),
    /// It is deleted.
    Delete,
}

/// Which version a client means to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Any.
    None,
    /// One of these (`If-Match`).
    OneOf(Vec<Version>),
}

impl Precondition {
    fn allows(&self, version: Version) -> bool {
        match self {
            Self::None => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

impl Records {
    /// Starts the tasks of group commits and of the feed's retention, over shares of `database`.
    pub fn start(settings: &RecordsSettings, database: &Database, supervisor: &Supervisor) -> Self {
        let RecordsSettings { records: config, shares, .. } = settings;
        let wait = Duration::from_millis(config.records_wait_ms);
        let timeout = Duration::from_millis(config.records_timeout_ms);
        let share = database.quota(shares.records, wait);
        let store = Store::new(&share, timeout);
        let commits = Store::new(&database.quota(shares.record_commits, wait), timeout);

        let room = config.records_queue_bytes;
        let (creations, creating) = BatchExecutor::new(Creations(commits), shares.record_commits, room, wait);
        let (lookups, looking_up) = BatchExecutor::new(LookUps(store.clone()), READERS, room, wait);
        supervisor.spawn("record-creates", creating);
        supervisor.spawn("record-gets", looking_up);
        ChangeKeeper::new(&share, config.changes_retention_s).start(supervisor);

        let collections = Collections::new(store.clone(), config.max_collections);
        let inner = Inner { settings: settings.clone(), collections, store, creations, lookups };
        Self { inner: Arc::new(inner) }
    }

    /// Limits.
    pub fn config(&self) -> &RecordsConfig {
        &self.inner.settings.records
    }

    /// The time of one statement.
    pub fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.config().records_timeout_ms)
    }

    /// Levels of JSON that a record may have.
    pub fn max_json_depth(&self) -> usize {
        self.inner.settings.max_json_depth
    }

    /// Makes a record, and its collection if that is to be made. Answers after the commit.
    ///
    /// # Errors
    ///
    /// [`RecordsError`]; nothing is stored then, unless the answer to a commit was lost.
    pub async fn create(&self, name: &Name, draft: Draft) -> Result<Record, RecordsError> {
        self.fits(&draft.data)?;
        // Postgres sends it back as it was stored, which may be longer than what came.
        let bytes = draft.data.size().max(draft.data.as_bytes().len()).min(self.config().records_queue_bytes);
        for _ in 0..MAX_IDS {
            let id = draft.id.unwrap_or_else(|| RecordId::make(Millis::now()));
            let creation = Creation { id, is_chosen: draft.id.is_some(), data: draft.data.clone() };
            let ask = |collection| self.inner.creations.execute(collection, creation.clone(), bytes);
            match self.on(name, self.inner.settings.makes_collections, ask).await {
                Err(RecordsError::Taken) if draft.id.is_none() => {}
                created => return created,
            }
        }
        Err(RecordsError::Taken)
    }

    /// Looks a record up.
    ///
    /// # Errors
    ///
    /// [`RecordsError`].
    pub async fn get(&self, name: &Name, id: RecordId) -> Result<Record, RecordsError> {
        self.on(name, false, |collection| self.inner.lookups.execute(collection, id, 0)).await
    }

    /// Changes or deletes a record; returns what it is now, or what it was.
    ///
    /// # Errors
    ///
    /// [`RecordsError`]; nothing is changed then, unless the answer to a commit was lost.
    pub async fn change(
        &self,
        name: &Name,
        id: RecordId,
        precondition: &Precondition,
        change: &Change,
    ) -> Result<Record, RecordsError> {
        let decide = |record: &Record| {
            if !precondition.allows(record.version) {
                return Err(RecordsError::Changed);
            }
            let data = match change {
                Change::Delete => return Ok(Outcome::Delete),
                Change::Replace(data) => data.clone(),
                Change::Merge(patch) => merge(&record.data, patch)?,
            };
            self.fits(&data)?;
            Ok(Outcome::Update(data))
        };
        self.on(
            name,
            false,
            |collection| async move { self.inner.store.change(&collection, id, decide).await },
        )
        .await
    }

    /// A page of a collection.
    ///
    /// # Errors
    ///
    /// [`RecordsError`].
    pub async fn list(&self, name: &Name, query: &Query) -> Result<Page, RecordsError> {
        let max_bytes = self.config().max_page_bytes;
        self.on(name, false, |collection| async move {
            self.inner.store.list(&collection, query, max_bytes).await
        })
        .await
    }

    fn fits(&self, data: &Data) -> Result<(), RecordsError> {
        let max_bytes = self.config().max_record_bytes;
        if data.size() > max_bytes { Err(RecordsError::TooLarge(max_bytes)) } else { Ok(()) }
    }

    /// The number of a collection that is written to.
    pub(super) async fn collection_to_write(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        self.collection(name, self.inner.settings.makes_collections).await
    }

    /// The number of a collection that is read.
    pub(super) async fn collection_to_read(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        self.inner.collections.find(name).await
    }

    async fn collection(&self, name: &Name, makes: bool) -> Result<Arc<Collection>, RecordsError> {
        match makes {
            true => self.inner.collections.find_or_make(name).await,
            false => self.inner.collections.find(name).await,
        }
    }

    /// Does something on a collection, which is made before if it is not there and `makes` says so.
    ///
    /// One whose table is gone was dropped by somebody, which is seen only now if the collection is known: it is looked up once
    /// more. If its table is still not there, its row in `collections` says what is not so, and the database's error stands.
    async fn on<T, F>(
        &self,
        name: &Name,
        makes: bool,
        act: impl Fn(Arc<Collection>) -> F,
    ) -> Result<T, RecordsError>
    where
        F: Future<Output = Result<T, RecordsError>>,
    {
        let first = act(self.collection(name, makes).await?).await;
        if !is_table_missing(&first) {
            return first;
        }
        self.inner.collections.forget(name);
        let second = act(self.collection(name, makes).await?).await;
        if is_table_missing(&second) {
            self.inner.collections.forget(name);
        }
        second
    }
}

fn is_table_missing<T>(outcome: &Result<T, RecordsError>) -> bool {
    matches!(outcome, Err(RecordsError::Database(error)) if error.is_table_missing())
}

/// A record that is to be made.
#[derive(Clone)]
struct Creation {
    id: RecordId,
    is_chosen: bool,
    data: Data,
}

/// Creates records together.
struct Creations(Store);

impl BatchWork for Creations {
    type Shard = Collection;
    type Request = Creation;
    type Answer = Record;
    type Error = RecordsError;

    const MAX_REQUESTS: usize = MAX_REQUESTS;

    async fn run(&self, collection: &Collection, jobs: &[Self::Request]) -> Outcomes<Self> {
        let new: Vec<New<'_>> = jobs
            .iter()
            .map(|job| New { id: job.id, is_chosen: job.is_chosen, data: job.data.as_bytes() })
            .collect();
        let made = self.0.insert(collection, &new).await?;
        let mut made: HashMap<RecordId, Record> =
            made.into_iter().map(|record| (record.id, record)).collect();
        // Of two jobs with one id the first has made it: rows are inserted in order.
        Ok(jobs.iter().map(|job| made.remove(&job.id).ok_or(RecordsError::Taken)).collect())
    }
}

/// Looks records up together.
struct LookUps(Store);

impl BatchWork for LookUps {
    type Shard = Collection;
    type Request = RecordId;
    type Answer = Record;
    type Error = RecordsError;

    const MAX_REQUESTS: usize = MAX_REQUESTS;

    async fn run(&self, collection: &Collection, jobs: &[RecordId]) -> Outcomes<Self> {
        let ids: Vec<&str> = jobs.iter().map(RecordId::as_str).collect();
        let found = self.0.read(collection, &ids).await?;
        let found: HashMap<RecordId, Record> = found.into_iter().map(|record| (record.id, record)).collect();
        Ok(jobs.iter().map(|id| found.get(id).cloned().ok_or(RecordsError::NotFound)).collect())
    }
}
