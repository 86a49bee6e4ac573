//! The one pool of connections, and what its users may rely on.
//!
//! * The task that drives a connection runs on the runtime that the pool was built on, whoever asks for a connection:
//!   request threads come and go, a connection stays.
//! * Each use of the pool but the event path's holds a share of it, by semaphores: one connection that is its own, and
//!   what it may borrow of those that are spare. What is left over is the event path's alone, whatever the others do.
//! * deadpool keeps idle connections for ever; a task here closes those that were idle for `DB_IDLE_TIMEOUT`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Connect, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, TimeoutType,
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

use super::connect::Connector;
use super::{ConnectionUrl, DbError, Housekeeping};
use crate::config::DatabaseConfig;
use crate::supervisor::{Backoff, Next, Supervisor};

/// The database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: Pool,
    connector: Arc<Connector>,
    schema: Arc<str>,
    share: Option<PoolQuota>,
    /// What shares may borrow.
    spare: Arc<Semaphore>,
    prepares: Arc<AtomicBool>,
    housekeeping: Arc<Housekeeping>,
}

/// The connections that one use of the pool may hold at once.
#[derive(Debug, Clone)]
struct PoolQuota {
    /// That which nobody else can have.
    own: Arc<Semaphore>,
    /// Those that it may borrow.
    borrowed: Arc<Semaphore>,
    wait: Duration,
}

/// QuotaPermit for a connection in a share; given back when dropped.
#[derive(Debug)]
struct QuotaPermit {
    _permit: OwnedSemaphorePermit,
    _borrowed: Option<OwnedSemaphorePermit>,
}

impl PoolQuota {
    /// QuotaPermit, as soon as there is any.
    async fn room(&self, spare: &Arc<Semaphore>) -> Result<QuotaPermit, AcquireError> {
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

/// How many connections there are.
#[derive(Debug, Clone, Copy)]
pub struct PoolStatus {
    /// The most that there can be.
    pub max: usize,
    /// Those that are open.
    pub open: usize,
    /// Those that are open and free.
    pub idle: usize,
    /// Those who wait for one.
    pub waiting: usize,
}

impl Database {
    /// A pool for `url`; nothing is connected yet. Connections live on the current runtime.
    ///
    /// # Errors
    ///
    /// [`DbError::Tls`] if the URL asks for roots of trust that cannot be had.
    pub fn new(url: &ConnectionUrl, config: &DatabaseConfig) -> Result<Self, DbError> {
        let connect_timeout = Duration::from_secs(config.db_connect_timeout_s);
        let connector = Arc::new(Connector::new(url, connect_timeout)?);
        let manager = Manager::from_connect(
            connector.any(),
            Driver(Arc::clone(&connector)),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(config.db_pool_size)
            // Those used last are the ones whose backends have their caches warm; the others become idle and are closed.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(connect_timeout))
            .create_timeout(Some(connector.patience()))
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build()
            .map_err(|error| DbError::Tls(error.to_string()))?;
        Ok(Self {
            pool,
            connector,
            housekeeping: Arc::default(),
            schema: config.db_schema.as_str().into(),
            share: None,
            spare: Arc::new(Semaphore::new(config.db_pool_size)),
            prepares: Arc::new(AtomicBool::new(config.db_prepare.is_on())),
        })
    }

    /// The same database, of whose connections so many may be borrowed by the shares made from it.
    pub fn with_spare(self, spare: usize) -> Self {
        Self { spare: Arc::new(Semaphore::new(spare)), ..self }
    }

    /// The same database for one use of it, whose clones hold no more than so many `connections` together: one of their own,
    /// and what they can borrow. Who finds none free waits up to `wait`.
    pub fn quota(&self, connections: usize, wait: Duration) -> Self {
        let own = connections.min(1);
        let share = PoolQuota {
            own: Arc::new(Semaphore::new(own)),
            borrowed: Arc::new(Semaphore::new(connections - own)),
            wait,
        };
        Self { share: Some(share), ..self.clone() }
    }

    /// A connection from the pool, or of this use's share of it.
    ///
    /// # Errors
    ///
    /// [`DbError::Exhausted`] if the share has none free in time; [`DbError::Connect`] if none can be made; [`DbError::Pool`].
    pub async fn get(&self) -> Result<Connection, DbError> {
        let room = match &self.share {
            None => None,
            Some(share) => match tokio::time::timeout(share.wait, share.room(&self.spare)).await {
                Ok(Ok(room)) => Some(room),
                _ => return Err(DbError::Exhausted(share.wait)),
            },
        };
        let prepares = Arc::clone(&self.prepares);
        let object = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.connector.refused(error),
            PoolError::Timeout(TimeoutType::Create) => self.connector.timed_out(),
            error => DbError::Pool(error),
        })?;
        Ok(Connection { object, prepares, _room: room })
    }

    /// A connection beside the pool, for what needs one to itself.
    ///
    /// # Errors
    ///
    /// [`DbError::Connect`] if it cannot be made in time.
    pub async fn connect(&self) -> Result<Client, DbError> {
        self.connector.connect_in_time().await
    }

    /// What keeps the tables small, and what is wrong with it.
    pub fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    /// A statement from `sql/`, with `{schema}` replaced by the quoted name of the schema that holds our tables.
    pub fn sql(&self, statement: &str) -> String {
        statement.replace("{schema}", &format!("\"{}\"", self.schema))
    }

    /// The name of the schema that holds our tables.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// How many connections there are.
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            max: status.max_size,
            open: status.size,
            idle: status.available,
            waiting: status.waiting,
        }
    }

    /// Starts the task that closes connections that were idle for `timeout`: deadpool has no idle time-out of its own.
    pub fn close_idle(&self, timeout: Duration, supervisor: &Supervisor) {
        let (database, interval) = (self.clone(), timeout.min(Duration::from_secs(5)));
        supervisor.periodic("idle-connections", interval, Backoff::fixed(interval), move || {
            let _closed = database.pool.retain(|_, metrics| metrics.last_used() < timeout);
            std::future::ready(Ok(Next::Interval))
        });
    }

    /// Closes all connections, those in use when they are given back.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// A connection from the pool; goes back when it is dropped.
