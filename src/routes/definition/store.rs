//! The table `event_routes`, and the functions and triggers of its rows.

use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::Added;
use crate::db::{Database, DbError, Parameter, Transaction, begin_in_time, roll_back, sql};
use crate::routes::generate::{fill, quoted};
use crate::routes::inspection::{Inspected, inspect};
use crate::routes::model::{Backfill, Changed, Definition, ListedRoute, RouteName, RouteState};
use crate::routes::{ROLE, RouteError, sources};

/// For each statement.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The wait for a lock of `requests` in one attempt: COPYs wait behind it, too.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// For the statements that suspend a route while a batch waits.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The SQLSTATE of a cancelled statement.
pub(in crate::routes) const CANCELLED: &str = "57014";
/// The pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// Routes, in the tables of a database.
#[derive(Debug, Clone)]
pub struct RouteStore {
    pub(in crate::routes) database: Database,
}

/// A change of a route, in one transaction.
enum Change<'a> {
    /// A new route, enabled or not, with or without a backfill.
    Add { is_enabled: bool, backfills: bool },
    /// Another definition of an existing one, if it has one of these versions.
    Replace { versions: Option<&'a [i64]> },
}

/// What is done in one transaction, again while a lock is not free.
enum Operation<'a> {
    Change { name: &'a RouteName, definition: &'a Definition, inspected: &'a Inspected, change: Change<'a> },
    Enable { name: &'a RouteName, is_enabled: bool, versions: Option<&'a [i64]> },
    BeginBackfill { name: &'a RouteName, versions: Option<&'a [i64]> },
    MarkRemoved { name: &'a RouteName, versions: Option<&'a [i64]> },
    Drop { id: i32 },
}

/// The columns of a definition in the table.
struct Columns<'a> {
    definition: &'a Definition,
    inspected: &'a Inspected,
    select: &'a str,
    role: &'a str,
}

impl<'a> Columns<'a> {
    fn of(definition: &'a Definition, inspected: &'a Inspected) -> Self {
        Self { definition, inspected, select: definition.select(), role: definition.role() }
    }

    fn parameters(&self) -> [Parameter<'_>; 10] {
        let (definition, inspected) = (self.definition, self.inspected);
        [
            (&inspected.target_name.0, Type::TEXT),
            (&inspected.target_name.1, Type::TEXT),
            (&self.select, Type::TEXT),
            (&inspected.column_names, Type::TEXT_ARRAY),
            (&definition.key, Type::TEXT_ARRAY),
            (&definition.on_conflict, Type::TEXT),
            (&self.role, Type::TEXT),
            (&definition.strict, Type::BOOL),
            (&definition.serial, Type::BOOL),
            (&inspected.is_whole, Type::BOOL),
        ]
    }
}

/// A locked route.
struct Locked {
    id: i32,
    version: i64,
    was_live: bool,
}

impl RouteStore {
    /// The routes of `database`.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Adds a route. With `backfills`, events that are stored already are routed too, by the service. Waits up to `patience` for COPYs under
    /// way, and for a vacuum; `waiting` is called at each attempt.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; nothing is changed then.
    pub async fn add(
        &self,
        name: &RouteName,
        definition: &Definition,
        is_enabled: bool,
        backfills: bool,
        patience: Duration,
        waiting: impl Fn(&str) + Send + Sync,
    ) -> Result<Added, RouteError> {
        let inspected = inspect(&self.database, definition).await?;
        let change = Change::Add { is_enabled, backfills };
        let add = Operation::Change { name, definition, inspected: &inspected, change };
        self.with_lock(patience, waiting, &add).await?;
        Ok(Added { changed: Changed::Added, version: 1, notes: inspected.notes })
    }

    /// Gives a route another definition. Batches under way may still follow the former one. `versions`: it has to have one of these.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; nothing is changed then.
    pub async fn replace(
        &self,
        name: &RouteName,
        definition: &Definition,
        versions: Option<&[i64]>,
    ) -> Result<Added, RouteError> {
        let inspected = inspect(&self.database, definition).await?;
        let change = Change::Replace { versions };
        let replace = Operation::Change { name, definition, inspected: &inspected, change };
        let version = self.with_lock(Duration::ZERO, |_| (), &replace).await?;
        Ok(Added { changed: Changed::Replaced, version, notes: inspected.notes })
    }

