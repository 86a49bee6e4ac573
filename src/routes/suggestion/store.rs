//! The statements of a suggestion.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Sampled, Suggestion};
use crate::db::{DbError, Parameter, Transaction, begin_in_time, sql};
use crate::ingest::set_again;
use crate::routes::generate::{fill, quote_outside, quoted};
use crate::routes::inspection::inspect_condition;
use crate::routes::model::target_parts;
use crate::routes::{Added, ROLE, RouteError, RouteName, RouteStore};

/// For each statement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Events that are read at once.
const PAGE_EVENTS: i64 = 500;

impl RouteStore {
    /// Suggests a table named `into` and a route, from the last `sample` events for which `condition` may hold. `key`: the columns of the
    /// table's key, if a newer event is to update its row.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; nothing is changed.
    pub async fn suggest(
        &self,
        into: &str,
        condition: &str,
        key: &[String],
        sample: u64,
    ) -> Result<Suggestion, RouteError> {
        let (schema, table) = target_parts(into)?;
        let condition = condition.trim();
        let select = fill(sql!("routes/suggest_select.sql").trim_end(), &[("condition", condition)]);
        inspect_condition(&self.database, condition, &select).await?;
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let sampled = self.sample(&transaction, &select, sample).await;
        let _rolled_back = transaction.rollback().await;
        let (sampled, read) = sampled?;
        sampled.suggestion((&schema, &table), condition, key, read)
    }

    async fn sample(
        &self,
        transaction: &Transaction<'_>,
        select: &str,
        sample: u64,
    ) -> Result<(Sampled, u64), RouteError> {
        self.grant_suggest(transaction).await?;
        let function = sql!(self.database, "routes/suggest_function.sql");
        let quote = quote_outside(&[select]);
        let function = fill(function, &[("quote", &quote), ("select", select), ("role", &quoted(ROLE))]);
        transaction.batch_execute(&function).await.map_err(|error| RouteError::of("where", error.into()))?;
        let page = sql!(self.database, "routes/suggest_sample.sql");
        let (mut before, mut read, mut sampled) = (Uuid::max(), 0_u64, Sampled::default());
        while read < sample {
            let limit = PAGE_EVENTS.min((sample - read) as i64);
            let parameters: [Parameter<'_>; 2] = [(&before, Type::UUID), (&limit, Type::INT8)];
            let rows = transaction.query_typed(page, &parameters).await;
            let rows = rows.map_err(|error| RouteError::of("where", error.into()))?;
            // What functions of users have set for the session.
            set_again(transaction, TIMEOUT).await?;
            let row = rows.first().ok_or(DbError::Unexpected("no page"))?;
            let last: Option<Uuid> = row.try_get(0).map_err(DbError::from)?;
            read += row.try_get::<_, i64>(1).map_err(DbError::from)? as u64;
            for payload in row.try_get::<_, Vec<&str>>(2).map_err(DbError::from)? {
                sampled.add(payload);
            }
            match last {
                Some(last) => before = last,
                None => break,
            }
        }
        Ok((sampled, read))
    }

    /// Creates a suggested table, its schema if it is missing, and the route.
    ///
    /// # Errors
    ///
    /// [`RouteError`]. If the route cannot be added, the table is left.
    pub async fn apply_suggestion(
        &self,
        name: &RouteName,
        suggestion: &Suggestion,
        is_backfilled: bool,
        patience: Duration,
        waiting: impl Fn(&str) + Send + Sync,
    ) -> Result<Added, RouteError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let create = sql!("routes/create_schema.sql").replace("{schema}", &suggestion.schema);
        for statement in [&create, &suggestion.table] {
            let made = transaction.batch_execute(statement).await.map_err(DbError::from);
            if let Err(error) = made {
                let _rolled_back = transaction.rollback().await;
                return Err(RouteError::of("into", error));
            }
        }
        transaction.commit().await.map_err(DbError::from)?;
        drop(connection);
        self.add(name, &suggestion.definition, true, is_backfilled, patience, waiting).await
    }
}
