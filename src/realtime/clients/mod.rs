//! Connections that any node finds by their client ids: a request to one of them, and its answer.
//!
//! For a face whose clients open a stream by one request and control it by others, which a proxy may send to another node:
//!
//! ```text
//! node A   Clients::open ─▶ ClientConnection (id) ─▶ next() ─▶ ClientRequest ─▶ answer()
//!                                                      ▲               │
//! node B   Clients::request(id, body) ─ client_messages + a change ────┘ client_messages ─▶ the answer
//! ```
//!
//! An id begins with that of its node, so there is no table of connections, and opening one costs no statement. The rest of it is random, so who
//! knows an id was told it by its client. A request to another node is a row, and a change of the topic `node:{id}` in the same transaction: the
//! feed, which is read for the node's subscribers anyway, wakes that node. The requesting node looks for the answer itself while it waits.
//!
//! Bounds: [`MAX_BODY_BYTES`], [`MAX_WAITING`] requests a connection, [`MAX_REMOTE`] requests of a node to others, 256 messages to a node, and
//! [`REQUEST_LIMIT`]. An unread message is deleted by later ones. An answer may be lost, by a crash or the limit: the request may have
//! been served nevertheless, so requests are to be such that repeating one does no harm.

mod positions;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::hub::Hub;
use crate::db::{Database, DbError};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
pub use positions::{KeptPosition, MAX_POSITIONS, PositionName};
use positions::{PositionTask, Positions};
use store::{ClientStore, Message, Sent, TAKEN_AT_ONCE};

/// The longest body of a request or an answer (`sql/migrations/V18`).
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// The requests that may wait for a connection to take them.
pub const MAX_WAITING: usize = 4;
/// The requests of this node to others that may wait for their answers.
pub const MAX_REMOTE: usize = 64;
/// The time for an answer.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(3);
/// The time of a statement.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two looks for answers, while some are awaited.
const ANSWER_POLL: Duration = Duration::from_millis(10);
/// How often a node with connections reports that it is there; a node without any unregisters after this time.
const REGISTRATION: Duration = Duration::from_secs(10);
/// The wait after an error.
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// Characters of a node in an id.
const NODE_CHARACTERS: usize = 16;
/// Characters of an id: behind the node, 120 random bits, 5 a character. PocketBase's ids have as many.
const ID_CHARACTERS: usize = NODE_CHARACTERS + 24;

/// The id of a connection, among all nodes: a client that has it may send requests to it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Box<str>);

impl ClientId {
    /// Reads an id; `None`: it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == ID_CHARACTERS
            && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        is_id.then(|| Self(text.into()))
    }

    /// As text: digits and lower-case letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn node(&self) -> &str {
        self.0.get(..NODE_CHARACTERS).unwrap_or_default()
    }
}

/// Without the part that makes it a secret.
impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({}…)", self.node())
    }
}

/// A connection that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database failed: other nodes would not find it.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The system has no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// A request to a connection that failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No node has such a connection.
    #[error("there is no such connection")]
    Unknown,
    /// It did not answer in time: whether it was served is not known.
    #[error("the connection did not answer within {} s", REQUEST_LIMIT.as_secs())]
    NoAnswer,
    /// Too many requests wait.
    #[error("too many requests wait for connections")]
    Busy,
    /// [`MAX_BODY_BYTES`] is exceeded.
    #[error("a request to a connection has up to {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// The connections of this node, and the requests to those of all nodes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hub: Hub,
    store: ClientStore,
    state: Mutex<State>,
    /// When the node reported last that it is there. `None`: others do not know it. A connection is added and a node unregisters under this lock,
    /// so that others know a node with connections.
    registered: tokio::sync::Mutex<Option<Instant>>,
    remote: Semaphore,
    positions: Positions,
}

#[derive(Debug, Default)]
struct State {
    /// The connections of this node.
    connections: HashMap<ClientId, mpsc::Sender<ClientRequest>>,
    /// Requests of this node to others.
    awaited: HashMap<Uuid, oneshot::Sender<Option<Bytes>>>,
}

/// A connection. Dropped, it is unknown.
#[derive(Debug)]
pub struct ClientConnection {
    clients: Clients,
    id: ClientId,
    requests: mpsc::Receiver<ClientRequest>,
}

