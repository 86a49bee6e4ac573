//! The service: started part by part, and stopped in the reverse order.
//!
//! | start | stop |
//! |---|---|
//! | listener (answers 503 until the service is ready) | 7 |
//! | private Postgres, without `DATABASE_URL` | 6 stops |
//! | journal: former ones recovered, a new one begun | |
//! | pool | 5 connections close |
//! | migrations, first partitions | |
//! | background tasks, with each part (`supervisor`) | 4 end |
//! | pipeline: journal, lanes, dead letters | 3 drains: accepted events are stored, or stay in the journal |
//! | accounts, and the modules that are on | imports end where they are; the next start resumes them |
//! | events are accepted | 1 nothing is accepted, 2 requests under way are answered |
//!
//! `SHUTDOWN_TIMEOUT_S` is divided: a quarter for 1 and 2, up to three quarters including 3, the last one for 6. A second signal
//! ends the process at once, at any point.

mod descriptors;
mod error;
mod notify;
mod signals;
mod webhooks;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::users::Users;
use crate::auth::{Accounts, SecretError, SigningSecret, Verifier, signing_secret};
use crate::config::{
    AuthMode, Config, ConfigError, Durability, Module, PoolQuotas, PoolUse, StreamsStoreKind, limits,
};
use crate::conversations::{self, Conversations, ConversationsParts, ConversationsSettings};
use crate::db::private::PrivateCluster;
use crate::db::{self, ConnectionUrl, Database, FailingStatements, MigrationError, PartitionManager};
use crate::files::{Files, FilesSettings};
use crate::http::{
    self, AppState, BoundServer, ModuleServices, RecordPasswords, RunningServer, Services, StreamsApi,
    StressServices,
};
use crate::imports::{Imports, ImportsSettings, Limits};
use crate::ingest::journal::disk::{self, DiskSettings, OpenedJournal};
use crate::ingest::{IngestSettings, OpenJournal, Pipeline, row};
use crate::lifecycle::Lifecycle;
use crate::observe::Metrics;
use crate::outbound::jwks;
use crate::outbound::mail::Mailer;
use crate::outbound::oidc::ProviderClient;
use crate::realtime::{ChangeRetention, FeedReader, Hub, Realtime, WatchCheck};
use crate::records::large::LargePayloads;
use crate::records::typed::logs::RequestLogs;
use crate::records::typed::{AccountSettings, TypedRecords};
use crate::records::{Records, RecordsSettings};
use crate::routes::Routes;
use crate::streams::memory::MemoryStore;
use crate::streams::subscriptions::{PublicUrls, Subscriptions, SubscriptionsParts, WebhookSender};
use crate::streams::{
    CursorClock, PostgresStreams, PostgresStreamsParts, PostgresStreamsSettings, StreamPath, StreamStore,
    Streams, StreamsSettings,
};
use crate::supervisor::Supervisor;
use crate::time::Micros;
pub use error::AppError;
use signals::Signals;

/// Options of one start.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartOptions {
    /// Store the whole journal in a database that does not know it.
    pub adopt_database: bool,
}

/// Runs the service until it is stopped.
///
/// # Errors
///
/// [`AppError`]: the service could not start, or left events behind at its stop.
pub async fn run(config: &Config, options: StartOptions) -> Result<(), AppError> {
    // Invalid settings are reported before anything is started.
    if let Some(url) = &config.database.database_url {
        ConnectionUrl::parse(url).map_err(|error| ConfigError::database_url(&error))?;
    }
    if config.faults.faults.is_on() {
        tracing::warn!("FAULTS=on: any client can make the service fail on purpose");
    }
    let max_connections = descriptors::max_connections(config, descriptors::raise_limit());
    let signals = Signals::listen()?;
    let lifecycle = Lifecycle::default();
    let metrics = Metrics::new()?;
    metrics.report_only(config.modules())?;
    check_data_dir(&config.database.data_dir)?;
    let secret = secret(config)?;
    let verifier = Verifier::new(&config.auth, config.auth_mode(), secret.secret.as_ref())
        .map_err(|error| ConfigError::jwt_public_key_file(&error))?;
    let supervisor = Supervisor::new(&metrics);
    let state = AppState::new(config, &metrics, &lifecycle, &verifier, &supervisor);
    let server = listen(config, max_connections, &state)?;
    if secret.is_passing {
        tracing::warn!("JWT_SECRET is not set: users have to log in again after a restart");
    }

    let mut local = None;
    let started = start(config, options, &state, server.address(), &signals, &mut local).await;
    let result = match started {
        Ok(running) => {
            announce(&server, local.is_some());
            notify::ready(&supervisor);
            until_stopped(config, running, server, &supervisor, &lifecycle, &signals).await
        }
        Err(error) => {
            server.stop(Instant::now()).await;
            supervisor.shutdown().await;
            Err(error)
        }
    };
    // A failure to stop must not hide an earlier error.
    match (result, stop_local(config, local).await) {
        (Ok(()) | Err(AppError::Interrupted), stopped) => stopped,
        (failed, _) => failed,
    }
}

