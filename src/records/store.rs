//! Records in Postgres.

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::collections::{Collection, table};
use super::cursor::RecordSortKey;
use super::expression::{Parameter, Parameters};
use super::list::ListQuery;
use super::sort::{self, KeyKind, KeyValue};
use super::{Data, ListedCollection, Name, Record, RecordId, RecordsError, Version};
use crate::db::{
    ConflictRetries, Connection, Database, DbError, JsonText, Parameter as Typed, Transaction, begin_in_time,
    begin_snapshot_in_time, in_time, query_often_in_time, sql,
};
use crate::paging::Page;
use crate::realtime::{Position, position_of_row};
use crate::time::Millis;

/// Records, with a quota of the pool.
#[derive(Debug, Clone)]
pub(super) struct RecordStore {
    database: Database,
    timeout: Duration,
}

/// A collection, found by its name.
pub(super) struct FoundCollection {
    pub(super) id: i32,
    /// Whether only its own face serves it.
    pub(super) is_private: bool,
}

impl FoundCollection {
    fn read(row: &Row) -> Result<Self, DbError> {
        Ok(Self { id: row.try_get(0)?, is_private: row.try_get(1)? })
    }
}

/// A record that is to be created.
pub(super) struct NewRecord<'a> {
    pub(super) id: RecordId,
    /// Whether a client chose the id.
    pub(super) is_chosen: bool,
    pub(super) data: &'a [u8],
}

/// A change that failed.
enum ChangeError {
    /// The record does not allow it.
    Refused(RecordsError),
    /// The database failed.
    Database(DbError),
}

impl From<DbError> for ChangeError {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

/// The outcome of a change, decided while the record's row is locked.
pub(super) enum Outcome {
    /// The record gets this data.
    Update(Data),
    /// The record is deleted.
    Delete,
}

impl RecordStore {
    /// A store over `database`, whose statements may take up to `timeout`.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// The collection of a name.
    pub(super) async fn find_collection(&self, name: &Name) -> Result<Option<FoundCollection>, DbError> {
        let find = sql!(self.database, "records/find_collection.sql");
        let rows = self.query(find, &[(&name.as_str(), Type::TEXT)]).await?;
        rows.first().map(FoundCollection::read).transpose()
    }

    /// All collections, by name.
    pub(super) async fn collections(&self) -> Result<Vec<ListedCollection>, DbError> {
        let rows = self.query(sql!(self.database, "records/list_collections.sql"), &[]).await?;
        let listed = |row: &Row| Ok(ListedCollection { name: row.try_get(0)?, records: row.try_get(1)? });
        rows.iter().map(listed).collect()
    }

    /// Creates a collection, unless it exists by now. `None`: there are `max` already.
    pub(super) async fn create_collection(
        &self,
        name: &Name,
        max: i64,
    ) -> Result<Option<FoundCollection>, DbError> {
        let mut connection = self.database.get().await?;
        let made = in_time(self.timeout, async {
            let transaction = self.begin(&mut connection).await?;
            let lock = sql!(self.database, "records/lock_collections.sql");
            transaction.query_typed(lock, &[]).await?;
            let find = sql!(self.database, "records/find_collection.sql");
            let name_parameter: Typed<'_> = (&name.as_str(), Type::TEXT);
            if let Some(row) =
                transaction.query_typed(find, std::slice::from_ref(&name_parameter)).await?.first()
            {
                return Ok(Some(FoundCollection::read(row)?));
            }
            let add = sql!(self.database, "records/add_collection.sql");
            let added = transaction.query_typed(add, &[name_parameter, (&max, Type::INT8)]).await?;
            let added = added.first().ok_or(DbError::Unexpected("no count of collections"))?;
            if added.try_get("is_full")? {
                return Ok(None);
            }
            let Some(id) = added.try_get::<_, Option<i32>>("id")? else {
                return Err(DbError::DroppedByTrigger { table: "collections", sent: 1, stored: 0 });
            };
            // Names have no character with a meaning in a comment's text.
            let make = sql!("records/make_table.sql")
                .replace("{table}", &table(&self.database, id))
                .replace("{name}", name.as_str());
            transaction.batch_execute(&make).await?;
            transaction.commit().await?;
            tracing::info!(collection = name.as_str(), table = format!("records_{id}"), "collection created");
            Ok(Some(FoundCollection { id, is_private: false }))
        })
        .await;
        connection.release(made)
    }

