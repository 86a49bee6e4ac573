//! Which collections there are. What was looked up is remembered, so that a request asks for its record only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::store::Store;
use super::{Name, RecordsError};
use crate::db::{Database, Shard};
use crate::realtime::change::{Action, feeding};

/// A collection, and its statements.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) id: i32,
    pub(super) name: Name,
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
    pub(super) fn new(database: &Database, id: i32, name: &Name) -> Self {
        let sql = |text: &str| database.sql(text).replace("{table}", &table(database, id));
        let fed = |text: &str, action| sql(&feeding(text, action, ""));
        // Without its comment, which would hide what comes behind it.
        let expect = include_str!("../../sql/records/expect_created.sql").lines();
        let expect: String = expect.filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
        Self {
            id,
            name: name.clone(),
            create: sql(&feeding(include_str!("../../sql/records/create.sql"), Action::Create, &expect)),
            read: sql(include_str!("../../sql/records/read.sql")),
            lock: sql(include_str!("../../sql/records/lock.sql")),
            update: fed(include_str!("../../sql/records/update.sql"), Action::Update),
            delete: fed(include_str!("../../sql/records/delete.sql"), Action::Delete),
            list: sql(include_str!("../../sql/records/list.sql")),
            count: sql(include_str!("../../sql/records/count.sql")),
        }
    }
}

/// The table of the collection with this number.
pub(super) fn table(database: &Database, id: i32) -> String {
    database.sql(&format!("{{schema}}.records_{id}"))
}

/// The collections that are known.
#[derive(Debug)]
pub(super) struct Collections {
    store: Store,
    /// At most `max` of them.
    known: RwLock<HashMap<Name, Arc<Collection>>>,
    max: i64,
}

impl Collections {
    pub(super) fn new(store: Store, max: i64) -> Self {
        Self { store, known: RwLock::default(), max }
    }

    /// The collection, if it is there.
    pub(super) async fn find(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(known));
        }
        match self.store.find_collection(name).await? {
            Some(id) => Ok(self.remember(name, id)),
            None => Err(RecordsError::UnknownCollection),
        }
    }

    /// The collection, made if it is not there.
    pub(super) async fn find_or_make(&self, name: &Name) -> Result<Arc<Collection>, RecordsError> {
        match self.find(name).await {
            Err(RecordsError::UnknownCollection) => {
                let id = self.store.make_collection(name, self.max).await?;
                Ok(self.remember(name, id.ok_or(RecordsError::TooManyCollections(self.max))?))
            }
            found => found,
        }
    }

    /// Forgets a collection whose table is gone.
    pub(super) fn forget(&self, name: &Name) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn remember(&self, name: &Name, id: i32) -> Arc<Collection> {
        let collection = Arc::new(Collection::new(self.store.database(), id, name));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Another node may allow more collections than this one: they are looked up each time.
        if (known.len() as i64) < self.max {
            known.insert(name.clone(), Arc::clone(&collection));
        }
        collection
    }
}
