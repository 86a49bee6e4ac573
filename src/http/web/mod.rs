//! The web page: `/` and `/stress`, and what they request below `/ui/`.
//!
//! | path | |
//! |---|---|
//! | `/`, `/stress` | the two documents, the same for everybody |
//! | `/ui/assets/{version}/{name}` | scripts and styles, embedded in the binary |
//! | `/ui/session`, `/ui/session/refresh` | sign-in by cookie |
//! | `/ui/events` | the node's figures, once a second, behind those of the last minutes |
//! | `/ui/collections`, `/ui/streams` | lists that only the page needs |
//! | `/ui/api/…`, `/ui/v1/…`, `/ui/_test/…` | the API. Each route requires the access of its own path |
//!
//! A cookie counts below `/ui/` and nowhere else ([`mod@enter`]), and only where the request comes from a page of this service.

mod assets;
mod document;
mod enter;
mod figures;
mod history;
mod lists;
mod session;

use std::sync::Arc;

use axum::routing::{get, post};
use hyper::Method;
use tokio::sync::Semaphore;

pub(super) use enter::enter;

use super::edge::routes::{Access, Routes};
use crate::auth::Scope;
use crate::config::{Module, Modules};

/// Viewers of the figures at once. Beyond that a page gets 503 and tries again.
const MAX_VIEWERS: usize = 1_000;

/// Every route of the page, in a service with these modules.
pub(super) fn routes(modules: Modules) -> Routes {
    let mut routes = Routes::default()
        .page(Access::Fixed, &[Method::GET], "/", get(document::page))
        .page(Access::Fixed, &[Method::GET], "/ui/assets/{version}/{name}", get(assets::get))
        .page(Access::Scope(Scope::OpsRead), &[Method::GET], "/ui/events", get(figures::stream))
        .page(Access::Optional, &[Method::GET], "/ui/session", get(session::get))
        .page(
            Access::Public,
            &[Method::POST, Method::DELETE],
            "/ui/session",
            post(session::sign_in).delete(session::sign_out),
        )
        .page(Access::Public, &[Method::POST], "/ui/session/refresh", post(session::refresh));
    if modules.has(Module::Stress) {
        routes = routes.page(Access::Fixed, &[Method::GET], "/stress", get(document::stress));
    }
    if modules.has(Module::Records) {
        let read = Access::Scope(Scope::RecordsRead);
        routes = routes.page(read, &[Method::GET], "/ui/collections", get(lists::collections));
    }
    if modules.has(Module::Streams) {
        let read = Access::Paths(Scope::StreamsRead);
        routes = routes.page(read, &[Method::GET], "/ui/streams", get(lists::streams));
    }
    routes
}

/// What the page's routes share.
#[derive(Debug)]
pub(super) struct Web {
    documents: document::Documents,
    viewers: Arc<Semaphore>,
    pub(super) history: Arc<history::History>,
    /// The life of the cookies of a session, in seconds.
    refresh_token_s: u64,
}

impl Web {
    /// The page of a service with this configuration; `None`: it is off.
    pub(super) fn new(config: &crate::config::Config) -> Option<Self> {
        config.modules().has(Module::Web).then(|| Self {
            documents: document::Documents::new(config),
            viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
            history: Arc::default(),
            refresh_token_s: config.auth.refresh_token_s,
        })
    }
}
