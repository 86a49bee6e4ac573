//! The tables of imports, and a part on its way into those of events, conversations and messages.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::message;
use super::model::{Allowed, Job, Kind, Mapping, Plan, Progress, State};
use super::parse::Reason;
use super::part::{Gathered, Part, Tuples, id_of};
use crate::db::{Connection, Database, DbError, Parameter, begin_in_time, in_time};
use crate::ingest::copy::copy_rows;
use crate::ingest::retry::Verdict;
use crate::ingest::row;

/// A part that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPart {
    pub(super) number: i32,
    pub(super) first_line: u64,
    pub(super) lines: u64,
    pub(super) end_offset: u64,
    pub(super) rejected: u64,
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// It is stored.
    Stored {
        /// Lines that were stored.
        stored: u64,
        /// Lines that were left out.
        rejected: u64,
    },
    /// It was there.
    There,
    /// It names conversations that are not there, and may yet come with a part before it.
    Early,
    /// The import is not wanted any more: its file is deleted.
    Gone,
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    database: Database,
    timeout: Duration,
}

impl Store {
    /// Over `database`, a share of the pool; a statement may take up to `timeout`.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, &self.database.sql(sql), parameters).await
    }

    /// Notes that a file is to be imported; false if it was noted before.
    pub(super) async fn begin(&self, job: &Job) -> Result<bool, DbError> {
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
        Ok(!self.query(include_str!("../../sql/imports/begin.sql"), &parameters).await?.is_empty())
    }

    /// The imports that are not done; of one file, if there is one.
    pub(super) async fn running(&self, file_id: Option<Uuid>) -> Result<Vec<Job>, DbError> {
        let rows =
            self.query(include_str!("../../sql/imports/running.sql"), &[(&file_id, Type::UUID)]).await?;
        rows.iter().map(read_job).collect()
    }

    /// The parts of an import that are stored, in order.
    pub(super) async fn parts(&self, file_id: Uuid) -> Result<Vec<StoredPart>, DbError> {
        let rows = self.query(include_str!("../../sql/imports/parts.sql"), &[(&file_id, Type::UUID)]).await?;
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

    /// Every part is stored.
    pub(super) async fn finish(&self, file_id: Uuid) -> Result<(), DbError> {
        self.query(include_str!("../../sql/imports/finish.sql"), &[(&file_id, Type::UUID)]).await?;
        Ok(())
    }

    /// The rest of the file cannot be had.
    pub(super) async fn fail(&self, file_id: Uuid, why: &str) -> Result<(), DbError> {
        let parameters: [Parameter<'_>; 2] = [(&file_id, Type::UUID), (&why, Type::TEXT)];
        self.query(include_str!("../../sql/imports/fail.sql"), &parameters).await?;
        Ok(())
    }

    /// Ends all imports of a user's files, and waits for the parts that are on their way.
    pub(super) async fn stop_all_of(&self, owner: Uuid, why: &str) -> Result<(), DbError> {
        let parameters: [Parameter<'_>; 2] = [(&owner, Type::UUID), (&why, Type::TEXT)];
        self.query(include_str!("../../sql/imports/stop_all_of.sql"), &parameters).await?;
        // In a transaction of its own: a part that looks at its owner's row must not find it locked by who waits for the part.
        let wait = include_str!("../../sql/imports/wait_for_parts_of.sql");
        self.query(wait, &[(&owner, Type::UUID)]).await?;
        Ok(())
    }

    /// How far an import is.
    pub(super) async fn progress(&self, file_id: Uuid) -> Result<Option<Progress>, DbError> {
        let rows =
            self.query(include_str!("../../sql/imports/progress.sql"), &[(&file_id, Type::UUID)]).await?;
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

    /// Up to `limit` lines after line `after` that were not stored, with their reasons.
    pub(super) async fn rejected(
        &self,
        file_id: Uuid,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, String)>, DbError> {
        let parameters: [Parameter<'_>; 3] =
            [(&file_id, Type::UUID), (&after, Type::INT8), (&limit, Type::INT8)];
        let rows = self.query(include_str!("../../sql/imports/rejected.sql"), &parameters).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Stores a part in one transaction. With `all_before` every part before it is stored, so that a conversation that is
    /// not there will not come any more. Of its rejected lines up to `noted` are kept.
    pub(super) async fn land(
        &self,
        job: &Job,
        part: &Part,
        all_before: bool,
        noted: usize,
    ) -> Result<Landed, DbError> {
        let mut connection = self.database.get().await?;
        // Each of its statements has the time of one.
        let landed =
            in_time(self.timeout * 4, self.land_with(&mut connection, job, part, all_before, noted)).await;
        if landed.is_err() {
            connection.discard();
        }
        landed
    }

    async fn land_with(
        &self,
        connection: &mut Connection,
        job: &Job,
        part: &Part,
        all_before: bool,
        noted: usize,
    ) -> Result<Landed, DbError> {
        let mut landing =
            Landing { transaction: begin_in_time(connection, self.timeout).await?, store: self, job, part };
        match landing.claim().await {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(Landed::There),
            Ok(None) => return Ok(Landed::Gone),
            Err(error) if error.constraint() == Some("import_parts_file_id_fkey") => return Ok(Landed::Gone),
            Err(error) => return Err(error),
        }
        let mut rejected: Vec<(u64, Reason)> = part.rejected.clone();
        let made = landing.add_conversations(&mut rejected).await?;
        let own = landing.own_conversations().await?;
        if own.len() < part.messages.conversations.len() && !all_before {
            // A part before this one may make them. The transaction is rolled back.
            return Ok(Landed::Early);
        }
        let messages = landing.chosen_messages(&own, &made, &mut rejected);
        let all_events = 0..part.events.len();
        landing.copy_events(all_events, &mut rejected).await?;
        landing.copy_messages(messages, &mut rejected).await?;
        landing.touch(&own).await?;
        let stored = landing.settle(rejected.as_mut_slice(), noted).await?;
        landing.transaction.commit().await?;
        Ok(Landed::Stored { stored, rejected: rejected.len() as u64 })
    }
}

fn read_job(row: &Row) -> Result<Job, DbError> {
    let allowed: Vec<String> = row.try_get("allowed")?;
    let plan = Plan {
        kind: row.try_get::<_, Option<&str>>("kind")?.and_then(Kind::parse),
        // What was written by `begin` reads back.
        mapping: Mapping::from_json(row.try_get("mapping")?).unwrap_or_default(),
        allowed: Allowed::which(|kind| allowed.iter().any(|word| word == kind.name())),
    };
    Ok(Job {
        file_id: row.try_get("file_id")?,
        owner: row.try_get("owner")?,
        plan,
        part_bytes: row.try_get::<_, i64>("part_bytes")? as u64,
        started_us: row.try_get("started_us")?,
    })
}

/// A part's transaction.
struct Landing<'a> {
    transaction: Transaction<'a>,
    store: &'a Store,
    job: &'a Job,
    part: &'a Part,
}

impl Landing<'_> {
    fn sql(&self, sql: &str) -> String {
        self.store.database.sql(sql)
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        Ok(self.transaction.query_typed(&self.sql(sql), parameters).await?)
    }

    /// Whether this attempt is the one that stores the part; none: nobody is to.
    async fn claim(&self) -> Result<Option<bool>, DbError> {
        let Part { number, first_line, lines, bytes, end_offset, .. } = *self.part;
        let [first_line, lines, bytes, end_offset] = [first_line, lines, bytes, end_offset].map(|n| n as i64);
        let parameters: [Parameter<'_>; 6] = [
            (&self.job.file_id, Type::UUID),
            (&number, Type::INT4),
            (&first_line, Type::INT8),
            (&lines, Type::INT8),
            (&bytes, Type::INT8),
            (&end_offset, Type::INT8),
        ];
        let rows = self.query(include_str!("../../sql/imports/claim_part.sql"), &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let is_running: bool = row.try_get("is_running")?;
        Ok(if is_running { Some(row.try_get("is_claimed")?) } else { None })
    }

    /// Makes the part's conversations: those that were made, with their lines.
    async fn add_conversations(
        &self,
        rejected: &mut Vec<(u64, Reason)>,
    ) -> Result<HashMap<Uuid, u64>, DbError> {
        let new = &self.part.conversations;
        if new.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<Uuid> = new.iter().map(|new| new.id).collect();
        let titles: Vec<&str> = new.iter().map(|new| new.title.as_str()).collect();
        let metadata: Vec<&str> = new.iter().map(|new| new.metadata.as_str()).collect();
        let times: Vec<i64> = new.iter().map(|new| new.at_us).collect();
        let parameters: [Parameter<'_>; 5] = [
            (&ids, Type::UUID_ARRAY),
            (&titles, Type::TEXT_ARRAY),
            (&metadata, Type::TEXT_ARRAY),
            (&times, Type::INT8_ARRAY),
            (&self.job.owner, Type::UUID),
        ];
        let rows = self.query(include_str!("../../sql/imports/add_conversations.sql"), &parameters).await?;
        let mut made = HashSet::with_capacity(rows.len());
        for row in &rows {
            made.insert(row.try_get::<_, Uuid>(0)?);
        }
        let mut lines = HashMap::with_capacity(made.len());
        for new in new {
            // Of two lines with one id the first has made it.
            if made.remove(&new.id) {
                lines.insert(new.id, new.line);
            } else {
                rejected.push((new.line, "there is a conversation with this id".into()));
            }
        }
        Ok(lines)
    }

    /// Which of the conversations that messages name are there and the owner's.
    async fn own_conversations(&self) -> Result<HashSet<Uuid>, DbError> {
        let named: Vec<Uuid> =
            self.part.messages.conversations.iter().map(|named| named.conversation).collect();
        if named.is_empty() {
            return Ok(HashSet::new());
        }
        let parameters: [Parameter<'_>; 2] = [(&named, Type::UUID_ARRAY), (&self.job.owner, Type::UUID)];
        let rows = self.query(include_str!("../../sql/imports/lock_conversations.sql"), &parameters).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The runs of messages whose conversations are there: another's, or one that a later line makes, is not.
    fn chosen_messages(
        &self,
        own: &HashSet<Uuid>,
        made: &HashMap<Uuid, u64>,
        rejected: &mut Vec<(u64, Reason)>,
    ) -> Vec<Range<usize>> {
        let messages = &self.part.messages;
        let from: Vec<Option<u64>> = messages
            .conversations
            .iter()
            .map(|named| {
                let line = made.get(&named.conversation).copied().unwrap_or(0);
                own.contains(&named.conversation).then_some(line)
            })
            .collect();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (place, of) in messages.of.iter().enumerate() {
            let line = messages.tuples.line(place);
            let is_chosen = from.get(*of as usize).copied().flatten().is_some_and(|from| from < line);
            match runs.last_mut() {
                _ if !is_chosen => rejected.push((line, "there is no such conversation".into())),
                Some(run) if run.end == place => run.end += 1,
                _ => runs.push(place..place + 1),
            }
        }
        runs
    }

    async fn copy_events(
        &mut self,
        all: Range<usize>,
        rejected: &mut Vec<(u64, Reason)>,
    ) -> Result<(), DbError> {
        let copy =
            self.sql(include_str!("../../sql/ingest/copy_requests.sql")).replace("{columns}", row::COLUMNS);
        let part = self.part;
        self.copy(&copy, &part.events, vec![all], rejected).await
    }

    async fn copy_messages(
        &mut self,
        runs: Vec<Range<usize>>,
        rejected: &mut Vec<(u64, Reason)>,
    ) -> Result<(), DbError> {
        let copy = self
            .sql(include_str!("../../sql/imports/copy_messages.sql"))
            .replace("{columns}", message::COLUMNS);
        let part = self.part;
        self.copy(&copy, &part.messages.tuples, runs, rejected).await
    }

    /// Copies runs of tuples; a row that Postgres refuses is found by halving, and left out.
    async fn copy(
        &mut self,
        copy: &str,
        tuples: &Tuples,
        runs: Vec<Range<usize>>,
        rejected: &mut Vec<(u64, Reason)>,
    ) -> Result<(), DbError> {
        let mut waiting = vec![runs];
        while let Some(runs) = waiting.pop() {
            let count: usize = runs.iter().map(ExactSizeIterator::len).sum();
            if count == 0 {
                continue;
            }
            let savepoint = self.transaction.savepoint("part").await?;
            let stretches = runs.iter().map(|run| tuples.stretch(run.clone()));
            let copied = copy_rows(&savepoint, copy, stretches).await.map_err(DbError::from);
            match copied {
                Ok(()) => savepoint.commit().await?,
                Err(error) if Verdict::on(&error) == Verdict::Bisect => {
                    savepoint.rollback().await?;
                    self.transaction.batch_execute(include_str!("../../sql/imports/release.sql")).await?;
                    if let ([run], 1) = (runs.as_slice(), count) {
                        let state = error.state_code().unwrap_or_default();
                        let reason = format!("Postgres refused it (SQLSTATE {state})");
                        rejected.push((tuples.line(run.start), Cow::Owned(reason)));
                    } else {
                        let (first, second) = halves(runs, count / 2);
                        waiting.extend([second, first]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the conversations that got messages, and tells whoever follows them.
    async fn touch(&self, own: &HashSet<Uuid>) -> Result<(), DbError> {
        let touched: Vec<&Gathered> = self
            .part
            .messages
            .conversations
            .iter()
            .filter(|named| own.contains(&named.conversation))
            .collect();
        if touched.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = touched.iter().map(|touched| touched.conversation).collect();
        let newest: Vec<i64> = touched.iter().map(|touched| touched.newest_us).collect();
        let first: Vec<Uuid> = touched.iter().map(|touched| id_of(self.job, touched.first_line)).collect();
        let last: Vec<Uuid> = touched.iter().map(|touched| id_of(self.job, touched.last_line)).collect();
        let counts: Vec<i64> = touched.iter().map(|touched| touched.count).collect();
        let parameters: [Parameter<'_>; 5] = [
            (&ids, Type::UUID_ARRAY),
            (&newest, Type::INT8_ARRAY),
            (&first, Type::UUID_ARRAY),
            (&last, Type::UUID_ARRAY),
            (&counts, Type::INT8_ARRAY),
        ];
        self.query(include_str!("../../sql/imports/touch_conversations.sql"), &parameters).await?;
        Ok(())
    }

    /// Writes down what became of the part's lines: how many were stored.
    async fn settle(&self, rejected: &mut [(u64, Reason)], noted: usize) -> Result<u64, DbError> {
        rejected.sort_unstable_by_key(|(line, _)| *line);
        let part = self.part;
        let entries = part.events.len() + part.conversations.len() + part.messages.tuples.len();
        let stored = (entries + part.rejected.len()).saturating_sub(rejected.len()) as u64;
        let lines: Vec<i64> = rejected.iter().take(noted).map(|(line, _)| *line as i64).collect();
        let reasons: Vec<&str> = rejected.iter().take(noted).map(|(_, reason)| reason.as_ref()).collect();
        let (stored_count, rejected_count) = (stored as i64, rejected.len() as i64);
        let parameters: [Parameter<'_>; 6] = [
            (&self.job.file_id, Type::UUID),
            (&part.number, Type::INT4),
            (&stored_count, Type::INT8),
            (&rejected_count, Type::INT8),
            (&lines, Type::INT8_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
        ];
        self.query(include_str!("../../sql/imports/settle_part.sql"), &parameters).await?;
        Ok(stored)
    }
}

/// The first `count` of what runs hold, and the rest.
fn halves(runs: Vec<Range<usize>>, count: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), count);
    for run in runs {
        let middle = run.start + left.min(run.len());
        left -= middle - run.start;
        if middle > run.start {
            first.push(run.start..middle);
        }
        if middle < run.end {
            second.push(middle..run.end);
        }
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn halves_are_all_that_was_there_in_order(lengths in prop::collection::vec((0_usize..3, 1_usize..5), 1..6), at in 0_usize..30) {
            let mut next = 0;
            let runs: Vec<Range<usize>> = lengths.iter().map(|(gap, length)| {
                let run = next + gap..next + gap + length;
                next = run.end;
                run
            }).collect();
            let all: Vec<usize> = runs.iter().cloned().flatten().collect();
            let (first, second) = halves(runs, at);
            let first: Vec<usize> = first.into_iter().flatten().collect();
            prop_assert_eq!(first.len(), at.min(all.len()));
            prop_assert_eq!([first, second.into_iter().flatten().collect()].concat(), all);
        }
    }
}
