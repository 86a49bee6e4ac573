//! The handle that the HTTP face holds.

use std::collections::HashMap;
use std::sync::Arc;

use super::collections::{Collection, Collections};
use super::list::ListQuery;
use super::model::{ListedCollection, Name, Record, RecordId, Version};
use super::store::{NewRecord, Outcome, RecordStore};
use super::{Data, Draft, RecordsError, merge};
use crate::config::limits;
use crate::db::{BatchExecutor, BatchWork, Database, Outcomes};
use crate::paging::Page;
use crate::realtime::{Hub, Position};
use crate::supervisor::Supervisor;
use crate::time::Millis;

/// The records of a batch.
const MAX_REQUESTS: usize = 128;
/// Waiting creations with which a second batch begins: fewer cost more time each than it saves.
const SECOND_AT: usize = 8;
/// Batches of look-ups at once.
const READERS: usize = 2;
/// The most ids that are made for a record until one is free.
const MAX_IDS: usize = 3;

/// The settings of records.
#[derive(Debug, Clone)]
pub struct RecordsSettings {
    /// Bytes of a record's own members as JSON, with all digits of its numbers and without white space.
    pub max_record_bytes: usize,
    /// Bytes of a body that holds a record.
    pub max_body_bytes: usize,
    /// Bytes of the records that wait for their batch.
    pub queue_bytes: usize,
    /// Batches of created records at once.
    pub writers: usize,
    /// Whether a first write creates its collection.
    pub makes_collections: bool,
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
    store: RecordStore,
    creations: BatchExecutor<Creations>,
    lookups: BatchExecutor<LookUps>,
    hub: Hub,
}

/// A change of a record.
#[derive(Debug, Clone)]
pub enum Change {
    /// Merges members into the record's (RFC 7396).
    Merge(Data),
    /// Replaces the record's members.
    Replace(Data),
    /// Deletes the record.
    Delete,
}

/// The condition of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// None.
    None,
    /// The record has one of these versions (`If-Match`).
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
    /// Starts the tasks of batches. Created records are committed within the quota of `commits`; other queries use that of `queries`.
    pub fn start(
        settings: &RecordsSettings,
        commits: &Database,
        queries: &Database,
        hub: &Hub,
        supervisor: &Supervisor,
    ) -> Self {
        let (wait, timeout) = (queries.pool_wait(), queries.statement_timeout());
        let (store, commits) = (RecordStore::new(queries, timeout), RecordStore::new(commits, timeout));
        let (bytes, writers) = (settings.queue_bytes, settings.writers);
        let (creations, create_task) =
            BatchExecutor::new(Creations { store: commits, hub: hub.clone() }, writers, bytes, wait);
        let (lookups, lookup_task) = BatchExecutor::new(LookUps(store.clone()), READERS, bytes, wait);
        supervisor.spawn("record-creates", create_task);
        supervisor.spawn("record-gets", lookup_task);

        let collections = Collections::new(store.clone(), limits::MAX_COLLECTIONS);
        let inner =
            Inner { settings: settings.clone(), collections, store, creations, lookups, hub: hub.clone() };
        Self { inner: Arc::new(inner) }
    }

    /// Limits.
    pub fn settings(&self) -> &RecordsSettings {
        &self.inner.settings
    }

    /// Creates a record, and its collection if that is allowed. Returns after the commit.
    ///
    /// # Errors
    ///
    /// [`RecordsError`]; nothing is stored then, unless the answer to a commit was lost.
    pub async fn create(&self, name: &Name, draft: Draft) -> Result<Record, RecordsError> {
        self.fits(&draft.data)?;
        // Postgres returns it as stored, which may be longer than the request.
        let bytes = draft.data.size().max(draft.data.as_bytes().len()).min(self.settings().queue_bytes);
        for _ in 0..MAX_IDS {
            let id = draft.id.unwrap_or_else(|| RecordId::make(Millis::now()));
            let creation = Creation { id, is_chosen: draft.id.is_some(), data: draft.data.clone() };
            let execute = |collection| self.inner.creations.execute(collection, creation.clone(), bytes);
            match self.on(name, self.inner.settings.makes_collections, execute).await {
                Err(RecordsError::Taken) if draft.id.is_none() => {}
                created => return created,
            }
        }
        Err(RecordsError::Taken)
    }

    /// Looks a record up; returns it with the position of the snapshot that it was read in.
    ///
    /// # Errors
    ///
    /// [`RecordsError`].
    pub async fn get(&self, name: &Name, id: RecordId) -> Result<(Record, Position), RecordsError> {
        self.on(name, false, |collection| self.inner.lookups.execute(collection, id, 0)).await
    }

    /// Changes or deletes a record; returns the new record, or the deleted one.
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
        let changed =
            self.on(name, false, |collection| async move {
                self.inner.store.change(&collection, id, decide).await
            })
            .await?;
        self.inner.hub.wake();
        Ok(changed)
    }

    /// Creates a record of a typed collection. Returns after the commit.
    pub(super) async fn insert(
        &self,
        collection: &Arc<Collection>,
        id: RecordId,
        is_chosen: bool,
        data: Data,
    ) -> Result<Record, RecordsError> {
        self.fits(&data)?;
        let bytes = data.size().max(data.as_bytes().len()).min(self.settings().queue_bytes);
        let creation = Creation { id, is_chosen, data };
        gone(self.inner.creations.execute(Arc::clone(collection), creation, bytes).await)
    }

    /// Looks a record of a typed collection up.
    pub(super) async fn look_up(
        &self,
        collection: &Arc<Collection>,
        id: RecordId,
    ) -> Result<Record, RecordsError> {
        gone(self.inner.lookups.execute(Arc::clone(collection), id, 0).await).map(|(record, _)| record)
    }

    /// Changes a record as `decide` says while it is locked; returns the new record, or the deleted one.
    pub(super) async fn change_with(
        &self,
        collection: &Arc<Collection>,
        id: RecordId,
        decide: impl Fn(&Record) -> Result<Outcome, RecordsError>,
    ) -> Result<Record, RecordsError> {
        let decide = |record: &Record| {
            let outcome = decide(record)?;
            if let Outcome::Update(data) = &outcome {
                self.fits(data)?;
            }
            Ok(outcome)
        };
        let changed = gone(self.inner.store.change(collection, id, decide).await)?;
        self.wake();
        Ok(changed)
    }

    /// Forgets collections that have another number now, or none, or that other faces do not serve any more.
    pub(super) fn keep_collections(&self, numbers: &HashMap<Name, i32>) {
        self.inner.collections.keep(numbers);
    }

    /// Wakes the feed after a commit.
    pub(super) fn wake(&self) {
        self.inner.hub.wake();
    }

    /// A page of a collection, and the position of the snapshot that it was read in.
    ///
    /// # Errors
    ///
    /// [`RecordsError`].
    pub async fn list(
        &self,
        name: &Name,
        query: &ListQuery,
    ) -> Result<(Page<Record>, Position), RecordsError> {
        let max_bytes = limits::MAX_PAGE_BYTES;
        self.on(name, false, |collection| async move {
            self.inner.store.list(&collection, query, max_bytes).await
        })
        .await
    }

    /// All collections, by name: at most `MAX_COLLECTIONS`.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Database`].
    pub async fn collections(&self) -> Result<Vec<ListedCollection>, RecordsError> {
        Ok(self.inner.store.collections().await?)
    }

    /// Checks a record's size.
    pub(super) fn fits(&self, data: &Data) -> Result<(), RecordsError> {
        let max_bytes = self.settings().max_record_bytes;
        if data.size() > max_bytes { Err(RecordsError::TooLarge(max_bytes)) } else { Ok(()) }
    }

    /// The collection of a write.
    pub(super) async fn collection_to_write(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        self.collection(name, self.inner.settings.makes_collections).await
    }

    /// The collection of a read.
    pub(super) async fn collection_to_read(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        self.inner.collections.find(name).await
    }

    async fn collection(&self, name: &Name, makes: bool) -> Result<Arc<Collection>, RecordsError> {
        match makes {
            true => self.inner.collections.find_or_create(name).await,
            false => self.inner.collections.find(name).await,
        }
    }

    /// Executes `act` on a collection, which is created before if it does not exist and `makes` allows it.
    ///
    /// A cached collection whose table was dropped is looked up once more. If the table is still missing, its row in `collections` is wrong, and
    /// the database's error is returned.
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

