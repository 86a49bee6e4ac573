//! Claims of idempotency keys: of two events with the same key, the first is stored.
//!
//! Keys are claimed in the transaction that stores the rows, so a key is claimed if and only if its event is stored.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::copy::CopyBatch;
use crate::db::{Database, DbError, Parameter, sql};
use crate::ingest::event::keys::Key;
use crate::ingest::event::row;

/// Claims of keys in the database.
#[derive(Debug)]
pub struct Claims {
    database: Database,
    window_s: f64,
}

/// The duplicates of a batch.
#[derive(Debug, Default)]
pub struct Claimed {
    duplicates: HashSet<u64>,
    /// Whether keys were claimed by the batch's own events: it was stored before.
    pub already_ours: bool,
}

impl Claimed {
    /// The number of duplicates.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.len() as u64
    }

    /// The indices of the duplicates, in order.
    pub fn indices(&self) -> Vec<u64> {
        let mut indices: Vec<u64> = self.duplicates.iter().copied().collect();
        indices.sort_unstable();
        indices
    }

    /// Whether the event at `index` is a duplicate.
    pub fn is_duplicate(&self, index: u64) -> bool {
        self.duplicates.contains(&index)
    }
}

impl Claims {
    /// Claims that hold for `window_s` seconds.
    pub fn new(database: &Database, window_s: u64) -> Self {
        Self { database: database.clone(), window_s: window_s as f64 }
    }

    /// Claims the keys of `batch`, and records the events whose keys are already claimed as duplicates.
    pub async fn claim(
        &self,
        transaction: &Transaction<'_>,
        batch: &CopyBatch<'_>,
    ) -> Result<Claimed, DbError> {
        let tuples = batch.tuples();
        let id_at = |index: u64| tuples.get(index as usize).and_then(|tuple| row::tuple_id(*tuple));
        // The first event of each key: one statement must not claim a key twice.
        let mut first_of: HashMap<Key, Uuid> = HashMap::with_capacity(batch.keys.len());
        for (index, key) in &batch.keys {
            if let Some(id) = id_at(*index) {
                first_of.entry(*key).or_insert(id);
            }
        }
        let (keys, ids): (Vec<Uuid>, Vec<Uuid>) =
            first_of.iter().map(|(key, id)| (Uuid::from_bytes(*key), *id)).unzip();
        let now = SystemTime::now();
        let parameters: [Parameter<'_>; 4] = [
            (&keys, Type::UUID_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&self.window_s, Type::FLOAT8),
            (&now, Type::TIMESTAMPTZ),
        ];
        let mut claimed = HashSet::with_capacity(keys.len());
        let claim = sql!(self.database, "ingest/claim_keys.sql");
        for row in transaction.query_typed(claim, &parameters).await? {
            claimed.insert(row.try_get::<_, Uuid>(0)?.into_bytes());
        }
        let mut owners = first_of;
        let mut already_ours = false;
        if claimed.len() < keys.len() {
            let select = sql!(self.database, "ingest/keys_owners.sql");
            let rows = transaction.query_typed(select, &[(&keys, Type::UUID_ARRAY)]).await?;
            // A key that is neither claimed nor present would let the next event with it be stored as well.
            if rows.len() < keys.len() {
                let (sent, stored) = (keys.len() as u64, rows.len() as u64);
                return Err(DbError::DroppedByTrigger { table: "ingest_keys", sent, stored });
            }
            for row in rows {
                let (key, owner) = (row.try_get::<_, Uuid>(0)?.into_bytes(), row.try_get(1)?);
                let before = owners.insert(key, owner);
                already_ours |= !claimed.contains(&key) && before == Some(owner);
            }
        }
        let mut duplicates = HashSet::new();
        let (mut skipped, mut first_ids) = (Vec::new(), Vec::new());
        for (index, key) in &batch.keys {
            let (Some(id), Some(owner)) = (id_at(*index), owners.get(key)) else { continue };
            if id != *owner {
                duplicates.insert(*index);
                skipped.push(id);
                first_ids.push(*owner);
            }
        }
        if !skipped.is_empty() {
            let parameters: [(&(dyn ToSql + Sync), Type); 2] =
                [(&skipped, Type::UUID_ARRAY), (&first_ids, Type::UUID_ARRAY)];
            transaction.execute_typed(sql!(self.database, "ingest/add_duplicates.sql"), &parameters).await?;
        }
        Ok(Claimed { duplicates, already_ours })
    }
}
