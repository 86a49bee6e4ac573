//! The inspection's statements. Nothing of a user's runs here: their texts are parsed, within a transaction that is rolled back.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::Inspected;
use crate::db::{Database, DbError, Parameter, Transaction, begin_in_time, own_relations, sql};
use crate::routes::generate::Column;
use crate::routes::model::{Definition, STATEMENT_BYTES};
use crate::routes::tree;
use crate::routes::{ROLE, RouteError, RouteStore};

/// For each statement.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A pooler's connection may have a prepared statement of the same name already; the next attempt has another name.
const PREPARE_ATTEMPTS: u32 = 200;

/// A column of the target.
struct TargetColumn {
    name: String,
    column: Column,
    is_generated: bool,
    is_required: bool,
}

/// A table that can be a target.
struct Target {
    id: u32,
    schema: String,
    table: String,
    quoted: String,
    columns: Vec<TargetColumn>,
    /// The columns of each unique index, in the order of their names.
    unique: Vec<Vec<String>>,
}

/// Inspects `definition`.
///
/// # Errors
///
/// [`RouteError::Invalid`] with the part that is wrong.
pub(in crate::routes) async fn inspect(
    database: &Database,
    definition: &Definition,
) -> Result<Inspected, RouteError> {
    definition.check()?;
    let mut attempts = 0;
    loop {
        let mut connection = database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let inspected = inspect_within(database, &transaction, definition).await;
        // An error has ended the transaction already.
        let _rolled_back = transaction.rollback().await;
        attempts += 1;
        match inspected {
            Err(RouteError::Database(error)) if error.is_unprepared() && attempts < PREPARE_ATTEMPTS => {}
            inspected => return inspected,
        }
    }
}

async fn inspect_within(
    database: &Database,
    transaction: &Transaction<'_>,
    definition: &Definition,
) -> Result<Inspected, RouteError> {
    check_role(transaction, definition.role()).await?;
    let target = target(database, transaction, &definition.into).await?;
    let may_use = transaction.query_typed(sql!("routes/may_use.sql"), &[(&target.id, Type::OID)]).await;
    let may_use = may_use.map_err(DbError::from)?;
    if may_use.first().map_or(Ok(None), |row| row.try_get::<_, Option<bool>>(0)).map_err(DbError::from)?
        == Some(false)
    {
        let routes = RouteStore::new(database);
        let statements = routes.missing_rights(transaction, definition.role(), target.id).await?;
        let cause = format!("this one may not use the schema {}", target.schema);
        return Err(RouteError::Rights { role: definition.role().to_owned(), cause, statements });
    }
    let begin = sql!(database, "routes/inspect_begin.sql");
    transaction.batch_execute(begin).await.map_err(DbError::from)?;
    let (names, seen) = select(database, transaction, definition.select()).await?;

    let known = |name: &String| target.columns.iter().find(|column| column.name == *name);
    let mut columns = Vec::new();
    let mut taken = BTreeSet::new();
    for name in &names {
        if !taken.insert(name) {
            return Err(RouteError::invalid("sql", format!("the select has two columns {name}")));
        }
        match known(name) {
            Some(column) if column.is_generated => {
                return Err(RouteError::invalid(
                    "sql",
                    format!("{name} is a generated column of {}", target.quoted),
                ));
            }
            Some(column) => columns.push(column.column.clone()),
            None => {
                let has: Vec<&str> = target.columns.iter().map(|column| column.name.as_str()).collect();
                let message = format!("{} has no column {name}; it has {}", target.quoted, has.join(", "));
                return Err(RouteError::invalid("sql", message));
            }
        }
    }
    let mut key = Vec::new();
    for name in &definition.key {
        match known(name).filter(|_| taken.contains(name)) {
            Some(column) => key.push(column.column.clone()),
            None => return Err(RouteError::invalid("key", format!("the select has no column {name}"))),
        }
    }
    let keys: BTreeSet<&String> = definition.key.iter().collect();
    if keys.len() != definition.key.len() {
        return Err(RouteError::invalid("key", "a column is named twice"));
    }
    if !key.is_empty() && !target.unique.iter().any(|unique| unique.iter().eq(keys.iter().copied())) {
        let message =
            format!("{} has no unique index on exactly {}", target.quoted, definition.key.join(", "));
        return Err(RouteError::invalid("key", message));
    }
    let mut notes = Vec::new();
    let missing: Vec<&str> = target
        .columns
        .iter()
        .filter(|column| column.is_required && !taken.contains(&column.name))
        .map(|column| column.name.as_str())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        notes.push(format!(
            "every row will be refused: {missing} of {} has no default and may not be null",
            target.quoted
        ));
    }
    if seen.is_whole {
        notes.push("the select combines rows, so a batch is taken or refused as a whole".to_owned());
    }
    let inspected = Inspected {
        target_id: target.id,
        target_name: (target.schema, target.table),
        target: target.quoted,
        columns,
        column_names: names,
        key,
        is_whole: seen.is_whole,
        event_column: seen.event_column,
        notes,
    };
    // The whole statement: the types of the columns, the clause for conflicts, and that both are no more than that.
    let events = database.sql("null::{schema}.requests[]");
    let insert = inspected.plan(definition).insert(Some(&events));
    let insert = transaction.prepare(&insert).await.map_err(|error| {
        RouteError::of(if definition.on_conflict.is_some() { "on_conflict" } else { "sql" }, error.into())
    })?;
    if !insert.columns().is_empty() || !insert.params().is_empty() {
        return Err(RouteError::invalid("on_conflict", "it returns rows, or has parameters"));
    }
    Ok(inspected)
}