#[derive(Debug)]
pub struct Connection {
    object: Object,
    prepares: Arc<AtomicBool>,
    // Given back after the connection is.
    _room: Option<QuotaPermit>,
}

impl Connection {
    /// Closes the connection instead of giving it back: its state is not known.
    pub fn discard(self) {
        let _closed = Object::take(self.object);
    }

    /// Gives the connection back now that `done` is what became of its last work. If the end of that was not heard, the connection is
    /// closed.
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

    /// Whether statements that are run often are prepared.
    pub(super) fn prepares(&self) -> bool {
        self.prepares.load(Ordering::Relaxed)
    }

    /// From now on none is, on any connection of the pool.
    pub(super) fn prepare_no_more(&self) {
        self.prepares.store(false, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Connection {
    type Target = deadpool_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.object
    }
}

impl std::ops::DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.object
    }
}

struct Driver(Arc<Connector>);

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>>;

impl Connect for Driver {
    fn connect(&self, _config: &Config) -> Connecting<'_> {
        Box::pin(self.0.connect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(connections: usize) -> PoolQuota {
        let (own, borrowed) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(connections - 1)));
        PoolQuota { own, borrowed, wait: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_keeps_one_of_its_own_and_borrows_what_is_spare() {
        let spare = Arc::new(Semaphore::new(2));
        let (greedy, other) = (share(9), share(3));
        let soon = Duration::from_millis(1);
        let mut held = Vec::new();
        while let Ok(room) = tokio::time::timeout(soon, greedy.room(&spare)).await {
            held.push(room.unwrap());
        }
        assert_eq!(held.len(), 3, "its own and all that is spare");
        let own = other.room(&spare).await.unwrap();
        assert!(tokio::time::timeout(soon, other.room(&spare)).await.is_err(), "nothing is spare");
        held.pop();
        let lent = other.room(&spare).await.unwrap();
        drop((own, lent));
        assert_eq!((spare.available_permits(), other.own.available_permits()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_holds_no_more_than_it_may_whatever_is_spare() {
        let spare = Arc::new(Semaphore::new(9));
        let share = share(2);
        let held = [share.room(&spare).await.unwrap(), share.room(&spare).await.unwrap()];
        assert!(tokio::time::timeout(Duration::from_millis(1), share.room(&spare)).await.is_err());
        drop(held);
        assert_eq!(spare.available_permits(), 9);
    }
}
