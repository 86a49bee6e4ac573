//! Migrates the database's schema to this binary's version, once, however many nodes start at the same time.
//!
//! All missing files of `sql/migrations` are applied in one transaction, and recorded in the format of refinery: a start that
//! fails leaves nothing behind. (refinery's own runner takes over the connection and begins a transaction per file, so only its
//! parsing of names and its checksums are used.) An advisory lock surrounds it. The history is read first, so that a role
//! without the right to create can start on a current database. Errors that an operator can fix have names of their own.
//!
//! Tables of modules are in sets ([`TableSet`]). A statement of a file belongs to the set of the first table that it names; all others
//! are the core's, which every database has. A set that no module needs is left out, and the database records the sets that it has
//! (`tidegate_table_sets`). Once a module that needs the set is on, its statements of all files are applied, in their order. A set that
//! exists is migrated with the core, whether its module is on or off. So a statement may name the core's tables, its set's, and those of
//! modules that its module needs, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use refinery::Migration;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::{Database, DbError, Parameter, presets, sql};
use crate::config::{ALL_MODULES, Modules, Partitioning, TableSet};

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
    ("V14__table_sets", include_str!("../../sql/migrations/V14__table_sets.sql")),
    ("V15__changes_of_tables", include_str!("../../sql/migrations/V15__changes_of_tables.sql")),
    ("V16__watched_tables", include_str!("../../sql/migrations/V16__watched_tables.sql")),
    ("V17__tickets", include_str!("../../sql/migrations/V17__tickets.sql")),
    ("V18__clients", include_str!("../../sql/migrations/V18__clients.sql")),
    ("V19__search_positions", include_str!("../../sql/migrations/V19__search_positions.sql")),
    ("V20__routes", include_str!("../../sql/migrations/V20__routes.sql")),
    ("V21__streams", include_str!("../../sql/migrations/V21__streams.sql")),
    ("V22__stream_subscriptions", include_str!("../../sql/migrations/V22__stream_subscriptions.sql")),
    ("V23__typed_collections", include_str!("../../sql/migrations/V23__typed_collections.sql")),
    ("V24__stream_compaction", include_str!("../../sql/migrations/V24__stream_compaction.sql")),
    ("V25__stream_sql", include_str!("../../sql/migrations/V25__stream_sql.sql")),
    ("V26__private_collections", include_str!("../../sql/migrations/V26__private_collections.sql")),
    ("V27__app_settings", include_str!("../../sql/migrations/V27__app_settings.sql")),
    ("V28__client_positions", include_str!("../../sql/migrations/V28__client_positions.sql")),
    ("V29__record_files", include_str!("../../sql/migrations/V29__record_files.sql")),
    ("V30__mail_limits", include_str!("../../sql/migrations/V30__mail_limits.sql")),
    ("V31__request_logs", include_str!("../../sql/migrations/V31__request_logs.sql")),
];

/// Names of tables that are created later: one a day, and one a collection.
const DAYS: &str = "^requests_p[0-9]{8}$";
const COLLECTIONS: &str = "^records_[0-9]+$";
/// The set of the latter.
const RECORDS: &str = "records";

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

/// Applies the missing migrations of the core and of the modules that are on. Of two nodes that start at the same time, one waits for the other.
///
/// # Errors
///
/// [`MigrationError`]; nothing is changed then.
pub async fn migrate(
    database: &Database,
    partitioning: Partitioning,
    modules: Modules,
) -> Result<(), MigrationError> {
    let mut client = database.connect().await?;
    let migrating = migrate_over(database, &mut client, partitioning, modules);
    match tokio::time::timeout(TIMEOUT + LOCK_TIMEOUT, migrating).await {
        Ok(migrated) => migrated,
        Err(_elapsed) => Err(DbError::Timeout(TIMEOUT).into()),
    }
}