    /// Adds records, and returns those whose id was free.
    pub(super) async fn insert(
        &self,
        collection: &Collection,
        new: &[NewRecord<'_>],
    ) -> Result<Vec<Record>, DbError> {
        let ids: Vec<&str> = new.iter().map(|new| new.id.as_str()).collect();
        let data: Vec<JsonText<'_>> = new.iter().map(|new| JsonText(new.data)).collect();
        let now = SystemTime::from(Millis::now());
        let parameters: [Typed<'_>; 4] = [
            (&collection.topic.as_str(), Type::TEXT),
            (&ids, Type::TEXT_ARRAY),
            (&now, Type::TIMESTAMPTZ),
            (&data, Type::JSONB_ARRAY),
        ];
        // An id that was made here is unique, but a chosen one may be that of a record that is changed or deleted at this moment.
        let chosen: Vec<&str> = new.iter().filter(|new| new.is_chosen).map(|new| new.id.as_str()).collect();
        if chosen.is_empty() {
            return records(&self.query_often(&collection.create, &parameters).await?);
        }
        let mut retries = ConflictRetries::within(self.timeout);
        loop {
            let mut connection = self.database.get().await?;
            let made = in_time(retries.left(), async {
                let transaction = self.begin(&mut connection).await?;
                self.lock(&transaction, collection, &chosen).await?;
                let rows = transaction.query_typed(&collection.create, &parameters).await?;
                transaction.commit().await?;
                records(&rows)
            })
            .await;
            let made = connection.release(made);
            if !retries.again(&made).await {
                return made;
            }
        }
    }

    /// Takes the locks of records that may exist, as the first statement of a transaction.
    async fn lock(
        &self,
        transaction: &Transaction<'_>,
        collection: &Collection,
        ids: &[&str],
    ) -> Result<(), DbError> {
        let lock = sql!("records/lock_ids.sql");
        transaction.query_typed(lock, &[(&collection.id, Type::INT4), (&ids, Type::TEXT_ARRAY)]).await?;
        Ok(())
    }

    /// Looks records up.
    pub(super) async fn read(
        &self,
        collection: &Collection,
        ids: &[&str],
    ) -> Result<Vec<(Record, Position)>, DbError> {
        let rows = self.query_often(&collection.read, &[(&ids, Type::TEXT_ARRAY)]).await?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let position = position_of_row(&self.database, first).await?;
        rows.iter().map(|row| Ok((record(row)?, position.clone()))).collect()
    }

    /// Locks a record, and executes what `decide` returns for it.
    pub(super) async fn change(
        &self,
        collection: &Collection,
        id: RecordId,
        decide: impl Fn(&Record) -> Result<Outcome, RecordsError>,
    ) -> Result<Record, RecordsError> {
        let mut retries = ConflictRetries::within(self.timeout);
        loop {
            match self.change_once(collection, id, &decide, retries.left()).await {
                Err(ChangeError::Refused(why)) => return Err(why),
                Err(ChangeError::Database(error)) => {
                    let failed = Err::<(), _>(error);
                    if !retries.again(&failed).await {
                        failed?;
                    }
                }
                Ok(changed) => return Ok(changed),
            }
        }
    }

    async fn change_once(
        &self,
        collection: &Collection,
        id: RecordId,
        decide: impl Fn(&Record) -> Result<Outcome, RecordsError>,
        limit: Duration,
    ) -> Result<Record, ChangeError> {
        let mut connection = self.database.get().await?;
        let mut refusal = None;
        // Each of its statements has the time that one has, and so has the whole.
        let changed = in_time(limit, async {
            let transaction = self.begin(&mut connection).await?;
            let (ids, text) = ([id.as_str()], id.as_str());
            let parameters: [Typed<'_>; 1] = [(&text, Type::TEXT)];
            // Sent together, and done one after the other.
            let (held, locked) = tokio::join!(
                biased;
                self.lock(&transaction, collection, &ids),
                transaction.query_typed(&collection.lock, &parameters),
            );
            held?;
            let locked = locked?;
            let outcome = match records(&locked)?.first() {
                None => Err(RecordsError::NotFound),
                Some(record) => decide(record),
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(why) => {
                    refusal = Some(why);
                    transaction.rollback().await?;
                    return Ok(None);
                }
            };
            let now = SystemTime::from(Millis::now());
            let (topic, id) = (collection.topic.as_str(), id.as_str());
            let mut parameters: Vec<Typed<'_>> =
                vec![(&topic, Type::TEXT), (&id, Type::TEXT), (&now, Type::TIMESTAMPTZ)];
            let rows = match &outcome {
                Outcome::Delete => transaction.query_typed(&collection.delete, &parameters).await?,
                Outcome::Update(data) => {
                    let data = JsonText(data.as_bytes());
                    parameters.push((&data, Type::JSONB));
                    transaction.query_typed(&collection.update, &parameters).await?
                }
            };
            // It exists, and is locked.
            if rows.is_empty() {
                return Err(DbError::DroppedByTrigger { table: "records", sent: 1, stored: 0 });
            }
            transaction.commit().await?;
            Ok(records(&rows)?.into_iter().next())
        })
        .await;
        match (refusal, connection.release(changed)?) {
            (Some(why), _) => Err(ChangeError::Refused(why)),
            (None, Some(record)) => Ok(record),
            (None, None) => Err(ChangeError::Refused(RecordsError::NotFound)),
        }
    }

    /// A page of records, of at most `max_bytes` and one record more, and the position of the snapshot that it was read in.
    pub(super) async fn list(
        &self,
        collection: &Collection,
        query: &ListQuery,
        max_bytes: usize,
    ) -> Result<(Page<Record>, Position), RecordsError> {
        let count = if query.counts { Some(count(collection, query)?) } else { None };
        let mut parameters = Parameters::default();
        let keys = query.sort.keys(&mut parameters);
        let conditions = query.page_conditions(&keys, &mut parameters)?;
        // One record more than the page has, to know whether there is a next one.
        let limit = query.limit + 1;
        let shown: String = keys
            .iter()
            .filter(|key| matches!(key.kind, KeyKind::Json | KeyKind::Text))
            .map(|key| format!(", ({})::text", key.sql))
            .collect();
        let list = collection
            .list
            .replace("{limit}", &limit.to_string())
            .replace("{offset}", &query.offset.to_string())
            .replace("{order}", &sort::order(&keys))
            .replace("{conditions}", &conditions)
            .replace("{keys}", &shown);
        let kinds: Vec<KeyKind> = keys.iter().map(|key| key.kind).collect();
        let bound = Bound::new(parameters);

        let mut connection = self.database.get().await?;
        let read = in_time(self.timeout, async {
            let transaction = begin_snapshot_in_time(&mut connection, self.timeout).await?;
            let (unset, now) = tokio::join!(
                biased;
                transaction.batch_execute(sql!("db/without_jit.sql")),
                transaction.query_typed(sql!(self.database, "realtime/now.sql"), &[]),
            );
            unset?;
            let now = now?;
            let total = match &count {
                None => None,
                Some((sql, bound)) => {
                    let rows = transaction.query_typed(sql, &bound.typed()).await?;
                    Some(rows.first().ok_or(DbError::Unexpected("no count"))?.try_get(0)?)
                }
            };
            let (mut page, mut bytes, mut last, mut more) = (Vec::new(), 0, None, false);
            {
                let rows = transaction.query_typed_raw(&list, bound.typed()).await?;
                futures_util::pin_mut!(rows);
                while let Some(row) = rows.try_next().await? {
                    if page.len() == query.limit || bytes > max_bytes {
                        more = true;
                        break;
                    }
                    let record = record(&row)?;
                    bytes += record.json_len();
                    last = Some(key_values(&row, &record, &kinds)?);
                    page.push(record);
                }
            }
            // The connection skips the rows that are left, and the commit comes after them.
            transaction.commit().await?;
            Ok((page, last.filter(|_| more), total, now))
        })
        .await;
        let (records, last, total, now) = connection.release(read)?;
        let now = now.first().ok_or(DbError::Unexpected("no snapshot"))?;
        let position = position_of_row(&self.database, now).await?;
        let next = last.map(|values| RecordSortKey { values }.cursor(&query.sort));
        Ok((Page { entries: records, next, prev: None, total }, position))
    }

    async fn begin<'a>(&self, connection: &'a mut Connection) -> Result<Transaction<'a>, DbError> {
        begin_in_time(connection, self.timeout).await
    }

