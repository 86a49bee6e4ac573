//! Batches of appends in Postgres.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::DecidedAppend;
use super::decided::{Before, ChangedStream, Decisions, LockedStream, Outcome};
use super::plain::{self, PlainAppend, PlainOutcome};
use crate::db::{
    BY_INDEX, Database, DbError, DependentWrites, Parameter, Query, WriteFailure, query_all_in_time,
    query_alone_in_time, read_then_write, sql,
};
use crate::streams::postgres::chunks::array_text;
use crate::streams::postgres::fan_out::{Committed, CommittedKind, FanOut};
use crate::streams::postgres::heads::{COLUMNS, HEAD, KnownStreams, stream};
use crate::streams::{Offset, Producer, ProducerState, StreamId, StreamPath};

/// How long the outcome of a commit is asked for.
const OUTCOME_WAIT: Duration = Duration::from_secs(10);
/// How long a statement that the reading of its outcome overtook may take to arrive.
const OVERTAKEN_WAIT: Duration = Duration::from_secs(1);
/// The pause between two attempts.
const OUTCOME_PAUSE: Duration = Duration::from_millis(200);

/// What a batch does about locked streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It leaves them out.
    Skip,
    /// It waits.
    Wait,
}

/// Stores batches, with a quota of the pool.
#[derive(Debug, Clone)]
pub(super) struct AppendStore {
    pub(super) database: Database,
    pub(super) timeout: Duration,
    patience: Patience,
    known: Arc<KnownStreams>,
    fan_out: FanOut,
}

impl AppendStore {
    pub(super) fn new(
        database: &Database,
        timeout: Duration,
        patience: Patience,
        known: &Arc<KnownStreams>,
        fan_out: &FanOut,
    ) -> Self {
        let (known, fan_out) = (Arc::clone(known), fan_out.clone());
        Self { database: database.clone(), timeout, patience, known, fan_out }
    }

    /// Appends in one statement, which commits by itself.
    pub(super) async fn append(&self, requests: &[PlainAppend]) -> Result<Vec<PlainOutcome>, DbError> {
        let begun = Instant::now();
        let mut groups = plain::groups(requests);
        let batch = batch_number();
        let ids: Vec<i64> = groups.iter().map(|group| group.stream.id().0 as i64).collect();
        let firsts = match self.append_groups(&groups, &ids, batch).await {
            Ok(firsts) => firsts,
            Err(error) if error.is_in_doubt() => {
                let known = self.outcome(&ids, batch, &error, OVERTAKEN_WAIT).await?;
                known.filter(|firsts| !firsts.is_empty()).ok_or(DbError::OutcomeUnknown)?
            }
            Err(error) if error.is_away() || error.sql_state().is_none() => return Err(error),
            // A lock, a deadlock, another isolation level, a row's fault: each append is decided on, and what fails there fails.
            Err(error) => {
                tracing::debug!(error = error.with_sources(), "a batch of appends goes another way");
                HashMap::new()
            }
        };
        let outcomes = plain::outcomes(requests.len(), &mut groups, &firsts);
        let mut committed = Vec::with_capacity(groups.len());
        for group in groups {
            let id = group.stream.id();
            if !firsts.contains_key(&id) {
                self.known.forget(&group.stream.path, Some(id));
                continue;
            }
            let (tail, generation) = (group.chunk.next, group.stream.fixed().generation);
            group.stream.note(tail, false);
            group.stream.renewed(begun);
            let (path, kind) = (group.stream.path.clone(), CommittedKind::Appended(group.chunk));
            committed.push(Committed { path, id, tail, generation, kind });
        }
        self.fan_out.send(committed);
        Ok(outcomes)
    }