/// Creates `DATA_DIR` if it is missing, and writes to it, so that an unusable folder is reported as such and not by the first
/// user of it.
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

/// The running service, without its server.
struct Running {
    database: Database,
    pipeline: Pipeline,
    realtime: Option<Realtime>,
    request_logs: Option<RequestLogs>,
}

async fn start(
    config: &Config,
    options: StartOptions,
    state: &Arc<AppState>,
    address: SocketAddr,
    signals: &Signals,
    local: &mut Option<PrivateCluster>,
) -> Result<Running, AppError> {
    let metrics = &state.metrics;
    let url = match &config.database.database_url {
        Some(url) => url.clone(),
        None => {
            // Not interrupted by the first signal: a half-started cluster could not be stopped.
            let database = &config.database;
            let cluster = PrivateCluster::start(&database.data_dir).await?;
            signals.on_second(cluster.emergency_stop());
            local.insert(cluster).url().to_owned()
        }
    };
    let url = ConnectionUrl::parse(&url).map_err(|error| MigrationError::Failed(error.to_string()))?;
    let journal = match config.ingest.durability {
        Durability::Memory => None,
        Durability::Disk => Some(open_journal(config, options).await?),
    };
    let quotas = config.quotas();
    let database =
        Database::new(&url, &config.database).map_err(MigrationError::Database)?.with_quotas(&quotas);
    // Events can be journaled while Postgres is away, if it is known to have their tables.
    let modules = config.modules();
    let known_schema = journal.as_ref().and_then(|journal| journal.reader.schema());
    let may_be_away = known_schema.is_some_and(|schema| db::is_schema_of(&schema, modules));
    let postgres_is_away = tokio::select! {
        migrated = migrate(config, &database, may_be_away) => !migrated?,
        () = signals.first() => return Err(AppError::Interrupted),
    };
    if let (Some(journal), false) = (&journal, postgres_is_away) {
        let reader = Arc::clone(&journal.reader);
        tokio::task::spawn_blocking(move || reader.set_schema(&db::schema(modules)))
            .await
            .map_err(std::io::Error::other)??;
    }

    let supervisor = &state.supervisor;
    let keeper = PartitionManager::new(database.clone(), &config.database);
    keeper.start(supervisor);
    if config.database.trace_index.is_on() {
        db::trace_index::keep(&database, supervisor);
    }
    database.close_idle(Duration::from_secs(config.database.db_idle_timeout), supervisor);

    let operations = database.quota(quotas.of(PoolUse::OPERATIONS));
    let routes = Routes::start(&operations, metrics, supervisor);
    let settings = IngestSettings {
        ingest: config.ingest.clone(),
        dead_letters: config.dead_letters.clone(),
        writers: config.writers(),
        copy_timeout: config.database.copy_timeout(),
        memory: config.memory(),
        hook: routes.hook(),
    };
    let pipeline =
        Pipeline::start(&settings, journal, postgres_is_away, &database, metrics, supervisor).await?;
    if let Some(url) = &config.auth.jwt_jwks_url {
        let refresh = Duration::from_secs(limits::JWKS_REFRESH_S);
        jwks::follow(url.clone(), refresh, Arc::clone(&state.verifier), supervisor);
    }
    let queries = database.quota(quotas.of(PoolUse::ACCOUNTS));
    let accounts = Accounts::start(&config.auth, &state.verifier, &queries, supervisor);
    let sender = modules.has(Module::Streams).then(|| webhooks::Sender::new(config)).transpose();
    let webhooks = sender.map_err(std::io::Error::other)?.map(|sender| {
        let sender: Arc<dyn WebhookSender> = Arc::new(sender);
        (sender, webhooks::urls(config, address))
    });
    let users = &accounts.users;
    let starting = Starting { config, database: &database, quotas, state, routes: &routes, users, webhooks };
    let (realtime, modules) = starting.modules(&operations);
    state.sample_figures(pipeline.ingest());
    let request_logs = modules.request_logs.clone();
    let mailer = config
        .modules()
        .has(Module::PocketBase)
        .then(|| Mailer::start(config.database.data_dir.join("mail"), metrics, supervisor));
    let policy = webhooks::policy(config);
    let providers = config.modules().has(Module::PocketBase).then(|| ProviderClient::new(policy));
    let providers = providers.transpose().map_err(std::io::Error::other)?;
    state.serve(Services {
        mailer,
        providers,
        ingest: pipeline.ingest().clone(),
        routes,
        database: operations,
        bodies: Arc::clone(&state.bodies),
        limits: state.limits,
        accounts,
        realtime: realtime.clone(),
        modules,
    });
    Ok(Running { database, pipeline, realtime, request_logs })
}

