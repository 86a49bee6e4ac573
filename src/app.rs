//! Builds every part in order, runs it, and stops it in the reverse order.
//!
//! | start | stop |
//! |---|---|
//! | listen (answers 503 until the rest is up) | 7 |
//! | the private Postgres, where there is no `DATABASE_URL` | 6 the private Postgres stops |
//! | the journal: recovered, with a new part of our own | |
//! | pool | 5 connections close |
//! | migrations, the first partitions | |
//! | background tasks, as each part starts (`supervisor`) | 4 end |
//! | pipeline: journal, lanes and dead letters | 3 drains: everything accepted is stored, or left in the journal |
//! | records, conversations, accounts, files, imports | imports end where they are, and are resumed by the next start |
//! | events are taken | 1 nothing is taken, 2 the requests under way are answered |
//!
//! The stop's time, `SHUTDOWN_TIMEOUT_S`, has shares: a quarter for 1 and 2, up to three quarters with 3, the last for 6.
//! A second signal ends the process at once, wherever it is.

mod descriptors;
mod error;
mod signals;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::{Accounts, SecretError, SigningSecret, Verifier, signing_secret};
use crate::config::{Config, ConfigError, Durability};
use crate::conversations::{Conversations, ConversationsParts, ConversationsSettings};
use crate::db::local::LocalCluster;
use crate::db::{self, ConnectionUrl, Database, FailingStatements, MigrationError, PartitionKeeper};
use crate::files::{Files, FilesSettings};
use crate::http::{self, AppState, BoundServer, RunningServer, Services};
use crate::imports::{Imports, ImportsSettings, Limits};
use crate::ingest::journal::disk::{self, DiskSettings, OpenedJournal};
use crate::ingest::{IngestSettings, OpenJournal, Pipeline};
use crate::lifecycle::Lifecycle;
use crate::observe::Metrics;
use crate::outbound::jwks;
use crate::realtime::{ChangeRetention, FeedReader, Hub};
use crate::records::large::LargePayloads;
use crate::records::{Records, RecordsSettings};
use crate::supervisor::Supervisor;
pub use error::AppError;
use signals::Signals;

/// What an operator asks of one start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// A database that does not know the journal is given all that it holds.
    pub adopt_database: bool,
}

/// Runs the service until it is told to stop.
///
/// # Errors
///
/// [`AppError`] says why it could not start, or what a stop left behind.
pub async fn run(config: &Config, asked: Start) -> Result<(), AppError> {
    // What is wrong with a setting is said before anything is started.
    if let Some(url) = &config.database.database_url {
        ConnectionUrl::parse(url).map_err(|error| ConfigError::database_url(&error))?;
    }
    if config.stress.faults.is_on() {
        tracing::warn!("FAULTS=on: whoever reaches the service can make it fail on purpose");
    }
    let max_connections = descriptors::max_connections(config, descriptors::raise_limit());
    let signals = Signals::listen()?;
    let lifecycle = Lifecycle::default();
    let metrics = Metrics::new()?;
    check_data_dir(&config.database.data_dir)?;
    let secret = secret(config)?;
    let verifier = Verifier::new(&config.auth, config.auth_mode(), secret.secret.as_ref())
        .map_err(|error| ConfigError::jwt_public_key_file(&error))?;
    let supervisor = Supervisor::new(&metrics);
    let state = AppState::new(config, &metrics, &lifecycle, &verifier, &supervisor);
    let server = listen(config, max_connections, &state)?;
    if secret.is_passing {
        tracing::warn!("JWT_SECRET is not set: whoever signs in has to again after a restart");
    }

    let mut local = None;
    let started = start(config, asked, &state, &metrics, &signals, &mut local).await;
    let result = match started {
        Ok(running) => {
            announce(&server, local.is_some());
            until_stopped(config, running, server, &supervisor, &lifecycle, &signals).await
        }
        Err(error) => {
            server.stop(Instant::now()).await;
            supervisor.shutdown().await;
            Err(error)
        }
    };
    // A failure to stop must not hide what went wrong before.
    match (result, stop_local(config, local).await) {
        (Ok(()) | Err(AppError::Interrupted), stopped) => stopped,
        (failed, _) => failed,
    }
}