/// A request to a connection. Dropped without an answer, the connection counts as unknown.
#[derive(Debug)]
pub struct ClientRequest {
    /// What is requested.
    pub body: Bytes,
    answer: oneshot::Sender<Bytes>,
}

impl ClientRequest {
    /// Answers it. An answer of more than [`MAX_BODY_BYTES`] is not delivered.
    pub fn answer(self, body: Bytes) {
        // The requester may have given up.
        let _given_up = self.answer.send(body);
    }
}

impl ClientConnection {
    /// Its id.
    pub fn id(&self) -> &ClientId {
        &self.id
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> ClientRequest {
        match self.requests.recv().await {
            Some(request) => request,
            // The sender is there as long as this.
            None => std::future::pending().await,
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.clients.0.state.lock().connections.remove(&self.id);
    }
}

/// A request that awaits its answer.
struct Awaited<'a> {
    clients: &'a Clients,
    request: Uuid,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.clients.0.state.lock().awaited.remove(&self.request);
    }
}

impl Clients {
    /// None yet.
    pub(super) fn new(hub: &Hub, database: &Database) -> Self {
        Self(Arc::new(Inner {
            hub: hub.clone(),
            store: ClientStore::new(database, TIMEOUT),
            state: Mutex::default(),
            registered: tokio::sync::Mutex::default(),
            remote: Semaphore::new(MAX_REMOTE),
            positions: Positions::default(),
        }))
    }

    /// Starts the task that reads messages of other nodes, which sleeps while this node has neither connections nor requests to others, and the one
    /// that keeps positions of clients. These are of use for `retention_s` seconds.
    pub fn start(&self, retention_s: u64, supervisor: &Supervisor) {
        let keeper = PositionTask { clients: self.clone(), retention_s: retention_s as f64, swept: None };
        supervisor.periodic("client-positions", Duration::ZERO, Backoff::fixed(AFTER_ERROR), keeper);
        let task = ClientTask { clients: self.clone(), answers: JoinSet::new() };
        supervisor.periodic("clients", Duration::ZERO, Backoff::fixed(AFTER_ERROR), task);
    }