    async fn append_groups(
        &self,
        groups: &[plain::PlainGroup],
        ids: &[i64],
        batch: i64,
    ) -> Result<HashMap<StreamId, Offset>, DbError> {
        if let [group] = groups {
            return self.append_group(group, batch).await;
        }
        let lengths: Vec<i64> = groups.iter().map(|group| group.chunk.bytes.len() as i64).collect();
        let bytes: Vec<&[u8]> = groups.iter().map(|group| &group.chunk.bytes[..]).collect();
        let append_ends: Vec<Option<String>> =
            groups.iter().map(|group| array_text(group.chunk.append_ends.as_deref())).collect();
        let message_ends: Vec<Option<String>> =
            groups.iter().map(|group| array_text(group.chunk.message_ends.as_deref())).collect();
        let parameters: [Parameter<'_>; 6] = [
            (&ids, Type::INT8_ARRAY),
            (&lengths, Type::INT8_ARRAY),
            (&bytes, Type::BYTEA_ARRAY),
            (&append_ends, Type::TEXT_ARRAY),
            (&message_ends, Type::TEXT_ARRAY),
            (&batch, Type::INT8),
        ];
        let connection = self.database.get().await?;
        let sql = sql!(self.database, "streams/append.sql");
        let appended = query_alone_in_time(&connection, self.timeout, sql, &parameters).await;
        firsts(&connection.release(appended)?, "id")
    }

    async fn append_group(
        &self,
        group: &plain::PlainGroup,
        batch: i64,
    ) -> Result<HashMap<StreamId, Offset>, DbError> {
        let (id, chunk) = (group.stream.id().0 as i64, &group.chunk);
        let (length, bytes) = (chunk.bytes.len() as i64, &chunk.bytes[..]);
        let append_ends = array_text(chunk.append_ends.as_deref());
        let message_ends = array_text(chunk.message_ends.as_deref());
        let parameters: [Parameter<'_>; 6] = [
            (&id, Type::INT8),
            (&length, Type::INT8),
            (&bytes, Type::BYTEA),
            (&append_ends, Type::TEXT),
            (&message_ends, Type::TEXT),
            (&batch, Type::INT8),
        ];
        let connection = self.database.get().await?;
        let sql = sql!(self.database, "streams/append_one.sql");
        let appended = query_alone_in_time(&connection, self.timeout, sql, &parameters).await;
        firsts(&connection.release(appended)?, "id")
    }

    /// Locks the streams' rows, decides on each append, and writes.
    pub(super) async fn decide(&self, requests: &[Arc<DecidedAppend>]) -> Result<Vec<Outcome>, DbError> {
        let (batch, begun) = (batch_number(), Instant::now());
        for attempt in 0.. {
            let connection = self.database.get().await?;
            match self.write(&connection, requests, batch).await {
                Ok(writes) => {
                    connection.release(Ok(()))?;
                    return Ok(self.finish(writes.decisions, begun));
                }
                // Nothing is stored, and the next attempt may succeed.
                Err(WriteFailure::RolledBack(error)) if is_repeatable(&error) && attempt < CONFLICTS => {}
                Err(WriteFailure::RolledBack(error)) => return connection.release(Err(error)),
                Err(WriteFailure::InDoubt(error, writes)) => {
                    connection.discard();
                    // It holds the locks from before its decisions on, so nothing overtakes it.
                    let known = self.outcome(&writes.changes.ids, batch, &error, Duration::ZERO).await?;
                    if known.as_ref().is_some_and(|firsts| !firsts.is_empty()) {
                        return Ok(self.finish(writes.decisions, begun));
                    }
                    // A close and a producer's state without bytes are the same when they are repeated.
                    let is_repeatable = writes.chunks.streams.is_empty() && attempt < CONFLICTS;
                    if known.is_none() || !is_repeatable {
                        return Err(DbError::OutcomeUnknown);
                    }
                }
            }
        }
        Err(DbError::OutcomeUnknown)
    }