/// Makes `DATA_DIR` if it is not there, and writes to it, so that a folder that cannot be used is reported as what it is and not
/// by whatever comes to need it first.
fn check_data_dir(dir: &Path) -> Result<(), AppError> {
    let probe = dir.join(format!(".probe-{}", uuid::Uuid::new_v4()));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::File::create_new(&probe))
        .and_then(|_file| std::fs::remove_file(&probe));
    written.map_err(|source| AppError::DataDir { path: dir.to_owned(), source })
}

fn secret(config: &Config) -> Result<SigningSecret, AppError> {
    signing_secret(config).map_err(|error| match error {
        SecretError::Needed => AppError::Config(ConfigError::jwt_secret_needed()),
        error => error.into(),
    })
}

fn listen(config: &Config, max_connections: usize, state: &Arc<AppState>) -> Result<RunningServer, AppError> {
    let failed = |source| AppError::Listen {
        address: format!("{}:{}", config.server.host, config.server.port),
        source,
    };
    BoundServer::bind(&config.server)
        .and_then(|server| http::serve(server, &config.server, max_connections, state))
        .map_err(failed)
}

/// What runs once the service has started, but for the server.
struct Running {
    database: Database,
    pipeline: Pipeline,
}

async fn start(
    config: &Config,
    asked: Start,
    state: &Arc<AppState>,
    metrics: &Arc<Metrics>,
    signals: &Signals,
    local: &mut Option<LocalCluster>,
) -> Result<Running, AppError> {
    let url = match &config.database.database_url {
        Some(url) => url.clone(),
        None => {
            // Not cut short by the first signal: a cluster that is half started could not be stopped.
            let database = &config.database;
            let cluster = LocalCluster::start(&database.data_dir, database.pg_bin.as_deref()).await?;
            signals.on_second(cluster.emergency_stop());
            local.insert(cluster).url().to_owned()
        }
    };
    let url = ConnectionUrl::parse(&url).map_err(|error| MigrationError::Failed(error.to_string()))?;
    let journal = match config.ingest.durability {
        Durability::Memory => None,
        Durability::Disk => Some(open_journal(config, asked).await?),
    };
    let shares = config.shares();
    let database =
        Database::new(&url, &config.database).map_err(MigrationError::Database)?.with_spare(shares.spare);
    // Events can be journaled while Postgres is away, if it is known to have their tables.
    let may_be_away = match &journal {
        Some(journal) => journal.reader.schema_version() == Some(db::schema_version()),
        None => false,
    };
    let postgres_is_away = tokio::select! {
        migrated = migrate(config, &database, may_be_away) => !migrated?,
        () = signals.first() => return Err(AppError::Interrupted),
    };
    if let (Some(journal), false) = (&journal, postgres_is_away) {
        let reader = Arc::clone(&journal.reader);
        tokio::task::spawn_blocking(move || reader.set_schema_version(db::schema_version()))
            .await
            .map_err(std::io::Error::other)??;
    }

    let supervisor = &state.supervisor;
    let keeper = PartitionKeeper::new(database.clone(), &config.database);
    keeper.start(supervisor);
    if config.database.trace_index.is_on() {
        db::trace_index::keep(&database, supervisor);
    }
    database.close_idle(Duration::from_secs(config.database.db_idle_timeout), supervisor);

    let settings =
        IngestSettings { ingest: config.ingest.clone(), dead_letters: config.dead_letters.clone() };
    let pipeline =
        Pipeline::start(&settings, journal, postgres_is_away, &database, metrics, supervisor).await?;
    let settings = RecordsSettings {
        records: config.records.clone(),
        shares,
        makes_collections: config.makes_collections(),
        max_json_depth: config.ingest.max_json_depth,
    };
    let records = Records::start(&settings, &database, supervisor);
    let wait = Duration::from_millis(config.records.records_wait_ms);
    let large_payloads = LargePayloads::new(&records, &database.quota(settings.shares.large, wait));
    let failing = FailingStatements::new(&database.quota(settings.shares.errors, wait));
    let operations = database.quota(settings.shares.operations, wait);
    if let Some(url) = &config.auth.jwt_jwks_url {
        let refresh = Duration::from_secs(config.auth.jwt_jwks_refresh_s);
        jwks::follow(url.clone(), refresh, Arc::clone(&state.verifier), supervisor);
    }
    let share = database.quota(settings.shares.auth, Duration::from_millis(config.auth.auth_wait_ms));
    let accounts = Accounts::start(&config.auth, &state.verifier, &share, supervisor);
    let wait = Duration::from_millis(config.conversations.conversations_wait_ms);
    let commits = database.quota(settings.shares.conversation_commits, wait);
    let share = database.quota(settings.shares.conversations, wait);
    ChangeRetention::start(&operations, config.records.changes_retention_s, supervisor);
    let hub = Hub::new(&config.subscriber_limits(), metrics);
    FeedReader::start(&hub, &share, supervisor);
    let settings = ConversationsSettings {
        config: config.conversations.clone(),
        max_page_bytes: config.records.max_page_bytes,
        max_json_depth: config.ingest.max_json_depth,
    };
    let parts = ConversationsParts { commits: &commits, database: &share, hub: &hub, metrics, supervisor };
    let conversations = Conversations::start(&settings, parts);
    let ingest = pipeline.ingest().clone();
    let files = files(config, &database, metrics);
    files.keep_swept(supervisor);
    let imports = imports(config, &database, &files, &conversations, state);
    state.serve(Services {
        ingest,
        database: operations,
        bodies: Arc::clone(&state.bodies),
        limits: state.limits,
        records,
        large_payloads,
        failing,
        accounts,
        conversations,
        files,
        imports,
    });
    Ok(Running { database, pipeline })
}