/// The outcome of a statement for a collection that may have been deleted meanwhile.
fn gone<T>(outcome: Result<T, RecordsError>) -> Result<T, RecordsError> {
    if is_table_missing(&outcome) { Err(RecordsError::UnknownCollection) } else { outcome }
}

fn is_table_missing<T>(outcome: &Result<T, RecordsError>) -> bool {
    matches!(outcome, Err(RecordsError::Database(error)) if error.is_table_missing())
}

/// A record that is to be created.
#[derive(Clone)]
struct Creation {
    id: RecordId,
    is_chosen: bool,
    data: Data,
}

/// Creates records in batches.
struct Creations {
    store: RecordStore,
    hub: Hub,
}

impl BatchWork for Creations {
    type Shard = Collection;
    type Request = Creation;
    type Answer = Record;
    type Error = RecordsError;

    const MAX_REQUESTS: usize = MAX_REQUESTS;
    const SECOND_AT: Option<usize> = Some(SECOND_AT);

    async fn run(&self, collection: &Collection, requests: &[Self::Request]) -> Outcomes<Self> {
        let new: Vec<NewRecord<'_>> = requests
            .iter()
            .map(|new| NewRecord { id: new.id, is_chosen: new.is_chosen, data: new.data.as_bytes() })
            .collect();
        let created = self.store.insert(collection, &new).await?;
        self.hub.wake();
        let mut created: HashMap<RecordId, Record> =
            created.into_iter().map(|record| (record.id, record)).collect();
        // Of two requests with one id the first has created it: rows are inserted in order.
        Ok(requests.iter().map(|new| created.remove(&new.id).ok_or(RecordsError::Taken)).collect())
    }
}

/// Looks records up in batches.
struct LookUps(RecordStore);

impl BatchWork for LookUps {
    type Shard = Collection;
    type Request = RecordId;
    type Answer = (Record, Position);
    type Error = RecordsError;

    const MAX_REQUESTS: usize = MAX_REQUESTS;

    async fn run(&self, collection: &Collection, requests: &[RecordId]) -> Outcomes<Self> {
        let ids: Vec<&str> = requests.iter().map(RecordId::as_str).collect();
        let found = self.0.read(collection, &ids).await?;
        let found: HashMap<RecordId, (Record, Position)> =
            found.into_iter().map(|(record, position)| (record.id, (record, position))).collect();
        Ok(requests.iter().map(|id| found.get(id).cloned().ok_or(RecordsError::NotFound)).collect())
    }
}
