//! Tidegate takes events over HTTP at line rate, stores them in Postgres by `COPY`, and keeps the ack level of each answer.
//!
//! ```text
//! producers ─▶ http ─▶ queue ─▶ journal ─▶ writer ──COPY──▶ Postgres
//!                        │         │           └─ a bad row ─▶ dead_letters
//!                        │         └ synced: x-ack: journaled
//!                        └ full ─▶ 503, and a dead letter
//! ```
//!
//! The modules below are listed with the first line of their own documentation.
//!
//! Dependencies point one way, which `.ci/run` checks: `main → cli → app → http → { ingest, routes, records, conversations, files, imports, streams, auth } → db`
//! (and `cli → doctor → ingest`, `imports → { ingest, files, conversations }`, `{ records, conversations, streams } → realtime`), and any
//! module → `config`, `observe`, `supervisor`, `paging`, `bisect`, `lines`, `time`, `typed`, `offload`, `waking`.

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
pub mod lines;
pub mod observe;
pub mod offload;
pub mod outbound;
pub mod paging;
pub mod realtime;
pub mod records;
pub mod routes;
pub mod streams;
pub mod supervisor;
pub mod test_server;
pub mod time;
pub mod typed;
pub mod waking;