/// Files, over their share of the pool. What is left free of the disk is the journal's, as an event is never refused for
/// the sake of a file.
fn files(config: &Config, database: &Database, metrics: &Arc<Metrics>) -> Files {
    let wait = Duration::from_millis(config.files.files_wait_ms);
    let settings = FilesSettings {
        config: config.files.clone(),
        folder: config.database.data_dir.join("files"),
        min_free: config.journal.journal_min_free,
    };
    Files::new(settings, &database.quota(config.shares().files, wait), metrics)
}

/// Imports, over shares of the pool; those that a former run began go on.
fn imports(
    config: &Config,
    database: &Database,
    files: &Files,
    conversations: &Conversations,
    state: &AppState,
) -> Imports {
    let (limits, shares) = (&config.conversations, config.shares());
    let settings = ImportsSettings {
        imports: config.imports.clone(),
        limits: Limits {
            line_bytes: config.imports.max_import_line_bytes,
            event_bytes: config.ingest.max_event_bytes,
            title_bytes: limits.max_title_bytes,
            message_bytes: limits.max_message_bytes,
            metadata_bytes: limits.max_metadata_bytes,
            json_depth: config.ingest.max_json_depth,
        },
    };
    let wait = Duration::from_millis(config.files.files_wait_ms);
    let writers = database.quota(shares.imports, wait);
    let share = database.quota(shares.files, wait);
    Imports::start(&settings, &writers, &share, files, conversations, &state.metrics, &state.supervisor)
}

/// Recovers the journals of earlier runs, and begins a new one.
async fn open_journal(config: &Config, asked: Start) -> Result<OpenJournal, AppError> {
    let (database, limits) = (&config.database, &config.journal);
    let settings = DiskSettings {
        dir: database.data_dir.join("journal"),
        segment_bytes: limits.segment_bytes(),
        max_bytes: limits.journal_max_bytes,
        keep_bytes: limits.keep_bytes(),
        min_free: limits.journal_min_free,
    };
    // Recovery reads the last segments as a whole.
    let opening = tokio::task::spawn_blocking(move || disk::open(settings));
    let OpenedJournal { writer, reader, recovered } = opening.await.map_err(std::io::Error::other)??;
    recovered.log();
    let lost = reader.lost();
    if lost.losses > 0 {
        tracing::error!(
            losses = lost.losses,
            events = lost.events,
            "acknowledged events are lost; `tidegate journal --check` lists them, `--acknowledge` ends this"
        );
    }
    tracing::debug!(journal = %writer.journal(), "the journal is open");
    Ok(OpenJournal { writer, reader, adopt: asked.adopt_database })
}

