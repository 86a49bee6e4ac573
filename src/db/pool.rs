//! The pool of connections to Postgres, and its quotas.
//!
//! * The task that drives a connection runs on the runtime that the pool was built on, whichever thread uses the connection:
//!   request threads come and go, a connection stays.
//! * Every use of the pool except the event path has a quota, kept by semaphores: one connection of its own, and a number that
//!   it may borrow from the spare ones. The rest is reserved for the event path. In a pool too small for that, uses that may hold
//!   a connection for long share one, and all others share the rest.
//! * A connection that is dropped with a statement under way stays out of the pool until Postgres has answered. It is closed if
//!   no answer comes in time. A future that uses a connection can therefore be dropped at any point.
//! * deadpool keeps idle connections for ever; a task here closes those that were idle for `DB_IDLE_TIMEOUT`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType,
};
use deadpool_postgres::ClientWrapper;
use parking_lot::Mutex;
use tidegate_connection::{Connected, Connector};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio_postgres::Client;

use super::server::KnownServer;
use super::{ConnectionUrl, DbError, Housekeeping};
use crate::config::{DatabaseConfig, PoolQuotas, Quota, limits};
use crate::supervisor::{Backoff, Next, Supervisor};

/// The database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: Pool<PoolManager>,
    connector: Arc<Connector>,
    schema: Arc<str>,
    quota: Option<PoolQuota>,
    /// Connections that quotas may borrow.
    spare: Arc<Semaphore>,
    /// In a pool too small for a connection each.
    groups: Option<Groups>,
    statement_timeout: Duration,
    pool_wait: Duration,
    prepares: Arc<AtomicBool>,
    housekeeping: Arc<Housekeeping>,
    known_server: Arc<KnownServer>,
}

/// Connections that several uses of a small pool share.
#[derive(Debug, Clone)]
struct Groups {
    /// For uses that may hold a connection for long.
    long: Arc<Semaphore>,
    /// For all others.
    brief: Arc<Semaphore>,
}

/// The connections that one use of the pool may hold at once.
#[derive(Debug, Clone)]
struct PoolQuota {
    /// The connection that is reserved for this use, or those of its group.
    own: Arc<Semaphore>,
    /// The connections that it may borrow.
    borrowed: Arc<Semaphore>,
    wait: Duration,
}

/// A connection's part of a quota, returned when dropped.
#[derive(Debug)]
struct QuotaPermit {
    _permit: OwnedSemaphorePermit,
    _borrowed: Option<OwnedSemaphorePermit>,
}

impl PoolQuota {
    /// Waits for a permit.
    async fn acquire(&self, spare: &Arc<Semaphore>) -> Result<QuotaPermit, AcquireError> {
        let own = Arc::clone(&self.own).acquire_owned();
        let borrow = async {
            let borrowed = Arc::clone(&self.borrowed).acquire_owned().await?;
            Ok((Arc::clone(spare).acquire_owned().await?, borrowed))
        };
        tokio::select! {
            biased;
            own = own => Ok(QuotaPermit { _permit: own?, _borrowed: None }),
            lent = borrow => lent.map(|(spare, borrowed)| QuotaPermit { _permit: spare, _borrowed: Some(borrowed) }),
        }
    }
}

/// The numbers of connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolStatus {
    /// The maximum.
    pub max: usize,
    /// Open connections.
    pub open: usize,
    /// Open connections that are free.
    pub idle: usize,
    /// Callers that wait for a connection.
    pub waiting: usize,
}

