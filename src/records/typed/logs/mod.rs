//! The log of requests, which superusers read and filter.
//!
//! ```text
//! request ─ RequestLogs::add ─▶ bounded queue ─ the task, a statement for many ─▶ request_logs ─▶ list, view, stats
//! ```
//!
//! An entry delays no request and fails none: one without a place in the queue is dropped and counted. The task keeps the entries of a statement
//! that failed, and tries again. All nodes write to one table, whose rows are bounded in age (`logs.maxDays`) and number (a million).

mod queue;
mod store;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::read::ListRequest;
use super::settings::Logs;
use super::{TypedError, TypedRecords};
use crate::config::limits;
use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::Definition;
use crate::records::{Catalog, RecordId, RequestValues, Seen, TypedCollection, TypedExpression, TypedSort};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
use crate::time::Millis;
use queue::{BATCH, LogQueue};
use store::{Conditions, LogStatement, LogStore};

/// The longest wait of an entry for its statement.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// The most rows of the table.
const MAX_ROWS: i64 = 1_000_000;
/// The interval between two deletions, and the rows that one statement deletes.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
const PRUNED_AT_ONCE: i64 = 5_000;
/// The entries of this node after which old ones are deleted before that.
const PRUNE_AFTER: usize = 100_000;
/// The time for the entries that wait when the service stops.
const LAST_FLUSH: Duration = Duration::from_secs(2);
const DAY_S: f64 = 86_400.0;

/// The level of an entry, by the numbers of PocketBase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// A request that was answered.
    Info,
    /// A request that was refused, or failed.
    Error,
}

impl LogLevel {
    /// Its number.
    pub fn number(self) -> i32 {
        match self {
            Self::Info => 0,
            Self::Error => 8,
        }
    }
}

/// An entry of the log.
#[derive(Debug)]
pub struct LogEntry {
    id: RecordId,
    at: SystemTime,
    level: LogLevel,
    message: String,
    data: Map<String, Value>,
}

impl LogEntry {
    /// An entry of now. Its texts are bounded and have no zero character, which Postgres cannot store.
    pub fn new(level: LogLevel, message: String, data: Map<String, Value>) -> Self {
        Self { id: RecordId::make(Millis::now()), at: SystemTime::now(), level, message, data }
    }
}

/// The log of requests; cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestLogs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    typed: TypedRecords,
    store: LogStore,
    queue: LogQueue,
    /// The entries of a statement. Kept until it has succeeded.
    writing: Mutex<Vec<LogEntry>>,
    /// The entries that were stored since the last deletion.
    unpruned: AtomicUsize,
}

