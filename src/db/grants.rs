//! The statements that a database's administrator runs, so that the service's role can do all that it does.
//!
//! The role owns its tables: it makes them, makes and drops partitions, and makes the tables of collections, which Postgres lets
//! owners do and no right stands for.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::migrations::{made, own_tables};
use super::{ConnectionUrl, Database, DbError, Parameter};

/// For the look at what is there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a role needs in a database where nothing of the service's is yet.
pub fn grants(url: &ConnectionUrl, schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    let database = url.dbname().map_or_else(|| role.clone(), quoted);
    vec![
        // Temporary tables are where bad rows are looked for.
        format!("grant connect, temporary on database {database} to {role}"),
        format!("create schema if not exists {schema}"),
        format!("grant usage, create on schema {schema} to {role}"),
    ]
}

/// What it needs beyond that where the service's tables are there already, and another role's.
///
/// # Errors
///
/// [`DbError`] if the database cannot be looked at.
pub async fn grants_of_tables(database: &Database, role: &str) -> Result<Vec<String>, DbError> {
    let mut tables = own_tables();
    let (mut sequences, mut functions) = (Vec::new(), Vec::new());
    for (kind, name) in made() {
        match kind {
            "table" => tables.push(name),
            "sequence" => sequences.push(name),
            "function" => functions.push(name),
            _ => {}
        }
    }
    let parameters: [Parameter<'_>; 5] = [
        (&database.schema(), Type::TEXT),
        (&role, Type::TEXT),
        (&tables, Type::TEXT_ARRAY),
        (&sequences, Type::TEXT_ARRAY),
        (&functions, Type::TEXT_ARRAY),
    ];
    let rows = database.query_in_time(TIMEOUT, include_str!("../../sql/db/grants.sql"), &parameters).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