    async fn query_often(&self, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, sql, parameters).await;
        connection.release(rows)
    }

    async fn query(&self, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }
}

/// The statement that counts all matching records.
fn count(collection: &Collection, query: &ListQuery) -> Result<(String, Bound), RecordsError> {
    let mut parameters = Parameters::default();
    let conditions = query.conditions(&mut parameters)?.join(" and ");
    Ok((collection.count.replace("{conditions}", &conditions), Bound::new(parameters)))
}

/// Parameters of the driver's types.
pub(super) struct Bound(Vec<(Box<dyn ToSql + Sync + Send>, Type)>);

impl Bound {
    pub(super) fn new(parameters: Parameters) -> Self {
        let bound = parameters.0.into_iter().map(|parameter| -> (Box<dyn ToSql + Sync + Send>, Type) {
            match parameter {
                Parameter::Text(text) => (Box::new(text), Type::TEXT),
                Parameter::Texts(texts) => (Box::new(texts), Type::TEXT_ARRAY),
                Parameter::Time(time) => (Box::new(SystemTime::from(time)), Type::TIMESTAMPTZ),
                Parameter::Times(times) => {
                    let times: Vec<SystemTime> = times.into_iter().map(SystemTime::from).collect();
                    (Box::new(times), Type::TIMESTAMPTZ_ARRAY)
                }
            }
        });
        Self(bound.collect())
    }

