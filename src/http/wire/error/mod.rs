//! Errors, in one form: `{"error": {"code", "message", "field"?, "expected"?}}`.

mod database;
mod domains;

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;
use utoipa::ToSchema;

use super::rate_limit::RateLimit;
use crate::auth::Scope;
use crate::ingest::NotStored;

/// An error that a client receives.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    /// The expected value of the field.
    expected: Option<i32>,
    retry_after: Option<Duration>,
    /// `WWW-Authenticate`.
    challenge: Option<Box<Cow<'static, str>>>,
    quota: Option<Box<RateLimit>>,
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(in crate::http) struct Envelope<'a> {
    error: Detail<'a>,
}

/// The details of an error.
#[derive(Serialize, ToSchema)]
#[schema(as = ErrorDetail)]
struct Detail<'a> {
    /// A stable identifier, in snake_case.
    #[schema(example = "invalid_request")]
    code: &'a str,
    /// A sentence for people.
    message: &'a str,
    /// The parameter, header or member at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<i32>,
}

impl ApiError {
    /// An error with a status, a code in `snake_case` and a message.
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

    /// No route has the path.
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
    }

    /// 413: over a limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 503: the service cannot handle the request now.
    pub fn unavailable(
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        retry_after: Duration,
    ) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// 500: only the log has the cause.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed; its log has the cause")
    }

    /// The status.
    pub(in crate::http) fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence for people.
    pub(in crate::http) fn message(&self) -> &str {
        &self.message
    }

    /// The same with another status, and a time to retry if it has none.
    pub(in crate::http) fn with_status(self, status: StatusCode) -> Self {
        let retry_after = self.retry_after.or(Some(EXHAUSTED_RETRY));
        Self { status, retry_after, ..self }
    }

    /// The code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Names the parameter, header or member at fault.
    pub fn field(self, field: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// 401: the token is invalid (RFC 6750, section 3.1).
    pub fn unauthorized() -> Self {
        let refusal = Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, "the bearer token is not valid");
        refusal.challenge("Bearer error=\"invalid_token\"")
    }

    /// 401: a ticket is used, expired or unknown.
    pub fn invalid_ticket(message: impl Into<Cow<'static, str>>) -> Self {
        let refusal = Self::new(StatusCode::UNAUTHORIZED, "invalid_ticket", message);
        refusal.challenge("Bearer error=\"invalid_token\"").field("ticket")
    }

    /// 401: a URL contains an API key that is not write-only.
    pub fn key_in_url() -> Self {
        let message =
            "a URL takes a write-only key (tg_w_…) only; revoke this key, as URLs are logged on their way";
        Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, message)
            .challenge("Bearer error=\"invalid_token\"")
            .field("key")
    }

    /// 401: a token is required, and there is none.
    pub fn token_needed() -> Self {
        let message = "a token is required: Authorization: Bearer …, or X-API-Key";
        Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, message).challenge("Bearer")
    }

    /// 403: the caller lacks a scope.
    pub fn lacks(scope: Scope) -> Self {
        let scope = scope.name();
        let refusal = Self::forbidden(FORBIDDEN, format!("the permission {scope} is required"));
        refusal.challenge(format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""))
    }

    /// 403, for any caller.
    pub fn forbidden(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// 429: the caller's budget is used up.
    pub(in crate::http) fn too_many(retry_after: Duration, quota: Option<RateLimit>) -> Self {
        let message = "too many requests; try again later";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        // Rounded up, so that a client that waits for so long is not too early.
        let retry_after = Duration::from_secs_f64(retry_after.as_secs_f64().ceil());
        Self { retry_after: Some(retry_after), quota: quota.map(Box::new), ..refusal }
    }

    /// Its code, message and field as JSON, for a frame of a WebSocket.
    pub(in crate::http) fn detail(&self) -> Vec<u8> {
        serde_json::to_vec(&self.envelope().error).unwrap_or_default()
    }

    /// The form in which clients see it.
    pub(in crate::http) fn envelope(&self) -> Envelope<'_> {
        Envelope {
            error: Detail {
                code: self.code,
                message: &self.message,
                field: self.field.as_deref(),
                expected: self.expected,
            },
        }
    }

    /// Whether it denies access.
    pub(in crate::http) fn is_denial(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// 405: the path takes another method.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
    }

    /// Adds the scheme of the required token (RFC 9110, section 11.6.1).
    fn challenge(self, challenge: impl Into<Cow<'static, str>>) -> Self {
        Self { challenge: Some(Box::new(challenge.into())), ..self }
    }
}

/// After a shortage that may pass in a moment.
const EXHAUSTED_RETRY: Duration = Duration::from_secs(1);
/// After an outage of the database or of the folder of files.
const AWAY_RETRY: Duration = Duration::from_secs(2);
const UNAUTHORIZED: &str = "unauthorized";
const FORBIDDEN: &str = "forbidden";

impl ApiError {
    /// 422: the event was accepted but not stored.
    pub fn not_stored(cause: &NotStored) -> Self {
        let message = match cause {
            NotStored::Rejected { sqlstate } => {
                format!("Postgres refused the event (SQLSTATE {sqlstate}); it is kept as a dead letter")
            }
            NotStored::DroppedByTrigger => {
                "a trigger on requests dropped the event; it is kept as a dead letter".to_owned()
            }
            NotStored::Unreadable => {
                "the journal could not be read; the bytes of the event are in its quarantine".to_owned()
            }
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, cause.name(), message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.envelope()).unwrap_or_default();
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
