//! Every test of the service, a module a capability, in one binary: it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic, its helpers too"
)]

mod events;
mod local_postgres;
mod support;