impl RequestLogs {
    /// Starts the task `request-logs`. Statements share the quota of `database`.
    pub fn start(
        typed: &TypedRecords,
        database: &Database,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
    ) -> Self {
        let logs = Self(Arc::new(Inner {
            typed: typed.clone(),
            store: LogStore::new(database),
            queue: LogQueue::new(metrics),
            writing: Mutex::default(),
            unpruned: AtomicUsize::new(0),
        }));
        let backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };
        let task = LogTask { logs: logs.clone(), pruned: None };
        supervisor.periodic("request-logs", Duration::ZERO, backoff, task);
        logs
    }

    /// The settings of the log, as far as they are known.
    pub fn settings(&self) -> Logs {
        self.0.typed.known_settings().map_or_else(Logs::default, |settings| settings.logs.clone())
    }

    /// Queues an entry. One that finds no place is dropped and counted.
    pub fn add(&self, entry: LogEntry) {
        self.0.queue.add(entry);
    }

    /// Entries that wait.
    pub fn waiting(&self) -> usize {
        self.0.queue.len()
    }

    /// Stores the entries that wait.
    async fn flush(&self) -> Result<(), DbError> {
        let inner = &*self.0;
        let mut writing = inner.writing.lock().await;
        loop {
            while writing.len() < BATCH
                && let Some(entry) = inner.queue.next()
            {
                writing.push(entry);
            }
            if writing.is_empty() {
                return Ok(());
            }
            inner.store.add(&writing).await?;
            inner.queue.stored(writing.len());
            inner.unpruned.fetch_add(writing.len(), Ordering::Relaxed);
            writing.clear();
        }
    }

    /// Stores the entries that wait, as the service stops.
    pub async fn stop(&self) {
        let stored = tokio::time::timeout(LAST_FLUSH, self.flush()).await;
        let error = match stored {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.with_sources(),
            Err(_elapsed) => "no answer in time".to_owned(),
        };
        tracing::warn!(error, "the last entries of the log of requests are not stored");
    }

    /// Deletes old entries.
    async fn prune(&self, settings: &Logs) -> Result<(), DbError> {
        let seconds = (settings.max_days as f64 * DAY_S).min(MAX_AGE_S);
        while self.0.store.prune(seconds, MAX_ROWS, PRUNED_AT_ONCE).await? == PRUNED_AT_ONCE as usize {}
        Ok(())
    }

    /// Deletes entries below the lowest level, as PocketBase does once that is another one.
    async fn prune_levels(&self, settings: &Logs) -> Result<(), DbError> {
        let level = settings.min_level.clamp(i32::MIN.into(), i32::MAX.into());
        let level = i32::try_from(level).unwrap_or_default();
        while self.0.store.prune_levels(level, PRUNED_AT_ONCE).await? == PRUNED_AT_ONCE as usize {}
        Ok(())
    }

    /// A page of the log, for superusers.
    ///
    /// # Errors
    ///
    /// [`TypedError::InvalidQuery`] and [`TypedError::Records`].
    pub async fn list(&self, request: &ListRequest) -> Result<LogPage, TypedError> {
        let entries = Entries::get().ok_or(TypedError::InvalidQuery)?;
        let filter = entries.filter(&request.filter)?;
        let sees = |_: &str| Seen::Nothing;
        let sort = TypedSort::parse(&request.sort, entries, &entries.0.id, &sees, true)
            .map_err(|_| TypedError::InvalidQuery)?;
        let (page, per_page) = request.bounds();
        let (conditions, mut parameters) = compiled(filter.as_ref());
        let order = sort.compile(&|_| String::new(), &mut parameters);
        let counted = (!request.skips_total).then(|| compiled(filter.as_ref()));
        let offset = (page - 1).saturating_mul(per_page).unsigned_abs();
        let statement = LogStatement { conditions, order, parameters, limit: per_page, offset, counted };
        let max_bytes = limits::MAX_PAGE_BYTES;
        let Some((items, total)) = self.0.store.list(statement, max_bytes).await? else {
            return Err(TypedError::Blocked(format!(
                "a page has at most {max_bytes} bytes: ask for fewer entries"
            )));
        };
        Ok(LogPage { items, page, per_page, total })
    }

    /// An entry, for superusers.
    ///
    /// # Errors
    ///
    /// [`TypedError::NotFound`] and [`TypedError::Records`].
    pub async fn view(&self, id: &str) -> Result<Value, TypedError> {
        let id = RecordId::parse(id).ok_or(TypedError::NotFound)?;
        let mut parameters = Parameters::default();
        let conditions = format!("id = {}", parameters.bind(Parameter::Text(id.as_str().to_owned())));
        let order = "id".to_owned();
        let statement = LogStatement { conditions, order, parameters, limit: 1, offset: 0, counted: None };
        let found = self.0.store.list(statement, usize::MAX).await?;
        found.and_then(|(items, _)| items.into_iter().next()).ok_or(TypedError::NotFound)
    }

    /// The numbers of entries by hour for which a filter holds, for superusers.
    ///
    /// # Errors
    ///
    /// [`TypedError::InvalidQuery`] and [`TypedError::Records`].
    pub async fn stats(&self, filter: &str) -> Result<Vec<Value>, TypedError> {
        let entries = Entries::get().ok_or(TypedError::InvalidQuery)?;
        let filter = entries.filter(filter)?;
        Ok(self.0.store.stats(compiled(filter.as_ref())).await?)
    }

    /// Deletes all entries that are stored now, for superusers.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn clear(&self) -> Result<(), TypedError> {
        let now = SystemTime::now();
        while self.0.store.clear(now, PRUNED_AT_ONCE).await? == PRUNED_AT_ONCE as usize {}
        Ok(())
    }
}

/// The longest age that is compared, in seconds: a hundred years.
const MAX_AGE_S: f64 = 36_525.0 * DAY_S;

/// A page of the log.
#[derive(Debug)]
pub struct LogPage {
    /// The entries.
    pub items: Vec<Value>,
    /// Its number, from 1 on.
    pub page: i64,
    /// The entries of a page.
    pub per_page: i64,
    /// The number of all matching ones. `None`: they were not counted.
    pub total: Option<i64>,
}

