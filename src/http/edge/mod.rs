//! What each request passes on its way to its handler, and its answer on its way back.
//!
//! ```text
//! framing ─▶ faults ─▶ CORS ─▶ events, batch: authorize, quota, metrics, headers, log
//!                          └─▶ router: track (metrics, headers, log) ─▶ authorize, quota ─▶ handler
//! ```

pub(super) mod authorize;
pub(super) mod client;
mod cors;
mod credentials;
mod framing;
mod headers;
pub(super) mod origin;
pub(super) mod pipeline;
pub(super) mod quota;
pub mod routes;
