//! The statements of a recount.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{RouteBooks, TargetBooks};
use crate::db::{BY_INDEX, DbError, Parameter, Transaction, begin_snapshot_in_time, sql};
use crate::ingest::set_again;
use crate::routes::generate::{fill, quote_outside, quoted};
use crate::routes::inspection::inspect;
use crate::routes::{Definition, ListedRoute, RouteError, RouteStore};

/// For each statement: it reads whole tables.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Events that a select takes at once.
const PAGE_EVENTS: i64 = 1_000;

/// A route whose target can be counted.
struct Counted<'a> {
    id: i32,
    definition: &'a Definition,
    column: String,
}

impl RouteStore {
    /// The books of every route, each of one moment.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn verify(&self) -> Result<Vec<RouteBooks>, RouteError> {
        let routes = match self.list().await {
            // The database is older than routes.
            Err(RouteError::Database(error)) if error.is_table_missing() => return Ok(Vec::new()),
            routes => routes?,
        };
        let mut books = Vec::new();
        for route in &routes {
            let definition = route.definition();
            let is_alone = routes.iter().filter(|other| other.into == route.into).count() == 1;
            let column = if is_alone { self.event_column(route, &definition).await? } else { None };
            let counted = column.map(|column| Counted { id: route.id, definition: &definition, column });
            let mut connection = self.database.get().await?;
            let transaction = begin_snapshot_in_time(&mut connection, TIMEOUT).await?;
            let counting = async {
                let mut books = self.books(&transaction, route).await?;
                if let Some(counted) = &counted {
                    books.target = self.count(&transaction, counted).await?;
                }
                Ok::<_, DbError>(books)
            };
            let counted = counting.await;
            // An error has ended the transaction already.
            let _rolled_back = transaction.rollback().await;
            books.push(counted?);
        }
        Ok(books)
    }

    /// The column of a route's target that is the event's id: that of the select, or one named so.
    async fn event_column(
        &self,
        route: &ListedRoute,
        definition: &Definition,
    ) -> Result<Option<String>, RouteError> {
        if route.whole {
            return Ok(None);
        }
        match inspect(&self.database, definition).await {
            Ok(inspected) => {
                let named = || inspected.column_names.into_iter().find(|name| name == "event_id");
                Ok(inspected.event_column.or_else(named))
            }
            // The target is gone or has other columns.
            Err(RouteError::Invalid { .. } | RouteError::Rights { .. }) => Ok(None),
            Err(RouteError::Database(error)) if is_forbidden(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn books(&self, transaction: &Transaction<'_>, route: &ListedRoute) -> Result<RouteBooks, DbError> {
        let verify = sql!(self.database, "routes/verify.sql");
        let rows = transaction.query_typed(verify, &[(&route.id, Type::INT4)]).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no counts of a route"))?;
        let (deferred, there): (i64, i64) = (row.try_get("deferred")?, row.try_get("deferred_there")?);
        Ok(RouteBooks {
            name: route.name.clone(),
            rows: row.try_get("rows")?,
            refused: row.try_get("refused")?,
            refused_gone: row.try_get("refused_gone")?,
            deferred,
            deferred_gone: deferred - there,
            target: None,
        })
    }

    /// Counts a target; `None`: the column is no id, or the service's role or the route's may not read what it needs.
    async fn count(
        &self,
        transaction: &Transaction<'_>,
        counted: &Counted<'_>,
    ) -> Result<Option<TargetBooks>, DbError> {
        match self.count_within(transaction, counted).await {
            Err(error) if is_forbidden(&error) => Ok(None),
            counted => counted.map(Some),
        }
    }

    async fn count_within(
        &self,
        transaction: &Transaction<'_>,
        Counted { id, definition, column }: &Counted<'_>,
    ) -> Result<TargetBooks, DbError> {
        let (select, event) = (definition.select(), quoted(column));
        let function = sql!(self.database, "routes/verify_function.sql");
        let parts = [
            ("quote", quote_outside(&[select])),
            ("event", event.clone()),
            ("role", quoted(definition.role())),
            ("select", select.to_owned()),
        ];
        let parts: Vec<(&str, &str)> = parts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        transaction.batch_execute(&fill(function, &parts)).await?;
        transaction.batch_execute(BY_INDEX).await?;
        let page = sql!(self.database, "routes/verify_page.sql");
        let mut after = Uuid::nil();
        loop {
            let parameters: [Parameter<'_>; 3] =
                [(id, Type::INT4), (&after, Type::UUID), (&PAGE_EVENTS, Type::INT8)];
            let rows = transaction.query_typed(page, &parameters).await?;
            // What functions of users have set for the session.
            set_again(transaction, TIMEOUT).await?;
            transaction.batch_execute(BY_INDEX).await?;
            match rows.first().map_or(Ok(None), |row| row.try_get(0))? {
                Some(last) => after = last,
                None => break,
            }
        }
        let count = sql!(self.database, "routes/verify_target.sql");
        let count = fill(count, &[("target", &definition.into), ("event", &event)]);
        let rows = transaction.query_typed(&count, &[(id, Type::INT4)]).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no count of a target"))?;
        let not_routed: i64 = row.try_get("not_routed")?;
        Ok(TargetBooks {
            column: column.clone(),
            rows: row.try_get("rows")?,
            doubled: row.try_get("doubled")?,
            repeated: row.try_get("repeated")?,
            without_event: row.try_get("without_event")?,
            not_routed: definition.key.is_empty().then_some(not_routed),
        })
    }
}

/// Whether the service's role may not do something, or nothing can be written here; or a column has another type.
fn is_forbidden(error: &DbError) -> bool {
    error.state_code().is_some_and(|state| state.starts_with("42") || state.starts_with("25"))
}
