//! A part's transaction.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::PartOutcome;
use crate::bisect;
use crate::db::{Connection, DbError, Parameter, Transaction, begin_in_time, in_time, sql};
use crate::imports::message;
use crate::imports::model::ImportJob;
use crate::imports::parse::Rejection;
use crate::imports::part::{ConversationMessages, Part, Tuples, id_of};
use crate::imports::store::ImportStore;
use crate::ingest::WriteVerdict as Verdict;
use crate::ingest::row;
use crate::ingest::{copy_rows, set_again};

impl ImportStore {
    /// Stores a part in one transaction. With `all_before`, every earlier part is stored, so a missing conversation stays
    /// missing. Up to `noted` of its rejected lines are recorded.
    pub(in crate::imports) async fn write(
        &self,
        job: &ImportJob,
        part: &Part,
        all_before: bool,
        noted: usize,
    ) -> Result<PartOutcome, DbError> {
        let mut connection = self.database.get().await?;
        // Its statements share one limit.
        let written =
            in_time(self.timeout * 4, self.write_with(&mut connection, job, part, all_before, noted)).await;
        if written.is_err() {
            connection.discard();
        }
        written
    }

    async fn write_with(
        &self,
        connection: &mut Connection,
        job: &ImportJob,
        part: &Part,
        all_before: bool,
        noted: usize,
    ) -> Result<PartOutcome, DbError> {
        let mut writing = PartTransaction {
            transaction: begin_in_time(connection, self.timeout).await?,
            store: self,
            job,
            part,
        };
        match writing.claim().await {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(PartOutcome::AlreadyStored),
            Ok(None) => return Ok(PartOutcome::Gone),
            Err(error) if error.constraint() == Some("import_parts_file_id_fkey") => {
                return Ok(PartOutcome::Gone);
            }
            Err(error) => return Err(error),
        }
        let mut rejected: Vec<(u64, Rejection)> = part.rejected.clone();
        let made = writing.add_conversations(&mut rejected).await?;
        let own = writing.own_conversations().await?;
        if own.len() < part.messages.conversations.len() && !all_before {
            // An earlier part may create them. The transaction is rolled back.
            return Ok(PartOutcome::Early);
        }
        let messages = writing.chosen_messages(&own, &made, &mut rejected);
        writing.copy_events(&mut rejected).await?;
        writing.copy_messages(&messages, &mut rejected).await?;
        writing.touch(&own).await?;
        let stored = writing.settle(rejected.as_mut_slice(), noted).await?;
        writing.transaction.commit().await?;
        Ok(PartOutcome::Stored { stored, rejected: rejected.len() as u64 })
    }
}

/// A part's transaction.
struct PartTransaction<'a> {
    transaction: Transaction<'a>,
    store: &'a ImportStore,
    job: &'a ImportJob,
    part: &'a Part,
}