/// The fields that filters and orders of the log read.
struct Entries(Definition);

impl Entries {
    fn get() -> Option<&'static Self> {
        static ENTRIES: OnceLock<Option<Entries>> = OnceLock::new();
        let body = json!({"name": "logs", "fields": [
            {"name": "created", "type": "autodate", "onCreate": true},
            {"name": "level", "type": "number"},
            {"name": "message", "type": "text"},
            {"name": "data", "type": "json"},
        ]});
        let made = || Definition::create(&body).ok().map(|(_, definition)| Self(definition));
        ENTRIES.get_or_init(made).as_ref()
    }

    fn filter(&self, text: &str) -> Result<Option<TypedExpression>, TypedError> {
        if text.is_empty() {
            return Ok(None);
        }
        let (values, sees) = (RequestValues::default(), |_: &str| Seen::Nothing);
        let parsed = TypedExpression::parse(text, &values, self, &self.0.id, &sees, true);
        parsed.map(Some).map_err(|_| TypedError::InvalidQuery)
    }
}

impl Catalog for Entries {
    fn by_id(&self, id: &str) -> Option<TypedCollection<'_>> {
        (id == self.0.id).then_some(TypedCollection { name: "logs", definition: &self.0 })
    }

    fn by_name(&self, _: &str) -> Option<TypedCollection<'_>> {
        None
    }
}

/// A filter as conditions.
fn compiled(filter: Option<&TypedExpression>) -> Conditions {
    let mut parameters = Parameters::default();
    let conditions = match filter {
        None => "true".to_owned(),
        // It leads to no other table.
        Some(filter) => filter.compile(Millis::now(), &|_| String::new(), &mut parameters),
    };
    (conditions, parameters)
}

/// Stores entries, and deletes those that the settings do not keep.
struct LogTask {
    logs: RequestLogs,
    /// The last deletion, and its settings.
    pruned: Option<(Instant, Logs)>,
}

impl Step for LogTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        self.logs.0.queue.ready(FLUSH_INTERVAL).await;
        self.logs.flush().await.map_err(|error| StepError::new(error.with_sources()))?;
        let settings = self.logs.0.typed.settings().await;
        let settings = &settings.map_err(|error| StepError::new(error.to_string()))?.logs;
        let (is_due, is_changed) = match &self.pruned {
            None => (true, true),
            Some((at, known)) => {
                let many = self.logs.0.unpruned.load(Ordering::Relaxed) >= PRUNE_AFTER;
                (many || at.elapsed() >= PRUNE_INTERVAL, known != settings)
            }
        };
        if is_due || is_changed {
            let pruned = async {
                if is_changed {
                    self.logs.prune_levels(settings).await?;
                }
                self.logs.prune(settings).await
            };
            self.logs.0.unpruned.store(0, Ordering::Relaxed);
            pruned.await.map_err(|error| StepError::new(error.with_sources()))?;
            self.pruned = Some((Instant::now(), settings.clone()));
        }
        Ok(Next::Interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_orders_read_the_fields_of_an_entry() {
        let entries = Entries::get().unwrap();
        for good in [
            "id = 'a'",
            "level > 0 && message ~ 'posts'",
            "data.status >= 400",
            "data.auth != '' && created > '2026-11-30 10:00:00.000Z'",
            "created >= @todayStart",
            "data.details.name.code = 'x'",
        ] {
            assert!(entries.filter(good).unwrap().is_some(), "{good}");
        }
        assert!(entries.filter("").unwrap().is_none());
        for bad in ["nope = 1", "updated > 1", "data.status", "@collection.posts.id = 1", "logs_via_x.id = 1"]
        {
            assert!(entries.filter(bad).is_err(), "{bad}");
        }
        let order = |text: &str| {
            TypedSort::parse(text, entries, &entries.0.id, &|_| Seen::Nothing, true)
                .map(|sort| sort.compile(&|_| String::new(), &mut Parameters::default()))
        };
        assert_eq!(order("-created").unwrap(), "created desc, created, id");
        assert_eq!(order("-@rowid").unwrap(), "created desc, id desc, created, id");
        assert!(order("-data.execTime,level,message,id").is_ok());
        assert!(order("updated").is_err());
    }
}
