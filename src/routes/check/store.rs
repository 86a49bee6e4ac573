//! The statements of a check.
//!
//! The route's own functions run, on a temporary table that stands for requests. The target's rows are locked meanwhile, for a
//! limited time.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::{CheckReport, CheckedError, Sample};
use crate::db::{DbError, Parameter, Transaction, begin_in_time, sql};
use crate::ingest::set_again;
use crate::routes::definition::function_name;
use crate::routes::generate::{fill, quote_outside, quoted};
use crate::routes::inspection::{Inspected, inspect};
use crate::routes::{Definition, RouteError, RouteStore};

/// For each statement: the target's rows are locked meanwhile.
const TIMEOUT: Duration = Duration::from_secs(5);

impl RouteStore {
    /// Tries a definition.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; nothing is changed in any case.
    pub async fn check(&self, definition: &Definition, sample: &Sample) -> Result<CheckReport, RouteError> {
        let inspected = inspect(&self.database, definition).await?;
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let checked = self.check_within(&transaction, definition, inspected, sample).await;
        // An error has ended the transaction already.
        let _rolled_back = transaction.rollback().await;
        match checked {
            Err(RouteError::Database(error)) if error.is_cancelled() => {
                let message = format!("it takes longer than {} s for the sample", TIMEOUT.as_secs());
                Err(RouteError::Invalid { field: "sql", message })
            }
            checked => checked,
        }
    }

    async fn check_within(
        &self,
        transaction: &Transaction<'_>,
        definition: &Definition,
        inspected: Inspected,
        sample: &Sample,
    ) -> Result<CheckReport, RouteError> {
        let is_strict = definition.strict;
        let lock_timeout = sql!("routes/lock_timeout.sql").replace("{ms}", "2000");
        transaction.batch_execute(&lock_timeout).await.map_err(DbError::from)?;
        // A strict route would refuse the whole statement; the writer finds the rows then, as this one does.
        let definition = &Definition { strict: false, ..definition.clone() };
        let id = self.make_unseen(transaction, definition, &inspected).await?;
        let begin = sql!(self.database, "routes/check_begin.sql");
        let begin = fill(begin, &[("function", &function_name(id))]);
        transaction.batch_execute(&begin).await.map_err(DbError::from)?;
        let begun = Instant::now();
        let events = match sample {
            Sample::Newest(events) => {
                let newest = sql!(self.database, "routes/check_sample.sql");
                let events = *events as i64;
                transaction.execute_typed(newest, &[(&events, Type::INT8)]).await
            }
            Sample::Given(events) => {
                transaction.execute_typed(sql!("routes/check_given.sql"), &[(events, Type::TEXT)]).await
            }
        };
        let events = events.map_err(|error| RouteError::of("events", error.into()))?;
        let plain = begun.elapsed();
        let plan = self.explain(transaction, definition, &inspected).await?;
        // What functions of users have set for the session.
        set_again(transaction, TIMEOUT).await?;
        transaction.execute_typed(sql!("routes/check_run.sql"), &[]).await.map_err(DbError::from)?;
        set_again(transaction, TIMEOUT).await?;
        let mut report = CheckReport {
            columns: inspected.column_names,
            notes: inspected.notes,
            events,
            rows: 0,
            refused: 0,
            errors: Vec::new(),
            suspends: None,
            plan,
            share: 0.0,
        };
        let id: [Parameter<'_>; 1] = [(&id, Type::INT4)];
        let result = sql!(self.database, "routes/check_result.sql");
        let rows = transaction.query_typed(result, &id).await.map_err(DbError::from)?;
        let row = rows.first().ok_or(DbError::Unexpected("no checked route"))?;
        let mut read = || {
            let (state, error): (Option<String>, Option<String>) =
                (row.try_get("sqlstate")?, row.try_get("error")?);
            report.suspends = state.zip(error);
            (report.rows, report.refused) = (row.try_get("rows")?, row.try_get("refused")?);
            let route = Duration::from_micros(row.try_get::<_, i64>("microseconds")?.max(0) as u64);
            report.share = route.as_secs_f64() / (route + plain).as_secs_f64().max(1e-9);
            Ok::<_, tokio_postgres::Error>(())
        };
        read().map_err(DbError::from)?;
        if is_strict && report.refused > 0 {
            report.notes.push("the route is strict, so the refused events become dead letters".to_owned());
        }
        let errors = sql!(self.database, "routes/check_errors.sql");
        for row in transaction.query_typed(errors, &id).await.map_err(DbError::from)? {
            let error = || {
                Ok::<_, tokio_postgres::Error>(CheckedError {
                    sqlstate: row.try_get("sqlstate")?,
                    message: row.try_get("message")?,
                    events: row.try_get("events")?,
                    example: row.try_get("example")?,
                })
            };
            report.errors.push(error().map_err(DbError::from)?);
        }
        Ok(report)
    }

    /// The plan of the route's insert over the sample. Where it fails the route fails, too, and reports why.
    async fn explain(
        &self,
        transaction: &Transaction<'_>,
        definition: &Definition,
        inspected: &Inspected,
    ) -> Result<Vec<String>, DbError> {
        let insert = inspected.plan(definition).insert_over(sql!("routes/events_of_check.sql"));
        let parts =
            [("role", quoted(definition.role())), ("quote", quote_outside(&[&insert])), ("insert", insert)];
        let parts: Vec<(&str, &str)> = parts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let function = fill(sql!(self.database, "routes/check_explain.sql"), &parts);
        transaction.batch_execute(sql!("routes/savepoint.sql")).await?;
        let explaining = async {
            transaction.batch_execute(&function).await?;
            transaction.query_typed(sql!(self.database, "routes/check_plan.sql"), &[]).await
        };
        match explaining.await.map_err(DbError::from) {
            Ok(rows) => Ok(rows.first().map_or(Ok(Vec::new()), |row| row.try_get(0))?),
            Err(error) if error.is_away() => Err(error),
            Err(_) => {
                transaction.batch_execute(sql!("routes/rollback_to_savepoint.sql")).await?;
                Ok(Vec::new())
            }
        }
    }
}