/// The start of the modules that are on, each with its settings and quotas.
struct Starting<'a> {
    config: &'a Config,
    database: &'a Database,
    quotas: PoolQuotas,
    state: &'a AppState,
    routes: &'a Routes,
    users: &'a Users,
    /// What subscriptions to streams need for webhooks; `None`: streams are off.
    webhooks: Option<(Arc<dyn WebhookSender>, PublicUrls)>,
}

impl Starting<'_> {
    /// The modules, and the feed if one of them has changes.
    fn modules(&self, operations: &Database) -> (Option<Realtime>, ModuleServices) {
        let modules = self.config.modules();
        let on = |module| modules.has(module).then_some(self);
        let hub = Hub::new(&self.config.subscriber_limits(), &self.state.metrics);
        let (records, of_records) = on(Module::Records).map(|starting| starting.records(&hub)).unzip();
        let conversations = on(Module::Conversations).map(|starting| starting.conversations(&hub));
        let (conversations, of_conversations) = conversations.unzip();
        let of_streams = on(Module::Streams).map(|starting| starting.quota(PoolUse::STREAMS));
        let of_feed = of_conversations.or(of_records.clone()).or(of_streams.clone());
        let realtime = of_feed.map(|queries| self.realtime(&hub, &queries, operations));
        if let Some((queries, realtime)) = of_streams.as_ref().zip(realtime.as_ref()) {
            let streams = self.streams(queries, realtime);
            if let Some(path) = &streams.settings.registry {
                let task = crate::streams::registry(Arc::clone(&streams.store), path.clone());
                self.state.supervisor.spawn("stream-registry", task);
            }
            let subscriptions = self.subscriptions(queries, &streams.store);
            let api = StreamsApi::new(streams);
            self.state.serve_streams(match subscriptions {
                Some(subscriptions) => api.with_subscriptions(subscriptions),
                None => api,
            });
        }
        let file_queries = self.quota(PoolUse::FILES);
        // Files of records are kept in the same way, whether users have files or not.
        let contents = match on(Module::Files) {
            Some(starting) => Some(starting.files(&file_queries)),
            None => on(Module::PocketBase)
                .zip(of_records.as_ref())
                .map(|(starting, queries)| starting.files(queries)),
        };
        let files = contents.clone().filter(|_| modules.has(Module::Files));
        let imports = on(Module::Imports).zip(files.as_ref());
        let imports =
            imports.map(|(starting, files)| starting.imports(&file_queries, files, conversations.as_ref()));
        let stress = on(Module::Stress).zip(records.as_ref());
        let stress = stress.map(|(starting, records)| starting.stress(records));
        let typed =
            on(Module::PocketBase).zip(records.as_ref()).zip(of_records.as_ref().zip(realtime.as_ref()));
        let typed = typed.zip(contents).map(|(((starting, records), (queries, realtime)), files)| {
            TypedRecords::start(
                records,
                queries,
                &files,
                realtime,
                starting.account_settings(),
                &starting.state.supervisor,
            )
        });
        let request_logs = typed.as_ref().zip(of_records.as_ref()).map(|(typed, queries)| {
            RequestLogs::start(typed, queries, &self.state.metrics, &self.state.supervisor)
        });
        (realtime, ModuleServices { records, conversations, files, imports, typed, request_logs, stress })
    }

    /// What accounts of typed collections take from the service.
    fn account_settings(&self) -> AccountSettings {
        AccountSettings {
            hasher: Arc::new(RecordPasswords(self.users.clone())),
            users_are_open: self.config.auth_mode() == AuthMode::Open,
        }
    }

    /// A use of the pool, within its quota.
    fn quota(&self, wanted: PoolUse) -> Database {
        self.database.quota(self.quotas.of(wanted))
    }

    /// The feed of changes: it is read within the quota of `queries`, one of the modules'.
    fn realtime(&self, hub: &Hub, queries: &Database, operations: &Database) -> Realtime {
        let (config, supervisor) = (self.config, &self.state.supervisor);
        // Without conversations nothing moves the cursor of search.
        let idle_topics = (!config.modules().has(Module::Conversations)).then_some(conversations::TOPICS);
        ChangeRetention::start(operations, config.records.changes_retention_s, idle_topics, supervisor);
        FeedReader::start(hub, queries, supervisor);
        WatchCheck::start(operations, supervisor);
        let realtime = Realtime::new(hub, queries);
        realtime.clients().start(config.records.changes_retention_s, supervisor);
        realtime
    }

    /// Durable Streams.
    fn streams(&self, queries: &Database, realtime: &Realtime) -> Streams {
        let (config, settings) = (self.config, &self.config.streams);
        // Half for the store, half for answers on their way.
        let memory = config.memory().streams / 2;
        let long_poll_timeout = Duration::from_millis(settings.streams_long_poll_timeout_ms);
        let heartbeat = Duration::from_secs(config.subscribers.sse_heartbeat_s);
        let compact_after = Duration::from_secs(settings.streams_compact_after_s);
        let registry = settings.streams_registry_path.as_deref().and_then(|path| StreamPath::new(path).ok());
        let store: Arc<dyn StreamStore> = match settings.streams_store {
            StreamsStoreKind::Memory => Arc::new(MemoryStore::with_compaction(memory, compact_after)),
            StreamsStoreKind::Postgres => {
                let commits = &self.quota(PoolUse::STREAM_COMMITS);
                let (supervisor, metrics) = (&self.state.supervisor, &self.state.metrics);
                let parts = PostgresStreamsParts { commits, queries, realtime, supervisor, metrics };
                let registry = registry.clone();
                let memory_bytes = memory as usize;
                let settings = PostgresStreamsSettings { memory_bytes, registry, compact_after };
                PostgresStreams::start(settings, &parts)
            }
        };
        let settings = StreamsSettings {
            long_poll_timeout,
            max_answer_bytes: settings.streams_max_answer_bytes,
            max_append_bytes: limits::MAX_BATCH_BYTES,
            cursor: CursorClock {
                interval: Duration::from_secs(settings.streams_cursor_interval_s),
                epoch: Micros(settings.cursor_epoch_us()),
            },
            heartbeat: heartbeat.min(long_poll_timeout),
            max_readers: config.subscribers.max_subscribers,
            answers_bytes: memory,
            public_url: config.server.public_url.as_deref().map(Arc::from),
            registry,
            is_public: config.auth_mode() == AuthMode::Open,
        };
        Streams { store, settings: Arc::new(settings) }
    }

    /// Subscriptions to streams, kept where the streams are.
    fn subscriptions(&self, queries: &Database, streams: &Arc<dyn StreamStore>) -> Option<Subscriptions> {
        let (sender, urls) = self.webhooks.clone()?;
        let database = match self.config.streams.streams_store {
            StreamsStoreKind::Memory => None,
            StreamsStoreKind::Postgres => Some(queries),
        };
        let (metrics, supervisor) = (&self.state.metrics, &self.state.supervisor);
        let parts = SubscriptionsParts { streams, database, sender, urls, metrics, supervisor };
        Some(Subscriptions::start(parts))
    }

    /// Records, and their queries' part of the pool.
    fn records(&self, hub: &Hub) -> (Records, Database) {
        let config = self.config;
        let settings = RecordsSettings {
            max_record_bytes: config.ingest.max_event_bytes,
            max_body_bytes: config.ingest.max_record_body_bytes(),
            queue_bytes: config.memory().records as usize,
            writers: self.quotas.of(PoolUse::RECORD_COMMITS).connections,
            makes_collections: config.makes_collections(),
        };
        let (commits, queries) = (self.quota(PoolUse::RECORD_COMMITS), self.quota(PoolUse::RECORDS));
        let records = Records::start(&settings, &commits, &queries, hub, &self.state.supervisor);
        (records, queries)
    }

    /// Conversations, and their queries' part of the pool.
    fn conversations(&self, hub: &Hub) -> (Conversations, Database) {
        let (config, state) = (self.config, self.state);
        let commits = self.quota(PoolUse::CONVERSATION_COMMITS);
        let queries = self.quota(PoolUse::CONVERSATIONS);
        let settings = ConversationsSettings {
            max_message_bytes: config.conversations.max_message_bytes,
            key_retention_s: config.ingest.idempotency_window_s,
            queue_bytes: config.memory().conversations as usize,
            writers: self.quotas.of(PoolUse::CONVERSATION_COMMITS).connections,
        };
        let parts = ConversationsParts {
            commits: &commits,
            database: &queries,
            hub,
            metrics: &state.metrics,
            supervisor: &state.supervisor,
        };
        let conversations = Conversations::start(&settings, parts);
        (conversations, queries)
    }

    /// Files. The free space that they leave is the journal's: an event is never rejected for the sake of a file.
    fn files(&self, queries: &Database) -> Files {
        let (config, state) = (self.config, self.state);
        let settings = FilesSettings {
            config: config.files.clone(),
            max_downloads: config.memory().max_downloads(),
            folder: config.database.data_dir.join("files"),
            min_free: config.journal.journal_min_free,
        };
        let files = Files::new(settings, queries, &state.metrics);
        files.keep_swept(&state.supervisor);
        files
    }

    /// Imports; unfinished imports of former runs continue. Their queries share the quota of files.
    fn imports(&self, queries: &Database, files: &Files, conversations: Option<&Conversations>) -> Imports {
        let (config, state) = (self.config, self.state);
        let settings = ImportsSettings {
            lanes: self.quotas.of(PoolUse::IMPORTS).connections,
            part_bytes: config.memory().import_part(),
            max_subscribers: config.max_import_subscribers(),
            timeout: config.database.copy_timeout(),
            hook: self.routes.hook(),
            limits: Limits {
                line_bytes: config.ingest.max_event_bytes + limits::IMPORT_LINE_OVERHEAD_BYTES,
                event_bytes: config.ingest.max_event_bytes,
                title_bytes: limits::MAX_TITLE_BYTES,
                message_bytes: config.conversations.max_message_bytes,
                metadata_bytes: limits::MAX_METADATA_BYTES,
                json_depth: limits::MAX_JSON_DEPTH,
                has_conversations: conversations.is_some(),
            },
        };
        let writers = self.quota(PoolUse::IMPORTS);
        let (metrics, supervisor) = (&state.metrics, &state.supervisor);
        Imports::start(&settings, &writers, queries, files, conversations, metrics, supervisor)
    }

    fn stress(&self, records: &Records) -> StressServices {
        StressServices {
            large_payloads: LargePayloads::new(records, &self.quota(PoolUse::LARGE)),
            failing: FailingStatements::new(&self.quota(PoolUse::ERRORS)),
        }
    }
}

