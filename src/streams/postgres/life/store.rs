//! Rows of streams that begin and end.

use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::db::{
    BY_INDEX, Database, DbError, Parameter, Transaction, begin_in_time, in_time, roll_back, sql,
};
use crate::streams::postgres::chunks::{Chunk, array_text};
use crate::streams::postgres::heads::{COLUMNS, HEAD, Status, Stream, stream};
use crate::streams::{
    CreateStream, Lifetime, Offset, RestOfAppend, StreamError, StreamHead, StreamId, StreamPath, create,
};
use crate::time::Micros;

/// How long a change is repeated whose commit had no answer.
const IN_DOUBT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// Attempts while others create streams at the same path.
const ATTEMPTS: usize = 5;

/// The states of rows.
const KEPT: i16 = 1;
const DELETED: i16 = 2;

/// Creates and deletes streams, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::streams::postgres) struct LifeStore {
    database: Database,
    timeout: Duration,
}

/// A place in the source of a fork, as it was read before.
#[derive(Debug)]
pub(in crate::streams::postgres) struct ForkPoint {
    /// The source.
    pub(in crate::streams::postgres) source: StreamId,
    /// The rest of the append behind the fork's offset.
    pub(in crate::streams::postgres) append: Option<RestOfAppend>,
}

/// A stream after its creation.
#[derive(Debug)]
pub(in crate::streams::postgres) struct Begun {
    pub(in crate::streams::postgres) stream: Stream,
    pub(in crate::streams::postgres) is_new: bool,
    /// Its first append.
    pub(in crate::streams::postgres) chunk: Option<Chunk>,
    /// An expired stream that had its path, and the sources that were kept for that one alone.
    pub(in crate::streams::postgres) deleted: Vec<Deleted>,
}

/// Streams that a deletion has ended.
#[derive(Debug)]
pub(in crate::streams::postgres) struct Deleted {
    pub(in crate::streams::postgres) path: StreamPath,
    pub(in crate::streams::postgres) id: StreamId,
    pub(in crate::streams::postgres) tail: Offset,
}

/// The result of an attempt.
enum Attempt<T> {
    Done(T),
    Refused(StreamError),
    /// Something has changed meanwhile.
    Again,
}

/// An attempt that failed.
enum Failure {
    RolledBack(DbError),
    /// The commit had no answer. The stream that it creates.
    InDoubt(DbError, Option<StreamId>),
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        Self::RolledBack(error)
    }
}

