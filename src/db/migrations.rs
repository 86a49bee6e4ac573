//! Migrates the database's schema to this binary's version, once, however many nodes start at the same time.
//!
//! All missing files of `sql/migrations` are applied in one transaction, and recorded in the format of refinery: a start that
//! fails leaves nothing behind. (refinery's own runner takes over the connection and begins a transaction per file, so only its
//! parsing of names and its checksums are used.) An advisory lock surrounds it. The history is read first, so that a role
//! without the right to create can start on a current database. Errors that an operator can fix have names of their own.

use std::time::Duration;

use refinery::Migration;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::{Database, DbError, Parameter, presets, sql};
use crate::config::Partitioning;

/// The files of `sql/migrations`, in order. Append-only.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__events", include_str!("../../sql/migrations/V1__events.sql")),
    ("V2__exactly_once", include_str!("../../sql/migrations/V2__exactly_once.sql")),
    ("V3__records", include_str!("../../sql/migrations/V3__records.sql")),
    ("V4__auth", include_str!("../../sql/migrations/V4__auth.sql")),
    ("V5__conversations", include_str!("../../sql/migrations/V5__conversations.sql")),
    ("V6__files", include_str!("../../sql/migrations/V6__files.sql")),
    ("V7__imports", include_str!("../../sql/migrations/V7__imports.sql")),
    ("V8__write_only_keys", include_str!("../../sql/migrations/V8__write_only_keys.sql")),
    ("V9__chat_messages", include_str!("../../sql/migrations/V9__chat_messages.sql")),
    ("V10__partitions_noted", include_str!("../../sql/migrations/V10__partitions_noted.sql")),
    ("V11__search_parts", include_str!("../../sql/migrations/V11__search_parts.sql")),
    ("V12__shared_databases", include_str!("../../sql/migrations/V12__shared_databases.sql")),
    ("V13__feed_positions", include_str!("../../sql/migrations/V13__feed_positions.sql")),
];

/// The limit of each query about the database; they take milliseconds.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit of all migrations together; some rewrite tables.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// The limit of the wait for another node's migration, and the interval between two checks.
const LOCK_TIMEOUT: Duration = Duration::from_secs(600);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// The reason why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database has migrations that this binary does not know.
    #[error(
        "the database is newer than this binary: it is at migration {database}, this binary knows {binary}; run a newer tidegate, or point DB_SCHEMA at another schema"
    )]
    TooNew {
        /// The database's version.
        database: i32,
        /// This binary's.
        binary: i32,
    },
    /// The database has another encoding than UTF-8.
    #[error(
        "the database's encoding is {0}, and tidegate needs UTF8: create it with encoding 'UTF8' template template0"
    )]
    Encoding(String),
    /// Triggers and foreign keys are disabled for this role.
    #[error(
        "session_replication_role is {0} for this role, so triggers and foreign keys do not work; tidegate needs them: alter role … reset session_replication_role"
    )]
    ReplicationRole(String),
    /// Objects that migrations would create exist already, and are not the service's.
    #[error(
        "the schema {schema} has {} already, which tidegate would make; nothing was changed. Name a schema for tidegate's own tables: DB_SCHEMA=tidegate (made if it is not there)", .names.join(", ")
    )]
    Clash {
        /// The schema.
        schema: String,
        /// The objects, each with its kind.
        names: Vec<String>,
    },
    /// An applied migration differs from this binary's.
    #[error(
        "migration {version} of the schema {schema} is not the one that this binary has: its file, or its row in tidegate_migrations, was changed. Nothing was done; restore the row, or run the binary that applied it"
    )]
    Changed {
        /// The schema.
        schema: String,
        /// The migration's number.
        version: i32,
    },
    /// The role lacks the right to create an object.
    #[error("{0}; `tidegate grants` prints what the role needs")]
    Rights(String),
    /// A migration failed.
    #[error("migration failed: {0}")]
    Failed(String),
    /// A query about the database failed.
    #[error("{}", .0.with_sources())]
    Database(DbError),
}