/// Inspects a condition on events, as part of `select`.
///
/// # Errors
///
/// [`RouteError::Invalid`] if it is none.
pub(in crate::routes) async fn inspect_condition(
    database: &Database,
    condition: &str,
    whole: &str,
) -> Result<(), RouteError> {
    if condition.is_empty() || condition.len() > STATEMENT_BYTES || condition.contains('\0') {
        return Err(RouteError::invalid("where", "it is no condition"));
    }
    let mut attempts = 0;
    loop {
        let mut connection = database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let inspecting = async {
            let begin = sql!(database, "routes/inspect_begin.sql");
            transaction.batch_execute(begin).await.map_err(DbError::from)?;
            check_role(&transaction, ROLE).await?;
            select(database, &transaction, whole).await
        };
        let inspected = inspecting.await;
        // An error has ended the transaction already.
        let _rolled_back = transaction.rollback().await;
        attempts += 1;
        match inspected {
            Err(RouteError::Invalid { message, .. }) => return Err(RouteError::invalid("where", message)),
            Err(RouteError::Database(error)) if error.is_unprepared() && attempts < PREPARE_ATTEMPTS => {}
            inspected => return inspected.map(drop),
        }
    }
}

async fn check_role(transaction: &Transaction<'_>, role: &str) -> Result<(), RouteError> {
    let rows = transaction.query_typed(sql!("routes/role.sql"), &[(&role, Type::TEXT)]).await;
    let rows = rows.map_err(DbError::from)?;
    let reason: Option<String> =
        rows.first().map_or(Ok(None), |row| row.try_get(0)).map_err(DbError::from)?;
    match reason {
        Some(reason) => Err(RouteError::invalid(
            "role",
            format!("{role} {reason}: a route's select would run with those rights"),
        )),
        None => Ok(()),
    }
}

