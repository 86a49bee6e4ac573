//! For operators: health, metrics and statistics, dead letters, reconciliation.

mod dead_letters;
mod health;
mod reconcile;
mod routes;
mod stats;

use utoipa_axum::routes;

use super::edge::routes::{Access, Routes};
use crate::auth::Scope;
use crate::config::{Module, Modules};
pub(super) use health::is_operators;
pub(super) use stats::Stats;

/// Every route of operators.
pub(super) fn routes(modules: Modules) -> Routes {
    let (read, write) = (Access::Scope(Scope::DeadlettersRead), Access::Scope(Scope::DeadlettersWrite));
    let operations = Access::Scope(Scope::OpsRead);
    // Clients of PocketBase ask for it without a token, or with one of theirs: the handler decides what they see.
    let health = if modules.has(Module::PocketBase) { Access::Rules } else { operations };
    Routes::default()
        .route(read, routes!(dead_letters::list))
        .route(write, routes!(dead_letters::redrive))
        .route(read, routes!(dead_letters::get))
        .route(write, routes!(dead_letters::discard))
        .route(write, routes!(dead_letters::correct))
        .route(Access::Scope(Scope::Admin), routes!(routes::list))
        .route(Access::Scope(Scope::Admin), routes!(routes::check))
        .route(Access::Scope(Scope::Admin), routes!(routes::suggest))
        .route(Access::Scope(Scope::Admin), routes!(routes::get))
        .route(Access::Scope(Scope::Admin), routes!(routes::put))
        .route(Access::Scope(Scope::Admin), routes!(routes::remove))
        .route(Access::Scope(Scope::Admin), routes!(routes::enable))
        .route(Access::Scope(Scope::Admin), routes!(routes::disable))
        .route(Access::Scope(Scope::Admin), routes!(routes::backfill))
        .route(Access::Scope(Scope::Admin), routes!(routes::stats))
        .route(operations, routes!(reconcile::post))
        .route(health, routes!(health::api_health))
        .route(Access::Optional, routes!(health::alive))
        .route(Access::Optional, routes!(health::ready))
        .route(operations, routes!(health::metrics))
}