impl Database {
    /// A pool for `url`, without a connection yet. Connections live on the current runtime.
    ///
    /// # Errors
    ///
    /// [`DbError::Tls`] if the URL names certificates that cannot be read.
    pub fn new(url: &ConnectionUrl, config: &DatabaseConfig) -> Result<Self, DbError> {
        let connect_timeout = Duration::from_secs(limits::CONNECT_TIMEOUT_S);
        let connector = Arc::new(Connector::new(url, connect_timeout)?);
        let pool = Pool::builder(PoolManager(Arc::clone(&connector)))
            .max_size(config.db_pool_size)
            // The backends used last have warm caches; the other connections become idle and are closed.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(connect_timeout))
            .create_timeout(Some(connector.patience()))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| DbError::Tls(error.to_string()))?;
        Ok(Self {
            pool,
            connector,
            housekeeping: Arc::default(),
            known_server: Arc::default(),
            schema: config.db_schema.as_str().into(),
            quota: None,
            spare: Arc::new(Semaphore::new(config.db_pool_size)),
            groups: None,
            statement_timeout: config.statement_timeout(),
            pool_wait: config.pool_wait(),
            prepares: Arc::new(AtomicBool::new(url.prepares())),
        })
    }

    /// The same database, whose connections are shared out by these quotas.
    pub fn with_quotas(self, quotas: &PoolQuotas) -> Self {
        let groups = (!quotas.has_own()).then(|| Groups {
            long: Arc::new(Semaphore::new(1)),
            brief: Arc::new(Semaphore::new(quotas.brief())),
        });
        Self { spare: Arc::new(Semaphore::new(quotas.spare())), groups, ..self }
    }

    /// The time of one statement of a request.
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// The time that a request waits for a connection, or for its turn.
    pub fn pool_wait(&self) -> Duration {
        self.pool_wait
    }

    /// The longest that a start waits for the database.
    pub fn start_timeout(&self) -> Duration {
        self.connector.timeout() * limits::START_ATTEMPTS
    }

    /// The same database for one use of it, whose clones hold no more connections together than its quota: one of their own,
    /// and those that they can borrow. A request that finds none free waits up to `POOL_WAIT_MS`.
    pub fn quota(&self, quota: Quota) -> Self {
        let (own, borrowed) = match &self.groups {
            None => (Arc::new(Semaphore::new(1)), quota.connections.saturating_sub(1)),
            Some(groups) => (Arc::clone(if quota.is_long { &groups.long } else { &groups.brief }), 0),
        };
        let quota = PoolQuota { own, borrowed: Arc::new(Semaphore::new(borrowed)), wait: self.pool_wait };
        Self { quota: Some(quota), ..self.clone() }
    }

    /// The same database with a quota of no connection: each request for one fails after `wait`.
    pub(super) fn exhausted(&self, wait: Duration) -> Self {
        let none = || Arc::new(Semaphore::new(0));
        Self { quota: Some(PoolQuota { own: none(), borrowed: none(), wait }), ..self.clone() }
    }

    /// A connection from the pool, or of this use's quota of it.
    ///
    /// # Errors
    ///
    /// [`DbError::Exhausted`] if the quota has none free in time; [`DbError::Connect`] if none can be made; [`DbError::Pool`].
    pub async fn get(&self) -> Result<Connection, DbError> {
        let permit = match &self.quota {
            None => None,
            Some(quota) => match tokio::time::timeout(quota.wait, quota.acquire(&self.spare)).await {
                Ok(Ok(permit)) => Some(permit),
                _ => return Err(DbError::Exhausted(quota.wait)),
            },
        };
        let object = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.connector.refused(error).into(),
            PoolError::Timeout(TimeoutType::Create) => self.connector.timed_out().into(),
            error => DbError::Pool(error),
        })?;
        Ok(Connection {
            object: Arc::new(object),
            pending: PendingAnswer::default(),
            prepares: Arc::clone(&self.prepares),
            connector: Arc::clone(&self.connector),
            permit,
        })
    }

    /// A connection beside the pool, for a user that needs one to itself.
    ///
    /// # Errors
    ///
    /// [`DbError::Connect`] if it cannot be made in time.
    pub async fn connect(&self) -> Result<Client, DbError> {
        Ok(self.connector.connect_in_time().await?)
    }

    /// The server that answered last.
    pub(super) fn known_server(&self) -> &KnownServer {
        &self.known_server
    }

    /// The state of housekeeping.
    pub fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    /// A statement from `sql/`, with `{schema}` replaced by the quoted name of the service's schema.
    pub fn sql(&self, statement: &str) -> String {
        statement.replace("{schema}", &format!("\"{}\"", self.schema))
    }

    /// The name of the service's schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The numbers of connections.
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            max: status.max_size,
            open: status.size,
            idle: status.available,
            waiting: status.waiting,
        }
    }

    /// Starts the task that closes connections that were idle for `timeout`.
    pub fn close_idle(&self, timeout: Duration, supervisor: &Supervisor) {
        let (database, interval) = (self.clone(), timeout.min(Duration::from_secs(5)));
        supervisor.periodic("idle-connections", interval, Backoff::fixed(interval), move || {
            let _closed =
                database.pool.retain(|client, metrics| client.is_usable() && metrics.last_used() < timeout);
            std::future::ready(Ok(Next::Interval))
        });
    }

    /// Closes all connections; those in use are closed when they are dropped.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// A connection as the pool keeps it.
#[derive(Debug)]
struct PooledClient {
    client: ClientWrapper,
    driver: AbortHandle,
    is_closed: AtomicBool,
    is_read_only: bool,
    /// When its prepared statements were last dropped.
    planned: Mutex<Instant>,
}

impl PooledClient {
    /// Closes the connection. The pool drops it instead of handing it out again.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.driver.abort();
    }

    fn is_usable(&self) -> bool {
        !self.is_closed.load(Ordering::Acquire) && !self.client.is_closed()
    }
}

#[derive(Debug)]
struct PoolManager(Arc<Connector>);

impl Manager for PoolManager {
    type Type = PooledClient;
    type Error = tokio_postgres::Error;

    async fn create(&self) -> Result<PooledClient, tokio_postgres::Error> {
        let Connected { client, driver, is_read_only } = self.0.connect().await?;
        let abort = driver.abort_handle();
        Ok(PooledClient {
            client: ClientWrapper::new(client, driver),
            driver: abort,
            is_closed: AtomicBool::new(false),
            is_read_only,
            planned: Mutex::new(Instant::now()),
        })
    }

