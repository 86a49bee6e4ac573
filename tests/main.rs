//! Every test of the service, a module a capability, in one binary: it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic, its helpers too"
)]

mod access;
mod acks;
mod api_keys;
mod appends;
mod auth;
mod bad_input;
mod bad_rows;
mod batches;
mod browsers;
mod clients;
mod clocks;
mod collections;
mod connecting;
mod conversation_groups;
mod conversations;
mod crash;
mod dead_letters;
mod departures;
mod events;
mod exactly_once;
mod failures;
mod faults;
mod feed_drills;
mod file_downloads;
mod file_sweeps;
mod file_uploads;
mod files;
mod filters;
mod full_disk;
mod hostile;
mod import_ends;
mod import_takeovers;
mod imports;
mod ingest_files;
mod intake_cloudevents;
mod intake_otlp;
mod intake_posthog;
mod intake_segment;
mod issuers;
mod large_json;
mod life;
mod live;
mod losses;
mod messages;
mod modules;
mod openapi;
mod permissions;
mod pool;
mod pooler;
mod presets;
mod private_postgres;
mod realtime;
mod record_groups;
mod record_limits;
mod record_lists;
mod records;
mod routes;
mod routes_api;
mod routes_drills;
mod routes_examples;
mod schema;
mod search;
mod shared_databases;
mod small_pool;
mod sse;
mod stats;
mod stream_subscriptions;
mod stream_wakes;
mod streams;
mod streams_clocks;
mod streams_drills;
mod streams_input;
mod streams_model;
mod streams_postgres;
mod stress;
mod support;
mod systemd;
mod tasks;
mod tickets;
mod tls;
mod tokens;
mod triggers;
mod verify;
mod watched_tables;
mod web;
mod websockets;
mod wire;