impl From<DbError> for MigrationError {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

impl From<tokio_postgres::Error> for MigrationError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Applies the missing migrations. Of two nodes that start at the same time, one waits for the other.
///
/// # Errors
///
/// [`MigrationError`]; nothing is changed then.
pub async fn migrate(database: &Database, partitioning: Partitioning) -> Result<(), MigrationError> {
    let mut client = database.connect().await?;
    let migrating = migrate_over(database, &mut client, partitioning);
    match tokio::time::timeout(TIMEOUT + LOCK_TIMEOUT, migrating).await {
        Ok(migrated) => migrated,
        Err(_elapsed) => Err(DbError::Timeout(TIMEOUT).into()),
    }
}

async fn migrate_over(
    database: &Database,
    client: &mut Client,
    partitioning: Partitioning,
) -> Result<(), MigrationError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        let transaction = in_time(async {
            let transaction =
                client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
            transaction.batch_execute(&presets(LOOK_TIMEOUT)).await?;
            Ok::<_, MigrationError>(transaction)
        })
        .await?;
        in_time(check_server(&transaction)).await?;
        if in_time(applied(database, &transaction)).await? == latest() {
            in_time(check_history(database, &transaction)).await?;
            return Ok(());
        }
        // Polled, and not waited for in Postgres: a transaction that waits for another node would look as if it hung.
        let rows = in_time(async {
            let schema: [Parameter<'_>; 1] = [(&database.schema(), Type::TEXT)];
            Ok(transaction.query_typed(sql!("db/lock.sql"), &schema).await?)
        })
        .await?;
        if rows.first().map_or(Ok(false), |row| row.try_get(0))? {
            return apply(database, transaction, partitioning).await;
        }
        transaction.rollback().await?;
        if Instant::now() > deadline {
            return Err(DbError::Timeout(LOCK_TIMEOUT).into());
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

/// Applies the missing migrations and commits. The caller holds the lock.
async fn apply(
    database: &Database,
    transaction: Transaction<'_>,
    partitioning: Partitioning,
) -> Result<(), MigrationError> {
    // Read once more: the former holder of the lock has migrated.
    let version = in_time(applied(database, &transaction)).await?;
    if version > latest() {
        return Err(MigrationError::TooNew { database: version, binary: latest() });
    }
    in_time(check_history(database, &transaction)).await?;
    let missing = MIGRATIONS.get(version as usize..).unwrap_or_default();
    in_time(check_names(database, &transaction, missing, version == 0)).await?;
    transaction.batch_execute(&presets(TIMEOUT)).await?;
    transaction.batch_execute(sql!(database, "db/prepare.sql")).await.map_err(failed)?;
    if version == 0 {
        let choose = sql!(database, "db/choose.sql");
        let choice: [Parameter<'_>; 2] = [(&"partitioning", Type::TEXT), (&partitioning.name(), Type::TEXT)];
        transaction.execute_typed(choose, &choice).await.map_err(failed)?;
    }
    let note = sql!(database, "db/note_migration.sql");
    for (file, sql) in MIGRATIONS {
        let migration = named(file, sql)?;
        if migration.version() > version {
            transaction.batch_execute(&database.sql(sql)).await.map_err(failed)?;
        }
        let (number, checksum) = (migration.version(), migration.checksum().to_string());
        let parameters: [Parameter<'_>; 3] =
            [(&number, Type::INT4), (&migration.name(), Type::TEXT), (&checksum, Type::TEXT)];
        transaction.execute_typed(note, &parameters).await.map_err(failed)?;
    }
    transaction.commit().await?;
    tracing::info!(from = version, to = latest(), schema = database.schema(), "the schema is migrated");
    Ok(())
}

fn failed(error: tokio_postgres::Error) -> MigrationError {
    let error = DbError::from(error);
    match error.state_code() {
        Some("42501") => MigrationError::Rights(error.with_sources()),
        Some(_) if !error.is_passing() => MigrationError::Failed(error.with_sources()),
        _ => MigrationError::Database(error),
    }
}

/// Bounds a query about the database: a stopped server does not answer at all.
async fn in_time<T>(look: impl Future<Output = Result<T, MigrationError>>) -> Result<T, MigrationError> {
    let looked = tokio::time::timeout(LOOK_TIMEOUT, look).await;
    looked.unwrap_or_else(|_| Err(DbError::Timeout(LOOK_TIMEOUT).into()))
}

async fn check_server(transaction: &Transaction<'_>) -> Result<(), MigrationError> {
    let rows = transaction.query_typed(sql!("db/server.sql"), &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (encoding, role): (String, String) = (row.try_get("encoding")?, row.try_get("replication_role")?);
    if encoding != "UTF8" {
        return Err(MigrationError::Encoding(encoding));
    }
    if role != "origin" {
        return Err(MigrationError::ReplicationRole(role));
    }
    Ok(())
}

/// Rejects a history that differs from this binary's.
async fn check_history(database: &Database, transaction: &Transaction<'_>) -> Result<(), MigrationError> {
    if !has_history(database, transaction).await? {
        return Ok(());
    }
    let checksums = sql!(database, "db/checksums.sql");
    for row in transaction.query_typed(checksums, &[]).await? {
        let (version, checksum): (i32, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let of = |(file, sql): &(&str, &str)| {
            // Up to V7 the checksum was that of the text with the schema's name in it.
            let texts = [(*sql).to_owned(), database.sql(sql)];
            texts.iter().any(|text| {
                named(file, text).is_ok_and(|known| Some(known.checksum().to_string()) == checksum)
            })
        };
        let known = usize::try_from(version - 1).ok().and_then(|place| MIGRATIONS.get(place));
        if !known.is_some_and(of) {
            return Err(MigrationError::Changed { schema: database.schema().to_owned(), version });
        }
    }
    Ok(())
}

/// Rejects names that other objects have, all at once and before anything is created.
async fn check_names(
    database: &Database,
    transaction: &Transaction<'_>,
    missing: &[(&str, &str)],
    is_first: bool,
) -> Result<(), MigrationError> {
    let (mut relations, mut functions) = (Vec::new(), Vec::new());
    for (kind, name) in missing.iter().flat_map(|(_, sql)| made_by(sql)) {
        if kind == "function" { functions.push(name) } else { relations.push(name) }
    }
    let taken = sql!("db/names_taken.sql");
    let parameters: [Parameter<'_>; 4] = [
        (&database.schema(), Type::TEXT),
        (&relations, Type::TEXT_ARRAY),
        (&functions, Type::TEXT_ARRAY),
        (&is_first, Type::BOOL),
    ];
    let rows = transaction.query_typed(taken, &parameters).await?;
    let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    match names.is_empty() {
        true => Ok(()),
        false => Err(MigrationError::Clash { schema: database.schema().to_owned(), names }),
    }
}

/// The named objects that a migration creates, with their kinds: tables, indexes, sequences and functions. Names chosen by
/// Postgres are free anyway.
fn made_by(sql: &str) -> impl Iterator<Item = (&str, &str)> {
    let statements = sql.lines().map(str::trim_start).filter(|line| !line.starts_with("--"));
    statements.filter_map(|line| {
        // A `create` may begin within the text of an `execute`.
        let line = line.strip_prefix("execute '").unwrap_or(line).strip_prefix("create ")?;
        let (kind, rest) = line.strip_prefix("unique ").unwrap_or(line).split_once(' ')?;
        if !matches!(kind, "table" | "index" | "sequence" | "function" | "view" | "type") {
            return None;
        }
        let name = rest.strip_prefix("{schema}.").unwrap_or(rest);
        let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
        Some((kind, name.get(..end)?))
    })
}

/// The named objects that all migrations create, with their kinds.
pub(super) fn made() -> impl Iterator<Item = (&'static str, &'static str)> {
    MIGRATIONS.iter().flat_map(|(_, sql)| made_by(sql))
}

/// The tables created before the first migration.
pub(super) fn own_tables() -> Vec<&'static str> {
    vec!["tidegate_choices", "tidegate_migrations"]
}

fn named(file: &str, sql: &str) -> Result<Migration, MigrationError> {
    Migration::unapplied(file, sql).map_err(|error| MigrationError::Failed(super::chain(&error)))
}

/// The schema version of this binary.
pub fn schema_version() -> usize {
    MIGRATIONS.len()
}

fn latest() -> i32 {
    MIGRATIONS.len() as i32
}

async fn has_history(database: &Database, transaction: &Transaction<'_>) -> Result<bool, MigrationError> {
    let exists = sql!(database, "db/history_exists.sql");
    let exists = transaction.query_typed(exists, &[]).await?;
    Ok(exists.first().map_or(Ok(false), |row| row.try_get(0))?)
}

/// The newest applied migration; 0 for none.
async fn applied(database: &Database, transaction: &Transaction<'_>) -> Result<i32, MigrationError> {
    if !has_history(database, transaction).await? {
        return Ok(0);
    }
    let newest = sql!(database, "db/history.sql");
    let newest = transaction.query_typed(newest, &[]).await?;
    Ok(newest.first().map_or(Ok(None), |row| row.try_get::<_, Option<i32>>(0))?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_listed_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort_by_key(|name| name[1..].split("__").next().unwrap().parse::<u32>().unwrap());
        let listed: Vec<String> = MIGRATIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(files, listed);
        for (index, (name, _)) in MIGRATIONS.iter().enumerate() {
            assert!(name.starts_with(&format!("V{}__", index + 1)), "{name}");
        }
    }

    #[test]
    fn what_a_migration_makes_is_found_by_name() {
        let sql = "-- create table {schema}.no\ncreate table {schema}.a (\n    execute 'create table {schema}.b (\n\
                   create unique index c_d on {schema}.a (x);\ncreate function {schema}.f(x int) returns int\n\
                   create trigger t after delete on {schema}.a\ncreate sequence {schema}.s;";
        let made: Vec<_> = made_by(sql).collect();
        assert_eq!(
            made,
            [("table", "a"), ("table", "b"), ("index", "c_d"), ("function", "f"), ("sequence", "s")]
        );
    }
}
