//! The table `auth_revocations`.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Database, DbError, Parameter, sql};

/// Rows of a page.
const PAGE: i64 = 5_000;

/// A position in the table's order.
#[derive(Debug, Clone)]
pub(super) struct RevocationCursor {
    xid: String,
    number: i64,
}

impl RevocationCursor {
    /// The beginning of the table.
    pub(super) fn start() -> Self {
        Self { xid: "0".into(), number: -1 }
    }
}

/// A revocation.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) is_session: bool,
    pub(super) subject: Uuid,
    /// Seconds of Unix time.
    pub(super) until_s: i64,
}

/// A page of the table.
#[derive(Debug)]
pub(super) struct RevocationPage {
    pub(super) revocations: Vec<Revocation>,
    /// The next page's position; `None`: this is the last one.
    pub(super) next: Option<RevocationCursor>,
    /// The position before all rows that may still be added.
    pub(super) horizon: RevocationCursor,
}

/// The table.
#[derive(Debug, Clone)]
pub(super) struct RevocationStore {
    database: Database,
    timeout: Duration,
}

impl RevocationStore {
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// The page after a position.
    pub(super) async fn page(&self, after: &RevocationCursor) -> Result<RevocationPage, DbError> {
        let sql = sql!(self.database, "auth/revocations.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&after.xid, Type::TEXT), (&after.number, Type::INT8), (&PAGE, Type::INT8)];
        let rows = self.database.query_in_time(self.timeout, sql, &parameters).await?;
        let mut page = RevocationPage { revocations: Vec::new(), next: None, horizon: after.clone() };
        let is_full = rows.len() as i64 == PAGE;
        for row in &rows {
            page.horizon = RevocationCursor { xid: row.try_get("horizon")?, number: -1 };
            // The only row of an empty page has the horizon alone.
            let Some(subject) = row.try_get("subject")? else { break };
            page.revocations.push(Revocation {
                is_session: row.try_get::<_, &str>("kind")? == "session",
                subject,
                until_s: row.try_get("until_s")?,
            });
            if is_full {
                page.next =
                    Some(RevocationCursor { xid: row.try_get("xid")?, number: row.try_get("number")? });
            }
        }
        Ok(page)
    }

    /// Deletes a batch of expired sessions and revocations.
    pub(super) async fn forget(&self) -> Result<(), DbError> {
        let now = match self.database.deletion_time().await {
            // Logged and reported in health by `deletion_time`.
            Err(DbError::ClocksDiffer { .. }) => return Ok(()),
            now => now?,
        };
        for sql in [
            sql!(self.database, "auth/forget_revocations.sql"),
            sql!(self.database, "auth/forget_sessions.sql"),
        ] {
            let parameters: [Parameter<'_>; 2] = [(&PAGE, Type::INT8), (&now, Type::TIMESTAMPTZ)];
            self.database.query_in_time(self.timeout, sql, &parameters).await?;
        }
        Ok(())
    }
}