    async fn write(
        &self,
        connection: &crate::db::Connection,
        requests: &[Arc<DecidedAppend>],
        batch: i64,
    ) -> Result<DecidedWrites, WriteFailure<DecidedWrites>> {
        let mut paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut producers: Vec<(&str, &str)> = requests
            .iter()
            .filter_map(|request| Some((request.path.as_str(), &*request.append.producer.as_ref()?.id)))
            .collect();
        producers.sort_unstable();
        producers.dedup();
        let (producer_paths, producer_ids): (Vec<&str>, Vec<&str>) = producers.into_iter().unzip();
        let lock = match self.patience {
            Patience::Skip => {
                sql!(self.database, "streams/lock.sql", head = HEAD, columns = COLUMNS, wait = "skip locked")
            }
            Patience::Wait => {
                sql!(self.database, "streams/lock.sql", head = HEAD, columns = COLUMNS, wait = "")
            }
        };
        // A statement behind the one that locks sees what the lock waited for.
        let mut reads: Vec<Query<'_>> = vec![
            (BY_INDEX, Vec::new()),
            (lock, vec![(&paths, Type::TEXT_ARRAY)]),
            (sql!(self.database, "streams/exist.sql"), vec![(&paths, Type::TEXT_ARRAY)]),
        ];
        if !producer_paths.is_empty() {
            let parameters: Vec<Parameter<'_>> =
                vec![(&producer_paths, Type::TEXT_ARRAY), (&producer_ids, Type::TEXT_ARRAY)];
            reads.push((sql!(self.database, "streams/producers.sql"), parameters));
        }
        let decide = |rows: Vec<Vec<Row>>| {
            let decisions = Decisions::on(requests, before(&rows)?);
            Ok(DecidedWrites::new(self.database.clone(), decisions, batch))
        };
        read_then_write(connection, self.timeout, &reads, decide).await
    }

    /// Notes what was committed, and returns the outcomes.
    pub(super) fn finish(&self, decisions: Decisions, begun: Instant) -> Vec<Outcome> {
        let Decisions { outcomes, changed } = decisions;
        let mut committed = Vec::with_capacity(changed.len());
        for ChangedStream { stream, tail, closed, chunk, .. } in changed {
            let known = self.known.note(&stream);
            known.note(tail, closed);
            known.renewed(begun);
            let (path, id, generation) = (stream.path.clone(), stream.head.id, stream.head.generation);
            let kind = chunk.map_or(CommittedKind::Closed, CommittedKind::Appended);
            committed.push(Committed { path, id, tail, generation, kind });
        }
        self.fan_out.send(committed);
        outcomes
    }

    /// The chunks of a batch whose commit had no answer, by stream: none if it was rolled back, or has not arrived after `overtaken`. `None` if Postgres
    /// does not say.
    async fn outcome(
        &self,
        ids: &[i64],
        batch: i64,
        error: &DbError,
        overtaken: Duration,
    ) -> Result<Option<HashMap<StreamId, Offset>>, DbError> {
        tracing::warn!(
            error = error.with_sources(),
            "the answer to a commit of appends was lost; its outcome is read"
        );
        let begun = Instant::now();
        loop {
            match self.read_outcome(ids, batch).await {
                Ok(firsts) if !firsts.is_empty() || begun.elapsed() >= overtaken => return Ok(Some(firsts)),
                Ok(_none) => tokio::time::sleep(OUTCOME_PAUSE).await,
                Err(error) if begun.elapsed() > OUTCOME_WAIT => {
                    tracing::error!(
                        error = error.with_sources(),
                        "the outcome of appends is unknown; they are answered with 503"
                    );
                    return Ok(None);
                }
                Err(_away) => tokio::time::sleep(OUTCOME_PAUSE).await,
            }
        }
    }

    async fn read_outcome(&self, ids: &[i64], batch: i64) -> Result<HashMap<StreamId, Offset>, DbError> {
        let queries: [Query<'_>; 3] = [
            (BY_INDEX, Vec::new()),
            // Waits for the batch, if it is still under way.
            (sql!(self.database, "streams/lock_ids.sql"), vec![(&ids, Type::INT8_ARRAY)]),
            (
                sql!(self.database, "streams/outcome.sql"),
                vec![(&ids, Type::INT8_ARRAY), (&batch, Type::INT8)],
            ),
        ];
        let connection = self.database.get().await?;
        let read = query_all_in_time(&connection, self.timeout, &queries).await;
        firsts(&connection.release(read)?.pop().unwrap_or_default(), "stream")
    }
}

