//! The statements of a recount.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::RouteBooks;
use crate::db::{DbError, sql};
use crate::routes::RouteStore;
use crate::routes::generate::{fill, quoted};

/// For each statement: it reads whole tables.
const TIMEOUT: Duration = Duration::from_secs(3600);

impl RouteStore {
    /// The books of every route.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn verify(&self) -> Result<Vec<RouteBooks>, DbError> {
        let verify = sql!(self.database, "routes/verify.sql");
        let mut books = Vec::new();
        let rows = match self.database.query_in_time(TIMEOUT, verify, &[]).await {
            // The database is older than routes.
            Err(error) if error.is_table_missing() => return Ok(books),
            rows => rows?,
        };
        for row in rows {
            let (deferred, there): (i64, i64) = (row.try_get("deferred")?, row.try_get("deferred_there")?);
            let mut doubled = None;
            if row.try_get::<_, bool>("has_event")? && row.try_get::<_, bool>("has_target")? {
                let (schema, table): (&str, &str) =
                    (row.try_get("target_schema")?, row.try_get("target_table")?);
                let target = format!("{}.{}", quoted(schema), quoted(table));
                let count = fill(sql!(self.database, "routes/verify_target.sql"), &[("target", &target)]);
                let id: i32 = row.try_get("id")?;
                match self.database.query_in_time(TIMEOUT, &count, &[(&id, Type::INT4)]).await {
                    Ok(rows) => doubled = rows.first().map(|row| row.try_get(0)).transpose()?,
                    // Of another type, or not to be read.
                    Err(error) if error.state_code().is_some_and(|state| state.starts_with("42")) => {}
                    Err(error) => return Err(error),
                }
            }
            books.push(RouteBooks {
                name: row.try_get("name")?,
                rows: row.try_get("rows")?,
                refused: row.try_get("refused")?,
                refused_gone: row.try_get("refused_gone")?,
                deferred,
                deferred_gone: deferred - there,
                doubled,
            });
        }
        Ok(books)
    }
}
