//! The statements that grant the service's role all rights that it needs.
//!
//! The role owns its tables: it creates tables and partitions and drops partitions, which Postgres permits to owners only.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::migrations::{made, own_tables};
use super::{ConnectionUrl, Database, DbError, Parameter, sql};
use crate::config::Modules;

/// The limit of the query.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The grants that a role needs in an empty database.
pub fn grants(url: &ConnectionUrl, schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    let database = url.dbname().map_or_else(|| role.clone(), quoted);
    vec![
        // Bad rows are found with a temporary table.
        format!("grant connect, temporary on database {database} to {role}"),
        format!("create schema if not exists {schema}"),
        format!("grant usage, create on schema {schema} to {role}"),
    ]
}

/// The grants of a role that calls `tidegate_publish` in its own transactions.
pub fn grants_of_publisher(schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    vec![
        format!("grant usage on schema {schema} to {role}"),
        format!("grant execute on function {schema}.tidegate_publish(text, jsonb) to {role}"),
    ]
}

/// The grants of a role that calls `tidegate_watch`. For each table it needs the right to add triggers, too, and so does the service's role.
pub fn grants_of_watcher(schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    vec![
        format!("grant usage on schema {schema} to {role}"),
        format!("grant execute on function {schema}.tidegate_watch(regclass) to {role}"),
        format!("grant execute on function {schema}.tidegate_unwatch(regclass) to {role}"),
    ]
}

/// The grants of a role that appends to streams by `tidegate_append`, and reads them by `streams_messages`.
pub fn grants_of_appender(schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    vec![
        format!("grant usage on schema {schema} to {role}"),
        format!("grant execute on function {schema}.tidegate_append(text, bytea) to {role}"),
        format!("grant execute on function {schema}.tidegate_append(text, jsonb) to {role}"),
        format!("grant select on {schema}.streams_messages to {role}"),
    ]
}

/// The further grants for existing tables of another role, as far as these modules use them.
///
/// # Errors
///
/// [`DbError`] if the query fails.
pub async fn grants_of_tables(
    database: &Database,
    role: &str,
    modules: Modules,
) -> Result<Vec<String>, DbError> {
    let (made, later) = made(modules);
    let mut tables = own_tables();
    let (mut sequences, mut functions) = (Vec::new(), Vec::new());
    for (kind, name) in made {
        match kind {
            "table" | "view" => tables.push(name),
            "sequence" => sequences.push(name),
            "function" => functions.push(name),
            _ => {}
        }
    }
    let parameters: [Parameter<'_>; 6] = [
        (&database.schema(), Type::TEXT),
        (&role, Type::TEXT),
        (&tables, Type::TEXT_ARRAY),
        (&sequences, Type::TEXT_ARRAY),
        (&functions, Type::TEXT_ARRAY),
        (&later, Type::TEXT),
    ];
    let rows = database.query_in_time(TIMEOUT, sql!("db/grants.sql"), &parameters).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
