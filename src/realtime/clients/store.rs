//! The tables `client_nodes` and `client_messages`.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::ClientId;
use crate::db::{Database, DbError, Parameter, sql};

/// The messages that are read at once.
pub(super) const TAKEN_AT_ONCE: i64 = 16;
/// The most messages that wait for a node.
const MAX_WAITING: i64 = 256;

/// The outcome of a request's sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It waits for its node.
    Waits,
    /// There is no such node.
    NoNode,
    /// Too many messages wait for it.
    Busy,
}

/// A message to this node.
#[derive(Debug)]
pub(super) enum Message {
    /// A request to one of its connections.
    Request {
        request: Uuid,
        /// The node that waits for the answer.
        sender: String,
        client: String,
        body: Bytes,
    },
    /// The answer to a request of this node; `None`: there is no such connection.
    Answer { request: Uuid, body: Option<Bytes> },
}

/// Messages between nodes.
#[derive(Debug, Clone)]
pub(super) struct ClientStore {
    database: Database,
    timeout: Duration,
}

impl ClientStore {
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// The node has connections, for the next two minutes.
    pub(super) async fn register(&self, node: &str) -> Result<(), DbError> {
        let register = sql!(self.database, "realtime/client_node.sql");
        self.database.query_in_time(self.timeout, register, &[(&node, Type::TEXT)]).await?;
        Ok(())
    }

    /// The node has none any more.
    pub(super) async fn unregister(&self, node: &str) -> Result<(), DbError> {
        let unregister = sql!(self.database, "realtime/client_node_gone.sql");
        self.database.query_in_time(self.timeout, unregister, &[(&node, Type::TEXT)]).await?;
        Ok(())
    }

    /// Sends a request of the node `sender`.
    pub(super) async fn send(
        &self,
        request: Uuid,
        id: &ClientId,
        sender: &str,
        body: &[u8],
    ) -> Result<Sent, DbError> {
        let parameters: [Parameter<'_>; 6] = [
            (&request, Type::UUID),
            (&id.node(), Type::TEXT),
            (&id.as_str(), Type::TEXT),
            (&sender, Type::TEXT),
            (&body, Type::BYTEA),
            (&MAX_WAITING, Type::INT8),
        ];
        let send = sql!(self.database, "realtime/client_send.sql");
        let rows = self.database.query_in_time(self.timeout, send, &parameters).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no outcome of a message"))?;
        Ok(match (row.try_get("is_known")?, row.try_get("is_sent")?) {
            (false, _) => Sent::NoNode,
            (true, false) => Sent::Busy,
            (true, true) => Sent::Waits,
        })
    }

    /// Answers a request of another node.
    pub(super) async fn answer(&self, request: Uuid, node: &str, body: Option<&[u8]>) -> Result<(), DbError> {
        let parameters: [Parameter<'_>; 3] =
            [(&request, Type::UUID), (&node, Type::TEXT), (&body, Type::BYTEA)];
        let answer = sql!(self.database, "realtime/client_answer.sql");
        self.database.query_in_time(self.timeout, answer, &parameters).await?;
        Ok(())
    }

    /// Takes messages to a node, up to [`TAKEN_AT_ONCE`].
    pub(super) async fn take(&self, node: &str) -> Result<Vec<Message>, DbError> {
        let parameters: [Parameter<'_>; 2] = [(&node, Type::TEXT), (&TAKEN_AT_ONCE, Type::INT8)];
        let take = sql!(self.database, "realtime/client_take.sql");
        let rows = self.database.query_in_time(self.timeout, take, &parameters).await?;
        let message = |row: &tokio_postgres::Row| {
            let request = row.try_get("request")?;
            let body = row.try_get::<_, Option<Vec<u8>>>("body")?.map(Bytes::from);
            Ok(match (row.try_get("client")?, row.try_get("sender")?) {
                (Some(client), Some(sender)) => {
                    Message::Request { request, sender, client, body: body.unwrap_or_default() }
                }
                _ => Message::Answer { request, body },
            })
        };
        rows.iter().map(message).collect()
    }
}
