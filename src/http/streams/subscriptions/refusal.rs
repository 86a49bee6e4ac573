//! Refusals of requests about subscriptions, in the protocol's form or in that of the service.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::wire::error::ApiError;
use crate::streams::StreamError;
use crate::streams::subscriptions::SubscriptionError;
use crate::typed::TypeError;

/// After a shortage that may pass in a moment.
const RETRY: Duration = Duration::from_secs(1);

/// An error in the protocol's form.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionError)]
pub(super) struct ErrorResponse {
    error: ErrorDetail,
}

/// The details of an error of subscriptions.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionErrorDetail)]
struct ErrorDetail {
    /// A code of the protocol.
    #[schema(example = "FENCED")]
    code: &'static str,
    /// A sentence for people.
    message: String,
    /// The member at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The worker that holds the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_holder: Option<String>,
    /// The generation of its wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// A refusal of a request about subscriptions.
#[derive(Debug)]
pub(super) enum Refusal {
    Api(ApiError),
    Subscription(SubscriptionError),
    Type(TypeError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<SubscriptionError> for Refusal {
    fn from(error: SubscriptionError) -> Self {
        Self::Subscription(error)
    }
}

impl From<TypeError> for Refusal {
    fn from(error: TypeError) -> Self {
        Self::Type(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Self::Api(error) => return error.into_response(),
            Self::Type(error) => {
                let detail = detail("INVALID_REQUEST", &error);
                (StatusCode::BAD_REQUEST, ErrorDetail { field: Some(error.field().to_owned()), ..detail })
            }
            Self::Subscription(error) => match of_subscription(error) {
                Ok(answer) => answer,
                Err(error) => return error.into_response(),
            },
        };
        let mut response = (status, Json(ErrorResponse { error: detail })).into_response();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn detail(code: &'static str, message: &impl ToString) -> ErrorDetail {
    ErrorDetail { code, message: message.to_string(), field: None, current_holder: None, generation: None }
}

/// The status and the details of an error; `Err`: it is one of the service, in its form.
fn of_subscription(error: SubscriptionError) -> Result<(StatusCode, ErrorDetail), ApiError> {
    use StatusCode as S;
    let (status, code) = match &error {
        SubscriptionError::Invalid { .. } | SubscriptionError::TooMany => (S::BAD_REQUEST, "INVALID_REQUEST"),
        SubscriptionError::WebhookUrl(_) => (S::BAD_REQUEST, "WEBHOOK_URL_REJECTED"),
        SubscriptionError::TokenInvalid => (S::UNAUTHORIZED, "TOKEN_INVALID"),
        SubscriptionError::TokenExpired => (S::UNAUTHORIZED, "TOKEN_EXPIRED"),
        SubscriptionError::NotFound => (S::NOT_FOUND, "SUBSCRIPTION_NOT_FOUND"),
        SubscriptionError::Exists => (S::CONFLICT, "SUBSCRIPTION_ALREADY_EXISTS"),
        SubscriptionError::Fenced => (S::CONFLICT, "FENCED"),
        SubscriptionError::AlreadyClaimed { .. } => (S::CONFLICT, "ALREADY_CLAIMED"),
        SubscriptionError::NoPendingWork => (S::CONFLICT, "NO_PENDING_WORK"),
        SubscriptionError::InvalidOffset(_) => (S::CONFLICT, "INVALID_OFFSET"),
        SubscriptionError::Streams(StreamError::Database(error)) | SubscriptionError::Database(error) => {
            return Err(ApiError::from(&**error));
        }
        SubscriptionError::Streams(_) => {
            return Err(ApiError::unavailable("overloaded", error.to_string(), RETRY));
        }
        SubscriptionError::NoRandomness => return Err(ApiError::internal()),
    };
    let detail = detail(code, &error);
    Ok(match error {
        SubscriptionError::Invalid { field, .. } => {
            (status, ErrorDetail { field: Some(field.to_owned()), ..detail })
        }
        SubscriptionError::WebhookUrl(_) => {
            (status, ErrorDetail { field: Some("webhook.url".to_owned()), ..detail })
        }
        SubscriptionError::AlreadyClaimed { holder, generation } => {
            let (current_holder, generation) = (Some(holder), Some(generation));
            (status, ErrorDetail { current_holder, generation, ..detail })
        }
        _ => (status, detail),
    })
}
