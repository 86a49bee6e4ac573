//! Errors of the database, as clients see them.

use hyper::StatusCode;

use super::{AWAY_RETRY, ApiError, EXHAUSTED_RETRY};
use crate::db::DbError;
use crate::observe::LogThrottle;

/// Throttled, as every request fails while the cause lasts.
static AWAY: LogThrottle = LogThrottle::new();
static BUSY: LogThrottle = LogThrottle::new();
static DROPPED: LogThrottle = LogThrottle::new();

/// The one mapping from errors of the database to answers. Clients receive a fixed message; the cause is logged.
impl From<&DbError> for ApiError {
    fn from(error: &DbError) -> Self {
        let cause = error.with_sources();
        let state = match error {
            // Postgres did not report its own time-out in time.
            DbError::Timeout(_) => Some(STATEMENT_TIMEOUT),
            error => error.state_code(),
        };
        if let DbError::OutcomeUnknown = error {
            tracing::error!(error = cause, "a request failed");
            let message = "the outcome of the request is unknown; check it before you send it again";
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "outcome_unknown", message);
        }
        if let DbError::Exhausted(_) = error {
            tracing::debug!(error = cause, "a quota of the pool is used up");
            let message = "all connections for such requests are in use; try again later";
            return Self::unavailable("pool_exhausted", message, EXHAUSTED_RETRY);
        }
        if error.is_conflict() {
            if let Some(left_out) = BUSY.ready() {
                tracing::warn!(error = cause, left_out, "a transaction was aborted after several conflicts");
            }
            let message = "other requests change the same rows; try again";
            return Self::unavailable("database_busy", message, EXHAUSTED_RETRY);
        }
        if error.is_dropped_by_trigger() {
            if let Some(left_out) = DROPPED.ready() {
                tracing::warn!(
                    error = cause,
                    left_out,
                    "a database trigger dropped rows; nothing was stored"
                );
            }
            let message = "a database trigger dropped the row; nothing was stored";
            return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "dropped_by_trigger", message);
        }
        if let Some((status, code, message)) = state.and_then(known_state) {
            tracing::info!(error = cause, http.status = status.as_u16(), "Postgres rejected a statement");
            return Self::new(status, code, message);
        }
        if error.is_away() {
            if let Some(left_out) = AWAY.ready() {
                tracing::warn!(error = cause, left_out, "Postgres is away");
            }
            return Self::unavailable(
                "database_away",
                "the database does not answer; try again later",
                AWAY_RETRY,
            );
        }
        tracing::error!(error = cause, "a request failed in Postgres");
        Self::internal()
    }
}

/// `query_canceled`.
const STATEMENT_TIMEOUT: &str = "57014";

/// The answers for SQLSTATEs that a client can act on; all others are internal errors.
fn known_state(state: &str) -> Option<(StatusCode, &'static str, &'static str)> {
    Some(match state {
        "23505" => (StatusCode::CONFLICT, "conflict", "the value exists already and has to be unique"),
        "23514" => {
            (StatusCode::UNPROCESSABLE_ENTITY, "check_failed", "a check of the database rejected the value")
        }
        STATEMENT_TIMEOUT => (StatusCode::GATEWAY_TIMEOUT, "statement_timeout", "the database took too long"),
        _ => return None,
    })
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        Self::from(&error)
    }
}
