//! Every setting, each in one place: its field, type, default, what it takes and its help.
//!
//! An entry is a field of its concern's struct, the variable of the same name in capitals, and its lines in `.env.example`
//! and `--help`. To add a setting is to add an entry, to set it in a test, and to write `.env.example` anew
//! (`UPDATE_EXAMPLE=1 cargo test --lib config`).

use std::net::IpAddr;
use std::path::PathBuf;

use super::access::{ORIGINS_TAKE, PROXIES_TAKE};
use super::auth::{JWKS_URL_TAKES, JWT_SECRET_TAKES, STRESS_TOKEN_TAKES};
use super::database::DATABASE_URL_TAKES;
use super::intake::PROTOCOLS_TAKE;
use super::memory::LEAST_BUDGET;
use super::modules::MODULES_TAKE;
use super::quotas::LEAST_POOL_SIZE;
use super::server::host;
use super::setting::{ADDRESS, SWITCH, int, one_of, secret, settings, text};
use super::streams::{PUBLIC_URL_TAKES, REGISTRY_PATH_TAKES, TIME_TAKES};
use super::{AuthMode, Durability, LogFormat, NAME, Partitioning, StreamsStoreKind, Switch};

settings! {
    /// The parts of the service.
    modules: ModulesConfig, "Modules" {
        pub(super) modules: Option<String> = "", text(MODULES_TAKE),
            "The parts of the service that are on. Events, accounts and operations are, always. A part that is off has no routes, tasks, connections or memory, and its tables are not made; those that exist are kept. imports needs files, stress and pocketbase need records. Unset: all but pocketbase; stress only with AUTH=open.";
    }

    /// Listening, connections, and the limits of requests.
    server: ServerConfig, "Server" {
        #[serde(deserialize_with = "host")]
        pub host: IpAddr = "127.0.0.1", ADDRESS,
            "Address to listen on.";
        pub port: u16 = "3000", int(0, 65_535, "TCP port; 0 takes a free one"),
            "Port to listen on.";
        pub http_threads: usize = "0", int(0, 256, "threads; 0: half the cores, as Postgres needs the others"),
            "Threads that serve requests.";
        pub max_connections: usize = "10000", int(1, 1_000_000, "connections"),
            "Client connections at once; further ones are answered 503 and closed.";
        pub body_timeout_s: u64 = "30", int(1, 3_600, "seconds"),
            "Time for a request's body. Its head has a third of it, from its first byte.";
        pub idle_timeout_s: u64 = "75", int(1, 86_400, "seconds"),
            "Time that a connection may wait for its next request, or for its client to read.";
        pub shutdown_timeout_s: u64 = "30", int(1, 3_600, "seconds"),
            "Time for answering, draining and stopping after SIGTERM.";
        pub public_url: Option<String> = "", text(PUBLIC_URL_TAKES),
            "The URL by which clients reach the service, in Location of streams and in webhooks. Unset: that of each request; webhooks then need a HOST that is loopback.";
        pub(super) memory_budget: Option<u64> = "", int(LEAST_BUDGET, 4_398_046_511_104, "bytes"),
            "Memory for requests, events and subscribers under way. Unset: half the cgroup's limit, else 1073741824. Shares: events held 1/4 (MAX_QUEUE_BYTES), events that wait for room 1/16, bodies 1/8, dead letters 1/16, records that wait 1/16, conversations' reads and writes that wait 1/16, subscribers 1/8 (SUBSCRIBERS_BYTES), downloads 1/32, imports 1/32, streams 1/16, large payloads 1/8. Where MAX_QUEUE_BYTES or SUBSCRIBERS_BYTES is set, the others share what it leaves.";
    }

    /// Postgres.
    database: DatabaseConfig, "Postgres" {
        pub database_url: Option<String> = "", secret(DATABASE_URL_TAKES),
            "The database. Unset: a private Postgres under DATA_DIR. Its connect_timeout (5 seconds) limits an attempt to connect; a start waits for Postgres twelve times as long. With pgbouncer=true no statement is prepared, as PgBouncer before 1.21 needs it.";
        pub data_dir: PathBuf = "./data", text("a folder, made if it is not there"),
            "Where the service keeps its files.";
        pub db_pool_size: usize = "20", int(LEAST_POOL_SIZE, 10_000, "connections"),
            "Connections to Postgres at once. WRITERS and 2 are kept for events. The others are shared: records 3/10, conversations 1/5, large payloads 3/20, commits of records and of conversations, accounts, files, imports and operations 1/10 each, errors on demand 1/20; those of MODULES that are off leave theirs to the others. At least 5, and 4 without imports and stress.";
        pub db_idle_timeout: u64 = "20", int(1, 86_400, "seconds"),
            "Time after which an idle connection to Postgres is closed.";
        pub db_schema: String = "public", text(NAME),
            "The schema that holds all tables; made if it is not there.";
        pub statement_timeout_ms: u64 = "5000", int(10, 600_000, "milliseconds"),
            "Time of one statement of a request (statement_timeout); then 504. A COPY has twelve times as long; then it is tried again.";
        pub pool_wait_ms: u64 = "2000", int(1, 60_000, "milliseconds"),
            "Time that a request waits for its turn or for a connection; then 503.";
        pub partitioning: Partitioning = "day", one_of(&["day", "off"]),
            "How the first migration makes requests: a partition a day, or one table. Later it has no effect.";
        pub retention_days: Option<u64> = "", int(1, 36_500, "days"),
            "Days that events are kept; whole partitions are dropped. Unset: for ever.";
        pub trace_index: Switch = "off", SWITCH,
            "Indexes trace ids, so that reconcile finds them over all time; halves the speed of COPY. Off drops nothing.";
    }

    /// Queue and writer.
    ingest: IngestConfig, "Events" {
        pub durability: Durability = "disk", one_of(&["memory", "disk"]),
            "Where an accepted event is until it is in Postgres: in memory, or in a synced journal in DATA_DIR.";
        pub batch_size: u64 = "1000", int(1, 1_000_000, "events"),
            "Events that start a flush.";
        pub flush_interval_ms: u64 = "25", int(1, 60_000, "milliseconds"),
            "The longest that an event waits for others before a flush starts.";
        pub(super) writers: Option<usize> = "", int(1, 64, "connections"),
            "Connections of the pool that COPY at once. Unset: 2, and 1 with a DB_POOL_SIZE below 14 (6 with MODULES=events).";
        pub max_queue_size: u64 = "200000", int(1, 10_000_000, "events"),
            "Events held in memory: not yet journaled, or without a journal not yet in Postgres. A batch takes as many, up to 100000.";
        pub(super) max_queue_bytes: Option<u64> = "", int(1_048_576, 549_755_813_888, "bytes"),
            "Bytes of the events held. Unset: a quarter of MEMORY_BUDGET, at most 268435456.";
        pub admit_wait_ms: u64 = "100", int(0, 60_000, "milliseconds"),
            "Time that an event waits for room in a full queue before it is refused with 503.";
        pub max_event_bytes: usize = "1048576", int(1, 16_777_216, "bytes"),
            "Size of one event's body, or of one record, decompressed; a larger one is answered 413.";
        pub idempotency_window_s: u64 = "86400", int(1, 31_536_000, "seconds"),
            "Time for which a key keeps a second event, or messages, with it from being stored.";
    }

    /// The journal.
    journal: JournalConfig, "Journal" {
        pub journal_max_bytes: u64 = "8589934592", int(16_777_216, 1_099_511_627_776, "bytes"),
            "Journal that Postgres does not have yet; beyond it events are refused with 503. Its files have an eighth of it, from 4194304 to 67108864 bytes; a batch must fit into one.";
        pub(super) journal_keep_bytes: Option<u64> = "", int(0, 1_099_511_627_776, "bytes"),
            "Journal kept after Postgres has it, to be stored again if Postgres goes back in time. Unset: 268435456, and at most half of JOURNAL_MAX_BYTES.";
        pub journal_min_free: u64 = "536870912", int(0, 1_099_511_627_776, "bytes"),
            "Free space of the journal's file system below which events are refused with 503.";
    }

    /// The dead-letter queue.
    dead_letters: DeadLetterConfig, "Dead letters" {
        pub dead_flush_interval_ms: u64 = "250", int(1, 60_000, "milliseconds"),
            "How often dead letters are stored.";
        pub max_dead_queue_size: u64 = "100000", int(1, 10_000_000, "dead letters"),
            "Dead letters held until they are stored; beyond it overloads are dropped and counted.";
    }

    /// Protocols of other SDKs.
    intake: IntakeConfig, "Protocols of other SDKs" {
        pub(super) intake: String = "segment,posthog,cloudevents,otlp", text(PROTOCOLS_TAKE),
            "The protocols in which events are accepted beside our own. The others have no routes.";
    }

    /// Records, and the feed of changes.
    records: RecordsConfig, "Records" {
        pub(super) records_auto_create: Option<Switch> = "", SWITCH,
            "Makes a collection when its first record is written. Unset: on with AUTH=open, off with AUTH=required.";
        pub changes_retention_s: u64 = "86400", int(1, 31_536_000, "seconds"),
            "Time for which the feed keeps a change.";
    }

    /// Conversations and their messages.
    conversations: ConversationsConfig, "Conversations" {
        pub max_message_bytes: usize = "262144", int(1_024, 16_777_216, "bytes"),
            "Size of a message's content in UTF-8, whole or in pieces; a larger one is answered 413.";
    }

    /// Subscribers of live updates.
    subscribers: SubscribersConfig, "Subscribers" {
        pub max_subscribers: usize = "10000", int(1, 1_000_000, "subscribers"),
            "Subscribers of conversations at once, and live readers of streams; further ones are answered 503. Of the stress API's streams a fifth as many, of imports' progress a fiftieth.";
        pub max_user_subscribers: usize = "100", int(1, 1_000_000, "subscribers"),
            "Subscribers of one user at once; further ones are answered 503. With AUTH=open only MAX_SUBSCRIBERS counts.";
        pub subscriber_bytes: usize = "1048576", int(65_536, 1_073_741_824, "bytes"),
            "Bytes of new events for a subscriber that takes nothing of what it was sent; beyond it the stream is closed, to be resumed.";
        pub(super) subscribers_bytes: Option<usize> = "", int(524_288, 1_099_511_627_775, "bytes"),
            "Bytes of all that is held for subscribers until their sockets take it: at most half for those that catch up, the rest for new events; the slowest are closed before it is used up. Unset: an eighth of MEMORY_BUDGET.";
        pub sse_heartbeat_s: u64 = "15", int(1, 3_600, "seconds"),
            "Time without an event after which a stream is sent an id or a comment, and its token is checked again.";
    }

    /// Durable Streams.
    streams: StreamsConfig, "Streams" {
        pub streams_store: StreamsStoreKind = "postgres", one_of(&["postgres", "memory"]),
            "Where streams are kept. In memory they end with the process, and have a share of MEMORY_BUDGET; beyond it 507.";
        pub streams_long_poll_timeout_ms: u64 = "30000", int(1, 600_000, "milliseconds"),
            "Time that a long-poll waits for data; then 204.";
        pub streams_max_answer_bytes: usize = "4194304", int(128, 67_108_864, "bytes"),
            "Size of an answer with a part of a stream, about: it is cut behind it, between messages where there are any.";
        pub streams_cursor_interval_s: u64 = "20", int(1, 86_400, "seconds"),
            "Time for which live answers have the same cursor, by which caches collapse requests.";
        pub streams_cursor_epoch: String = "2024-10-09T00:00:00Z", text(TIME_TAKES),
            "Time at which cursors begin with 0.";
        pub streams_registry_path: Option<String> = "", text(REGISTRY_PATH_TAKES),
            "The stream to which every creation and deletion of a stream is written; clients may only read it. Unset: there is none.";
        pub streams_compact_after_s: u64 = "60", int(1, 31_536_000, "seconds"),
            "Age of the messages of which compaction by key (Stream-Compaction) removes those that later ones replace.";
        pub webhook_allow_private: Switch = "off", SWITCH,
            "Lets webhooks of subscriptions, and requests to providers of OAuth2, reach loopback and private addresses, and this machine without TLS. For development: callers that may create subscriptions can then send requests into the service's network.";
    }

    /// Files.
    files: FilesConfig, "Files" {
        pub max_file_bytes: u64 = "2147483648", int(1, 1_099_511_627_776, "bytes"),
            "Size of one file; a larger one is answered 413.";
        pub file_quota_bytes: u64 = "10737418240", int(0, 1_099_511_627_776, "bytes; 0: no quota"),
            "Size of a user's files together, each at least 4 KiB; beyond it 413.";
        pub files_sweep_s: u64 = "600", int(0, 86_400, "seconds; 0: never"),
            "Time between two sweeps of DATA_DIR/files, which remove contents without a file.";
    }

    /// Faults on demand.
    faults: FaultsConfig, "Faults" {
        pub faults: Switch = "off", SWITCH,
            "Serves /_test/inject-error, by which clients make the service fail on purpose.";
    }

    /// Who may use the service, and how clients prove who they are.
    auth: AuthConfig, "Authentication" {
        pub(super) auth: Option<AuthMode> = "", one_of(&["open", "required"]),
            "Whether requests need a token. Unset: open, which HOST off loopback does not allow.";
        pub stress_token: Option<String> = "", secret(STRESS_TOKEN_TAKES),
            "A bearer token that is good for ever and for everything. Unset: there is none.";
        pub jwt_secret: Option<String> = "", secret(JWT_SECRET_TAKES),
            "The secret with which tokens are signed (JWT, HS256). Unset: made in DATA_DIR for a private Postgres; else random with AUTH=open, and needed with AUTH=required.";
        pub jwt_public_key_file: Option<PathBuf> = "", text("a file with a public key in PEM: RSA, P-256 or Ed25519"),
            "Takes tokens of another issuer too (RS256, ES256, EdDSA) that this key verifies; JWT_ISSUER and JWT_AUDIENCE must be set.";
        pub jwt_jwks_url: Option<String> = "", text(JWKS_URL_TAKES),
            "The same with the keys that an issuer publishes here (RFC 7517), read every ten minutes and when a token fits none of them.";
        pub jwt_issuer: Option<String> = "", text("a text, compared as it is"),
            "What iss must be. Unset: tidegate, in tokens of our own.";
        pub jwt_audience: Option<String> = "", text("a text, compared as it is"),
            "What aud must hold. Unset: tidegate, in tokens of our own.";
        pub jwt_permissions_claim: String = "permissions", text("the name of a claim"),
            "The claim with the permissions of a token's subject: an array of words, or words with spaces between.";
        pub(super) registration: Option<Switch> = "", SWITCH,
            "Lets callers register as users. Unset: on with AUTH=open, off with AUTH=required.";
        pub refresh_token_s: u64 = "2592000", int(60, 31_536_000, "seconds"),
            "Time after which a session ends that is not used.";
    }

    /// Rate limits, proxies, and web pages that may call.
    access: AccessConfig, "Access" {
        pub rate_logins: u32 = "300", int(0, 100_000_000, "a minute; 0: unlimited"),
            "Log-ins, registrations and refreshes of an address; beyond it 429. Log-ins to one account: a tenth, wherever they come from.";
        pub(super) rate_writes: Option<u32> = "", int(0, 100_000_000, "a minute; 0: unlimited"),
            "Requests but events of a key, a user or an address; beyond it 429. GETs are counted apart: twice as many. Unset: 3000 with AUTH=required, else unlimited.";
        pub(super) rate_events: u32 = "0", int(0, 100_000_000, "a minute; 0: unlimited"),
            "The same for requests with events, single ones and batches.";
        pub(super) trusted_proxies: Option<String> = "", text(PROXIES_TAKE),
            "Proxies whose X-Forwarded-For and X-Forwarded-Proto count. Unset: none.";
        pub(super) cors_origins: Option<String> = "", text(ORIGINS_TAKE),
            "Origins whose web pages may call. Unset: only pages of the service itself.";
    }

    /// Logs.
    logging: LoggingConfig, "Logs" {
        pub log: String = "info", text("a level (error, warn, info, debug, trace) or directives such as info,tidegate=debug"),
            "What is logged, to stderr; at debug one line a request.";
        pub log_format: LogFormat = "auto", one_of(&["auto", "human", "json"]),
            "How it is written: auto is human on a terminal and JSON otherwise.";
    }
}
