//! The tables `client_nodes`, `client_messages` and `client_positions`.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::ClientId;
use super::positions::{MAX_POSITIONS, PositionName};
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

/// A position that a connection keeps.
#[derive(Debug)]
pub(super) struct KeptRow<'a> {
    pub(super) name: &'a PositionName,
    pub(super) holder: &'a ClientId,
    pub(super) position: String,
    pub(super) is_open: bool,
}

/// Messages between nodes, and positions that they keep.
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

    /// The connections that keep positions of an identity.
    pub(super) async fn position_holders(
        &self,
        identity: &str,
        names: &[Uuid],
    ) -> Result<Vec<String>, DbError> {
        let find = sql!(self.database, "realtime/client_position_holders.sql");
        let parameters: [Parameter<'_>; 2] = [(&identity, Type::TEXT), (&names, Type::UUID_ARRAY)];
        let rows = self.database.query_in_time(self.timeout, find, &parameters).await?;
        rows.iter().map(|row| Ok(row.try_get("holder")?)).collect()
    }

    /// Makes a connection the keeper of positions; returns those that there are.
    pub(super) async fn take_positions(
        &self,
        identity: &str,
        names: &[Uuid],
        holder: &ClientId,
    ) -> Result<Vec<(Uuid, String)>, DbError> {
        let take = sql!(self.database, "realtime/client_positions_take.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&identity, Type::TEXT), (&names, Type::UUID_ARRAY), (&holder.as_str(), Type::TEXT)];
        let rows = self.database.query_in_time(self.timeout, take, &parameters).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("position")?))).collect()
    }

    /// Adds a position. False: the owner has too many.
    pub(super) async fn add_position(
        &self,
        name: &PositionName,
        owner: &str,
        holder: &ClientId,
        position: &str,
    ) -> Result<bool, DbError> {
        let add = sql!(self.database, "realtime/client_position_add.sql");
        let parameters: [Parameter<'_>; 6] = [
            (&&*name.identity, Type::TEXT),
            (&name.name, Type::UUID),
            (&owner, Type::TEXT),
            (&holder.as_str(), Type::TEXT),
            (&position, Type::TEXT),
            (&(MAX_POSITIONS as i64), Type::INT8),
        ];
        Ok(!self.database.query_in_time(self.timeout, add, &parameters).await?.is_empty())
    }

    /// Keeps positions.
    pub(super) async fn keep_positions(&self, rows: &[KeptRow<'_>]) -> Result<(), DbError> {
        let identities: Vec<&str> = rows.iter().map(|row| &*row.name.identity).collect();
        let names: Vec<Uuid> = rows.iter().map(|row| row.name.name).collect();
        let holders: Vec<&str> = rows.iter().map(|row| row.holder.as_str()).collect();
        let positions: Vec<&str> = rows.iter().map(|row| row.position.as_str()).collect();
        let open: Vec<bool> = rows.iter().map(|row| row.is_open).collect();
        let parameters: [Parameter<'_>; 5] = [
            (&identities, Type::TEXT_ARRAY),
            (&names, Type::UUID_ARRAY),
            (&holders, Type::TEXT_ARRAY),
            (&positions, Type::TEXT_ARRAY),
            (&open, Type::BOOL_ARRAY),
        ];
        let keep = sql!(self.database, "realtime/client_positions_keep.sql");
        self.database.query_in_time(self.timeout, keep, &parameters).await?;
        Ok(())
    }

    /// Deletes positions that no connection has renewed for a number of seconds; returns the number of deleted ones, and of those that are left.
    pub(super) async fn forget_positions(
        &self,
        older_than_s: f64,
        limit: i64,
    ) -> Result<(i64, i64), DbError> {
        let forget = sql!(self.database, "realtime/client_positions_forget.sql");
        let parameters: [Parameter<'_>; 2] = [(&older_than_s, Type::FLOAT8), (&limit, Type::INT8)];
        let rows = self.database.query_in_time(self.timeout, forget, &parameters).await?;
        Ok(rows.first().map_or((0, 0), |row| (row.get(0), row.get(1))))
    }
}