/// Recovers the journals of earlier runs, and begins a new one.
async fn open_journal(config: &Config, options: StartOptions) -> Result<OpenJournal, AppError> {
    let (database, limits) = (&config.database, &config.journal);
    let settings = DiskSettings {
        dir: database.data_dir.join("journal"),
        columns: row::COLUMNS,
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
    Ok(OpenJournal { writer, reader, adopt: options.adopt_database })
}

/// Migrates, waiting for a Postgres that is not available yet; returns false if it `may_be_away`. Permanent errors end the wait
/// at once: a password, a certificate, a missing database. An unknown host gets a few attempts, as a container's name server
/// may still be starting.
async fn migrate(config: &Config, database: &Database, may_be_away: bool) -> Result<bool, AppError> {
    let deadline = Instant::now() + database.start_timeout();
    let mut unknown_hosts = 0;
    let (mut next_log, mut log_interval) = (Instant::now(), CONNECT_INTERVAL);
    loop {
        let error = match db::migrate(database, config.database.partitioning, config.modules()).await {
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
        if Instant::now() >= next_log {
            tracing::warn!(error = error.with_sources(), "waiting for Postgres");
            next_log = Instant::now() + log_interval;
            log_interval *= 2;
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

/// Failed look-ups of an unknown host after which a start gives up.
const MAX_UNKNOWN_HOSTS: u32 = 3;
/// The wait between two attempts to connect, and after the first log line about it; the latter doubles.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);

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
    let Running { database, pipeline, realtime, request_logs } = running;
    let asked = tokio::select! {
        () = signals.first() => true,
        () = supervisor.failed() => false,
        () = server.failed() => false,
    };
    tracing::info!("stopping: answering requests under way, then storing accepted events");
    notify::stopping();
    lifecycle.drain();
    supervisor.stopping();
    let now = Instant::now();
    // A client that does not read its response must not use up the time for storing accepted events.
    server.stop(now + shutdown_quarters(config, 1)).await;
    // The streams have ended.
    if let Some(realtime) = realtime
        && let Err(error) = realtime.clients().flush_positions().await
    {
        tracing::warn!(error = error.with_sources(), "clients get some events again when they come back");
    }
    if let Some(logs) = request_logs {
        logs.stop().await;
    }
    let drained = pipeline.drain(now + shutdown_quarters(config, 3)).await;
    // All requests for records and messages are answered by now.
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
                    "stopped: acknowledged events are lost, see `tidegate verify`; the others that are not stored are in the journal, for the next run"
                ),
                0 if drained.unreadable > 0 => tracing::info!(
                    unreadable = drained.unreadable,
                    "stopped: all readable accepted events are stored"
                ),
                0 => tracing::info!("stopped: all accepted events are stored"),
                left => {
                    tracing::warn!(
                        left,
                        "stopped: events that are not stored are in the journal, for the next run"
                    );
                }
            }
            Ok(())
        }
    }
}

/// A number of quarters of `SHUTDOWN_TIMEOUT_S`.
fn shutdown_quarters(config: &Config, quarters: u32) -> Duration {
    Duration::from_secs(config.server.shutdown_timeout_s) * quarters / 4
}

async fn stop_local(config: &Config, local: Option<PrivateCluster>) -> Result<(), AppError> {
    let Some(local) = local else { return Ok(()) };
    let emergency = local.emergency_stop();
    match tokio::time::timeout(shutdown_quarters(config, 1).max(LEAST_STOP), local.stop()).await {
        Ok(stopped) => Ok(stopped?),
        Err(_elapsed) => {
            tracing::warn!(
                "the private Postgres does not stop in time; it is ended at once, and its next start recovers"
            );
            emergency.stop_now();
            Ok(())
        }
    }
}

/// A checkpoint of a small cluster takes seconds, whatever `SHUTDOWN_TIMEOUT_S` is.
const LEAST_STOP: Duration = Duration::from_secs(5);