async fn migrate_over(
    database: &Database,
    client: &mut Client,
    partitioning: Partitioning,
    modules: Modules,
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
        if in_time(Applied::read(database, &transaction)).await?.is_current(modules) {
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
            return apply(database, transaction, partitioning, modules).await;
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
    modules: Modules,
) -> Result<(), MigrationError> {
    // Read once more: the former holder of the lock has migrated.
    let applied = in_time(Applied::read(database, &transaction)).await?;
    let version = applied.version;
    if version > latest() {
        return Err(MigrationError::TooNew { database: version, binary: latest() });
    }
    in_time(check_history(database, &transaction)).await?;
    let missing = applied.missing(modules);
    in_time(check_names(database, &transaction, &applied, modules, &missing)).await?;
    transaction.batch_execute(&presets(TIMEOUT)).await?;
    transaction.batch_execute(sql!(database, "db/prepare.sql")).await.map_err(failed)?;
    if version == 0 {
        let choose = sql!(database, "db/choose.sql");
        let choice: [Parameter<'_>; 2] = [(&"partitioning", Type::TEXT), (&partitioning.name(), Type::TEXT)];
        transaction.execute_typed(choose, &choice).await.map_err(failed)?;
    }
    let note = sql!(database, "db/note_migration.sql");
    for ((file, sql), missing) in MIGRATIONS.iter().zip(&missing) {
        if !missing.is_empty() {
            transaction.batch_execute(&database.sql(missing)).await.map_err(failed)?;
        }
        let migration = named(file, sql)?;
        let (number, checksum) = (migration.version(), migration.checksum().to_string());
        let parameters: [Parameter<'_>; 3] =
            [(&number, Type::INT4), (&migration.name(), Type::TEXT), (&checksum, Type::TEXT)];
        transaction.execute_typed(note, &parameters).await.map_err(failed)?;
    }
    let sets: Vec<&str> = applied.sets_with(modules).into_iter().collect();
    let add = sql!(database, "db/add_table_sets.sql");
    transaction.execute_typed(add, &[(&sets, Type::TEXT_ARRAY)]).await.map_err(failed)?;
    transaction.commit().await?;
    tracing::info!(
        from = version,
        to = latest(),
        schema = database.schema(),
        tables = sets.join(" "),
        "the schema is migrated"
    );
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
    applied: &Applied,
    modules: Modules,
    missing: &[String],
) -> Result<(), MigrationError> {
    let (mut relations, mut functions) = (Vec::new(), Vec::new());
    for (kind, name) in missing.iter().flat_map(|sql| made_by(sql)) {
        if kind == "function" { functions.push(name) } else { relations.push(name) }
    }
    let records_are_new = modules.table_sets().iter().any(|set| set.name == RECORDS && !applied.has(set));
    let later = [(applied.version == 0, DAYS), (records_are_new, COLLECTIONS)];
    let later: Vec<&str> =
        later.into_iter().filter(|(is_new, _)| *is_new).map(|(_, pattern)| pattern).collect();
    let later = (!later.is_empty()).then(|| later.join("|"));
    let parameters: [Parameter<'_>; 4] = [
        (&database.schema(), Type::TEXT),
        (&relations, Type::TEXT_ARRAY),
        (&functions, Type::TEXT_ARRAY),
        (&later, Type::TEXT),
    ];
    let rows = transaction.query_typed(sql!("db/names_taken.sql"), &parameters).await?;
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
        let (kind, rest) = ["unique ", "unlogged "]
            .iter()
            .find_map(|word| line.strip_prefix(word))
            .unwrap_or(line)
            .split_once(' ')?;
        if !matches!(kind, "table" | "index" | "sequence" | "function" | "view" | "type") {
            return None;
        }
        Some((kind, word(rest.strip_prefix("{schema}.").unwrap_or(rest))))
    })
}

/// The named objects that the service has with these modules, with their kinds, and a pattern of the tables that are created later.
pub(super) fn made(modules: Modules) -> (Vec<(&'static str, &'static str)>, String) {
    let sets = modules.table_sets();
    let files = MIGRATIONS.iter().flat_map(|(_, sql)| statements(sql));
    let wanted = files.filter(|statement| set_of(statement).is_none_or(|set| sets.contains(&set)));
    let later = match sets.iter().any(|set| set.name == RECORDS) {
        true => format!("{DAYS}|{COLLECTIONS}"),
        false => DAYS.to_owned(),
    };
    (wanted.flat_map(made_by).collect(), later)
}

/// The tables created before the first migration.
pub(super) fn own_tables() -> Vec<&'static str> {
    vec!["tidegate_choices", "tidegate_migrations"]
}

/// The names of all tables that the service can have in its schema, and a pattern of those that are created later.
pub fn own_relations() -> (Vec<&'static str>, String) {
    let (made, later) = made(Modules::all());
    let tables = made.into_iter().filter(|(kind, _)| *kind == "table").map(|(_, name)| name);
    (tables.chain(own_tables()).collect(), later)
}

fn named(file: &str, sql: &str) -> Result<Migration, MigrationError> {
    Migration::unapplied(file, sql).map_err(|error| MigrationError::Failed(super::chain(&error)))
}

/// The schema version of this binary.
pub fn schema_version() -> usize {
    MIGRATIONS.len()
}

