//! The index for search in Postgres.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::lot::{Import, Lot, Place, Size, Taken, Wanted, What};
use super::query;
use crate::db::{Database, DbError, Parameter as Typed, begin_in_time, in_time};

/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What was done at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// How many documents were made.
    pub(super) documents: u64,
    /// How many changes were read.
    pub(super) changes: i64,
    /// Seconds since the first change was made that is left, also if it cannot be read yet; none if nothing is left.
    pub(super) lag_s: Option<f64>,
    /// Whether there may be more that can be read at once.
    pub(super) is_more: bool,
}

/// What was made anew at once.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rebuilt {
    /// The number of documents made; there may be more.
    Lot { documents: u64 },
    /// The last documents.
    Last { documents: u64 },
    /// There was nothing to make anew.
    Nothing,
    /// Another node works on the index.
    Busy,
}

/// The index, over a share of the pool.
#[derive(Debug)]
pub(super) struct IndexStore {
    database: Database,
    lock: String,
    place: String,
    lag: String,
    changes: String,
    documents: String,
    import: String,
    imports: String,
    move_on: String,
    old_documents: String,
    rebuilt: String,
    catch_up: String,
    caught_up: String,
}

impl IndexStore {
    pub(super) fn new(database: &Database) -> Self {
        let sql = |text| database.sql(text);
        Self {
            database: database.clone(),
            lock: sql(include_str!("../../../sql/conversations/index_lock.sql")),
            place: sql(include_str!("../../../sql/conversations/index_place.sql")),
            lag: sql(include_str!("../../../sql/conversations/index_lag.sql")),
            changes: sql(include_str!("../../../sql/conversations/index_changes.sql")),
            documents: sql(include_str!("../../../sql/conversations/index_documents.sql"))
                .replace("{spaced}", &query::without_punctuation("cut.content"))
                .replace("{unspaced}", &query::unspaced_class()),
            import: sql(include_str!("../../../sql/conversations/index_import.sql")),
            imports: sql(include_str!("../../../sql/conversations/index_imports.sql")),
            move_on: sql(include_str!("../../../sql/conversations/index_move.sql")),
            old_documents: sql(include_str!("../../../sql/conversations/index_old_documents.sql")),
            rebuilt: sql(include_str!("../../../sql/conversations/index_rebuilt.sql")),
            catch_up: sql(include_str!("../../../sql/conversations/index_catch_up.sql")),
            caught_up: sql(include_str!("../../../sql/conversations/index_caught_up.sql")),
        }
    }