    /// Runs an operation in a transaction, again while a lock is not free, until `patience` is over.
    async fn with_lock(
        &self,
        patience: Duration,
        waiting: impl Fn(&str) + Send + Sync,
        operation: &Operation<'_>,
    ) -> Result<i64, RouteError> {
        let deadline = Instant::now() + patience;
        loop {
            let mut connection = self.database.get().await?;
            let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
            let lock_timeout =
                sql!("routes/lock_timeout.sql").replace("{ms}", &LOCK_WAIT.as_millis().to_string());
            transaction.batch_execute(&lock_timeout).await.map_err(DbError::from)?;
            let error = match self.run(&transaction, operation).await {
                Ok(done) => {
                    transaction.commit().await.map_err(DbError::from)?;
                    return Ok(done);
                }
                Err(RouteError::Database(error)) => roll_back(transaction, error).await,
                Err(error) => {
                    transaction.rollback().await.map_err(DbError::from)?;
                    return Err(error);
                }
            };
            // Roles belong to the whole server: another database's service may have made the same one.
            let is_made = matches!(error.state_code(), Some("42710" | "23505"));
            if error.state_code() == Some("42501") {
                let message = format!(
                    "{}: functions and triggers of routes are made by the owner of requests; run `tidegate routes` as that role",
                    error.with_sources()
                );
                return Err(RouteError::Conflict(message));
            }
            if !error.is_locked() && !error.is_conflict() && !is_made {
                return Err(error.into());
            }
            let holders = self.holders().await?;
            if Instant::now() >= deadline && !is_made {
                return Err(RouteError::Locked(holders));
            }
            waiting(&holders);
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// What holds `requests`.
    async fn holders(&self) -> Result<String, DbError> {
        let holders = sql!(self.database, "routes/holders.sql");
        let rows = self.database.query_in_time(TIMEOUT, holders, &[]).await?;
        let name: Option<String> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        Ok(name.unwrap_or_else(|| "another transaction".to_owned()))
    }

    /// Returns the route's new version.
    async fn change(
        &self,
        transaction: &Transaction<'_>,
        name: &RouteName,
        definition: &Definition,
        inspected: &Inspected,
        change: &Change<'_>,
    ) -> Result<i64, RouteError> {
        self.grant(transaction, definition.role(), inspected.target_id).await?;
        let (id, version) = match change {
            Change::Add { is_enabled, backfills } => {
                let is_live = *is_enabled || *backfills;
                let id = self.insert(transaction, name.as_str(), definition, inspected, is_live).await?;
                (id.ok_or_else(|| RouteError::Exists(name.as_str().to_owned()))?, 1)
            }
            Change::Replace { versions } => {
                let locked = self.lock(transaction, name).await?;
                if versions.is_some_and(|versions| !versions.contains(&locked.version)) {
                    return Err(RouteError::VersionMismatch);
                }
                let update = sql!(self.database, "routes/update.sql");
                let columns = Columns::of(definition, inspected);
                let mut parameters: Vec<Parameter<'_>> = vec![(&locked.id, Type::INT4)];
                parameters.extend(columns.parameters());
                transaction.execute_typed(update, &parameters).await.map_err(DbError::from)?;
                (locked.id, locked.version + 1)
            }
        };
        self.make_functions(transaction, id, definition, inspected).await?;
        if let Change::Add { backfills, .. } = change {
            let lock = sql!(self.database, "routes/lock_requests.sql");
            transaction.batch_execute(lock).await.map_err(DbError::from)?;
            let make = self.for_function("routes/make_trigger.sql", id, "");
            transaction.batch_execute(&make).await.map_err(DbError::from)?;
            if *backfills {
                let begin = sql!(self.database, "routes/begin_backfill.sql");
                transaction.execute_typed(begin, &[(&id, Type::INT4)]).await.map_err(DbError::from)?;
            }
        }
        Ok(version)
    }

    /// Adds the row of a route; `None`: its name is taken.
    async fn insert(
        &self,
        transaction: &Transaction<'_>,
        name: &str,
        definition: &Definition,
        inspected: &Inspected,
        is_live: bool,
    ) -> Result<Option<i32>, DbError> {
        let insert = sql!(self.database, "routes/insert.sql");
        let columns = Columns::of(definition, inspected);
        let mut parameters: Vec<Parameter<'_>> = vec![(&name, Type::TEXT)];
        parameters.extend(columns.parameters());
        parameters.push((&is_live, Type::BOOL));
        let rows = transaction.query_typed(insert, &parameters).await?;
        rows.first().map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// Makes a route without a trigger, for a transaction that is rolled back; returns its number.
    pub(in crate::routes) async fn make_unseen(
        &self,
        transaction: &Transaction<'_>,
        definition: &Definition,
        inspected: &Inspected,
    ) -> Result<i32, RouteError> {
        self.grant(transaction, definition.role(), inspected.target_id).await?;
        // No name of a route has a space.
        let name = format!("check {}", Uuid::new_v4());
        let id = self.insert(transaction, &name, definition, inspected, true).await?;
        let id = id.ok_or(DbError::Unexpected("no new route"))?;
        self.make_functions(transaction, id, definition, inspected).await?;
        Ok(id)
    }

    /// Gives the role of routes the rights that it needs without a target.
    pub(in crate::routes) async fn grant_suggest(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<(), RouteError> {
        self.grant(transaction, ROLE, 0).await
    }

    /// Gives a role the rights that a route into `target` needs; 0: no target.
    async fn grant(&self, transaction: &Transaction<'_>, role: &str, target: u32) -> Result<(), RouteError> {
        let statements = self.missing_rights(transaction, role, target).await?;
        let refused = |cause: String| RouteError::Rights {
            role: role.to_owned(),
            cause,
            statements: statements.clone(),
        };
        for statement in &statements {
            match transaction.batch_execute(statement).await.map_err(DbError::from) {
                Ok(()) => {}
                Err(error) if error.state_code() == Some("42501") => {
                    return Err(refused(error.with_sources()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A grant without the right to grant is no error, but a warning.
        let statements = match statements.is_empty() {
            true => return Ok(()),
            false => self.missing_rights(transaction, role, target).await?,
        };
        match statements.is_empty() {
            true => Ok(()),
            false => Err(RouteError::Rights {
                role: role.to_owned(),
                cause: "its grants have no effect".into(),
                statements,
            }),
        }
    }

    /// The statements that give a role the rights that a route into `target` needs; 0: no target.
    pub(in crate::routes) async fn missing_rights(
        &self,
        transaction: &Transaction<'_>,
        role: &str,
        target: u32,
    ) -> Result<Vec<String>, DbError> {
        let parameters: [Parameter<'_>; 3] =
            [(&role, Type::TEXT), (&target, Type::OID), (&self.database.schema(), Type::TEXT)];
        let rows = transaction.query_typed(sql!("routes/missing_rights.sql"), &parameters).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Makes the functions of a route, or makes them anew. They belong to its role from the moment that they can be seen.
    pub(in crate::routes) async fn make_functions(
        &self,
        transaction: &Transaction<'_>,
        id: i32,
        definition: &Definition,
        inspected: &Inspected,
    ) -> Result<(), RouteError> {
        let function = function_name(id);
        let templates = sources(&self.database);
        for statement in inspected.plan(definition).functions(&function, id, templates) {
            let made = transaction.query_typed(&statement, &[]).await;
            made.map_err(|error| RouteError::of("sql", error.into()))?;
        }
        let own = self.for_function("routes/own_functions.sql", id, definition.role());
        transaction.batch_execute(&own).await.map_err(DbError::from)?;
        Ok(())
    }

    /// A statement about a route's functions.
    fn for_function(&self, which: &str, id: i32, role: &str) -> String {
        let template = match which {
            "routes/make_trigger.sql" => sql!(self.database, "routes/make_trigger.sql"),
            "routes/own_functions.sql" => sql!(self.database, "routes/own_functions.sql"),
            _ => sql!(self.database, "routes/remove.sql"),
        };
        fill(template, &[("function", &function_name(id)), ("role", &quoted(role))])
    }

    async fn lock(&self, transaction: &Transaction<'_>, name: &RouteName) -> Result<Locked, RouteError> {
        let lock = sql!(self.database, "routes/lock.sql");
        let rows =
            transaction.query_typed(lock, &[(&name.as_str(), Type::TEXT)]).await.map_err(DbError::from)?;
        let Some(row) = rows.first() else { return Err(RouteError::NotFound(name.as_str().to_owned())) };
        let locked = || {
            Ok::<_, tokio_postgres::Error>(Locked {
                id: row.try_get("id")?,
                version: row.try_get("version")?,
                was_live: row.try_get("was_live")?,
            })
        };
        Ok(locked().map_err(DbError::from)?)
    }

    /// The routes, by name.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn list(&self) -> Result<Vec<ListedRoute>, RouteError> {
        self.listed(None).await
    }

    /// One route.
    ///
    /// # Errors
    ///
    /// [`RouteError::NotFound`].
    pub async fn get(&self, name: &RouteName) -> Result<ListedRoute, RouteError> {
        let mut routes = self.listed(Some(name.as_str())).await?;
        routes.pop().ok_or_else(|| RouteError::NotFound(name.as_str().to_owned()))
    }

    async fn listed(&self, name: Option<&str>) -> Result<Vec<ListedRoute>, RouteError> {
        let list = sql!(self.database, "routes/list.sql");
        let rows = self.database.query_in_time(TIMEOUT, list, &[(&name, Type::TEXT)]).await?;
        Ok(rows.iter().map(listed).collect::<Result<_, DbError>>()?)
    }

    /// Enables or disables a route: events pass a disabled one. `versions`: it has to have one of these.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; nothing is changed then.
    pub async fn enable(
        &self,
        name: &RouteName,
        is_enabled: bool,
        versions: Option<&[i64]>,
    ) -> Result<i64, RouteError> {
        self.with_lock(Duration::ZERO, |_| (), &Operation::Enable { name, is_enabled, versions }).await
    }

    /// Begins the backfill of a route that was never live: it is live from now on, and older events are routed by the service. Waits up to
    /// `patience` for COPYs under way.
    ///
    /// # Errors
    ///
    /// [`RouteError::Conflict`] if it was live: the events that it took cannot be told from those that it did not.
    pub async fn begin_backfill(
        &self,
        name: &RouteName,
        versions: Option<&[i64]>,
        patience: Duration,
        waiting: impl Fn(&str) + Send + Sync,
    ) -> Result<i64, RouteError> {
        self.with_lock(patience, waiting, &Operation::BeginBackfill { name, versions }).await
    }

    /// Removes a route, with its errors and deferred events; its target stays. It does nothing from the first step on. Waits up to
    /// `patience` for COPYs under way, to drop the trigger; false: the service does so later.
    ///
    /// # Errors
    ///
    /// [`RouteError`].
    pub async fn remove(
        &self,
        name: &RouteName,
        versions: Option<&[i64]>,
        patience: Duration,
        waiting: impl Fn(&str) + Send + Sync,
    ) -> Result<bool, RouteError> {
        let id = self.with_lock(Duration::ZERO, |_| (), &Operation::MarkRemoved { name, versions }).await?;
        match self.drop_trigger(id as i32, patience, waiting).await {
            Ok(()) => Ok(true),
            Err(RouteError::Locked(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, transaction: &Transaction<'_>, operation: &Operation<'_>) -> Result<i64, RouteError> {
        let (name, versions) = match operation {
            Operation::Change { name, definition, inspected, change } => {
                return self.change(transaction, name, definition, inspected, change).await;
            }
            Operation::Drop { id } => {
                let remove = self.for_function("routes/remove.sql", *id, "");
                transaction.batch_execute(&remove).await.map_err(DbError::from)?;
                let forget = sql!(self.database, "routes/forget.sql");
                transaction.execute_typed(forget, &[(id, Type::INT4)]).await.map_err(DbError::from)?;
                return Ok(0);
            }
            Operation::Enable { name, versions, .. }
            | Operation::BeginBackfill { name, versions }
            | Operation::MarkRemoved { name, versions } => (name, versions),
        };
        let locked = self.lock(transaction, name).await?;
        if versions.is_some_and(|versions| !versions.contains(&locked.version)) {
            return Err(RouteError::VersionMismatch);
        }
        let id: [Parameter<'_>; 1] = [(&locked.id, Type::INT4)];
        match operation {
            Operation::Enable { is_enabled, .. } => {
                let set = sql!(self.database, "routes/set_state.sql");
                let parameters: [Parameter<'_>; 2] = [(&locked.id, Type::INT4), (is_enabled, Type::BOOL)];
                transaction.execute_typed(set, &parameters).await.map_err(DbError::from)?;
            }
            Operation::BeginBackfill { .. } => {
                if locked.was_live {
                    let message = "the route was live already, so a backfill would route events twice: add it with a backfill, or add it disabled and then backfill it";
                    return Err(RouteError::Conflict(message.to_owned()));
                }
                let lock = sql!(self.database, "routes/lock_requests.sql");
                transaction.batch_execute(lock).await.map_err(DbError::from)?;
                let begin = sql!(self.database, "routes/begin_backfill.sql");
                transaction.execute_typed(begin, &id).await.map_err(DbError::from)?;
            }
            _ => {
                let mark = sql!(self.database, "routes/mark_removed.sql");
                transaction.execute_typed(mark, &id).await.map_err(DbError::from)?;
                return Ok(locked.id.into());
            }
        }
        Ok(locked.version + 1)
    }

    /// Suspends the live route in which a batch took too long, and returns its name: the innermost of the error's context, or of a COPY
    /// that did not end when it was cancelled, the one that it is in. The context quotes statements, so it may name others, too; these are
    /// tried singly then, as the batch is repeated.
    pub(in crate::routes) async fn suspend_slow(&self, error: &DbError) -> Result<Option<String>, DbError> {
        let routes = match error {
            DbError::Timeout(limit) => self.running(*limit).await?,
            error => error.context().map_or_else(Vec::new, routes_in),
        };
        if routes.is_empty() {
            return Ok(None);
        }
        let suspend = sql!(self.database, "routes/suspend.sql");
        let (state, message) = (error.state_code().unwrap_or(CANCELLED), error.message());
        let parameters: [Parameter<'_>; 3] =
            [(&state, Type::TEXT), (&message, Type::TEXT), (&routes, Type::INT4_ARRAY)];
        let rows = self.database.query_in_time(SUSPEND_TIMEOUT, suspend, &parameters).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// The route that a COPY is in, although its time `limit` is over.
    async fn running(&self, limit: Duration) -> Result<Vec<i32>, DbError> {
        let running = sql!(self.database, "routes/running.sql");
        // The time began with the transaction, before the COPY.
        let age = (limit / 2).as_secs_f64() * 1000.0;
        let rows = self.database.query_in_time(SUSPEND_TIMEOUT, running, &[(&age, Type::FLOAT8)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Drops what is left of a removed route.
    pub(in crate::routes) async fn drop_trigger(
        &self,
        id: i32,
        patience: Duration,
        waiting: impl Fn(&str) + Send + Sync,
    ) -> Result<(), RouteError> {
        self.with_lock(patience, waiting, &Operation::Drop { id }).await.map(drop)
    }
}

/// The name of a route's trigger and of its function.
pub(in crate::routes) fn function_name(id: i32) -> String {
    format!("tidegate_route_{id}")
}

/// The routes whose functions an error's context names, the innermost first.
fn routes_in(context: &str) -> Vec<i32> {
    let mut routes = Vec::new();
    for text in context.split("tidegate_route_").skip(1) {
        let (number, behind) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        // Functions of the migration, such as `tidegate_route_begin`, stand above the route's own.
        let is_function = behind.starts_with('(') || behind.starts_with("_apply(");
        if let Ok(route) = number.parse()
            && is_function
            && !routes.contains(&route)
        {
            routes.push(route);
        }
    }
    routes
}

fn listed(row: &Row) -> Result<ListedRoute, DbError> {
    let (is_wanted, is_filling): (bool, bool) = (row.try_get("backfill_wanted")?, row.try_get("is_filling")?);
    let (state, error): (Option<String>, Option<String>) = (row.try_get("sqlstate")?, row.try_get("error")?);
    Ok(ListedRoute {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        into: row.try_get("target")?,
        sql: row.try_get("statement")?,
        key: row.try_get("key_columns")?,
        on_conflict: row.try_get("on_conflict")?,
        role: row.try_get("run_as")?,
        strict: row.try_get("strict")?,
        serial: row.try_get("serial")?,
        whole: row.try_get("whole")?,
        state: RouteState::named(row.try_get("state")?),
        error: state.zip(error),
        suspended_at: row.try_get("suspended_at")?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        rows: row.try_get("rows")?,
        refused: row.try_get("refused")?,
        microseconds: row.try_get("microseconds")?,
        batches: row.try_get("batches")?,
        errors: row.try_get("errors")?,
        deferred: row.try_get("deferred")?,
        backfill: is_wanted.then_some(Backfill { events: row.try_get("backfilled")?, is_done: !is_filling }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_of_an_error_are_those_of_its_functions_the_innermost_first() {
        let context = "SQL statement «insert … 'tidegate_route_3' tidegate_route_99(…»\n\
                       PL/pgSQL function public.tidegate_route_12_apply(requests[]) line 3 at SQL statement\n\
                       PL/pgSQL function tidegate_route_12() line 9\nPL/pgSQL function tidegate_route_7() line 9";
        assert_eq!(routes_in(context), [99, 12, 7]);
        let begins =
            "PL/pgSQL function tidegate_route_begin(integer,text)\n function tidegate_route_7() line 9";
        assert_eq!(routes_in(begins), [7]);
        assert_eq!(routes_in("COPY requests, line 1"), [0_i32; 0]);
    }
}