impl LifeStore {
    pub(in crate::streams::postgres) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// Creates a stream, or finds one of the same configuration. `fork` has the place in the source, if the request names an offset.
    pub(in crate::streams::postgres) async fn create(
        &self,
        path: &StreamPath,
        request: &CreateStream,
        fork: Option<&ForkPoint>,
    ) -> Result<Begun, StreamError> {
        let (begun, mut attempts, mut created) = (Instant::now(), 0, None);
        loop {
            match self.create_once(path, request, fork, created).await {
                Ok(Attempt::Done(begun)) => return Ok(begun),
                Ok(Attempt::Refused(error)) => return Err(error),
                Ok(Attempt::Again) if attempts < ATTEMPTS => attempts += 1,
                Ok(Attempt::Again) => return Err(StreamError::Overloaded),
                Err(Failure::RolledBack(error)) if error.is_conflict() && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                Err(Failure::RolledBack(error)) if created.is_none() => return Err(error.into()),
                Err(Failure::RolledBack(error) | Failure::InDoubt(error, _))
                    if begun.elapsed() > IN_DOUBT =>
                {
                    tracing::error!(
                        error = error.with_sources(),
                        "the outcome of a stream's creation is unknown"
                    );
                    return Err(DbError::OutcomeUnknown.into());
                }
                // The next attempt finds it, or creates it.
                Err(Failure::InDoubt(_, id)) => {
                    created = id;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Failure::RolledBack(_)) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn create_once(
        &self,
        path: &StreamPath,
        request: &CreateStream,
        fork: Option<&ForkPoint>,
        before: Option<StreamId>,
    ) -> Result<Attempt<Begun>, Failure> {
        let mut connection = self.database.get().await?;
        let done = in_time(self.timeout, async {
            let transaction = begin_in_time(&mut connection, self.timeout).await?;
            let (attempt, id) = match self.create_in(&transaction, path, request, fork, before).await {
                Ok(attempt) => {
                    let id = match &attempt {
                        Attempt::Done(begun) if begun.is_new => Some(begun.stream.head.id),
                        _ => None,
                    };
                    (attempt, id)
                }
                Err(error) => return Err(roll_back(transaction, error).await),
            };
            if let Attempt::Done(_) = &attempt {
                return Ok(transaction.commit().await.map(|()| attempt).map_err(|error| (error, id)));
            }
            transaction.rollback().await?;
            Ok(Ok(attempt))
        })
        .await;
        match connection.release(done) {
            Ok(Ok(attempt)) => Ok(attempt),
            Ok(Err((error, id))) => Err(Failure::InDoubt(error.into(), id)),
            // The commit may be under way.
            Err(error @ DbError::Timeout(_)) => Err(Failure::InDoubt(error, None)),
            Err(error) => Err(Failure::RolledBack(error)),
        }
    }

    async fn create_in(
        &self,
        transaction: &Transaction<'_>,
        path: &StreamPath,
        request: &CreateStream,
        fork: Option<&ForkPoint>,
        before: Option<StreamId>,
    ) -> Result<Attempt<Begun>, DbError> {
        by_index(transaction).await?;
        let mut deleted = Vec::new();
        if let Some(existing) = self.locked(transaction, path, Strength::Change).await? {
            match existing.status {
                Status::Living if before == Some(existing.head.id) => {
                    let chunk = first_chunk(&existing, request);
                    return Ok(Attempt::Done(Begun { stream: existing, is_new: true, chunk, deleted }));
                }
                Status::Living => {
                    return Ok(match create::compare(&existing.head, request) {
                        Ok(()) => {
                            Attempt::Done(Begun { stream: existing, is_new: false, chunk: None, deleted })
                        }
                        Err(error) => Attempt::Refused(error),
                    });
                }
                Status::Kept => return Ok(Attempt::Refused(StreamError::PathKept)),
                Status::Ended => deleted = self.end_with_sources(transaction, existing).await?,
            }
        }
        let mut source = None;
        if let Some(request) = &request.fork {
            source = match self.locked(transaction, &request.source, Strength::Share).await? {
                None => return Ok(Attempt::Refused(StreamError::ForkSource)),
                Some(source) => match source.status {
                    Status::Living => Some(source),
                    Status::Kept => return Ok(Attempt::Refused(StreamError::ForkSourceGone)),
                    Status::Ended => return Ok(Attempt::Refused(StreamError::ForkSource)),
                },
            };
            if fork.is_some() && fork.map(|fork| fork.source) != source.as_ref().map(|source| source.head.id)
            {
                return Ok(Attempt::Again);
            }
        }
        let plan = match create::plan(request, source.as_ref().map(|source| &source.head)) {
            Ok(plan) => plan,
            Err(error) => return Ok(Attempt::Refused(error)),
        };
        let append = fork.and_then(|fork| fork.append.as_ref());
        let start = match &plan.origin {
            None => Offset::START,
            Some(origin) => match create::fork_end(origin.offset, origin.sub_offset, append) {
                Ok(start) => start,
                Err(error) => return Ok(Attempt::Refused(error)),
            },
        };
        let chunk = request.body.as_ref().map(|body| Chunk::of_appends(start, &[body]));
        let tail = chunk.as_ref().map_or(start, |chunk| chunk.next);
        if tail > Offset::LAST {
            return Ok(Attempt::Refused(StreamError::TooLong));
        }
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (ttl_s, expires_us) = match plan.lifetime {
            Some(Lifetime::Ttl(seconds)) => (Some(number(seconds)), None),
            Some(Lifetime::ExpiresAt(Micros(us))) => (None, Some(us)),
            None => (None, None),
        };
        let origin = plan.origin.as_deref();
        let kept_from = source.as_ref().map_or(0, |source| number(source.head.kept_from.min(start).0));
        let source_id = source.as_ref().map(|source| number(source.head.id.0));
        let fork_end = source_id.map(|_| number(start.0));
        let fork_source = origin.map(|origin| origin.source.as_str());
        let fork_offset = origin.map(|origin| number(origin.offset.0));
        let fork_sub_offset = origin.map(|origin| number(origin.sub_offset));
        let inherits = origin.is_some_and(|origin| origin.inherits_lifetime);
        let retention_age_s = request.retention.and_then(|retention| retention.age_s).map(number);
        let retention_bytes = request.retention.and_then(|retention| retention.bytes).map(number);
        let tail_number = number(tail.0);
        let parameters: [Parameter<'_>; 16] = [
            (&path.as_str(), Type::TEXT),
            (&plan.content_type.as_str(), Type::TEXT),
            (&tail_number, Type::INT8),
            (&request.closed, Type::BOOL),
            (&ttl_s, Type::INT8),
            (&expires_us, Type::INT8),
            (&kept_from, Type::INT8),
            (&source_id, Type::INT8),
            (&fork_end, Type::INT8),
            (&fork_source, Type::TEXT),
            (&fork_offset, Type::INT8),
            (&fork_sub_offset, Type::INT8),
            (&inherits, Type::BOOL),
            (&retention_age_s, Type::INT8),
            (&retention_bytes, Type::INT8),
            (&request.compacts_by_key, Type::BOOL),
        ];
        let rows = transaction
            .query_typed(
                sql!(self.database, "streams/create.sql", head = HEAD, columns = COLUMNS),
                &parameters,
            )
            .await?;
        // Another caller created it at the same time.
        let Some(row) = rows.first() else { return Ok(Attempt::Again) };
        let stream = stream(row)?;
        if let Some(chunk) = &chunk {
            let (streams, firsts, nexts) =
                (vec![number(stream.head.id.0)], vec![number(start.0)], vec![number(chunk.next.0)]);
            let (append_ends, message_ends) = (
                vec![array_text(chunk.append_ends.as_deref())],
                vec![array_text(chunk.message_ends.as_deref())],
            );
            let (bytes, batch) = (vec![&chunk.bytes[..]], fastrand::i64(..));
            let parameters: [Parameter<'_>; 7] = [
                (&streams, Type::INT8_ARRAY),
                (&firsts, Type::INT8_ARRAY),
                (&nexts, Type::INT8_ARRAY),
                (&bytes, Type::BYTEA_ARRAY),
                (&append_ends, Type::TEXT_ARRAY),
                (&message_ends, Type::TEXT_ARRAY),
                (&batch, Type::INT8),
            ];
            transaction.query_typed(sql!(self.database, "streams/add_chunks.sql"), &parameters).await?;
        }
        Ok(Attempt::Done(Begun { stream, is_new: true, chunk, deleted }))
    }

    /// Deletes the living stream at a path; returns it, and the sources that it ends too.
    pub(in crate::streams::postgres) async fn delete(
        &self,
        path: &StreamPath,
    ) -> Result<Vec<Deleted>, StreamError> {
        self.end(Which::Path(path)).await
    }

    /// Ends a stream that has expired before a time; nothing if it has not.
    pub(in crate::streams::postgres) async fn expire(
        &self,
        id: StreamId,
        before: Micros,
    ) -> Result<Vec<Deleted>, StreamError> {
        match self.end(Which::Expired(id, before)).await {
            Err(StreamError::NotFound | StreamError::Gone) => Ok(Vec::new()),
            ended => ended,
        }
    }

    async fn end(&self, which: Which<'_>) -> Result<Vec<Deleted>, StreamError> {
        let (begun, mut which, mut attempts, mut doubted) = (Instant::now(), which, 0, None);
        loop {
            match self.end_once(which).await {
                Ok(Attempt::Done(deleted)) => return Ok(deleted),
                // The commit without an answer was one.
                Ok(Attempt::Refused(StreamError::NotFound | StreamError::Gone)) if doubted.is_some() => {
                    return Ok(doubted.unwrap_or_default());
                }
                Ok(Attempt::Refused(error)) => return Err(error),
                Ok(Attempt::Again) => return Err(StreamError::Overloaded),
                Err(EndFailure::RolledBack(error)) if error.is_conflict() && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                Err(EndFailure::RolledBack(error)) if doubted.is_none() => return Err(error.into()),
                Err(EndFailure::RolledBack(error) | EndFailure::InDoubt(error, _))
                    if begun.elapsed() > IN_DOUBT =>
                {
                    tracing::error!(
                        error = error.with_sources(),
                        "the outcome of a stream's deletion is unknown"
                    );
                    return Err(DbError::OutcomeUnknown.into());
                }
                Err(EndFailure::InDoubt(_, deleted)) => {
                    // Another stream may be there by the next attempt.
                    if let (Which::Path(path), Some(first)) = (which, deleted.first()) {
                        which = Which::PathOf(path, first.id);
                    }
                    doubted = Some(deleted);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(EndFailure::RolledBack(_)) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn end_once(&self, which: Which<'_>) -> Result<Attempt<Vec<Deleted>>, EndFailure> {
        let mut connection = self.database.get().await.map_err(EndFailure::RolledBack)?;
        // Outside, for a commit whose time is over.
        let mut ended = Vec::new();
        let done = in_time(self.timeout, async {
            let transaction = begin_in_time(&mut connection, self.timeout).await?;
            match self.end_in(&transaction, which).await {
                Ok(Attempt::Done(deleted)) => {
                    ended = deleted;
                    Ok(transaction.commit().await.map(|()| Attempt::Done(())))
                }
                Ok(Attempt::Refused(error)) => {
                    transaction.rollback().await?;
                    Ok(Ok(Attempt::Refused(error)))
                }
                Ok(Attempt::Again) => {
                    transaction.rollback().await?;
                    Ok(Ok(Attempt::Again))
                }
                Err(error) => Err(roll_back(transaction, error).await),
            }
        })
        .await;
        match connection.release(done) {
            Ok(Ok(Attempt::Done(()))) => Ok(Attempt::Done(ended)),
            Ok(Ok(Attempt::Refused(error))) => Ok(Attempt::Refused(error)),
            Ok(Ok(Attempt::Again)) => Ok(Attempt::Again),
            Ok(Err(error)) => Err(EndFailure::InDoubt(error.into(), ended)),
            Err(error @ DbError::Timeout(_)) => Err(EndFailure::InDoubt(error, ended)),
            Err(error) => Err(EndFailure::RolledBack(error)),
        }
    }

    async fn end_in(
        &self,
        transaction: &Transaction<'_>,
        which: Which<'_>,
    ) -> Result<Attempt<Vec<Deleted>>, DbError> {
        by_index(transaction).await?;
        let first = match which {
            Which::Path(path) => self.locked(transaction, path, Strength::Delete).await?,
            Which::PathOf(path, id) => {
                self.locked(transaction, path, Strength::Delete).await?.filter(|stream| stream.head.id == id)
            }
            Which::Expired(id, before) => {
                let is_over = |stream: &Stream| stream.head.expires_at.is_some_and(|end| end < before);
                self.locked_id(transaction, id).await?.filter(is_over)
            }
        };
        let Some(first) = first else { return Ok(Attempt::Refused(StreamError::NotFound)) };
        match (which, first.status) {
            (Which::Expired(..), _) | (_, Status::Living) => {}
            (_, Status::Kept) => return Ok(Attempt::Refused(StreamError::Gone)),
            (_, Status::Ended) => return Ok(Attempt::Refused(StreamError::NotFound)),
        }
        Ok(Attempt::Done(self.end_with_sources(transaction, first).await?))
    }

    /// Ends a locked stream, and each source that was kept for it alone. With living forks it is kept itself.
    async fn end_with_sources(
        &self,
        transaction: &Transaction<'_>,
        first: Stream,
    ) -> Result<Vec<Deleted>, DbError> {
        let mut deleted = Vec::new();
        let mut next = Some(first);
        // The stream, then each source that was kept for it alone.
        while let Some(Stream { path, head: StreamHead { id, tail, .. }, shared, .. }) = next.take() {
            self.set_state(transaction, id, KEPT).await?;
            let now = self.head_of(transaction, id).await?;
            if now.is_none_or(|stream| stream.status != Status::Ended) {
                deleted.push(Deleted { path, id, tail });
                break;
            }
            self.set_state(transaction, id, DELETED).await?;
            deleted.push(Deleted { path, id, tail });
            if let Some(shared) = shared {
                let source = self.locked_id(transaction, shared.source).await?;
                next = source.filter(|source| source.status == Status::Ended);
            }
        }
        Ok(deleted)
    }

    /// The stream at a path, locked.
    async fn locked(
        &self,
        transaction: &Transaction<'_>,
        path: &StreamPath,
        strength: Strength,
    ) -> Result<Option<Stream>, DbError> {
        let lock = match strength {
            Strength::Share => sql!(self.database, "streams/lock_path.sql", strength = "key share"),
            Strength::Change => sql!(self.database, "streams/lock_path.sql", strength = "no key update"),
            Strength::Delete => sql!(self.database, "streams/lock_path.sql", strength = "update"),
        };
        let rows = transaction.query_typed(lock, &[(&path.as_str(), Type::TEXT)]).await?;
        self.head_of_row(transaction, &rows).await
    }

    async fn locked_id(
        &self,
        transaction: &Transaction<'_>,
        id: StreamId,
    ) -> Result<Option<Stream>, DbError> {
        let id = id.0 as i64;
        let lock = sql!(self.database, "streams/lock_id.sql");
        let rows = transaction.query_typed(lock, &[(&id, Type::INT8)]).await?;
        self.head_of_row(transaction, &rows).await
    }

    /// The stream of a lock's row, with everything that was committed before it was locked.
    async fn head_of_row(
        &self,
        transaction: &Transaction<'_>,
        rows: &[Row],
    ) -> Result<Option<Stream>, DbError> {
        let Some(row) = rows.first() else { return Ok(None) };
        self.head_of(transaction, StreamId(row.try_get::<_, i64>("id")? as u64)).await
    }

    async fn head_of(&self, transaction: &Transaction<'_>, id: StreamId) -> Result<Option<Stream>, DbError> {
        let id = id.0 as i64;
        let sql = sql!(self.database, "streams/head_of.sql", head = HEAD, columns = COLUMNS);
        let rows = transaction.query_typed(sql, &[(&id, Type::INT8)]).await?;
        rows.first().map(stream).transpose()
    }

    async fn set_state(
        &self,
        transaction: &Transaction<'_>,
        id: StreamId,
        state: i16,
    ) -> Result<(), DbError> {
        let id = id.0 as i64;
        let sql = sql!(self.database, "streams/set_state.sql");
        let set = transaction.execute_typed(sql, &[(&id, Type::INT8), (&state, Type::INT2)]).await?;
        DbError::all_stored("streams", 1, set)
    }
}

/// The strength of a lock.
#[derive(Debug, Clone, Copy)]
enum Strength {
    /// The stream is not deleted meanwhile.
    Share,
    Change,
    Delete,
}

/// A stream that is to end.
#[derive(Debug, Clone, Copy)]
enum Which<'a> {
    Path(&'a StreamPath),
    /// The one at a path, if it still has this id.
    PathOf(&'a StreamPath, StreamId),
    /// One that has expired before a time.
    Expired(StreamId, Micros),
}

/// A deletion that failed.
enum EndFailure {
    RolledBack(DbError),
    /// The commit had no answer.
    InDoubt(DbError, Vec<Deleted>),
}

fn first_chunk(stream: &Stream, request: &CreateStream) -> Option<Chunk> {
    let start = stream.shared.map_or(Offset::START, |shared| shared.end);
    request.body.as_ref().map(|body| Chunk::of_appends(start, &[body]))
}

async fn by_index(transaction: &Transaction<'_>) -> Result<(), DbError> {
    transaction.query_typed(BY_INDEX, &[]).await?;
    Ok(())
}