async fn target(
    database: &Database,
    transaction: &Transaction<'_>,
    into: &str,
) -> Result<Target, RouteError> {
    let (own, own_pattern) = own_relations();
    let parameters: [Parameter<'_>; 4] = [
        (&into, Type::TEXT),
        (&database.schema(), Type::TEXT),
        (&own, Type::TEXT_ARRAY),
        (&own_pattern, Type::TEXT),
    ];
    let found = transaction.query_typed(sql!("routes/target.sql"), &parameters).await;
    let found = found.map_err(|error| RouteError::of("into", error.into()))?;
    let Some(row) = found.first() else {
        let message =
            format!("there is no table {into}; a target is named with its schema, as in app.signups");
        return Err(RouteError::invalid("into", message));
    };
    let get = |column: &str| row.try_get::<_, String>(column).map_err(DbError::from);
    let (id, quoted) = (row.try_get::<_, u32>("oid").map_err(DbError::from)?, get("quoted")?);
    if let Some(reason) = row.try_get::<_, Option<String>>("reason").map_err(DbError::from)? {
        return Err(RouteError::invalid("into", format!("{quoted} {reason}")));
    }
    let (schema, table) = (get("nspname")?, get("relname")?);
    let columns = transaction.query_typed(sql!("routes/columns.sql"), &[(&id, Type::OID)]).await;
    let columns = columns.map_err(DbError::from)?;
    let columns = columns.iter().map(|row| {
        Ok(TargetColumn {
            name: row.try_get("attname")?,
            column: Column { quoted: row.try_get("quoted")?, sql_type: row.try_get("type")? },
            is_generated: row.try_get("is_generated")?,
            is_required: row.try_get("is_required")?,
        })
    });
    let columns = columns.collect::<Result<_, DbError>>()?;
    let unique = transaction.query_typed(sql!("routes/unique_keys.sql"), &[(&id, Type::OID)]).await;
    let unique = unique.map_err(DbError::from)?;
    let unique = unique.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<_, DbError>>()?;
    Ok(Target { id, schema, table, quoted, columns, unique })
}

/// The columns of a select, and what it does.
async fn select(
    database: &Database,
    transaction: &Transaction<'_>,
    select: &str,
) -> Result<(Vec<String>, tree::Seen), RouteError> {
    let invalid = |error: tokio_postgres::Error| RouteError::of("sql", error.into());
    // In the extended protocol a text is one statement.
    let alone = transaction.prepare(select).await.map_err(invalid)?;
    if !alone.params().is_empty() {
        return Err(RouteError::invalid("sql", "a select has no parameters such as $1"));
    }
    // A view is made of a select that writes nothing, and of nothing else.
    let view = format!("{}\n{select}", sql!("routes/inspect_view.sql").trim_end());
    transaction.query_typed(&view, &[]).await.map_err(invalid)?;
    let names: Vec<String> = alone.columns().iter().map(|column| column.name().to_owned()).collect();
    if names.is_empty() {
        return Err(RouteError::invalid("sql", "the select has no columns"));
    }
    let found = transaction.query_typed(sql!("routes/inspect_tree.sql"), &[]).await.map_err(DbError::from)?;
    let row = found.first().ok_or(DbError::Unexpected("no parsed select"))?;
    let (tree, relation): (&str, u32) =
        (row.try_get(0).map_err(DbError::from)?, row.try_get(1).map_err(DbError::from)?);
    let id_column = row.try_get::<_, i32>(2).map_err(DbError::from)?.unsigned_abs();
    let seen = tree::read(tree, tree::Batch { relation, id_column });
    let parameters: [Parameter<'_>; 2] =
        [(&seen.functions, Type::OID_ARRAY), (&database.schema(), Type::TEXT)];
    let forbidden = transaction.query_typed(sql!("routes/forbidden_functions.sql"), &parameters).await;
    let forbidden = forbidden.map_err(DbError::from)?;
    match forbidden.first().map(|row| row.try_get::<_, String>(0)).transpose().map_err(DbError::from)? {
        Some(function) => Err(RouteError::invalid("sql", format!("a route may not call {function}"))),
        None => Ok((names, seen)),
    }
}
