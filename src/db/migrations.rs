//! Brings the database's schema up to this binary's, once, whoever starts first.
//!
//! refinery runs the numbered files of `sql/migrations`. Around it: an advisory lock, as refinery takes none; a look
//! at what was applied, so that a role without rights to create can start on a database that is up to date; and the
//! refusals that an operator should see by name.

use refinery::{Migration, Runner};
use tokio_postgres::types::Type;

use super::{Database, DbError, Parameter};
use crate::config::Partitioning;

/// The files of `sql/migrations`, in order. They are only ever added to.
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
];

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// It has had migrations that this binary does not know.
    #[error(
        "the database is newer than this binary: it is at migration {database}, this binary knows {binary}; run a newer tidegate, or point DB_SCHEMA at another schema"
    )]
    TooNew {
        /// The database's version.
        database: i32,
        /// This binary's.
        binary: i32,
    },
    /// Its encoding is another one.
    #[error(
        "the database's encoding is {0}, and tidegate needs UTF8: create it with encoding 'UTF8' template template0"
    )]
    Encoding(String),
    /// A migration failed, or what was applied is not what this binary would apply.
    #[error("migration failed: {0}")]
    Failed(String),
    /// Postgres said no on the way.
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

/// Applies what is missing. Two nodes may start at once: one waits for the other.
///
/// # Errors
///
/// [`MigrationError`], with nothing half applied: each file is a transaction of its own.
pub async fn migrate(database: &Database, partitioning: Partitioning) -> Result<(), MigrationError> {
    let mut client = database.connect().await?;
    let encoding: String = client
        .query_typed("show server_encoding", &[])
        .await?
        .first()
        .map_or(Ok(String::new()), |row| row.try_get(0))?;
    if encoding != "UTF8" {
        return Err(MigrationError::Encoding(encoding));
    }
    if applied(database, &client).await? == Some(latest()) {
        return Ok(());
    }

    let mut lock_holder = database.connect().await?;
    let lock = lock_holder.transaction().await?;
    lock.query_one(include_str!("../../sql/db/lock.sql"), &[&database.schema()]).await?;
    match applied(database, &client).await? {
        Some(version) if version > latest() => {
            return Err(MigrationError::TooNew { database: version, binary: latest() });
        }
        Some(_) => {}
        None => {
            client.batch_execute(&database.sql(include_str!("../../sql/db/prepare.sql"))).await?;
            let choose = database.sql(include_str!("../../sql/db/choose.sql"));
            let choice: [Parameter<'_>; 2] =
                [(&"partitioning", Type::TEXT), (&partitioning.name(), Type::TEXT)];
            client.execute_typed(&choose, &choice).await?;
        }
    }
    let migrations = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, &database.sql(sql)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| MigrationError::Failed(super::chain(&error)))?;
    let mut runner = Runner::new(&migrations);
    // A checksum covers the schema's name, which an operator may change; a test sees to it that files are only added.
    runner = runner.set_abort_divergent(false);
    runner.set_migration_table_name(database.sql("{schema}.tidegate_migrations"));
    let report =
        runner.run_async(&mut client).await.map_err(|error| MigrationError::Failed(super::chain(&error)))?;
    for migration in report.applied_migrations() {
        tracing::info!(
            migration.version = migration.version(),
            migration.name = migration.name(),
            "migrated"
        );
    }
    lock.commit().await?;
    Ok(())
}

/// The version of the schema that this binary works with.
pub fn schema_version() -> usize {
    MIGRATIONS.len()
}

fn latest() -> i32 {
    MIGRATIONS.len() as i32
}

async fn applied(
    database: &Database,
    client: &tokio_postgres::Client,
) -> Result<Option<i32>, MigrationError> {
    let exists = database.sql(include_str!("../../sql/db/history_exists.sql"));
    let exists = client.query_typed(&exists, &[]).await?;
    if !exists.first().map_or(Ok(false), |row| row.try_get(0))? {
        return Ok(None);
    }
    let newest = database.sql(include_str!("../../sql/db/history.sql"));
    let newest = client.query_typed(&newest, &[]).await?;
    Ok(newest.first().map_or(Ok(None), |row| row.try_get(0))?)
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
}
