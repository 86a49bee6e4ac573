//! Tidegate: events in at line rate, rows in Postgres by `COPY`, and a promise in each answer that is kept.
//!
//! ```text
//! producers ─▶ http ─▶ queue ─▶ journal ─▶ writer ──COPY──▶ Postgres
//!                        │         │           └─ a refused row ─▶ dead_letters
//!                        │         └ synced: x-ack: journaled
//!                        └ full ─▶ 503, and a dead letter
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`app`] | builds every part in order, runs it, and stops it in the reverse order |
//! | [`auth`] | whose bearer tokens are good |
//! | `bisect` | halves of a batch that failed as a whole |
//! | [`config`] | every setting, read once from the environment |
//! | [`db`] | the pool, TLS, migrations, partitions, and the private Postgres of a first run |
//! | [`doctor`] | measures a host and its database, and runs drills |
//! | [`faults`] | which request is hit by a fault on demand, and by what |
//! | [`files`] | files of users
//! | [`http`] | the HTTP face: routes, limits, wire formats |
//! | [`imports`] | lines of files become events, conversations and messages
//! | [`ingest`] | the path of an event, from admission to its row |
//! | [`files`] | files that users upload |
//! | [`lifecycle`] | whether the service is starting, serving or stopping |
//! | [`observe`] | metrics and logs |
//! | [`mod@time`] | microseconds and milliseconds of Unix time |
//! | [`offload`] | work on large JSON documents, off the threads that serve connections |
//! | [`outbound`] | connections to other services: the keys of an issuer of tokens |
//! | [`paging`] | pages of lists, cursors and links |
//! | [`realtime`] | the feed of changes |
//! | [`records`] | JSON records in collections |
//! | [`supervisor`] | every background task, by name |
//! | [`typed`] | JSON objects read as types, with errors that name the member at fault |
//!
//! Dependencies point one way: `main → cli → app → http → { ingest, records, conversations, files, imports, auth } → db` (and `cli → doctor → ingest`,
//! `imports → { ingest, files, conversations }`, `{ records, conversations } → realtime`), and anyone → `config`, `observe`, `supervisor`.

pub mod app;
pub mod auth;
mod bisect;
pub mod cli;
pub mod config;
pub mod conversations;
pub mod db;
pub mod doctor;
pub mod faults;
pub mod files;
pub mod http;
pub mod imports;
pub mod ingest;
pub mod lifecycle;
pub mod observe;
pub mod offload;
pub mod outbound;
pub mod paging;
pub mod realtime;
pub mod records;
pub mod supervisor;
pub mod time;
pub mod typed;
