//! The collections. Looked-up collections are cached, so that a request needs a statement for its record only.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::store::{FoundCollection, RecordStore};
use super::{Name, RecordsError};
use crate::db::{Database, Shard, sql};
use crate::realtime::change::{Action, with_feed_row};

/// A collection, and its statements.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) id: i32,
    /// The topic of its changes in the feed.
    pub(super) topic: String,
    pub(super) create: String,
    pub(super) read: String,
    pub(super) lock: String,
    pub(super) update: String,
    pub(super) delete: String,
    pub(super) list: String,
    pub(super) count: String,
}

impl Shard for Collection {
    fn number(&self) -> i32 {
        self.id
    }
}

impl Collection {
    /// The statements of a collection that every face serves.
    pub(super) fn new(database: &Database, id: i32, name: &Name) -> Self {
        Self::with_topic(database, id, name.as_str().to_owned())
    }

    /// The same with another topic.
    pub(super) fn with_topic(database: &Database, id: i32, topic: String) -> Self {
        let of_table = |text: &str| database.sql(text).replace("{table}", &table(database, id));
        let fed = |text: &str, action| of_table(&with_feed_row(text, action, ""));
        // Without its comment, which would hide the text behind it.
        let expect = sql!("records/expect_created.sql").lines();
        let expect: String = expect.filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
        Self {
            id,
            topic,
            create: of_table(&with_feed_row(sql!("records/create.sql"), Action::Create, &expect)),
            read: of_table(&sql!("records/read.sql").replace("{now}", sql!("realtime/now.sql"))),
            lock: of_table(sql!("records/lock.sql")),
            update: fed(sql!("records/update.sql"), Action::Update),
            delete: fed(sql!("records/delete.sql"), Action::Delete),
            list: of_table(sql!("records/list.sql")),
            count: of_table(sql!("records/count.sql")),
        }
    }
}

/// The table of the collection with this number.
pub(super) fn table(database: &Database, id: i32) -> String {
    database.sql(&format!("{{schema}}.records_{id}"))
}

/// The cached collections.
#[derive(Debug)]
pub(super) struct Collections {
    store: RecordStore,
    /// At most `max` of them.
    known: RwLock<HashMap<Name, Arc<Collection>>>,
    max: i64,
}

impl Collections {
    pub(super) fn new(store: RecordStore, max: i64) -> Self {
        Self { store, known: RwLock::default(), max }
    }

    /// The collection, if it exists.
    pub(super) async fn find(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        if let Some(known) = self.known.read().get(name) {
            return Ok(Arc::clone(known));
        }
        match self.store.find_collection(name).await? {
            Some(FoundCollection { is_private: true, .. }) => Err(RecordsError::PrivateCollection),
            Some(FoundCollection { id, .. }) => Ok(self.remember(name, id)),
            None => Err(RecordsError::UnknownCollection),
        }
    }

    /// The collection, created if it does not exist.
    pub(super) async fn find_or_create(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        match self.find(name).await {
            Err(RecordsError::UnknownCollection) => {
                let made = self.store.create_collection(name, self.max).await?;
                match made.ok_or(RecordsError::TooManyCollections(self.max))? {
                    FoundCollection { is_private: true, .. } => Err(RecordsError::PrivateCollection),
                    FoundCollection { id, .. } => Ok(self.remember(name, id)),
                }
            }
            found => found,
        }
    }

    /// Removes a collection whose table was dropped from the cache.
    pub(super) fn forget(&self, name: &Name) {
        self.known.write().remove(name);
    }

    /// Forgets the collections that have another number than these, or are not among them.
    pub(super) fn keep(&self, numbers: &HashMap<Name, i32>) {
        self.known.write().retain(|name, collection| numbers.get(name) == Some(&collection.id));
    }

    fn remember(&self, name: &Name, id: i32) -> Arc<Collection> {
        let collection = Arc::new(Collection::new(self.store.database(), id, name));
        let mut known = self.known.write();
        // Another node may allow more collections than this one: those are looked up each time.
        if (known.len() as i64) < self.max {
            known.insert(name.clone(), Arc::clone(&collection));
        }
        collection
    }
}
