//! Payloads that are too large for a row of `jsonb`: the text of a JSON object, in parts of [`PART_BYTES`].
//!
//! Parts are written and read one at a time, so a payload is in memory once while it is written, and never whole while it is read. Payloads
//! are not filtered, listed, changed or published.

mod store;

use bytes::Bytes;

use super::{Data, Name, RecordId, Records, RecordsError};
use crate::db::Database;
use crate::time::Millis;
use store::PayloadStore;

/// Bytes of a part.
pub const PART_BYTES: usize = 1 << 20;

/// Large payloads, with a quota of the pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct LargePayloads {
    records: Records,
    store: PayloadStore,
}

/// A payload, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargePayload {
    /// The collection's number.
    collection: i32,
    /// Its id.
    pub id: RecordId,
    /// The time of its creation.
    pub created: Millis,
    /// Bytes of its content.
    pub bytes: i64,
    /// Its parts.
    pub parts: i32,
}

impl LargePayload {
    /// The members that the service makes, as the beginning of an object: the content's own follow.
    pub fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(128);
        super::model::write_head(&mut head, &self.id, self.created, self.created);
        head
    }
}

impl LargePayloads {
    /// Payloads in the collections of `records`.
    pub fn new(records: &Records, database: &Database) -> Self {
        Self { records: records.clone(), store: PayloadStore::new(database, database.statement_timeout()) }
    }

    /// Stores an object.
    ///
    /// # Errors
    ///
    /// [`RecordsError`]; nothing is stored then, unless the answer to the commit was lost.
    pub async fn create(
        &self,
        name: &Name,
        id: Option<RecordId>,
        data: &Data,
    ) -> Result<LargePayload, RecordsError> {
        let collection = self.records.collection_to_write(name).await?.id;
        let created = Millis::now();
        let bytes = data.as_bytes().len();
        let payload = LargePayload {
            collection,
            id: id.unwrap_or_else(|| RecordId::make(created)),
            created,
            bytes: bytes as i64,
            parts: bytes.div_ceil(PART_BYTES) as i32,
        };
        match self.store.insert(&payload, data.as_bytes().chunks(PART_BYTES)).await? {
            true => Ok(payload),
            false => Err(RecordsError::Taken),
        }
    }

    /// Looks a payload up.
    ///
    /// # Errors
    ///
    /// [`RecordsError`].
    pub async fn get(&self, name: &Name, id: RecordId) -> Result<LargePayload, RecordsError> {
        let collection = self.records.collection_to_read(name).await?.id;
        self.store.find(collection, id).await?.ok_or(RecordsError::NotFound)
    }

    /// A part of its content, from 0. `None`: it was deleted meanwhile.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Database`].
    pub async fn part(&self, payload: &LargePayload, part: i32) -> Result<Option<Bytes>, RecordsError> {
        Ok(self.store.part(payload, part).await?)
    }
}