/// The schema that a database has once it is migrated for these modules, in one line: the version, and the sets of tables.
pub fn schema(modules: Modules) -> String {
    let sets = modules.table_sets();
    let words =
        std::iter::once(MIGRATIONS.len().to_string()).chain(sets.iter().map(|set| set.name.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the schema of a line of [`schema`] is enough for these modules.
pub fn is_schema_of(schema: &str, modules: Modules) -> bool {
    let mut words = schema.split(' ');
    let version = words.next().and_then(|word| word.parse().ok());
    let sets: Vec<&str> = words.collect();
    version == Some(MIGRATIONS.len()) && modules.table_sets().iter().all(|set| sets.contains(&set.name))
}

/// Whether the database has the tables of a set, from a time when its module was on.
///
/// # Errors
///
/// [`DbError`] if the query fails.
pub async fn has_tables(database: &Database, set: &TableSet) -> Result<bool, DbError> {
    let Some(first) = set.relations.first() else { return Ok(false) };
    let parameters: [Parameter<'_>; 2] = [(&database.schema(), Type::TEXT), (first, Type::TEXT)];
    let rows = database.query_in_time(LOOK_TIMEOUT, sql!("db/relation_exists.sql"), &parameters).await?;
    Ok(rows.first().map_or(Ok(false), |row| row.try_get(0))?)
}

fn latest() -> i32 {
    MIGRATIONS.len() as i32
}

/// The statements of a file, each with the comments before it. None ends within a function's text.
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        let (mut end, mut in_text) = (0, false);
        for line in rest.split_inclusive('\n') {
            end += line.len();
            let code = line.trim();
            if code.starts_with("--") {
                continue;
            }
            in_text ^= code.matches("$$").count() % 2 == 1;
            if !in_text && code.ends_with(';') {
                break;
            }
        }
        let (statement, others) = rest.split_at_checked(end)?;
        rest = others;
        (!statement.is_empty()).then_some(statement)
    })
}

/// The tables and other objects that a statement names, outside its comments, in order.
fn names(statement: &str) -> impl Iterator<Item = &str> {
    let code = statement.lines().filter(|line| !line.trim_start().starts_with("--"));
    code.flat_map(|line| line.split("{schema}.").skip(1)).map(word)
}

/// The name at the beginning of a text.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// The set of a table or sequence; `None`: the core's.
fn set_of_name(name: &str) -> Option<TableSet> {
    all_sets().find(|set| set.relations.contains(&name))
}

/// The set that a statement belongs to, by the first table that it names; `None`: the core.
fn set_of(statement: &str) -> Option<TableSet> {
    names(statement).next().and_then(set_of_name)
}

fn all_sets() -> impl Iterator<Item = TableSet> {
    ALL_MODULES.iter().flat_map(|info| info.tables).copied()
}

/// The migrations that a database has.
#[derive(Debug, Default)]
struct Applied {
    /// The newest one; 0 for none.
    version: i32,
    /// The sets of tables that it has.
    sets: BTreeSet<String>,
}

impl Applied {
    async fn read(database: &Database, transaction: &Transaction<'_>) -> Result<Self, MigrationError> {
        if !has_history(database, transaction).await? {
            return Ok(Self::default());
        }
        let newest = transaction.query_typed(sql!(database, "db/history.sql"), &[]).await?;
        let newest = newest.first().map_or(Ok(None), |row| row.try_get::<_, Option<i32>>(0))?;
        let version = newest.unwrap_or(0);
        // Before V14 every module had its tables.
        let sets = match usize::try_from(version) {
            Ok(count @ 0..TABLE_SETS) => {
                let files = MIGRATIONS.iter().take(count).flat_map(|(_, sql)| statements(sql));
                files.filter_map(set_of).map(|set| set.name.to_owned()).collect()
            }
            _ => {
                let sets = transaction.query_typed(sql!(database, "db/table_sets.sql"), &[]).await?;
                sets.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?
            }
        };
        Ok(Self { version, sets })
    }

    fn has(&self, set: &TableSet) -> bool {
        self.sets.contains(set.name)
    }

    /// Whether nothing is missing for these modules.
    fn is_current(&self, modules: Modules) -> bool {
        self.version == latest() && modules.table_sets().iter().all(|set| self.has(set))
    }

    /// The sets that exist once these modules have theirs.
    fn sets_with(&self, modules: Modules) -> BTreeSet<&str> {
        let wanted = modules.table_sets();
        self.sets.iter().map(String::as_str).chain(wanted.iter().map(|set| set.name)).collect()
    }

    /// The statements of each file that are missing for these modules.
    fn missing(&self, modules: Modules) -> Vec<String> {
        let wanted = modules.table_sets();
        let version_of = |statement: &str| match set_of(statement) {
            None => Some(self.version),
            Some(set) if self.has(&set) => Some(self.version),
            Some(set) if wanted.contains(&set) => Some(0),
            Some(_) => None,
        };
        let files = MIGRATIONS.iter().zip(1..);
        files
            .map(|((_, sql), number)| {
                let is_missing = |statement: &&str| version_of(statement).is_some_and(|from| number > from);
                statements(sql).filter(is_missing).collect()
            })
            .collect()
    }
}

/// The migration that made `tidegate_table_sets`.
const TABLE_SETS: usize = 14;

async fn has_history(database: &Database, transaction: &Transaction<'_>) -> Result<bool, MigrationError> {
    let exists = sql!(database, "db/history_exists.sql");
    let exists = transaction.query_typed(exists, &[]).await?;
    Ok(exists.first().map_or(Ok(false), |row| row.try_get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Module;

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

    #[test]
    fn statements_are_a_file_in_pieces_and_belong_to_the_set_of_the_first_table_they_name() {
        for (file, sql) in MIGRATIONS {
            assert_eq!(statements(sql).collect::<String>(), *sql, "{file}");
        }
        let sql = "-- Of {schema}.files; no.\n\ncreate table {schema}.users (\n    id int\n);\n-- b\ninsert into {schema}.feed_floor\n\
                   select 1;\ncreate function {schema}.f() returns int as $$\nbegin\n    delete from {schema}.files;\nend\n$$;\n\n";
        let owners: Vec<_> = statements(sql).map(|text| set_of(text).map(|set| set.name)).collect();
        assert_eq!(owners, [None, Some("changes"), None, None]);
        let first = MIGRATIONS.iter().flat_map(|(_, sql)| statements(sql)).filter_map(set_of);
        let sets: BTreeSet<&str> = first.map(|set| set.name).collect();
        assert_eq!(
            sets,
            ["changes", "conversations", "files", "imports", "pocketbase", "records", "streams", "stress"]
                .into()
        );
    }

    #[test]
    fn a_statement_names_tables_of_the_core_its_set_and_the_modules_that_are_needed() {
        for (file, sql) in MIGRATIONS {
            for statement in statements(sql) {
                let Some(owner) = set_of(statement) else {
                    assert_eq!(names(statement).find_map(set_of_name), None, "{file}: {statement}");
                    continue;
                };
                for info in ALL_MODULES.iter().filter(|info| info.tables.contains(&owner)) {
                    let needed = info.needs.iter().flat_map(|needed| needed.info().tables);
                    let known: Vec<&TableSet> = info.tables.iter().chain(needed).collect();
                    let strange = names(statement).filter_map(set_of_name).find(|set| !known.contains(&set));
                    assert_eq!(strange, None, "{file}: {}: {statement}", info.name);
                }
            }
        }
    }

    #[test]
    fn statements_of_the_core_name_no_table_of_a_module() {
        for folder in ["auth", "db", "doctor", "ingest"] {
            let folder = format!("{}/sql/{folder}", env!("CARGO_MANIFEST_DIR"));
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                assert_eq!(names(&text).find_map(set_of_name), None, "{}", path.display());
            }
        }
    }

    #[test]
    fn a_set_is_made_whole_when_its_module_is_on_for_the_first_time() {
        let of = |names: &[&str]| -> Modules {
            let named = ALL_MODULES.iter().filter(|info| names.contains(&info.name));
            named.map(|info| info.module).collect()
        };
        let (events, files) = (of(&["events"]), of(&["events", "files"]));
        let texts = |sets: &[&str], version, modules| {
            let sets = sets.iter().map(|name| (*name).to_owned()).collect();
            Applied { version, sets }.missing(modules)
        };
        let fresh = texts(&[], 0, events);
        let made: Vec<&str> = fresh.iter().flat_map(|sql| made_by(sql)).map(|(_, name)| name).collect();
        assert!(made.contains(&"requests") && made.contains(&"users"), "{made:?}");
        assert_eq!(made.into_iter().find_map(set_of_name), None);
        // On for the first time: its statements alone, those of all files.
        let turned_on = texts(&[], latest(), files);
        let numbers: Vec<usize> =
            (1..).zip(&turned_on).filter(|(_, sql)| !sql.is_empty()).map(|(n, _)| n).collect();
        assert_eq!(numbers, [6, 12, 29]);
        assert!(turned_on[11].contains("file_store replica identity"), "{}", turned_on[11]);
        // Off, and migrated with the core.
        let off = texts(&["files"], 11, events);
        assert_eq!(off[5], "");
        assert!(
            off[11].contains("file_store replica identity") && !off[11].contains("feed_floor"),
            "{}",
            off[11]
        );
        assert!(texts(&["files"], latest(), files).iter().all(String::is_empty));
    }

    #[test]
    fn a_schema_is_enough_for_fewer_modules_and_no_others() {
        let [all, events] = [Modules::all(), [Module::Events].into_iter().collect()];
        assert_eq!(schema(events), latest().to_string());
        assert!(is_schema_of(&schema(all), all) && is_schema_of(&schema(all), events));
        assert!(!is_schema_of(&schema(events), all) && is_schema_of(&schema(events), events));
        for other in ["", "1 files", "files", &format!("{}", latest() + 1)] {
            assert!(!is_schema_of(other, events), "{other}");
        }
    }
}