/// Repetitions of a batch after conflicts.
const CONFLICTS: usize = 4;

/// Whether a batch that was rolled back is repeated at once.
fn is_repeatable(error: &DbError) -> bool {
    error.is_conflict() || error.is_unprepared()
}

/// A number that no other batch has.
pub(super) fn batch_number() -> i64 {
    fastrand::i64(..)
}

fn firsts(rows: &[Row], column: &str) -> Result<HashMap<StreamId, Offset>, DbError> {
    let first = |row: &Row| {
        let (id, first): (i64, i64) = (row.try_get(column)?, row.try_get("first")?);
        Ok((StreamId(id as u64), Offset(first as u64)))
    };
    rows.iter().map(first).collect()
}

/// The state that the reads of a batch returned.
pub(super) fn before(rows: &[Vec<Row>]) -> Result<Before, DbError> {
    let rows = |place: usize| rows.get(place).map(Vec::as_slice).unwrap_or_default();
    let mut before = Before::default();
    for row in rows(1) {
        let closed_by: Option<&str> = row.try_get("closed_by_id")?;
        let number = |column: &str| -> Result<u64, DbError> {
            let number: Option<i64> = row.try_get(column)?;
            Ok(number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default())
        };
        let closed_by = match closed_by {
            None => None,
            Some(id) => Some(Producer {
                id: id.into(),
                epoch: number("closed_by_epoch")?,
                seq: number("closed_by_seq")?,
            }),
        };
        let seq: Option<&[u8]> = row.try_get("seq")?;
        let stream = stream(row)?;
        let path = stream.path.clone();
        before.locked.insert(path, LockedStream { stream, seq: seq.map(Bytes::copy_from_slice), closed_by });
    }
    let path = |row: &Row| -> Result<StreamPath, DbError> {
        StreamPath::new(row.try_get("path")?).map_err(|_| DbError::Unexpected("a path of no stream"))
    };
    before.existing = rows(2).iter().map(path).collect::<Result<HashSet<_>, _>>()?;
    for row in rows(3) {
        let (epoch, seq): (i64, i64) = (row.try_get("epoch")?, row.try_get("seq")?);
        let producer: &str = row.try_get("producer")?;
        let state = ProducerState {
            epoch: u64::try_from(epoch).unwrap_or_default(),
            seq: u64::try_from(seq).unwrap_or_default(),
        };
        before.producers.insert((path(row)?, producer.into()), state);
    }
    Ok(before)
}

/// The statements of a batch that was decided on.
#[derive(Debug)]
pub(super) struct DecidedWrites {
    database: Database,
    pub(super) decisions: Decisions,
    batch: i64,
    changes: Changes,
    chunks: Chunks,
    producers: Producers,
}

#[derive(Debug, Default)]
struct Changes {
    ids: Vec<i64>,
    tails: Vec<i64>,
    are_closed: Vec<bool>,
    seqs: Vec<Option<Vec<u8>>>,
    closed_by_ids: Vec<Option<String>>,
    closed_by_epochs: Vec<Option<i64>>,
    closed_by_seqs: Vec<Option<i64>>,
}

#[derive(Debug, Default)]
struct Chunks {
    streams: Vec<i64>,
    firsts: Vec<i64>,
    nexts: Vec<i64>,
    bytes: Vec<BytesParameter>,
    append_ends: Vec<Option<String>>,
    message_ends: Vec<Option<String>>,
}