    pub(super) fn typed(&self) -> Vec<Typed<'_>> {
        self.0.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect()
    }
}

pub(super) fn records(rows: &[Row]) -> Result<Vec<Record>, DbError> {
    rows.iter().map(record).collect()
}

pub(super) fn record(row: &Row) -> Result<Record, DbError> {
    Ok(Record {
        // The table's check keeps other ids out.
        id: RecordId::parse(row.try_get(0)?).ok_or(DbError::Unexpected("an id of no record"))?,
        version: Version(row.try_get(1)?),
        created: row.try_get::<_, SystemTime>(2)?.into(),
        updated: row.try_get::<_, SystemTime>(3)?.into(),
        data: row.try_get(4)?,
    })
}

/// The sort key of a record; keys that are expressions follow its columns.
fn key_values(row: &Row, record: &Record, kinds: &[KeyKind]) -> Result<Vec<KeyValue>, DbError> {
    let mut column = 5;
    let mut next = || {
        column += 1;
        row.try_get::<_, String>(column - 1)
    };
    let mut values = Vec::with_capacity(kinds.len());
    for kind in kinds {
        values.push(match kind {
            KeyKind::Id => KeyValue::Text(record.id.as_str().to_owned()),
            KeyKind::Created => KeyValue::Time(record.created),
            KeyKind::Updated => KeyValue::Time(record.updated),
            KeyKind::Json => KeyValue::Json(next()?),
            KeyKind::Text => KeyValue::Text(next()?),
        });
    }
    Ok(values)
}
