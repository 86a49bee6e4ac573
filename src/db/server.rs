//! The identity of the Postgres server that answers.
//!
//! The identity is read from the control file, which is too slow for each statement. It cannot change while a primary runs, so statements
//! return only the start of their server, by which the identity is cached: a fail-over, or a pooler that switches to another server, is
//! noticed with the first answer.

use std::time::Duration;

use parking_lot::Mutex;

use super::{Database, DbError, sql};

/// The time for Postgres' answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A Postgres server. Transaction ids of another one, or of the time line before a fail-over, have another meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The system identifier.
    pub system: u64,
    /// The time line of the write-ahead log.
    pub timeline: u64,
}

/// The last server that answered, and its start in microseconds of Unix time.
#[derive(Debug, Default)]
pub(super) struct KnownServer(Mutex<Option<(i64, ServerIdentity)>>);

impl Database {
    /// The server that started at `started_us`, in microseconds of Unix time by its own clock.
    ///
    /// # Errors
    ///
    /// [`DbError::Unexpected`] if another one answers by now; otherwise those of the query.
    pub async fn server(&self, started_us: i64) -> Result<ServerIdentity, DbError> {
        let known = *self.known_server().0.lock();
        if let Some((started, identity)) = known
            && started == started_us
        {
            return Ok(identity);
        }
        let rows = self.query_in_time(TIMEOUT, sql!("db/server_identity.sql"), &[]).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no identity of the server"))?;
        let timeline = u64::from_str_radix(row.try_get("timeline")?, 16)
            .map_err(|_| DbError::Unexpected("a time line that is no number"))?;
        // A signed number in the catalogue.
        let system = row.try_get::<_, i64>("system")?.cast_unsigned();
        let (started, identity) = (row.try_get("started_us")?, ServerIdentity { system, timeline });
        *self.known_server().0.lock() = Some((started, identity));
        if started == started_us { Ok(identity) } else { Err(DbError::Unexpected("the server has changed")) }
    }
}
