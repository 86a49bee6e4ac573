//! For operators: health and metrics, dead letters, reconciliation.

mod dead_letters;
mod health;
mod reconcile;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
pub(super) use health::is_one;

/// Every route of operators.
pub(super) fn router() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::default()
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::get, dead_letters::discard))
        .routes(routes!(reconcile::post))
        .routes(routes!(health::api_health))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}
