//! What the database says, as a client is told of it.

use hyper::StatusCode;

use super::{AWAY_RETRY, ApiError, EXHAUSTED_RETRY};
use crate::db::DbError;
use crate::observe::LogThrottle;

/// Every request fails so while it lasts.
static AWAY: LogThrottle = LogThrottle::new();
static BUSY: LogThrottle = LogThrottle::new();
static DROPPED: LogThrottle = LogThrottle::new();

/// The one table from what the database says to what a client is told. A client gets a fixed message, the log the cause.
impl From<&DbError> for ApiError {
    fn from(error: &DbError) -> Self {
        let cause = error.with_sources();
        let state = match error {
            // Postgres did not even tell that it had given up in time.
            DbError::Timeout(_) => Some(STATEMENT_TIMEOUT),
            error => error.state_code(),
        };
        if let DbError::OutcomeUnknown = error {
            tracing::error!(error = cause, "a request failed");
            let message = "the request failed, and may have been carried out; look before you send it again";
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "outcome_unknown", message);
        }
        if let DbError::Exhausted(_) = error {
            tracing::debug!(error = cause, "a share of the pool is used up");
            let message = "all connections for this are in use; try again later";
            return Self::unavailable("pool_exhausted", message, EXHAUSTED_RETRY);
        }
        if error.is_conflict() {
            if let Some(left_out) = BUSY.ready() {
                tracing::warn!(
                    error = cause,
                    left_out,
                    "a transaction gave up: others were in its way again and again"
                );
            }
            let message = "others change the same rows; try again";
            return Self::unavailable("database_busy", message, EXHAUSTED_RETRY);
        }
        if error.is_dropped_by_trigger() {
            if let Some(left_out) = DROPPED.ready() {
                tracing::warn!(
                    error = cause,
                    left_out,
                    "a trigger of the database dropped rows; nothing was stored"
                );
            }
            let message = "a trigger of the database dropped it; nothing was stored";
            return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "dropped_by_trigger", message);
        }
        if let Some((status, code, message)) = state.and_then(told) {
            tracing::info!(error = cause, http.status = status.as_u16(), "a statement was refused");
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

/// What is told of these SQLSTATEs; no other is more than a failure.
fn told(state: &str) -> Option<(StatusCode, &'static str, &'static str)> {
    Some(match state {
        "23505" => (StatusCode::CONFLICT, "conflict", "the value is taken, and has to be unique"),
        "23514" => {
            (StatusCode::UNPROCESSABLE_ENTITY, "check_failed", "a check of the database refused the value")
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