/// Migrates, waiting for a Postgres that is not there yet; or returns false if it `may_be_away`. What waiting does not mend ends it at
/// once: a password, a certificate, a missing database. A name that leads nowhere gets a few tries, as a container's name server may
/// still be starting.
async fn migrate(config: &Config, database: &Database, may_be_away: bool) -> Result<bool, AppError> {
    let deadline = Instant::now() + Duration::from_secs(config.database.db_start_timeout_s);
    let mut unknown_hosts = 0;
    loop {
        let error = match db::migrate(database, config.database.partitioning).await {
            Ok(()) => return Ok(true),
            Err(MigrationError::Database(error)) if error.is_passing() => error,
            Err(error) => return Err(error.into()),
        };
        if may_be_away {
            let error = error.with_sources();
            tracing::warn!(error, "Postgres is away; events are taken into the journal");
            return Ok(false);
        }
        unknown_hosts = if error.is_unknown_host() { unknown_hosts + 1 } else { 0 };
        if Instant::now() >= deadline || unknown_hosts >= MAX_UNKNOWN_HOSTS {
            return Err(MigrationError::Database(error).into());
        }
        tracing::warn!(error = error.with_sources(), "waiting for Postgres");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Look-ups of a host that end with the answer that there is none, after which a start gives up.
const MAX_UNKNOWN_HOSTS: u32 = 3;

fn announce(server: &RunningServer, private_postgres: bool) {
    let address = server.address();
    tracing::info!(private_postgres, "listening on http://{address}");
    let _closed = std::io::stderr().flush();
}

async fn until_stopped(
    config: &Config,
    running: Running,
    server: RunningServer,
    supervisor: &Supervisor,
    lifecycle: &Lifecycle,
    signals: &Signals,
) -> Result<(), AppError> {
    let Running { database, pipeline } = running;
    let asked = tokio::select! {
        () = signals.first() => true,
        () = supervisor.failed() => false,
        () = server.failed() => false,
    };
    tracing::info!("stopping: answering what is under way, then storing what was accepted");
    lifecycle.drain();
    supervisor.stopping();
    let now = Instant::now();
    // A client that does not read its answer must not use up the time for storing what others were promised.
    server.stop(now + share_of_shutdown(config, 1)).await;
    let drained = pipeline.drain(now + share_of_shutdown(config, 3)).await;
    // By now all requests for records and messages are answered.
    supervisor.shutdown().await;
    database.close();
    match (asked, drained.is_complete()) {
        (_, false) => Err(AppError::LeftBehind(drained)),
        (false, true) => Err(AppError::PartEnded),
        (true, true) => {
            match drained.events_left {
                _ if drained.lost > 0 => tracing::error!(
                    lost = drained.lost,
                    left = drained.events_left,
                    "stopped: acknowledged events are lost, see `tidegate verify`; what is left of the others is in the journal, for the next run"
                ),
                0 if drained.unreadable > 0 => tracing::info!(
                    unreadable = drained.unreadable,
                    "stopped: what could be read of what was accepted is stored"
                ),
                0 => tracing::info!("stopped: everything accepted is stored"),
                left => {
                    tracing::warn!(left, "stopped: what is not stored is in the journal, for the next run");
                }
            }
            Ok(())
        }
    }
}

/// So many quarters of `SHUTDOWN_TIMEOUT_S`.
fn share_of_shutdown(config: &Config, quarters: u32) -> Duration {
    Duration::from_secs(config.server.shutdown_timeout_s) * quarters / 4
}

async fn stop_local(config: &Config, local: Option<LocalCluster>) -> Result<(), AppError> {
    let Some(local) = local else { return Ok(()) };
    let emergency = local.emergency_stop();
    match tokio::time::timeout(share_of_shutdown(config, 1).max(LEAST_STOP), local.stop()).await {
        Ok(stopped) => Ok(stopped?),
        Err(_elapsed) => {
            tracing::warn!(
                "the private Postgres does not stop in time; ending it at once, its next start recovers"
            );
            emergency.stop_now();
            Ok(())
        }
    }
}

/// A checkpoint of a small cluster takes seconds, whatever `SHUTDOWN_TIMEOUT_S` is.
const LEAST_STOP: Duration = Duration::from_secs(5);
