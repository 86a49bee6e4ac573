//! Large payloads in Postgres.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::LargePayload;
use crate::db::{Connection, Database, DbError, Parameter, begin_in_time, in_time, sql};
use crate::records::RecordId;

#[derive(Debug, Clone)]
pub(super) struct PayloadStore {
    database: Database,
    timeout: Duration,
}

impl PayloadStore {
    /// A store over `database`, each of whose statements may take up to `timeout`.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// Stores a payload and its parts in one transaction; false if its id is taken.
    pub(super) async fn insert<'a>(
        &self,
        payload: &LargePayload,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Result<bool, DbError> {
        let mut connection = self.database.get().await?;
        // Each statement has its own time.
        let time = self.timeout * u32::try_from(payload.parts).unwrap_or(u32::MAX).saturating_add(1);
        let inserted = in_time(time, self.insert_over(&mut connection, payload, parts)).await;
        connection.release(inserted)
    }

    async fn insert_over<'a>(
        &self,
        connection: &mut Connection,
        payload: &LargePayload,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Result<bool, DbError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        let (id, created) = (payload.id.as_str(), SystemTime::from(payload.created));
        let head: [Parameter<'_>; 5] = [
            (&payload.collection, Type::INT4),
            (&id, Type::TEXT),
            (&created, Type::TIMESTAMPTZ),
            (&payload.bytes, Type::INT8),
            (&payload.parts, Type::INT4),
        ];
        let add = sql!(self.database, "records/add_large.sql");
        let stored = transaction.execute_typed(add, &head).await?;
        if stored == 0 {
            let find = sql!(self.database, "records/find_large.sql");
            let parameters: [Parameter<'_>; 2] = [(&payload.collection, Type::INT4), (&id, Type::TEXT)];
            return match transaction.query_typed(find, &parameters).await?.is_empty() {
                true => Err(DbError::DroppedByTrigger { table: "large_payloads", sent: 1, stored }),
                false => Ok(false),
            };
        }
        let add_part = sql!(self.database, "records/add_large_part.sql");
        for (part, content) in parts.enumerate() {
            let part = part as i32;
            let parameters: [Parameter<'_>; 4] = [
                (&payload.collection, Type::INT4),
                (&id, Type::TEXT),
                (&part, Type::INT4),
                (&content, Type::BYTEA),
            ];
            let stored = transaction.execute_typed(add_part, &parameters).await?;
            if stored != 1 {
                return Err(DbError::DroppedByTrigger { table: "large_payload_parts", sent: 1, stored });
            }
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// A payload, without its content.
    pub(super) async fn find(&self, collection: i32, id: RecordId) -> Result<Option<LargePayload>, DbError> {
        let find = sql!(self.database, "records/find_large.sql");
        let parameters: [Parameter<'_>; 2] = [(&collection, Type::INT4), (&id.as_str(), Type::TEXT)];
        let rows = self.database.query_in_time(self.timeout, find, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(LargePayload {
            collection,
            id,
            created: row.try_get::<_, SystemTime>(0)?.into(),
            bytes: row.try_get(1)?,
            parts: row.try_get(2)?,
        }))
    }

    /// A part of a payload's content.
    pub(super) async fn part(&self, payload: &LargePayload, part: i32) -> Result<Option<Bytes>, DbError> {
        let read = sql!(self.database, "records/large_part.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&payload.collection, Type::INT4), (&payload.id.as_str(), Type::TEXT), (&part, Type::INT4)];
        let rows = self.database.query_in_time(self.timeout, read, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Bytes::copy_from_slice(row.try_get::<_, &[u8]>(0)?)))
    }
}
