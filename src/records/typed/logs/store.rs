//! The table `request_logs`.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::LogEntry;
use crate::db::{Database, DbError, JsonText, Parameter as Typed, read_snapshot_in_time, sql};
use crate::records::expression::Parameters;
use crate::records::schema::DateText;
use crate::records::store::Bound;
use crate::time::Millis;

/// Conditions with their parameters.
pub(super) type Conditions = (String, Parameters);

/// A page that is to be read.
pub(super) struct LogStatement {
    pub(super) conditions: String,
    pub(super) order: String,
    pub(super) parameters: Parameters,
    pub(super) limit: i64,
    pub(super) offset: u64,
    /// The conditions once more, to count.
    pub(super) counted: Option<Conditions>,
}

/// The log in Postgres.
#[derive(Debug, Clone)]
pub(super) struct LogStore {
    database: Database,
    timeout: Duration,
}

impl LogStore {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.clone(), timeout: database.statement_timeout() }
    }

    fn of_entries(&self, text: &str, conditions: &str) -> String {
        let entries = sql!(self.database, "records/logs/entries.sql");
        text.replace("{entries}", entries).replace("{conditions}", conditions)
    }

    /// Adds entries.
    pub(super) async fn add(&self, entries: &[LogEntry]) -> Result<(), DbError> {
        let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        let times: Vec<SystemTime> = entries.iter().map(|entry| entry.at).collect();
        let levels: Vec<i32> = entries.iter().map(|entry| entry.level.number()).collect();
        let messages: Vec<&str> = entries.iter().map(|entry| entry.message.as_str()).collect();
        let data: Vec<Vec<u8>> = entries
            .iter()
            .map(|entry| serde_json::to_vec(&entry.data))
            .collect::<Result<_, _>>()
            .map_err(|_| DbError::Unexpected("an entry that is no JSON"))?;
        let data: Vec<JsonText<'_>> = data.iter().map(|data| JsonText(data)).collect();
        let parameters: [Typed<'_>; 5] = [
            (&ids, Type::TEXT_ARRAY),
            (&times, Type::TIMESTAMPTZ_ARRAY),
            (&levels, Type::INT4_ARRAY),
            (&messages, Type::TEXT_ARRAY),
            (&data, Type::JSONB_ARRAY),
        ];
        let add = sql!(self.database, "records/logs/add.sql");
        self.database.query_in_time(self.timeout, add, &parameters).await.map(drop)
    }

    /// A page of up to `max_bytes`, and the number of all entries that its conditions hold for. `None`: it would be larger.
    pub(super) async fn list(
        &self,
        list: LogStatement,
        max_bytes: usize,
    ) -> Result<Option<(Vec<Value>, Option<i64>)>, DbError> {
        let page = self
            .of_entries(sql!("records/logs/list.sql"), &list.conditions)
            .replace("{order}", &list.order)
            .replace("{limit}", &list.limit.to_string())
            .replace("{offset}", &list.offset.to_string());
        let count = list.counted.map(|(conditions, parameters)| {
            (self.of_entries(sql!("records/logs/count.sql"), &conditions), Bound::new(parameters))
        });
        let counts: Vec<_> = count.iter().map(|(sql, bound)| (sql.as_str(), bound.typed())).collect();
        let bound = Bound::new(list.parameters);
        let (mut found, mut bytes) = (Vec::new(), 0);
        let connection = self.database.get().await?;
        let page = (page.as_str(), bound.typed());
        let read = read_snapshot_in_time(&connection, self.timeout, false, &counts, &page, |row| {
            bytes += row.try_get::<_, &str>("data")?.len();
            found.push(entry(row)?);
            Ok(bytes <= max_bytes)
        });
        let counted = read.await;
        let counted = connection.release(counted)?;
        let total = match counted.first() {
            None => None,
            Some(rows) => Some(rows.first().ok_or(DbError::Unexpected("no count"))?.try_get("total")?),
        };
        Ok((bytes <= max_bytes).then_some((found, total)))
    }

    /// The numbers of entries by hour.
    pub(super) async fn stats(&self, conditions: Conditions) -> Result<Vec<Value>, DbError> {
        let (conditions, parameters) = conditions;
        let stats = self.of_entries(sql!("records/logs/stats.sql"), &conditions);
        let bound = Bound::new(parameters);
        let rows = self.database.query_in_time(self.timeout, &stats, &bound.typed()).await?;
        let hour = |row: &Row| -> Result<Value, DbError> {
            let hour = Millis::from(row.try_get::<_, SystemTime>("hour")?);
            Ok(json!({"date": DateText::at(hour).as_str(), "total": row.try_get::<_, i64>("total")?}))
        };
        rows.iter().map(hour).collect()
    }

    /// Deletes up to `limit` entries that are older than `seconds`, or beyond the newest `kept`; returns how many.
    pub(super) async fn prune(&self, seconds: f64, kept: i64, limit: i64) -> Result<usize, DbError> {
        let before = SystemTime::now().checked_sub(Duration::from_secs_f64(seconds));
        let before = before.unwrap_or(SystemTime::UNIX_EPOCH);
        let prune = sql!(self.database, "records/logs/prune.sql");
        let parameters: [Typed<'_>; 4] = [
            (&before, Type::TIMESTAMPTZ),
            (&seconds, Type::FLOAT8),
            (&kept, Type::INT8),
            (&limit, Type::INT8),
        ];
        Ok(self.database.query_in_time(self.timeout, prune, &parameters).await?.len())
    }

    /// Deletes up to `limit` entries below a level; returns how many.
    pub(super) async fn prune_levels(&self, level: i32, limit: i64) -> Result<usize, DbError> {
        let prune = sql!(self.database, "records/logs/prune_levels.sql");
        let parameters: [Typed<'_>; 2] = [(&level, Type::INT4), (&limit, Type::INT8)];
        Ok(self.database.query_in_time(self.timeout, prune, &parameters).await?.len())
    }

    /// Deletes up to `limit` entries of up to a time; returns how many.
    pub(super) async fn clear(&self, until: SystemTime, limit: i64) -> Result<usize, DbError> {
        let clear = sql!(self.database, "records/logs/clear.sql");
        let parameters: [Typed<'_>; 2] = [(&until, Type::TIMESTAMPTZ), (&limit, Type::INT8)];
        Ok(self.database.query_in_time(self.timeout, clear, &parameters).await?.len())
    }
}

/// An entry, as superusers see it.
fn entry(row: &Row) -> Result<Value, DbError> {
    let created = Millis::from(row.try_get::<_, SystemTime>("created")?);
    let mut members: Value = serde_json::from_str(row.try_get("data")?)
        .map_err(|_| DbError::Unexpected("an entry that is no JSON"))?;
    if let Value::Object(members) = &mut members {
        members.insert("id".into(), row.try_get::<_, &str>("id")?.into());
        members.insert("created".into(), DateText::at(created).as_str().into());
    }
    Ok(members)
}
