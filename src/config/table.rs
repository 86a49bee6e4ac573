//! Every setting, each in one place: its field, type, default, what it takes and its help.
//!
//! An entry is a field of its concern's struct, the variable of the same name in capitals, and its lines in `.env.example`
//! and `--help`. To add a setting is to add an entry, and to write `.env.example` anew (`UPDATE_EXAMPLE=1 cargo test --lib config`).

use std::net::IpAddr;
use std::path::PathBuf;

use super::access::{ORIGINS_TAKE, PROXIES_TAKE};
use super::auth::{JWKS_URL_TAKES, JWT_SECRET_TAKES, STRESS_TOKEN_TAKES};
use super::database::DATABASE_URL_TAKES;
use super::quotas::{LEAST_FOR_OTHERS, WRITERS_COMPANY};
use super::server::host;
use super::setting::{ADDRESS, SWITCH, int, one_of, secret, settings, text};
use super::{AuthMode, Durability, LogFormat, NAME, Partitioning, Switch};

settings! {
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
        pub max_header_bytes: usize = "32768", int(8_192, 1_048_576, "bytes"),
            "Size of a request's head; a larger one is answered 431.";
        pub max_body_memory: u64 = "134217728", int(33_554_432, 1_099_511_627_775, "bytes"),
            "Bytes of request bodies under way, all together; beyond it requests are answered 503.";
        pub header_timeout_s: u64 = "10", int(1, 3_600, "seconds"),
            "Time for a request's head, from its first byte.";
        pub body_timeout_s: u64 = "30", int(1, 3_600, "seconds"),
            "Time for a request's body.";
        pub idle_timeout_s: u64 = "75", int(1, 86_400, "seconds"),
            "Time that a connection may wait for its next request, or for its client to read.";
        pub shutdown_timeout_s: u64 = "30", int(1, 3_600, "seconds"),
            "Time for answering, draining and stopping after SIGTERM.";
    }

    /// Postgres.
    database: DatabaseConfig, "Postgres" {
        pub database_url: Option<String> = "", secret(DATABASE_URL_TAKES),
            "The database. Unset: a private Postgres under DATA_DIR.";
        pub data_dir: PathBuf = "./data", text("a folder, made if it is not there"),
            "Where the service keeps its files.";
        pub pg_bin: Option<PathBuf> = "", text("the folder of initdb, pg_ctl and postgres"),
            "Postgres' binaries for the private one. Unset: they are looked for.";
        pub db_pool_size: usize = "20", int(1 + (WRITERS_COMPANY + LEAST_FOR_OTHERS) as u64, 10_000, "connections"),
            "Connections to Postgres at once, at least WRITERS and 12. WRITERS and 2 are kept for events, and one for each other share; what is left is lent on demand.";
        pub operations_connections: usize = "2", int(1, 1_000, "connections"),
            "Share of the pool for dead letters that are asked for, and for reconcile.";
        pub db_idle_timeout: u64 = "20", int(1, 86_400, "seconds"),
            "Time after which an idle connection to Postgres is closed.";
        pub db_connect_timeout_s: u64 = "5", int(1, 3_600, "seconds"),
            "Time for a connection to Postgres to be made, or to come free.";
        pub db_start_timeout_s: u64 = "60", int(1, 86_400, "seconds"),
            "Time that a start waits for Postgres to answer.";
        pub db_prepare: Switch = "on", SWITCH,
            "Prepares statements that are run often. Off behind a pooler that keeps none, as PgBouncer before 1.21.";
        pub db_schema: String = "public", text(NAME),
            "The schema that holds all tables; made if it is not there.";
        pub partitioning: Partitioning = "day", one_of(&["day", "off"]),
            "How the first migration makes requests: a partition a day, or one table. Later it has no effect.";
        pub partition_days_ahead: u64 = "7", int(1, 366, "days"),
            "Days for which partitions are made ahead.";
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
        pub writers: usize = "2", int(1, 64, "connections"),
            "Connections of the pool that COPY at once.";
        pub max_copy_bytes: u64 = "4194304", int(65_536, 1_073_741_824, "bytes"),
            "Size of one COPY, as it is sent.";
        pub copy_timeout_s: u64 = "60", int(1, 3_600, "seconds"),
            "Time after which a COPY is given up and tried again.";
        pub max_queue_size: u64 = "200000", int(1, 10_000_000, "events"),
            "Events held in memory: not yet journaled, or without a journal not yet in Postgres.";
        pub max_queue_bytes: u64 = "268435456", int(1_048_576, 549_755_813_888, "bytes"),
            "Bytes of the events held.";
        pub admit_wait_ms: u64 = "100", int(0, 60_000, "milliseconds"),
            "Time that an event waits for room in a full queue before it is refused with 503.";
        pub max_waiting_bytes: u64 = "67108864", int(0, 549_755_813_888, "bytes"),
            "Bytes of the events that wait for room; beyond it they are refused at once.";
        pub max_event_bytes: usize = "1048576", int(1, 16_777_216, "bytes"),
            "Size of one event's body, decompressed; a larger one is answered 413.";
        pub max_batch_bytes: usize = "33554432", int(1, 268_435_456, "bytes"),
            "Size of one batch's body, decompressed too; a larger one is answered 413.";
        pub(super) max_batch_events: Option<u64> = "", int(1, 10_000_000, "events"),
            "Events in one batch; more are answered 413. At most, and unset up to 100000: MAX_QUEUE_SIZE.";
        pub max_json_depth: usize = "1000", int(1, 5_000, "levels"),
            "Nesting up to which JSON is stored as jsonb; deeper, its bytes are kept in body.";
        pub ack_timeout_ms: u64 = "5000", int(1, 600_000, "milliseconds"),
            "Time that a request with ack=committed waits; then it is told what was reached.";
        pub idempotency_window_s: u64 = "86400", int(1, 31_536_000, "seconds"),
            "Time for which a key keeps a second event with it from being stored.";
    }

    /// The journal.
    journal: JournalConfig, "Journal" {
        pub journal_max_bytes: u64 = "8589934592", int(16_777_216, 1_099_511_627_776, "bytes"),
            "Journal that Postgres does not have yet; beyond it events are refused with 503.";
        pub journal_keep_bytes: Option<u64> = "", int(0, 1_099_511_627_776, "bytes"),
            "Journal kept after Postgres has it, to be stored again if Postgres goes back in time. Unset: 268435456, and at most half of JOURNAL_MAX_BYTES.";
        pub journal_min_free: u64 = "536870912", int(0, 1_099_511_627_776, "bytes"),
            "Free space of the journal's file system below which events are refused with 503.";
        pub journal_segment_bytes: Option<u64> = "", int(4_194_304, 1_073_741_824, "bytes"),
            "Size of each of the journal's files; a batch must fit into one. Unset: 67108864, and at most a quarter of JOURNAL_MAX_BYTES.";
    }

    /// The dead-letter queue.
    dead_letters: DeadLetterConfig, "Dead letters" {
        pub dead_flush_interval_ms: u64 = "250", int(1, 60_000, "milliseconds"),
            "How often dead letters are stored.";
        pub max_dead_queue_size: u64 = "100000", int(1, 10_000_000, "dead letters"),
            "Dead letters held until they are stored; beyond it overloads are dropped and counted.";
        pub max_dead_queue_bytes: u64 = "67108864", int(65_536, 549_755_813_888, "bytes"),
            "Bytes of the dead letters held.";
    }

    /// Records and the feed of their changes.
    records: RecordsConfig, "Records" {
        pub(super) records_auto_create: Option<Switch> = "", SWITCH,
            "Makes a collection when its first record is written. Unset: on with AUTH=open, off with AUTH=required.";
        pub max_collections: i64 = "1000", int(1, 1_000_000, "collections"),
            "Collections of records; a write that would make a further one is answered 409.";
        pub max_record_bytes: usize = "1048576", int(1_024, 16_777_216, "bytes"),
            "Size of a record as it is stored, without white space; a larger one is answered 413.";
        pub records_writers: usize = "2", int(1, 64, "connections"),
            "Share of the pool in which created records are committed, each connection a group at a time.";
        pub records_connections: usize = "6", int(1, 1_000, "connections"),
            "Share of the pool for all else that records need: look-ups, lists, changes.";
        pub records_queue_bytes: usize = "67108864", int(16_777_216, 1_073_741_824, "bytes"),
            "Bytes of the records that wait to be committed or looked up, at least 1 KiB each; beyond it 503.";
        pub records_wait_ms: u64 = "2000", int(1, 60_000, "milliseconds"),
            "Time that a request waits for a connection of its share; then 503.";
        pub records_timeout_ms: u64 = "5000", int(10, 600_000, "milliseconds"),
            "Time of one statement on records (statement_timeout); then 504.";
        pub max_page_bytes: usize = "8388608", int(65_536, 268_435_456, "bytes"),
            "Size of a list's answer: a page ends early after the record that passes it.";
        pub changes_retention_s: u64 = "86400", int(1, 31_536_000, "seconds"),
            "Time for which the feed keeps a change.";
    }

    /// Conversations and their messages.
    conversations: ConversationsConfig, "Conversations" {
        pub conversations_writers: usize = "2", int(1, 64, "connections"),
            "Share of the pool in which new conversations, messages and pieces are committed, each connection a group at a time.";
        pub conversations_connections: usize = "4", int(1, 1_000, "connections"),
            "Share of the pool for all else that conversations need: look-ups, lists, pages, changes, followers, search.";
        pub conversations_queue_bytes: usize = "67108864", int(16_777_216, 1_073_741_824, "bytes"),
            "Bytes of what waits to be committed or looked up in conversations, at least 1 KiB each; beyond it 503.";
        pub conversations_wait_ms: u64 = "2000", int(1, 60_000, "milliseconds"),
            "Time that a request waits for its turn or for a connection of its share; then 503.";
        pub conversations_timeout_ms: u64 = "5000", int(10, 600_000, "milliseconds"),
            "Time of one statement on conversations (statement_timeout); then 504.";
        pub max_title_bytes: usize = "1024", int(16, 65_536, "bytes"),
            "Size of a conversation's title in UTF-8; a longer one is answered 413.";
        pub max_message_bytes: usize = "262144", int(1_024, 16_777_216, "bytes"),
            "Size of a message's content in UTF-8, whole or in pieces; a larger one is answered 413.";
        pub max_metadata_bytes: usize = "65536", int(2, 1_048_576, "bytes"),
            "Size of the metadata of a conversation or a message, without white space; larger ones are answered 413.";
        pub max_messages_per_append: usize = "100", int(1, 10_000, "messages"),
            "Messages of one request, which are stored together.";
        pub max_messages_body_bytes: usize = "4194304", int(16_384, 268_435_456, "bytes"),
            "Size of a request's body on conversations, decompressed too; a larger one is answered 413.";
        pub idempotency_retention_s: u64 = "86400", int(60, 2_592_000, "seconds"),
            "Time for which the Idempotency-Key of messages is remembered.";
        pub search_interval_ms: u64 = "1000", int(50, 600_000, "milliseconds"),
            "Time between two looks for messages and titles that search does not find yet.";
    }

    /// Following what changes.
    realtime: RealtimeConfig, "Realtime" {
        pub feed_poll_ms: u64 = "50", int(5, 60_000, "milliseconds"),
            "Time between two looks for what other nodes changed, while somebody follows. What this node changes is seen at once.";
        pub max_followers: usize = "10000", int(1, 1_000_000, "followers"),
            "Followers of conversations at once; further ones are answered 503.";
        pub max_user_followers: usize = "100", int(1, 1_000_000, "followers"),
            "Followers of one user at once; further ones are answered 503. Where nobody has to say who he is, MAX_FOLLOWERS alone counts.";
        pub follower_changes: usize = "1000", int(1, 1_000_000, "changes"),
            "Changes that wait for one follower; beyond it he is cut off, and comes back to where he was.";
        pub follower_bytes: usize = "1048576", int(65_536, 1_073_741_824, "bytes"),
            "Bytes of the changes that wait for one follower; beyond it he is cut off.";
        pub followers_bytes: usize = "134217728", int(524_288, 1_099_511_627_775, "bytes"),
            "Bytes of all that is held for followers and that their sockets have not taken. Half is for what is read of the database for those that catch up, at half a MiB each; the others wait for their turn. Half is for changes and chunks; the slowest followers are cut off before it is used up.";
        pub follower_heartbeat_s: u64 = "15", int(1, 3_600, "seconds"),
            "Time without an event after which a follower is sent an id or a comment, and his token is looked at again.";
    }

    /// Files.
    files: FilesConfig, "Files" {
        pub files_connections: usize = "2", int(1, 1_000, "connections"),
            "Share of the pool for files.";
        pub files_wait_ms: u64 = "2000", int(1, 60_000, "milliseconds"),
            "Time that a request waits for a connection of that share; then 503.";
        pub files_timeout_ms: u64 = "5000", int(10, 600_000, "milliseconds"),
            "Time of one statement on files (statement_timeout); then 504.";
        pub max_file_bytes: u64 = "2147483648", int(1, 1_099_511_627_776, "bytes"),
            "Size of one file; a larger one is answered 413.";
        pub max_files_per_upload: usize = "20", int(1, 1_000, "files"),
            "Files of one upload; more are answered 413.";
        pub file_quota_bytes: u64 = "10737418240", int(0, 1_099_511_627_776, "bytes; 0: no quota"),
            "What a user's files may take together, each at least 4 KiB; beyond it 413.";
        pub max_uploads: usize = "8", int(1, 1_000, "uploads"),
            "Uploads under way at once; beyond it 503.";
        pub max_downloads: usize = "256", int(1, 100_000, "downloads"),
            "Downloads under way at once, each with 128 KiB; beyond it 503.";
        pub file_min_rate: u64 = "65536", int(1, 1_073_741_824, "bytes a second"),
            "What a client sends or reads of a file at least, beside BODY_TIMEOUT_S; a slower one is cut off.";
        pub files_sweep_s: u64 = "600", int(0, 86_400, "seconds; 0: never"),
            "Time between two looks for contents in DATA_DIR/files that no file has any more, which are removed.";
    }

    /// What is imported from files.
    imports: ImportsConfig, "Imports" {
        pub import_writers: usize = "2", int(1, 64, "connections"),
            "Share of the pool in which lines of files are stored, each connection a COPY at a time.";
        pub imports_at_once: usize = "2", int(1, 64, "files"),
            "Files whose lines are stored at once; the others wait.";
        pub max_imports: usize = "100", int(1, 100_000, "files"),
            "Files that wait for their lines to be stored; beyond it 503.";
        pub import_part_bytes: u64 = "4194304", int(4_096, 67_108_864, "bytes"),
            "What one transaction stores of a file, at most 32768 lines; a few parts are held in memory.";
        pub max_import_line_bytes: usize = "1114112", int(1_024, 67_108_864, "bytes"),
            "Size of a line; a longer one is left out.";
        pub import_max_rejected: u64 = "100000", int(0, 10_000_000, "lines"),
            "Lines of a file that were left out and of which the reasons are kept; all are counted.";
        pub max_import_followers: usize = "200", int(1, 10_000, "streams"),
            "Clients that follow imports by server-sent events; beyond it 503.";
        pub import_timeout_s: u64 = "60", int(1, 3_600, "seconds"),
            "Time of one statement that stores a part of a file (statement_timeout); then it is tried again.";
    }

    /// The stress API, and faults on demand.
    stress: StressConfig, "Stress API and faults" {
        pub stress: Option<Switch> = "", SWITCH,
            "Serves /api/stress. Unset: on with AUTH=open, off with AUTH=required.";
        pub stress_default_collection: String = "stress_test_items", text(NAME),
            "The collection that /api/stress/config names to stress runs.";
        pub stress_default_delay_ms: u64 = "500", int(1, 600_000, "milliseconds"),
            "What /api/stress/error/timeout takes where delay_ms is left out; at most MAX_STRESS_DELAY_MS.";
        pub faults: Switch = "off", SWITCH,
            "Serves /_test/inject-error, by which clients make the service fail on purpose.";
        pub max_faults: usize = "100", int(1, 10_000, "faults"),
            "Faults at once, one a path.";
        pub max_fault_delay_ms: u64 = "60000", int(1, 3_600_000, "milliseconds"),
            "The longest that a fault may delay a request, its jitter included.";
        pub max_sse_streams: usize = "2000", int(1, 1_000_000, "streams"),
            "Streams of server-sent events at once; further ones are answered 503.";
        pub sse_max_rate: u64 = "10000", int(1, 1_000_000, "messages a second"),
            "The most that a stream of the stress API may ask for.";
        pub sse_default_rate: u64 = "10", int(1, 1_000_000, "messages a second"),
            "What a stream of the stress API that names no rate gets.";
        pub sse_max_message_bytes: usize = "65536", int(256, 1_048_576, "bytes"),
            "Size of one message's data that a stream of the stress API may ask for.";
        pub sse_buffer_bytes: u64 = "1048576", int(65_536, 1_073_741_824, "bytes"),
            "Messages that are due and that a client does not read; beyond it the stream is cut off.";
        pub sse_heartbeat_s: u64 = "15", int(1, 3_600, "seconds"),
            "Time without a message after which a stream is sent a comment.";
        pub sse_retry_ms: u64 = "1000", int(0, 3_600_000, "milliseconds"),
            "Time that clients of a stream are told to wait before they connect again.";
    }

    /// The stress API's own: errors on demand and large payloads.
    large: LargeConfig, "Large payloads and errors on demand" {
        pub large_connections: usize = "3", int(1, 1_000, "connections"),
            "Share of the pool for large payloads.";
        pub error_connections: usize = "1", int(1, 1_000, "connections"),
            "Share of the pool for errors on demand.";
        pub large_min_rate: u64 = "262144", int(1, 1_073_741_824, "bytes a second"),
            "What a client sends or reads of a large payload at least, beside BODY_TIMEOUT_S; a slower one is cut off.";
        pub max_stress_delay_ms: u64 = "30000", int(1, 600_000, "milliseconds"),
            "The longest delay_ms of /api/stress/error/timeout.";
        pub max_large_payload_bytes: usize = "67108864", int(1_024, 1_073_741_824, "bytes"),
            "Size of a large payload, decompressed too; a larger one is answered 413.";
        pub max_large_in_flight: usize = "4", int(1, 1_000, "payloads"),
            "Large payloads on their way at once, in or out; beyond it 503.";
    }

    /// Who may use the service, and how anybody proves who he is.
    auth: AuthConfig, "Authentication" {
        pub(super) auth: Option<AuthMode> = "", one_of(&["open", "required"]),
            "Whether everybody has to show a token. Unset: open, which HOST off loopback does not allow.";
        pub stress_token: Option<String> = "", secret(STRESS_TOKEN_TAKES),
            "A bearer token that is good for ever and for everything. Unset: there is none.";
        pub jwt_secret: Option<String> = "", secret(JWT_SECRET_TAKES),
            "The secret with which tokens are signed (JWT, HS256). Unset: made in DATA_DIR for a private Postgres; else random with AUTH=open, and needed with AUTH=required.";
        pub jwt_public_key_file: Option<PathBuf> = "", text("a file with a public key in PEM: RSA, P-256 or Ed25519"),
            "Takes tokens of another issuer too (RS256, ES256, EdDSA) that this key verifies; JWT_ISSUER and JWT_AUDIENCE must be set.";
        pub jwt_jwks_url: Option<String> = "", text(JWKS_URL_TAKES),
            "The same with the keys that an issuer publishes here (RFC 7517).";
        pub jwt_jwks_refresh_s: u64 = "600", int(1, 86_400, "seconds"),
            "Time between two looks there. A token that no key fits makes it look at once, twice a minute at most.";
        pub jwt_issuer: Option<String> = "", text("a text, compared as it is"),
            "What iss must say. Unset: tokens of our own say tidegate.";
        pub jwt_audience: Option<String> = "", text("a text, compared as it is"),
            "What aud must hold. Unset: tokens of our own say tidegate.";
        pub jwt_permissions_claim: String = "permissions", text("the name of a claim"),
            "The claim that says what the subject of a token may do: an array of words, or words with spaces between.";
        pub(super) registration: Option<Switch> = "", SWITCH,
            "Whether anybody may register as a user. Unset: on with AUTH=open, off with AUTH=required.";
        pub access_token_s: u64 = "900", int(10, 86_400, "seconds"),
            "Time for which an access token is good.";
        pub refresh_token_s: u64 = "2592000", int(60, 31_536_000, "seconds"),
            "Time after which a session ends that is not used.";
        pub max_user_sessions: i64 = "50", int(1, 10_000, "sessions"),
            "Sessions of a user; a further one ends the one that was used least recently.";
        pub max_user_keys: i64 = "100", int(1, 100_000, "keys"),
            "Keys of a user that are good; a further one is answered 409.";
        pub key_cache: usize = "10000", int(16, 10_000_000, "keys"),
            "Keys that are known without asking Postgres, and as many that are known to be nobody's.";
        pub password_threads: usize = "1", int(1, 64, "threads"),
            "Passwords that are checked at once; each takes a core for about 50 ms, and 19 MiB.";
        pub password_queue: usize = "64", int(0, 100_000, "passwords"),
            "Passwords that wait to be checked; beyond it 503.";
        pub auth_connections: usize = "2", int(1, 1_000, "connections"),
            "Share of the pool for users, sessions and keys.";
        pub auth_wait_ms: u64 = "2000", int(1, 60_000, "milliseconds"),
            "Time that a request waits for a connection of that share; then 503.";
        pub auth_timeout_ms: u64 = "5000", int(10, 600_000, "milliseconds"),
            "Time of one statement on users, sessions and keys (statement_timeout); then 504.";
    }

    /// How much anybody may ask for, behind which proxies, and from which web pages.
    access: AccessConfig, "Access" {
        pub rate_logins: u32 = "300", int(0, 100_000_000, "a minute; 0: unlimited"),
            "Log-ins, registrations and refreshes of an address; beyond it 429.";
        pub rate_account_logins: u32 = "30", int(0, 100_000_000, "a minute; 0: unlimited"),
            "Log-ins to an account, wherever they come from; beyond it 429.";
        pub(super) rate_reads: Option<u32> = "", int(0, 100_000_000, "a minute; 0: unlimited"),
            "GETs of a key, a user or an address; beyond it 429. Unset: 6000 with AUTH=required, else unlimited.";
        pub(super) rate_writes: Option<u32> = "", int(0, 100_000_000, "a minute; 0: unlimited"),
            "The same for all other requests but events. Unset: 3000 with AUTH=required, else unlimited.";
        pub(super) rate_events: u32 = "0", int(0, 100_000_000, "a minute; 0: unlimited"),
            "The same for requests with events, single ones and batches.";
        pub max_rate_subjects: usize = "100000", int(16, 10_000_000, "addresses, or keys and users"),
            "Whose requests are counted apart; those beyond share what is left.";
        pub(super) trusted_proxies: Option<String> = "", text(PROXIES_TAKE),
            "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. Unset: nobody's.";
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