    async fn recycle(&self, client: &mut PooledClient, _: &Metrics) -> RecycleResult<tokio_postgres::Error> {
        // A read-only session stays so when the default of its role, database or server is reset: the next one may write.
        let is_reusable = client.is_usable() && !client.is_read_only;
        if is_reusable { Ok(()) } else { Err(RecycleError::message("closed, or read-only")) }
    }
}

/// A connection from the pool, returned when dropped.
#[derive(Debug)]
pub struct Connection {
    object: Arc<Object<PoolManager>>,
    pending: PendingAnswer,
    prepares: Arc<AtomicBool>,
    connector: Arc<Connector>,
    // Dropped after the connection.
    permit: Option<QuotaPermit>,
}

/// Whether a connection waits for an answer, and for how long at most.
#[derive(Debug, Default)]
pub(super) struct PendingAnswer(AtomicU64);

impl PendingAnswer {
    /// A statement is sent; its answer comes within `limit`.
    pub(super) fn expect(&self, limit: Duration) {
        self.0.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// The last answer has come.
    pub(super) fn received(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn limit(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            limit_ms => Some(Duration::from_millis(limit_ms)),
        }
    }
}

impl Connection {
    /// Closes the connection instead of returning it to the pool: its state is not known.
    pub fn discard(self) {
        self.object.close();
    }

    /// Returns the connection to the pool after its last work ended with `done`; closes it if no answer came in time.
    ///
    /// # Errors
    ///
    /// Those of `done`.
    pub fn release<T>(self, done: Result<T, DbError>) -> Result<T, DbError> {
        if let Err(DbError::Timeout(_)) = done {
            self.discard();
        }
        done
    }

    /// Whether frequent statements are prepared.
    pub(super) fn prepares(&self) -> bool {
        self.prepares.load(Ordering::Relaxed)
    }

    /// Stops preparing statements, on all connections of the pool.
    pub(super) fn stop_preparing(&self) {
        self.prepares.store(false, Ordering::Relaxed);
    }

    /// Drops prepared statements of this age.
    pub(super) fn renew_plans(&self, age: Duration) {
        let mut planned = self.object.planned.lock();
        if planned.elapsed() >= age {
            *planned = Instant::now();
            self.object.client.statement_cache.clear();
        }
    }

    pub(super) fn pending(&self) -> &PendingAnswer {
        &self.pending
    }

    /// The client, to begin a transaction with.
    pub(super) fn client_mut(&mut self) -> Result<(&mut ClientWrapper, &PendingAnswer), DbError> {
        let object = Arc::get_mut(&mut self.object).ok_or(DbError::Unexpected("a shared connection"))?;
        Ok((&mut object.client, &self.pending))
    }
}

/// Returns the connection to the pool, at once or after the answer to a statement that is under way.
impl Drop for Connection {
    fn drop(&mut self) {
        let Some(limit) = self.pending.limit().filter(|_| self.object.is_usable()) else { return };
        let (object, permit) = (Arc::clone(&self.object), self.permit.take());
        self.connector.runtime().spawn(async move {
            // Answers come in order: this one comes after that of the statement under way.
            let answered = tokio::time::timeout(limit, object.client.batch_execute("")).await;
            if !matches!(answered, Ok(Ok(()))) {
                object.close();
            }
            drop(object);
            drop(permit);
        });
    }
}

impl std::ops::Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &Self::Target {
        &self.object.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(connections: usize) -> PoolQuota {
        let (own, borrowed) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(connections - 1)));
        PoolQuota { own, borrowed, wait: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_reserves_one_connection_and_borrows_spare_ones() {
        let spare = Arc::new(Semaphore::new(2));
        let (greedy, other) = (quota(9), quota(3));
        let soon = Duration::from_millis(1);
        let mut held = Vec::new();
        while let Ok(permit) = tokio::time::timeout(soon, greedy.acquire(&spare)).await {
            held.push(permit.unwrap());
        }
        assert_eq!(held.len(), 3, "its own and all that is spare");
        let own = other.acquire(&spare).await.unwrap();
        assert!(tokio::time::timeout(soon, other.acquire(&spare)).await.is_err(), "nothing is spare");
        held.pop();
        let lent = other.acquire(&spare).await.unwrap();
        drop((own, lent));
        assert_eq!((spare.available_permits(), other.own.available_permits()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_is_never_exceeded_however_many_are_spare() {
        let spare = Arc::new(Semaphore::new(9));
        let quota = quota(2);
        let held = [quota.acquire(&spare).await.unwrap(), quota.acquire(&spare).await.unwrap()];
        assert!(tokio::time::timeout(Duration::from_millis(1), quota.acquire(&spare)).await.is_err());
        drop(held);
        assert_eq!(spare.available_permits(), 9);
    }
}
