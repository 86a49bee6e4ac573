//! Every refusal, in one form: `{"error": {"code", "message", "field"?, "expected"?}}`.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits::Quota;
use crate::auth::{AuthError, Scope};
use crate::conversations::ConversationsError;
use crate::db::DbError;
use crate::faults::FaultError;
use crate::files::FilesError;
use crate::imports::ImportsError;
use crate::ingest::{Refusal, Refused};
use crate::records::RecordsError;

/// A refusal on its way to the client.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    /// What the field would have to be.
    expected: Option<i32>,
    retry_after: Option<Duration>,
    /// `WWW-Authenticate`.
    challenge: Option<Box<Cow<'static, str>>>,
    quota: Option<Box<Quota>>,
}

/// A refusal.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct Envelope<'a> {
    error: Detail<'a>,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
#[schema(as = ErrorDetail)]
struct Detail<'a> {
    /// A word for it, in snake_case.
    #[schema(example = "invalid_request")]
    code: &'a str,
    /// A sentence.
    message: &'a str,
    /// The parameter, header or member that is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<i32>,
}

impl ApiError {
    /// A refusal with a status, a code in `snake_case` and a sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            field: None,
            expected: None,
            retry_after: None,
            challenge: None,
            quota: None,
        }
    }

    /// 400: the request is malformed or fails a check.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 413: over a limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 503: cannot be taken now.
    pub fn unavailable(
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        retry_after: Duration,
    ) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// 500: the client learns nothing but that; the cause is in the log.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the service failed; the cause is in its log",
        )
    }

    /// The code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Names the parameter, header or member that is at fault.
    pub fn field(self, field: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// 401: there is a token, and it is not good (RFC 6750, section 3.1).
    pub fn unauthorized() -> Self {
        let refusal = Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, "the bearer token is not valid");
        refusal.challenge("Bearer error=\"invalid_token\"")
    }

    /// 401: there is no token, and there has to be one.
    pub fn token_needed() -> Self {
        let message = "this takes a token: Authorization: Bearer …, or X-API-Key";
        Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, message).challenge("Bearer")
    }

    /// 403: it is known who asks, and he may not.
    pub fn lacks(scope: Scope) -> Self {
        let scope = scope.name();
        let refusal = Self::forbidden(FORBIDDEN, format!("this takes the permission {scope}"));
        refusal.challenge(format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""))
    }

    /// 403, whoever asks.
    pub fn forbidden(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// 429: too often; `quota` is what is left, which is nothing.
    pub(super) fn too_many(retry_after: Duration, quota: Option<Quota>) -> Self {
        let message = "too many requests; try again later";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        // Up, so that who waits for so long is not too early.
        let retry_after = Duration::from_secs_f64(retry_after.as_secs_f64().ceil());
        Self { retry_after: Some(retry_after), quota: quota.map(Box::new), ..refusal }
    }

    /// Whether it says that somebody may not do something, whatever he asks for.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// 405: the path takes another method.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
    }

    /// Says what a client is to show (RFC 9110, section 11.6.1).
    fn challenge(self, challenge: impl Into<Cow<'static, str>>) -> Self {
        Self { challenge: Some(Box::new(challenge.into())), ..self }
    }
}

const UNAUTHORIZED: &str = "unauthorized";
const FORBIDDEN: &str = "forbidden";

impl ApiError {
    /// 422: the event was accepted, and Postgres refused it. `error` begins with the SQLSTATE; the rest of it may quote
    /// what only an operator should see.
    pub fn refused_by_postgres(error: &str) -> Self {
        let state = error.split(' ').next().unwrap_or_default();
        let message = format!("Postgres refused the event (SQLSTATE {state}); it is kept as a dead letter");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rejected", message)
    }
}

/// When it is worth another try after the journal took nothing: somebody has to look, or Postgres has to come back.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);

