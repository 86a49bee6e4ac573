//! Claims keys for the events of a batch: of two events with one key the first is stored.
//!
//! Keys are claimed in the transaction that stores the rows, so a key is taken if and only if its event is stored.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::copy::CopyBatch;
use crate::db::{Database, DbError, Parameter};
use crate::ingest::event::keys::Key;
use crate::ingest::event::row::Tuple;

/// The statements.
#[derive(Debug)]
pub struct Claims {
    claim: String,
    owners: String,
    add_duplicates: String,
    window_s: f64,
}

/// Which events of a batch are not to be stored.
#[derive(Debug, Default)]
pub struct Claimed {
    duplicates: HashSet<u64>,
    /// Keys were taken by these very events: the batch was stored before.
    pub already_ours: bool,
}

impl Claimed {
    /// How many they are.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.len() as u64
    }

    /// Their places in the batch, in order.
    pub fn places(&self) -> Vec<u64> {
        let mut places: Vec<u64> = self.duplicates.iter().copied().collect();
        places.sort_unstable();
        places
    }

    /// Whether the event at this place of the batch is one of them.
    pub fn is_duplicate(&self, place: u64) -> bool {
        self.duplicates.contains(&place)
    }
}

impl Claims {
    /// Claims that hold for `window_s` seconds.
    pub fn new(database: &Database, window_s: u64) -> Self {
        Self {
            claim: database.sql(include_str!("../../../sql/ingest/claim_keys.sql")),
            owners: database.sql(include_str!("../../../sql/ingest/keys_owners.sql")),
            add_duplicates: database.sql(include_str!("../../../sql/ingest/add_duplicates.sql")),
            window_s: window_s as f64,
        }
    }

    /// Claims the keys of `batch`, and notes the events whose keys are taken.
    pub async fn claim(
        &self,
        transaction: &Transaction<'_>,
        batch: &CopyBatch<'_>,
    ) -> Result<Claimed, DbError> {
        let tuples = batch.tuples();
        let id_at = |place: u64| tuples.get(place as usize).and_then(|tuple| tuple_id(*tuple));
        // The first event of each key; a statement must not claim one twice.
        let mut first_of: HashMap<Key, (u64, Uuid)> = HashMap::with_capacity(batch.keys.len());
        for (place, key) in &batch.keys {
            if let Some(id) = id_at(*place) {
                first_of.entry(*key).or_insert((*place, id));
            }
        }
        let (keys, ids): (Vec<Uuid>, Vec<Uuid>) =
            first_of.iter().map(|(key, (_, id))| (Uuid::from_bytes(*key), *id)).unzip();
        let now = SystemTime::now();
        let parameters: [Parameter<'_>; 4] = [
            (&keys, Type::UUID_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&self.window_s, Type::FLOAT8),
            (&now, Type::TIMESTAMPTZ),
        ];
        let mut claimed = HashSet::with_capacity(keys.len());
        for row in transaction.query_typed(&self.claim, &parameters).await? {
            claimed.insert(row.try_get::<_, Uuid>(0)?.into_bytes());
        }
        let mut owners: HashMap<Key, Uuid> = first_of.iter().map(|(key, (_, id))| (*key, *id)).collect();
        let mut already_ours = false;
        if claimed.len() < keys.len() {
            let rows = transaction.query_typed(&self.owners, &[(&keys, Type::UUID_ARRAY)]).await?;
            // One that is neither claimed nor there would be stored again with the next event of its key.
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
        let (mut left_out, mut first_ids) = (Vec::new(), Vec::new());
        for (place, key) in &batch.keys {
            let (Some(id), Some(owner)) = (id_at(*place), owners.get(key)) else { continue };
            if id != *owner {
                duplicates.insert(*place);
                left_out.push(id);
                first_ids.push(*owner);
            }
        }
        if !left_out.is_empty() {
            let parameters: [(&(dyn ToSql + Sync), Type); 2] =
                [(&left_out, Type::UUID_ARRAY), (&first_ids, Type::UUID_ARRAY)];
            transaction.execute_typed(&self.add_duplicates, &parameters).await?;
        }
        Ok(Claimed { duplicates, already_ours })
    }
}

fn tuple_id(tuple: Tuple<'_>) -> Option<Uuid> {
    Uuid::from_slice(tuple.field(0)?).ok()
}
