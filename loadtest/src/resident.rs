//! The service's memory, as it tells itself.

use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;

use crate::client::{Body, ConnectError, Connection, Target};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidentError {
    /// Nothing accepts there.
    #[error("no connection to the service")]
    Connect(#[from] ConnectError),
    /// It is not among what `/metrics` answers.
    #[error("the service does not show its metrics")]
    NoMetrics,
}

/// Bytes of resident memory, from `/metrics`.
pub(crate) async fn resident_bytes(target: &Target) -> Result<u64, ResidentError> {
    let mut connection = Connection::open(target).await?;
    let request =
        Request::get(target.path("/metrics")).header(HOST, target.host_header()).body(Full::default());
    let request = request.map_err(|_| ResidentError::NoMetrics)?;
    let answer = connection.exchange(request, Body::Keep, TIMEOUT).await;
    let answer = answer.map_err(|_| ResidentError::NoMetrics)?;
    let text = String::from_utf8_lossy(&answer.body);
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|value| value.parse::<f64>().ok()).map(|bytes| bytes as u64).ok_or(ResidentError::NoMetrics)
}
