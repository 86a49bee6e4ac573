//! The table `auth_tickets`.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::Type;

use super::{MAX_CALLER_TICKETS, MAX_TICKETS, TICKET_S, TicketHash};
use crate::db::{Database, DbError, Parameter, sql};

#[derive(Debug, Clone)]
pub(super) struct TicketStore {
    database: Database,
    timeout: Duration,
}

impl TicketStore {
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// Adds a ticket. False: there are too many.
    pub(super) async fn add(
        &self,
        hash: &TicketHash,
        caller: &[u8; 32],
        credential: &Value,
    ) -> Result<bool, DbError> {
        let lifetime_s = f64::from(TICKET_S);
        let parameters: [Parameter<'_>; 6] = [
            (&&hash.0[..], Type::BYTEA),
            (&&caller[..], Type::BYTEA),
            (credential, Type::JSONB),
            (&lifetime_s, Type::FLOAT8),
            (&MAX_CALLER_TICKETS, Type::INT8),
            (&MAX_TICKETS, Type::INT8),
        ];
        let add = sql!(self.database, "auth/add_ticket.sql");
        let rows = self.database.query_in_time(self.timeout, add, &parameters).await?;
        match rows.first() {
            Some(row) => Ok(row.try_get("is_added")?),
            None => Err(DbError::DroppedByTrigger { table: "auth_tickets", sent: 1, stored: 0 }),
        }
    }

    /// Deletes a ticket; returns its credential if it was there and has not expired.
    pub(super) async fn take(&self, hash: &TicketHash) -> Result<Option<Value>, DbError> {
        let take = sql!(self.database, "auth/use_ticket.sql");
        let rows = self.database.query_in_time(self.timeout, take, &[(&&hash.0[..], Type::BYTEA)]).await?;
        match rows.first() {
            Some(row) if row.try_get("is_valid")? => Ok(Some(row.try_get("credential")?)),
            _ => Ok(None),
        }
    }

    /// Deletes expired tickets.
    pub(super) async fn forget(&self) -> Result<(), DbError> {
        let forget = sql!(self.database, "auth/forget_tickets.sql");
        self.database.query_in_time(self.timeout, forget, &[]).await?;
        Ok(())
    }
}