#[derive(Debug, Default)]
struct Producers {
    streams: Vec<i64>,
    ids: Vec<String>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
}

/// Shared bytes as a parameter.
#[derive(Debug)]
struct BytesParameter(Bytes);

impl tokio_postgres::types::ToSql for BytesParameter {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        (&self.0[..]).to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BYTEA
    }

    tokio_postgres::types::to_sql_checked!();
}

impl DecidedWrites {
    pub(super) fn new(database: Database, decisions: Decisions, batch: i64) -> Self {
        let (mut changes, mut chunks, mut producers) =
            (Changes::default(), Chunks::default(), Producers::default());
        for changed in &decisions.changed {
            let id = changed.stream.head.id.0 as i64;
            changes.ids.push(id);
            changes.tails.push(changed.tail.0 as i64);
            changes.are_closed.push(changed.closed);
            changes.seqs.push(changed.seq.as_ref().map(|seq| seq.to_vec()));
            let closed_by = changed.closed_by.as_ref();
            changes.closed_by_ids.push(closed_by.map(|producer| producer.id.to_string()));
            changes.closed_by_epochs.push(closed_by.map(|producer| producer.epoch as i64));
            changes.closed_by_seqs.push(closed_by.map(|producer| producer.seq as i64));
            if let Some(chunk) = &changed.chunk {
                chunks.streams.push(id);
                chunks.firsts.push(chunk.first.0 as i64);
                chunks.nexts.push(chunk.next.0 as i64);
                chunks.bytes.push(BytesParameter(chunk.bytes.clone()));
                chunks.append_ends.push(array_text(chunk.append_ends.as_deref()));
                chunks.message_ends.push(array_text(chunk.message_ends.as_deref()));
            }
            for (producer, state) in &changed.producers {
                producers.streams.push(id);
                producers.ids.push(producer.to_string());
                producers.epochs.push(state.epoch as i64);
                producers.seqs.push(state.seq as i64);
            }
        }
        Self { database, decisions, batch, changes, chunks, producers }
    }
}

impl DependentWrites for DecidedWrites {
    fn queries(&self) -> Vec<Query<'_>> {
        let database = &self.database;
        if self.changes.ids.is_empty() {
            return Vec::new();
        }
        let (changes, chunks, producers) = (&self.changes, &self.chunks, &self.producers);
        let mut queries: Vec<Query<'_>> = vec![(
            sql!(database, "streams/change.sql"),
            vec![
                (&changes.ids, Type::INT8_ARRAY),
                (&changes.tails, Type::INT8_ARRAY),
                (&changes.are_closed, Type::BOOL_ARRAY),
                (&changes.seqs, Type::BYTEA_ARRAY),
                (&changes.closed_by_ids, Type::TEXT_ARRAY),
                (&changes.closed_by_epochs, Type::INT8_ARRAY),
                (&changes.closed_by_seqs, Type::INT8_ARRAY),
            ],
        )];
        if !chunks.streams.is_empty() {
            queries.push((
                sql!(database, "streams/add_chunks.sql"),
                vec![
                    (&chunks.streams, Type::INT8_ARRAY),
                    (&chunks.firsts, Type::INT8_ARRAY),
                    (&chunks.nexts, Type::INT8_ARRAY),
                    (&chunks.bytes, Type::BYTEA_ARRAY),
                    (&chunks.append_ends, Type::TEXT_ARRAY),
                    (&chunks.message_ends, Type::TEXT_ARRAY),
                    (&self.batch, Type::INT8),
                ],
            ));
        }
        if !producers.streams.is_empty() {
            queries.push((
                sql!(database, "streams/keep_producers.sql"),
                vec![
                    (&producers.streams, Type::INT8_ARRAY),
                    (&producers.ids, Type::TEXT_ARRAY),
                    (&producers.epochs, Type::INT8_ARRAY),
                    (&producers.seqs, Type::INT8_ARRAY),
                ],
            ));
        }
        queries
    }
}
