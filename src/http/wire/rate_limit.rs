//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10): the policy's quota and window, the rest of the
//! burst, and the seconds until all of it is available again.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The state of a budget after a request, for its answer.
#[derive(Debug, Clone)]
pub(in crate::http) struct RateLimit {
    policy: HeaderValue,
    left: HeaderValue,
}

impl RateLimit {
    /// The budget `name` of `per_minute` requests, of which `requests` are left, and all again after `wait`.
    pub(in crate::http) fn new(name: &str, per_minute: u32, requests: u32, wait: Duration) -> Option<Self> {
        // Rounded up, so that a client that waits for so long is not too early.
        let wait = wait.as_secs_f64().ceil();
        Some(Self {
            policy: HeaderValue::try_from(format!("\"{name}\";q={per_minute};w=60")).ok()?,
            left: HeaderValue::try_from(format!("\"{name}\";r={requests};t={wait}")).ok()?,
        })
    }

    /// Writes the headers into an answer.
    pub(in crate::http) fn write(self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY.clone(), self.policy);
        headers.insert(RATE_LIMIT.clone(), self.left);
    }
}