    /// A new connection of this node.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(&self) -> Result<ClientConnection, OpenError> {
        let mut random = [0; ID_CHARACTERS - NODE_CHARACTERS];
        getrandom::fill(&mut random).map_err(|_| OpenError::NoRandomness)?;
        let digit = |byte: &u8| char::from_digit(u32::from(byte & 31), 32);
        let id =
            ClientId(self.node().chars().chain(random.iter().filter_map(digit)).collect::<String>().into());
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let mut registered = self.0.registered.lock().await;
        self.register(&mut registered).await?;
        self.0.state.lock().connections.insert(id.clone(), sender);
        self.0.hub.set_mail(true);
        Ok(ClientConnection { clients: self.clone(), id, requests })
    }

    /// Sends a request to a connection of any node; returns its answer.
    ///
    /// # Errors
    ///
    /// [`RequestError`], within about [`REQUEST_LIMIT`].
    pub async fn request(&self, id: &ClientId, body: Bytes) -> Result<Bytes, RequestError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(RequestError::TooLarge);
        }
        let requesting = async {
            match id.node() == self.node() {
                true => self.request_here(id, body)?.await.map_err(|_| RequestError::Unknown),
                false => self.request_elsewhere(id, body).await,
            }
        };
        tokio::time::timeout(REQUEST_LIMIT, requesting).await.unwrap_or(Err(RequestError::NoAnswer))
    }

    fn request_here(&self, id: &ClientId, body: Bytes) -> Result<oneshot::Receiver<Bytes>, RequestError> {
        let (answer, answered) = oneshot::channel();
        let state = self.0.state.lock();
        let connection = state.connections.get(id).ok_or(RequestError::Unknown)?;
        connection.try_send(ClientRequest { body, answer }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Unknown,
        })?;
        Ok(answered)
    }

    async fn request_elsewhere(&self, id: &ClientId, body: Bytes) -> Result<Bytes, RequestError> {
        let _permit = self.0.remote.try_acquire().map_err(|_| RequestError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let request = Uuid::new_v4();
        self.0.state.lock().awaited.insert(request, answer);
        let _awaited = Awaited { clients: self, request };
        match self.0.store.send(request, id, self.node(), &body).await? {
            Sent::Waits => {}
            Sent::NoNode => return Err(RequestError::Unknown),
            Sent::Busy => return Err(RequestError::Busy),
        }
        self.0.hub.wake_mail();
        answered.await.ok().flatten().ok_or(RequestError::Unknown)
    }

    fn node(&self) -> &str {
        self.0.hub.node()
    }

    /// Reports that the node has connections, unless it did a moment ago.
    async fn register(&self, registered: &mut Option<Instant>) -> Result<(), DbError> {
        if registered.is_none_or(|at| at.elapsed() >= REGISTRATION) {
            let now = Instant::now();
            self.0.store.register(self.node()).await?;
            *registered = Some(now);
        }
        Ok(())
    }

    /// Keeps the node known while it has connections, and no longer.
    async fn keep_registered(&self) -> Result<(), DbError> {
        let mut registered = self.0.registered.lock().await;
        if self.has_connections() {
            return self.register(&mut registered).await;
        }
        if registered.is_some_and(|at| at.elapsed() >= REGISTRATION) {
            self.0.store.unregister(self.node()).await?;
            *registered = None;
            self.0.hub.set_mail(false);
        }
        Ok(())
    }

    fn has_connections(&self) -> bool {
        !self.0.state.lock().connections.is_empty()
    }

    fn is_waiting(&self) -> bool {
        !self.0.state.lock().awaited.is_empty()
    }

    /// Serves a request of another node.
    async fn serve(&self, request: Uuid, sender: &str, client: &str, body: Bytes) -> Result<(), DbError> {
        if let Some(released) = self.serve_release(client, &body).await {
            return self.0.store.answer(request, sender, Some(&released?)).await;
        }
        let answer = async {
            let answered = self.request_here(&ClientId::parse(client)?, body).ok()?;
            tokio::time::timeout(REQUEST_LIMIT, answered).await.ok()?.ok()
        };
        let answer = answer.await.filter(|body| body.len() <= MAX_BODY_BYTES);
        self.0.store.answer(request, sender, answer.as_deref()).await
    }
}

/// Reads messages of other nodes.
struct ClientTask {
    clients: Clients,
    /// The requests that are being served.
    answers: JoinSet<Result<(), DbError>>,
}

impl Step for ClientTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let clients = &self.clients;
        clients.keep_registered().await?;
        let is_waiting = clients.is_waiting();
        let mut is_more = false;
        if (is_waiting || clients.0.hub.awaits_mail()) && self.answers.len() < MAX_REMOTE {
            let messages = clients.0.store.take(clients.node()).await?;
            is_more = messages.len() as i64 == TAKEN_AT_ONCE;
            for message in messages {
                match message {
                    Message::Request { request, sender, client, body } => {
                        let clients = clients.clone();
                        self.answers
                            .spawn(async move { clients.serve(request, &sender, &client, body).await });
                    }
                    Message::Answer { request, body } => {
                        if let Some(awaited) = clients.0.state.lock().awaited.remove(&request) {
                            let _given_up = awaited.send(body);
                        }
                    }
                }
            }
        }
        if is_more {
            return Ok(Next::Interval);
        }
        let wait = if is_waiting { ANSWER_POLL } else { REGISTRATION };
        tokio::select! {
            () = clients.0.hub.mail() => {}
            () = tokio::time::sleep(wait) => {}
            Some(served) = self.answers.join_next() => match served {
                Ok(served) => served?,
                Err(panicked) => return Err(StepError::new(panicked.to_string())),
            },
        }
        Ok(Next::Interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_form_of_its_own_and_is_not_printed() {
        let text = format!("{}{}", "0".repeat(16), "a1".repeat(12));
        let id = ClientId::parse(&text).unwrap();
        assert_eq!((id.as_str(), id.node()), (&*text, &*"0".repeat(16)));
        assert!(!format!("{id:?}").contains("a1"), "{id:?}");
        for bad in ["", "0", &text[1..], &format!("{text}0"), &text.to_uppercase(), &text.replace('a', "é")]
        {
            assert!(ClientId::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(text.len(), 40);
    }
}
