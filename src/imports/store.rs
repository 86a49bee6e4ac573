//! The tables of imports.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::model::{Allowed, ImportJob, Kind, Mapping, Plan, Progress, State};
use crate::db::{Database, DbError, Parameter, sql};

/// A stored part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPart {
    pub(super) number: i32,
    pub(super) first_line: u64,
    pub(super) lines: u64,
    pub(super) end_offset: u64,
    pub(super) rejected: u64,
}

#[derive(Debug, Clone)]
pub(super) struct ImportStore {
    pub(super) database: Database,
    pub(super) timeout: Duration,
}

impl ImportStore {
    /// The tables of `database`, with a time limit for each statement.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }

    /// Records a new import, and sets the stored size of its parts; returns false if it was recorded before.
    pub(super) async fn begin(&self, job: &mut ImportJob) -> Result<bool, DbError> {
        let (kind, mapping) = (job.plan.kind.map(Kind::name), job.plan.mapping.to_json());
        let (allowed, part_bytes) = (job.plan.allowed.names(), job.part_bytes as i64);
        let parameters: [Parameter<'_>; 6] = [
            (&job.file_id, Type::UUID),
            (&kind, Type::TEXT),
            (&mapping, Type::TEXT),
            (&allowed, Type::TEXT_ARRAY),
            (&part_bytes, Type::INT8),
            (&job.started_us, Type::INT8),
        ];
        let rows = self.query(sql!(self.database, "imports/begin.sql"), &parameters).await?;
        let Some(row) = rows.first() else {
            return match self.progress(job.file_id).await? {
                Some(_) => Ok(false),
                None => Err(DbError::DroppedByTrigger { table: "imports", sent: 1, stored: 0 }),
            };
        };
        job.part_bytes = row.try_get::<_, i64>("part_bytes")? as u64;
        Ok(true)
    }

    /// The unfinished imports, or the one of a file.
    pub(super) async fn running(&self, file_id: Option<Uuid>) -> Result<Vec<ImportJob>, DbError> {
        let rows = self.query(sql!(self.database, "imports/running.sql"), &[(&file_id, Type::UUID)]).await?;
        rows.iter().map(read_job).collect()
    }

    /// The stored parts of an import, in order.
    pub(super) async fn parts(&self, file_id: Uuid) -> Result<Vec<StoredPart>, DbError> {
        let rows = self.query(sql!(self.database, "imports/parts.sql"), &[(&file_id, Type::UUID)]).await?;
        let part = |row: &Row| {
            Ok(StoredPart {
                number: row.try_get("number")?,
                first_line: row.try_get::<_, i64>("first_line")? as u64,
                lines: row.try_get::<_, i64>("lines")? as u64,
                end_offset: row.try_get::<_, i64>("end_offset")? as u64,
                rejected: row.try_get::<_, i64>("rejected")? as u64,
            })
        };
        rows.iter().map(part).collect()
    }

    /// Records that every line is stored or rejected.
    pub(super) async fn finish(&self, file_id: Uuid) -> Result<(), DbError> {
        self.query(sql!(self.database, "imports/finish.sql"), &[(&file_id, Type::UUID)]).await?;
        Ok(())
    }

    /// Records that the import has failed.
    pub(super) async fn fail(&self, file_id: Uuid, why: &str) -> Result<(), DbError> {
        let parameters: [Parameter<'_>; 2] = [(&file_id, Type::UUID), (&why, Type::TEXT)];
        self.query(sql!(self.database, "imports/fail.sql"), &parameters).await?;
        Ok(())
    }

    /// Ends all imports of a user's files, waits for the parts under way, and records the totals.
    pub(super) async fn stop_all_of(&self, owner: Uuid, why: &str) -> Result<(), DbError> {
        let parameters: [Parameter<'_>; 2] = [(&owner, Type::UUID), (&why, Type::TEXT)];
        self.query(sql!(self.database, "imports/stop_all_of.sql"), &parameters).await?;
        // In a transaction of its own: a part that locks its owner's row must not wait for the transaction that waits for the
        // part.
        let wait = sql!(self.database, "imports/wait_for_parts_of.sql");
        self.query(wait, &[(&owner, Type::UUID)]).await?;
        self.query(sql!(self.database, "imports/count_parts_of.sql"), &[(&owner, Type::UUID)]).await?;
        Ok(())
    }

    /// The progress of an import.
    pub(super) async fn progress(&self, file_id: Uuid) -> Result<Option<Progress>, DbError> {
        let rows = self.query(sql!(self.database, "imports/progress.sql"), &[(&file_id, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Progress {
            file_id,
            state: State::parse(row.try_get("state")?),
            bytes: row.try_get("bytes")?,
            total_bytes: row.try_get("total_bytes")?,
            lines: row.try_get("lines")?,
            stored: row.try_get("stored")?,
            rejected: row.try_get("rejected")?,
            started_at: row.try_get("started")?,
            finished_at: row.try_get("finished")?,
            error: row.try_get("error")?,
        }))
    }

    /// Up to `limit` rejected lines after line `after`, with the reasons.
    pub(super) async fn rejected(
        &self,
        file_id: Uuid,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, String)>, DbError> {
        let parameters: [Parameter<'_>; 3] =
            [(&file_id, Type::UUID), (&after, Type::INT8), (&limit, Type::INT8)];
        let rows = self.query(sql!(self.database, "imports/rejected.sql"), &parameters).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

fn read_job(row: &Row) -> Result<ImportJob, DbError> {
    let allowed: Vec<String> = row.try_get("allowed")?;
    let plan = Plan {
        kind: row.try_get::<_, Option<&str>>("kind")?.and_then(Kind::parse),
        mapping: Mapping::from_json(row.try_get("mapping")?)
            .map_err(|_| DbError::Unexpected("a mapping that cannot be read"))?,
        allowed: Allowed::which(|kind| allowed.iter().any(|word| word == kind.name())),
    };
    Ok(ImportJob {
        file_id: row.try_get("file_id")?,
        owner: row.try_get("owner")?,
        plan,
        part_bytes: row.try_get::<_, i64>("part_bytes")? as u64,
        started_us: row.try_get("started_us")?,
    })
}
