//! The index for search in Postgres.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Database, DbError, Parameter as Typed, begin_in_time, in_time};

/// Changes of a lot. Short, as followers of the feed wait for the end of each transaction that writes.
const LOT: i64 = 100;
/// Messages of an import that are taken at once.
const IMPORT_LOT: i64 = 500;
/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What was done at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// How many documents were made.
    pub(super) documents: u64,
    /// Seconds since the oldest of the changes was made.
    pub(super) lag_s: f64,
    /// Whether there may be more.
    pub(super) is_more: bool,
}

/// Where the index is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    xid: String,
    number: i64,
    part: Option<Uuid>,
}

/// The index, over a share of the pool.
#[derive(Debug)]
pub(super) struct IndexStore {
    database: Database,
    place: String,
    changes: String,
    documents: String,
    import: String,
    move_on: String,
}

/// An import: its place, and the messages that it added.
struct Import {
    xid: String,
    number: i64,
    conversation: Uuid,
    first: Uuid,
    last: Uuid,
}

impl IndexStore {
    pub(super) fn new(database: &Database) -> Self {
        let sql = |text| database.sql(text);
        Self {
            database: database.clone(),
            place: sql(include_str!("../../../sql/conversations/index_place.sql")),
            changes: sql(include_str!("../../../sql/conversations/index_changes.sql")),
            documents: sql(include_str!("../../../sql/conversations/index_documents.sql")),
            import: sql(include_str!("../../../sql/conversations/index_import.sql")),
            move_on: sql(include_str!("../../../sql/conversations/index_move.sql")),
        }
    }

    /// Does a lot; nothing while another node works on it.
    pub(super) async fn step(&self) -> Result<Option<Step>, DbError> {
        let mut connection = self.database.get().await?;
        // Some statements, each with a time of its own.
        let done = in_time(TIMEOUT * 2, async {
            let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
            let done = self.step_in(&transaction).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await;
        if let Err(DbError::Timeout(_)) = done {
            connection.discard();
        }
        done
    }

    async fn step_in(&self, transaction: &Transaction<'_>) -> Result<Option<Step>, DbError> {
        let rows = transaction.query_typed(&self.place, &[]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let mut place =
            Place { xid: row.try_get("xid")?, number: row.try_get("number")?, part: row.try_get("part")? };
        let mut rows = self.changes(transaction, &place).await?;
        if is_foreign(&rows, &place)? {
            // The database came from another server, whose transactions had higher numbers.
            place = Place { xid: "0".into(), number: -1, part: None };
            rows = self.changes(transaction, &place).await?;
        }
        let Some(head) = rows.first() else { return Ok(None) };
        let found: i64 = head.try_get("found")?;
        let lag_s: f64 = head.try_get("lag_s")?;
        if found == 0 {
            return Ok(Some(Step { documents: 0, lag_s: 0.0, is_more: false }));
        }
        let end = Place { xid: head.try_get("last_xid")?, number: head.try_get("last_number")?, part: None };
        let (ids, import) = wanted(&rows)?;
        let ids: [Typed<'_>; 1] = [(&ids, Type::UUID_ARRAY)];
        let mut documents = transaction.query_typed(&self.documents, &ids).await?.len() as u64;
        // Up to the first import, which may be longer than a lot.
        let (next, is_more) = match import {
            None => (end, found == LOT),
            Some(import) => {
                // Right before it: nothing stands between two numbers.
                let before = Place { xid: import.xid.clone(), number: import.number - 1, part: None };
                let is_begun = (&before.xid, before.number) == (&place.xid, place.number);
                let after = place.part.filter(|_| is_begun);
                let (last, count) = self.import(transaction, &import, after).await?;
                documents += count as u64;
                let next = match last {
                    Some(_) if count == IMPORT_LOT => Place { part: last, ..before },
                    _ => Place { xid: import.xid, number: import.number, part: None },
                };
                (next, true)
            }
        };
        let parameters: [Typed<'_>; 3] =
            [(&next.xid, Type::TEXT), (&next.number, Type::INT8), (&next.part, Type::UUID)];
        transaction.query_typed(&self.move_on, &parameters).await?;
        Ok(Some(Step { documents, lag_s, is_more }))
    }

    async fn changes(&self, transaction: &Transaction<'_>, after: &Place) -> Result<Vec<Row>, DbError> {
        let parameters: [Typed<'_>; 3] =
            [(&after.xid, Type::TEXT), (&after.number, Type::INT8), (&LOT, Type::INT8)];
        Ok(transaction.query_typed(&self.changes, &parameters).await?)
    }

    async fn import(
        &self,
        transaction: &Transaction<'_>,
        import: &Import,
        after: Option<Uuid>,
    ) -> Result<(Option<Uuid>, i64), DbError> {
        let after = after.unwrap_or_default();
        let parameters: [Typed<'_>; 5] = [
            (&import.conversation, Type::UUID),
            (&import.first, Type::UUID),
            (&import.last, Type::UUID),
            (&after, Type::UUID),
            (&IMPORT_LOT, Type::INT8),
        ];
        let rows = transaction.query_typed(&self.import, &parameters).await?;
        let Some(row) = rows.first() else { return Ok((None, 0)) };
        Ok((row.try_get("last")?, row.try_get("found")?))
    }
}

/// Whether a place is none of this server's.
fn is_foreign(rows: &[Row], place: &Place) -> Result<bool, DbError> {
    let Some(row) = rows.first() else { return Ok(false) };
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    Ok(number(&place.xid) > number(row.try_get("horizon")?))
}

/// The messages and conversations that call for words, up to the first import, and that.
fn wanted(rows: &[Row]) -> Result<(Vec<Uuid>, Option<Import>), DbError> {
    let mut ids = Vec::new();
    for row in rows {
        let Some(xid) = row.try_get::<_, Option<String>>("xid")? else { break };
        let id: Option<Uuid> = row.try_get("id")?;
        let (first, last): (Option<Uuid>, Option<Uuid>) = (row.try_get("first")?, row.try_get("last")?);
        match (id, first, last) {
            (Some(id), ..) => ids.push(id),
            (None, Some(first), Some(last)) => {
                ids.sort_unstable();
                ids.dedup();
                let (number, conversation) = (row.try_get("number")?, row.try_get("conversation_id")?);
                return Ok((ids, Some(Import { xid, number, conversation, first, last })));
            }
            // An import that names no messages.
            _ => {}
        }
    }
    // Two changes of one message make one document.
    ids.sort_unstable();
    ids.dedup();
    Ok((ids, None))
}