    /// Does a lot of up to this size; nothing while another node works on it.
    pub(super) async fn step(&self, size: Size) -> Result<Option<Step>, DbError> {
        let mut connection = self.database.get().await?;
        // Some statements, each with a time of its own.
        let done = in_time(TIMEOUT * 2, async {
            let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
            let done = self.step_in(&transaction, size).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await;
        connection.release(done)
    }

    /// Makes up to this many documents anew of those that a migration left with words of an older form.
    pub(super) async fn rebuild(&self, size: Size) -> Result<Rebuilt, DbError> {
        let mut connection = self.database.get().await?;
        let done = in_time(TIMEOUT * 2, async {
            let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
            let done = self.rebuild_in(&transaction, size).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await;
        connection.release(done)
    }

    async fn rebuild_in(&self, transaction: &Transaction<'_>, size: Size) -> Result<Rebuilt, DbError> {
        if !self.lock(transaction).await? {
            return Ok(Rebuilt::Busy);
        }
        let limit: [Typed<'_>; 1] = [(&size.limit(), Type::INT8)];
        let rows = transaction.query_typed(&self.old_documents, &limit).await?;
        let ids = rows
            .iter()
            .filter_map(|row| row.try_get("id").transpose())
            .collect::<Result<Vec<Uuid>, tokio_postgres::Error>>()?;
        if rows.is_empty() {
            return Ok(Rebuilt::Nothing);
        }
        let documents = self.document(transaction, &ids).await?;
        let last = ids.last().filter(|_| ids.len() as i64 >= size.limit());
        transaction.query_typed(&self.rebuilt, &[(&last, Type::UUID)]).await?;
        Ok(if last.is_some() { Rebuilt::Lot { documents } } else { Rebuilt::Last { documents } })
    }

    /// Whether this transaction may work on the index.
    async fn lock(&self, transaction: &Transaction<'_>) -> Result<bool, DbError> {
        let rows = transaction.query_typed(&self.lock, &[]).await?;
        let is_mine = rows.first().map(|row| row.try_get("is_mine")).transpose()?;
        Ok(is_mine == Some(true))
    }

    /// Makes the documents of these messages and titles; how many there are.
    async fn document(&self, transaction: &Transaction<'_>, ids: &[Uuid]) -> Result<u64, DbError> {
        if ids.is_empty() {
            return Ok(0);
        }
        Ok(transaction.execute_typed(&self.documents, &[(&ids, Type::UUID_ARRAY)]).await?)
    }

    async fn step_in(&self, transaction: &Transaction<'_>, size: Size) -> Result<Option<Step>, DbError> {
        if !self.lock(transaction).await? {
            return Ok(None);
        }
        let rows = transaction.query_typed(&self.place, &[]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let mut place =
            Place { xid: row.try_get("xid")?, number: row.try_get("number")?, part: row.try_get("part")? };
        if let Some(after) = row.try_get("catch_up")? {
            return self.catch_up(transaction, after, &place, size).await.map(Some);
        }
        let mut rows = self.changes(transaction, &place, size).await?;
        if is_foreign(&rows, &place)? {
            // The database came from another server, whose transactions had higher numbers. Changes that were not read yet may be gone.
            transaction.execute_typed(&self.caught_up, &[(&Uuid::nil(), Type::UUID)]).await?;
            place = Place { xid: "0".into(), number: -1, part: None };
            self.move_to(transaction, &place).await?;
            rows = self.changes(transaction, &place, size).await?;
        }
        let Some(head) = rows.first() else { return Ok(None) };
        let found: i64 = head.try_get("found")?;
        if found == 0 {
            // Nothing is new, or what is has to wait for the end of a transaction that began before.
            let lag_s = self.lag_s(transaction, &place).await?;
            return Ok(Some(Step { documents: 0, changes: 0, lag_s, is_more: false }));
        }
        let end = Place { xid: head.try_get("last_xid")?, number: head.try_get("last_number")?, part: None };
        let lot = Lot::new(&place, wanted(&rows)?, end, size.limit());
        let messages = self.messages(transaction, &lot, size).await?;
        let Taken { ids, next, is_cut } = lot.taken(&messages, size.limit() as usize);
        let documents = self.document(transaction, &ids).await?;
        self.move_to(transaction, &next).await?;
        let lag_s = self.lag_s(transaction, &next).await?;
        Ok(Some(Step { documents, changes: found, lag_s, is_more: is_cut || found == size.limit() }))
    }

    async fn move_to(&self, transaction: &Transaction<'_>, place: &Place) -> Result<(), DbError> {
        let parameters: [Typed<'_>; 3] =
            [(&place.xid, Type::TEXT), (&place.number, Type::INT8), (&place.part, Type::UUID)];
        transaction.query_typed(&self.move_on, &parameters).await?;
        Ok(())
    }

    /// Indexes a batch of what the feed no longer holds, as the database was restored on another server.
    async fn catch_up(
        &self,
        transaction: &Transaction<'_>,
        after: Uuid,
        place: &Place,
        size: Size,
    ) -> Result<Step, DbError> {
        let parameters: [Typed<'_>; 2] = [(&after, Type::UUID), (&size.limit(), Type::INT8)];
        let rows = transaction.query_typed(&self.catch_up, &parameters).await?;
        let next: Option<Uuid> = rows.first().map(|row| row.try_get("next")).transpose()?.flatten();
        let missing: Vec<Uuid> =
            rows.first().map(|row| row.try_get("missing")).transpose()?.unwrap_or_default();
        let documents = self.document(transaction, &missing).await?;
        transaction.execute_typed(&self.caught_up, &[(&next, Type::UUID)]).await?;
        if next.is_none() {
            tracing::info!("search knows all messages of the restored database");
        }
        let lag_s = self.lag_s(transaction, place).await?;
        Ok(Step { documents, changes: 0, lag_s, is_more: true })
    }

    async fn lag_s(&self, transaction: &Transaction<'_>, after: &Place) -> Result<Option<f64>, DbError> {
        let parameters: [Typed<'_>; 2] = [(&after.xid, Type::TEXT), (&after.number, Type::INT8)];
        let rows = transaction.query_typed(&self.lag, &parameters).await?;
        Ok(rows.first().map(|row| row.try_get("lag_s")).transpose()?)
    }

    async fn changes(
        &self,
        transaction: &Transaction<'_>,
        after: &Place,
        size: Size,
    ) -> Result<Vec<Row>, DbError> {
        let parameters: [Typed<'_>; 3] =
            [(&after.xid, Type::TEXT), (&after.number, Type::INT8), (&size.limit(), Type::INT8)];
        Ok(transaction.query_typed(&self.changes, &parameters).await?)
    }

    /// The first messages of a lot's imports, each with its import's place among them.
    async fn messages(
        &self,
        transaction: &Transaction<'_>,
        lot: &Lot,
        size: Size,
    ) -> Result<Vec<(usize, Uuid)>, DbError> {
        let all: Vec<Import> = lot.imports().collect();
        if let [Import { conversation, first, last, .. }] = &all[..] {
            let parameters: [Typed<'_>; 4] = [
                (conversation, Type::UUID),
                (first, Type::UUID),
                (last, Type::UUID),
                (&size.limit(), Type::INT8),
            ];
            let rows = transaction.query_typed(&self.import, &parameters).await?;
            return rows.iter().map(|row| Ok((0, row.try_get("id")?))).collect();
        }
        let (starts, ends): (Vec<Uuid>, Vec<Uuid>) = lot.ranges().into_iter().unzip();
        if starts.is_empty() {
            return Ok(Vec::new());
        }
        let of = |id: fn(&Import) -> Uuid| all.iter().map(id).collect::<Vec<Uuid>>();
        let parameters: [Typed<'_>; 6] = [
            (&of(|import| import.conversation), Type::UUID_ARRAY),
            (&of(|import| import.first), Type::UUID_ARRAY),
            (&of(|import| import.last), Type::UUID_ARRAY),
            (&starts, Type::UUID_ARRAY),
            (&ends, Type::UUID_ARRAY),
            (&size.limit(), Type::INT8),
        ];
        let rows = transaction.query_typed(&self.imports, &parameters).await?;
        rows.iter().map(|row| Ok((row.try_get::<_, i64>("nth")? as usize, row.try_get("id")?))).collect()
    }
}

/// Whether a place is none of this server's.
fn is_foreign(rows: &[Row], place: &Place) -> Result<bool, DbError> {
    let Some(row) = rows.first() else { return Ok(false) };
    let number =
        |text: &str| text.parse::<u64>().map_err(|_| DbError::Unexpected("an xid8 that is no number"));
    Ok(number(&place.xid)? > number(row.try_get("horizon")?)?)
}

/// The changes that call for words.
fn wanted(rows: &[Row]) -> Result<Vec<Wanted>, DbError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(xid) = row.try_get::<_, Option<String>>("xid")? else { break };
        let (first, last): (Option<Uuid>, Option<Uuid>) = (row.try_get("first")?, row.try_get("last")?);
        let what = match (row.try_get("id")?, first, last) {
            (Some(id), ..) => What::One(id),
            (None, Some(first), Some(last)) => What::Import(Import {
                conversation: row.try_get("conversation_id")?,
                first,
                last,
                count: row.try_get("count")?,
            }),
            // An import that names no messages.
            _ => continue,
        };
        all.push(Wanted { xid, number: row.try_get("number")?, what });
    }
    Ok(all)
}
