//! For operators: health and metrics, dead letters, reconciliation.

mod dead_letters;
mod health;
mod reconcile;

use utoipa_axum::routes;

use super::edge::routes::{Needs, Routes};
use crate::auth::Scope;
pub(super) use health::is_operators;

/// Every route of operators.
pub(super) fn routes() -> Routes {
    let (read, write) = (Needs::Scope(Scope::DeadlettersRead), Needs::Scope(Scope::DeadlettersWrite));
    let operations = Needs::Scope(Scope::OpsRead);
    Routes::default()
        .route(read, routes!(dead_letters::list))
        .route(write, routes!(dead_letters::redrive))
        .route(read, routes!(dead_letters::get))
        .route(write, routes!(dead_letters::discard))
        .route(operations, routes!(reconcile::post))
        .route(operations, routes!(health::api_health))
        .route(Needs::GoodIfShown, routes!(health::alive))
        .route(Needs::GoodIfShown, routes!(health::ready))
        .route(operations, routes!(health::metrics))
}