/// The one table from what the database says to what a client is told. A client gets a fixed message, the log the cause.
impl From<&DbError> for ApiError {
    fn from(error: &DbError) -> Self {
        let cause = error.with_sources();
        let state = match error {
            // Postgres did not even tell that it had given up in time.
            DbError::Timeout(_) => Some(STATEMENT_TIMEOUT),
            error => error.state_code(),
        };
        if let DbError::Exhausted(_) = error {
            tracing::debug!(error = cause, "a share of the pool is used up");
            let message = "all connections for this are in use; try again later";
            return Self::unavailable("pool_exhausted", message, EXHAUSTED_RETRY);
        }
        if let Some((status, code, message)) = state.and_then(told) {
            tracing::info!(error = cause, http.status = status.as_u16(), "a statement was refused");
            return Self::new(status, code, message);
        }
        if error.is_away() {
            tracing::warn!(error = cause, "Postgres is away");
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

impl From<RecordsError> for ApiError {
    fn from(error: RecordsError) -> Self {
        let told = error.to_string();
        match error {
            RecordsError::UnknownCollection | RecordsError::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "not_found", told)
            }
            RecordsError::TooManyCollections(_) => {
                Self::new(StatusCode::CONFLICT, "too_many_collections", told)
            }
            RecordsError::Taken => Self::new(StatusCode::CONFLICT, "conflict", told).field("id"),
            RecordsError::Changed => Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", told),
            RecordsError::Invalid { field, message } => Self::invalid(message).field(field),
            RecordsError::TooLarge(_) => Self::too_large(told),
            RecordsError::Overloaded => Self::unavailable("overloaded", told, EXHAUSTED_RETRY),
            RecordsError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<ConversationsError> for ApiError {
    fn from(error: ConversationsError) -> Self {
        let told = error.to_string();
        match error {
            ConversationsError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", told),
            ConversationsError::Invalid { field, message } => Self::invalid(message).field(field),
            ConversationsError::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict", told)
                    .field("idempotency-key")
            }
            ConversationsError::OffsetMismatch { length } => {
                let refusal = Self::new(StatusCode::CONFLICT, "offset_mismatch", told).field("at");
                Self { expected: Some(length), ..refusal }
            }
            ConversationsError::Done => Self::new(StatusCode::CONFLICT, "message_done", told),
            ConversationsError::TooLarge(_) => Self::too_large(told).field("content"),
            ConversationsError::Follow(_) => Self::unavailable("overloaded", told, EXHAUSTED_RETRY),
            ConversationsError::Overloaded => Self::unavailable("overloaded", told, EXHAUSTED_RETRY),
            ConversationsError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        let told = error.to_string();
        match error {
            FilesError::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", told),
            FilesError::Invalid { field, message } => Self::invalid(message).field(field),
            FilesError::TypeMismatch { .. } => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "type_mismatch", told).field("content-type")
            }
            FilesError::TooLarge(_) | FilesError::TooManyFiles(_) => Self::too_large(told),
            FilesError::QuotaExceeded(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "quota_exceeded", told),
            FilesError::DiskFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", told),
            FilesError::Overloaded(_) => Self::unavailable("overloaded", told, EXHAUSTED_RETRY),
            FilesError::OwnerGone => Self::unauthorized(),
            FilesError::Source(_) => Self::invalid(told).field("body"),
            FilesError::OtherDatabase => {
                tracing::error!(error = told, "a file is not stored");
                Self::unavailable("folder_of_another_database", told, AWAY_RETRY)
            }
            FilesError::ContentMissing => {
                tracing::error!("a file's content is not in DATA_DIR/files");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "content_missing", told)
            }
            FilesError::Disk(_) => {
                tracing::error!(error = error.with_sources(), "a file cannot be stored or read");
                Self::internal()
            }
            FilesError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let told = error.to_string();
        match error {
            AuthError::Invalid => Self::unauthorized(),
            AuthError::NotReady => Self::unavailable("starting", told, EXHAUSTED_RETRY),
            AuthError::WrongPassword => {
                Self::new(StatusCode::UNAUTHORIZED, "wrong_credentials", told).challenge("Bearer")
            }
            AuthError::EmailTaken => Self::new(StatusCode::CONFLICT, "conflict", told).field("email"),
            AuthError::Field { field, message } => Self::invalid(message).field(field),
            AuthError::Overloaded => Self::unavailable("overloaded", told, EXHAUSTED_RETRY),
            AuthError::RegistrationOff => Self::forbidden("registration_off", told),
            AuthError::SignInOff => Self::forbidden("sign_in_off", told),
            AuthError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", told),
            AuthError::BeyondRights => Self::forbidden(FORBIDDEN, told).field("scopes"),
            AuthError::NotAUser => Self::forbidden(FORBIDDEN, told),
            AuthError::TooManyKeys(_) => Self::new(StatusCode::CONFLICT, "too_many_keys", told),
            AuthError::Database(error) => Self::from(&*error),
            AuthError::Failed => {
                tracing::error!(error = told, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<ImportsError> for ApiError {
    fn from(error: ImportsError) -> Self {
        let told = error.to_string();
        match error {
            ImportsError::Invalid { field, message } => Self::invalid(message).field(field),
            ImportsError::Processed => Self::new(StatusCode::CONFLICT, "processed", told).field("file_id"),
            ImportsError::NotProcessed => Self::new(StatusCode::NOT_FOUND, "not_processed", told),
            ImportsError::TooMany | ImportsError::TooManyFollow => {
                Self::unavailable("overloaded", told, EXHAUSTED_RETRY)
            }
            ImportsError::File(error) => error.into(),
            ImportsError::Database(error) => Self::from(&*error),
        }
    }
}

const AWAY_RETRY: Duration = Duration::from_secs(2);
const EXHAUSTED_RETRY: Duration = Duration::from_secs(1);

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let journal = |code, message| Self::unavailable(code, message, JOURNAL_RETRY);
        match refused {
            Refused::Overloaded { retry_after } => {
                Self::unavailable("overloaded", "the queue is full; try again later", retry_after)
            }
            Refused::Journal(Refusal::Full) => journal(
                "journal_full",
                "the journal holds as much as it may (JOURNAL_MAX_BYTES); try again later",
            ),
            Refused::Journal(Refusal::MinFree | Refusal::NoSpace) => {
                journal("disk_full", "the journal's disk is full; try again later")
            }
            Refused::Journal(Refusal::Failed) => journal(
                "journal_failed",
                "the journal cannot be written; nothing is accepted until a restart",
            ),
            Refused::Journal(Refusal::TooLarge) => {
                Self::too_large("the batch is larger than a part of the journal (JOURNAL_SEGMENT_BYTES)")
            }
            Refused::OutcomeUnknown => journal(
                "outcome_unknown",
                "the journal failed while the event was made durable: it may be stored after a restart, or not",
            ),
        }
    }
}

impl From<FaultError> for ApiError {
    fn from(error: FaultError) -> Self {
        let message = error.to_string();
        match error {
            FaultError::NotAnObject => Self::invalid(message),
            FaultError::Member { field, .. } => Self::invalid(message).field(field),
            FaultError::TooMany(_) => Self::new(StatusCode::CONFLICT, "too_many_faults", message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let detail = Detail {
            code: self.code,
            message: &self.message,
            field: self.field.as_deref(),
            expected: self.expected,
        };
        let body = serde_json::to_vec(&Envelope { error: detail }).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(challenge) = self.challenge
            && let Ok(challenge) = HeaderValue::try_from(&**challenge)
        {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(quota) = self.quota {
            quota.write(response.headers_mut());
        }
        if let Some(retry_after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        response
    }
}
