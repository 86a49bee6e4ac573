//! The service's memory, from its metrics.

use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};

use crate::client::{Body, ConnectError, Connection, Target, bearer};
use crate::protocol::Token;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why it is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidentError {
    /// No listener.
    #[error("no connection to the service")]
    Connect(#[from] ConnectError),
    /// The token has invalid characters.
    #[error("the token holds characters that a header cannot carry")]
    Token,
    /// The token lacks the scope.
    #[error("the service shows its metrics to tokens with ops:read alone (--token, LOADTEST_TOKEN)")]
    Refused,
    /// `/metrics` does not include it.
    #[error("the service does not show its metrics")]
    NoMetrics,
}

/// Bytes of resident memory, from `/metrics`.
pub(crate) async fn resident_bytes(target: &Target, token: Option<&Token>) -> Result<u64, ResidentError> {
    let mut connection = Connection::open(target).await?;
    let mut request = Request::get(target.path("/metrics")).header(HOST, target.host_header());
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, bearer(&token.0).ok_or(ResidentError::Token)?);
    }
    let request = request.body(Full::default()).map_err(|_| ResidentError::NoMetrics)?;
    let answer = connection.exchange(request, Body::Keep, TIMEOUT).await;
    let answer = answer.map_err(|_| ResidentError::NoMetrics)?;
    if matches!(answer.status, 401 | 403) {
        return Err(ResidentError::Refused);
    }
    let text = String::from_utf8_lossy(&answer.body);
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|value| value.parse::<f64>().ok()).map(|bytes| bytes as u64).ok_or(ResidentError::NoMetrics)
}
