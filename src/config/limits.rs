//! Limits that are constants: no operator needs to turn them.

/// Size of a request's head; a larger one is answered 431.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Size of one batch's body, decompressed too; a larger one is answered 413.
pub const MAX_BATCH_BYTES: usize = 32 * 1024 * 1024;
/// Events in one batch, and never more than the queue holds; more are answered 413.
pub const MAX_BATCH_EVENTS: u64 = 100_000;
/// Nesting up to which JSON is stored as jsonb; deeper, its bytes are kept in `body`.
pub const MAX_JSON_DEPTH: usize = 1_000;
/// Milliseconds that a request with `ack=committed` waits; then the answer reports the level that was reached.
pub const ACK_TIMEOUT_MS: u64 = 5_000;
/// Size of one `COPY`, as it is sent.
pub const MAX_COPY_BYTES: u64 = 4 * 1024 * 1024;

/// Seconds for an attempt to connect to Postgres, unless `DATABASE_URL` has a `connect_timeout`, and for a connection of the pool to
/// come free for events.
pub const CONNECT_TIMEOUT_S: u64 = 5;
/// How many times as long as an attempt to connect a start waits for Postgres.
pub const START_ATTEMPTS: u32 = 12;
/// Days for which partitions are made ahead.
pub const PARTITION_DAYS_AHEAD: u64 = 7;

/// Collections of records; a write that would make a further one is answered 409.
pub const MAX_COLLECTIONS: i64 = 1_000;
/// Size of a list's answer: a page ends early after the entry that passes it.
pub const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Size of a conversation's title in UTF-8; a longer one is answered 413.
pub const MAX_TITLE_BYTES: usize = 1_024;
/// Size of the metadata of a conversation or a message, without white space; larger ones are answered 413.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;
/// Messages of one request, which are stored together.
pub const MAX_MESSAGES_PER_APPEND: usize = 100;
/// Milliseconds between two polls for messages and titles that search does not find yet.
pub const SEARCH_INTERVAL_MS: u64 = 1_000;
/// Milliseconds between two polls for changes of other nodes, while there are subscribers.
pub const FEED_POLL_MS: u64 = 20;
/// Seconds between two checks of watched tables for new partitions, and for other changes of their definition.
pub const WATCH_CHECK_S: u64 = 5;

/// Files of one upload; more are answered 413.
pub const MAX_FILES_PER_UPLOAD: usize = 20;
/// Files of one request that writes records; more are answered 413.
pub const MAX_FILES_PER_RECORDS: usize = 50;
/// Requests at once that receive files of records; others wait, and beyond that 503. Guests may send them, so they leave those of users alone.
pub const MAX_RECORD_UPLOADS: usize = 8;
/// Those of one address, or of one /64 of IPv6: a slow client leaves some to others.
pub const MAX_RECORD_UPLOADS_PER_ADDRESS: usize = 6;
/// Uploads under way at once; beyond it 503.
pub const MAX_UPLOADS: usize = 8;
/// Bytes a second that a client sends or reads of a file at least, beside `BODY_TIMEOUT_S`; slower ones are cut off.
pub const FILE_MIN_RATE: u64 = 64 * 1024;

/// Files that wait for their lines to be stored; beyond it 503.
pub const MAX_IMPORTS: usize = 100;
/// Lines of a file that were left out and of which the reasons are kept; all are counted.
pub const IMPORT_MAX_REJECTED: u64 = 100_000;
/// What a line of an import may have beside the event in it.
pub const IMPORT_LINE_OVERHEAD_BYTES: usize = 64 * 1024;

/// Large payloads of the stress API under way at once, in or out; beyond it 503.
pub const MAX_LARGE_IN_FLIGHT: usize = 4;
/// Bytes a second that a client sends or reads of a large payload at least, beside `BODY_TIMEOUT_S`.
pub const LARGE_MIN_RATE: u64 = 256 * 1024;
/// Milliseconds: the longest `delay_ms` of `/api/stress/error/timeout`.
pub const MAX_STRESS_DELAY_MS: u64 = 30_000;
/// Milliseconds of `/api/stress/error/timeout` without `delay_ms`.
pub const STRESS_DELAY_MS: u64 = 500;
/// The collection of stress runs that name no other.
pub const STRESS_COLLECTION: &str = "stress_test_items";
/// Messages a second that a stream of the stress API may ask for.
pub const SSE_MAX_RATE: u64 = 10_000;
/// Messages a second of a stream that names no rate.
pub const SSE_RATE: u64 = 10;
/// Size of one message's data that a stream may ask for.
pub const SSE_MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Milliseconds that clients of a stream wait before they connect again.
pub const SSE_RETRY_MS: u64 = 1_000;
/// Faults at once, one a path.
pub const MAX_FAULTS: usize = 100;
/// Milliseconds: the longest delay of a fault, its jitter included.
pub const MAX_FAULT_DELAY_MS: u64 = 60_000;

/// Seconds for which an access token is good.
pub const ACCESS_TOKEN_S: i64 = 900;
/// Sessions of a user; a further one ends the one that was used least recently.
pub const MAX_USER_SESSIONS: i64 = 50;
/// Keys of a user that are good; a further one is answered 409.
pub const MAX_USER_KEYS: i64 = 100;
/// Keys that are known without asking Postgres, and as many that are known not to exist.
pub const KEY_CACHE: usize = 10_000;
/// Passwords that are checked at once; each takes a core for about 50 ms, and 19 MiB.
pub const PASSWORD_THREADS: usize = 1;
/// Passwords that wait to be checked; beyond it 503.
pub const PASSWORD_QUEUE: usize = 64;
/// Seconds between two fetches of an issuer's keys.
pub const JWKS_REFRESH_S: u64 = 600;
/// Addresses, and beside them keys and users, whose requests are counted apart; those beyond share what is left.
pub const MAX_RATE_SUBJECTS: usize = 100_000;