impl PartTransaction<'_> {
    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        Ok(self.transaction.query_typed(sql, parameters).await?)
    }

    /// Whether this attempt stores the part; `None`: the import's row is gone.
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
        let rows = self.query(sql!(self.store.database, "imports/claim_part.sql"), &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (is_running, is_claimed): (bool, bool) = (row.try_get("is_running")?, row.try_get("is_claimed")?);
        if is_running && !is_claimed {
            let there = sql!(self.store.database, "imports/part_there.sql");
            let key: [Parameter<'_>; 2] = [(&self.job.file_id, Type::UUID), (&number, Type::INT4)];
            if self.query(there, &key).await?.is_empty() {
                return Err(DbError::DroppedByTrigger { table: "import_parts", sent: 1, stored: 0 });
            }
        }
        Ok(is_running.then_some(is_claimed))
    }

    /// Creates the part's conversations; returns the new ones with their lines.
    async fn add_conversations(
        &self,
        rejected: &mut Vec<(u64, Rejection)>,
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
        let rows =
            self.query(sql!(self.store.database, "imports/add_conversations.sql"), &parameters).await?;
        let mut made = HashSet::with_capacity(rows.len());
        for row in &rows {
            made.insert(row.try_get::<_, Uuid>(0)?);
        }
        let there = if made.len() < new.len() { self.there(&ids).await? } else { HashSet::new() };
        let mut lines = HashMap::with_capacity(made.len());
        for new in new {
            // The first of two lines with one id has created it.
            if made.remove(&new.id) {
                lines.insert(new.id, new.line);
            } else if there.contains(&new.id) {
                rejected.push((new.line, "there is a conversation with this id".into()));
            } else {
                rejected.push((new.line, "a trigger of the database dropped it".into()));
            }
        }
        Ok(lines)
    }

    /// The existing ones of these conversations, of any owner.
    async fn there(&self, ids: &[Uuid]) -> Result<HashSet<Uuid>, DbError> {
        let there = sql!(self.store.database, "imports/conversations_there.sql");
        let rows = self.query(there, &[(&ids, Type::UUID_ARRAY)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The existing conversations of the owner that messages name.
    async fn own_conversations(&self) -> Result<HashSet<Uuid>, DbError> {
        let named: Vec<Uuid> =
            self.part.messages.conversations.iter().map(|named| named.conversation).collect();
        if named.is_empty() {
            return Ok(HashSet::new());
        }
        let parameters: [Parameter<'_>; 2] = [(&named, Type::UUID_ARRAY), (&self.job.owner, Type::UUID)];
        let rows =
            self.query(sql!(self.store.database, "imports/lock_conversations.sql"), &parameters).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The places of the messages whose conversations exist. Those of another owner, and those created by a later line, do not count.
    fn chosen_messages(
        &self,
        own: &HashSet<Uuid>,
        made: &HashMap<Uuid, u64>,
        rejected: &mut Vec<(u64, Rejection)>,
    ) -> Vec<usize> {
        let messages = &self.part.messages;
        let from: Vec<Option<u64>> = messages
            .conversations
            .iter()
            .map(|named| {
                let line = made.get(&named.conversation).copied().unwrap_or(0);
                own.contains(&named.conversation).then_some(line)
            })
            .collect();
        let mut chosen = Vec::with_capacity(messages.of.len());
        for (place, of) in messages.of.iter().enumerate() {
            let line = messages.tuples.line(place);
            let is_chosen = from.get(*of as usize).copied().flatten().is_some_and(|from| from < line);
            match is_chosen {
                true => chosen.push(place),
                false => rejected.push((line, "there is no such conversation".into())),
            }
        }
        chosen
    }

    async fn copy_events(&mut self, rejected: &mut Vec<(u64, Rejection)>) -> Result<(), DbError> {
        let copy = sql!(self.store.database, "ingest/copy_requests.sql", columns = row::COLUMNS);
        let part = self.part;
        let all: Vec<usize> = (0..part.events.len()).collect();
        self.copy(copy, &part.events, &all, rejected).await?;
        if all.is_empty() { Ok(()) } else { set_again(&self.transaction, self.store.timeout).await }
    }

    async fn copy_messages(
        &mut self,
        chosen: &[usize],
        rejected: &mut Vec<(u64, Rejection)>,
    ) -> Result<(), DbError> {
        let copy = sql!(self.store.database, "imports/copy_messages.sql", columns = message::COLUMNS);
        let part = self.part;
        self.copy(copy, &part.messages.tuples, chosen, rejected).await
    }

    /// Copies the tuples at these places; bisects to find a row that Postgres rejects, and leaves it out.
    async fn copy(
        &mut self,
        copy: &str,
        tuples: &Tuples,
        places: &[usize],
        rejected: &mut Vec<(u64, Rejection)>,
    ) -> Result<(), DbError> {
        let mut pending: Vec<Range<u64>> = std::iter::once(0..places.len() as u64).collect();
        while let Some(range) = pending.pop() {
            let places = places.get(range.start as usize..range.end as usize).unwrap_or_default();
            let Some(first) = places.first() else { continue };
            let savepoint = self.transaction.savepoint("part").await?;
            let runs = places.chunk_by(|place, next| place + 1 == *next);
            let stretches = runs.filter_map(|run| Some(tuples.stretch(*run.first()?..*run.last()? + 1)));
            let copied = match copy_rows(&savepoint, copy, stretches).await {
                Ok(stored) => DbError::all_stored("the imported table", places.len() as u64, stored),
                Err(error) => Err(error.into()),
            };
            match copied {
                Ok(()) => savepoint.commit().await?,
                Err(error) if Verdict::on(&error) == Verdict::Bisect => {
                    savepoint.rollback().await?;
                    self.transaction.batch_execute(sql!("imports/release.sql")).await?;
                    if let Some(halves) = bisect::halves(&range) {
                        pending.extend(halves.into_iter().rev());
                    } else {
                        let reason = match error.state_code() {
                            Some(state) => format!("Postgres refused it (SQLSTATE {state})"),
                            None => "a trigger on the table dropped it".to_owned(),
                        };
                        rejected.push((tuples.line(*first), Cow::Owned(reason)));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Updates the conversations with new messages, and notifies their subscribers.
    async fn touch(&self, own: &HashSet<Uuid>) -> Result<(), DbError> {
        let touched: Vec<&ConversationMessages> = self
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
        self.query(sql!(self.store.database, "imports/touch_conversations.sql"), &parameters).await?;
        Ok(())
    }

    /// Records the part's outcome; returns the number of stored lines.
    async fn settle(&self, rejected: &mut [(u64, Rejection)], noted: usize) -> Result<u64, DbError> {
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
        self.query(sql!(self.store.database, "imports/settle_part.sql"), &parameters).await?;
        Ok(stored)
    }
}
