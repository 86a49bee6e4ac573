//! The collections. Looked-up collections are cached, so that a request needs a statement for its record only.
//!
//! A node with typed collections hears of their changes by the feed. Another one would serve a collection that has got hidden fields for ever, so a
//! request looks each collection up again after [`LOOK_UP_AGAIN`]. An idle node asks for nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// The time for which a looked-up collection is used without another look-up.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(2);

/// The cached collections.
#[derive(Debug)]
pub(super) struct Collections {
    store: RecordStore,
    /// At most `max` of them.
    known: RwLock<HashMap<Name, Known>>,
    max: i64,
}

/// A cached collection, and the time of its last look-up.
#[derive(Debug)]
struct Known {
    collection: Arc<Collection>,
    looked_up: Instant,
}

impl Collections {
    pub(super) fn new(store: RecordStore, max: i64) -> Self {
        Self { store, known: RwLock::default(), max }
    }

    /// The collection, if it exists.
    pub(super) async fn find(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        if let Some(cached) = self.cached(name) {
            return Ok(cached);
        }
        match self.store.find_collection(name).await? {
            Some(FoundCollection { is_private: false, id }) => Ok(self.remember(name, id)),
            other => {
                self.forget(name);
                Err(match other {
                    Some(_) => RecordsError::PrivateCollection,
                    None => RecordsError::UnknownCollection,
                })
            }
        }
    }

    /// The cached collection. Of the requests that find it too old one looks it up again, and the others use it meanwhile.
    fn cached(&self, name: &Name) -> Option<Arc<Collection>> {
        let used = |known: &Known| {
            (known.looked_up.elapsed() < LOOK_UP_AGAIN).then(|| Arc::clone(&known.collection))
        };
        if let Some(cached) = used(self.known.read().get(name)?) {
            return Some(cached);
        }
        let mut known = self.known.write();
        let known = known.get_mut(name)?;
        let cached = used(known);
        if cached.is_none() {
            known.looked_up = Instant::now();
        }
        cached
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
        self.known.write().retain(|name, known| numbers.get(name) == Some(&known.collection.id));
    }

    fn remember(&self, name: &Name, id: i32) -> Arc<Collection> {
        let mut known = self.known.write();
        if let Some(known) = known.get_mut(name).filter(|known| known.collection.id == id) {
            known.looked_up = Instant::now();
            return Arc::clone(&known.collection);
        }
        let collection = Arc::new(Collection::new(self.store.database(), id, name));
        // Another node may allow more collections than this one: those are looked up each time.
        if (known.len() as i64) < self.max {
            let looked_up = Instant::now();
            known.insert(name.clone(), Known { collection: Arc::clone(&collection), looked_up });
        }
        collection
    }
}
