//! The service's health: whether it answers, and its pending events.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};

use crate::client::{Body, ConnectError, Connection, Target, bearer};
use crate::protocol::Token;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why health is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No listener.
    #[error("no service at {url}")]
    Unreachable {
        /// The URL.
        url: String,
        /// The network's error.
        #[source]
        source: ConnectError,
    },
    /// It accepts connections and does not answer.
    #[error("{0} does not answer")]
    Silent(String),
    /// The URL or the token has invalid characters.
    #[error("the URL or the token holds characters that HTTP cannot carry")]
    Unsendable,
}

/// Queries a service's health.
pub(crate) struct Health {
    target: Target,
    token: Option<Token>,
}

impl Health {
    /// For the service at `target`.
    pub(crate) fn new(target: Target, token: Option<Token>) -> Self {
        Self { target, token }
    }

    /// Accepted events that are not committed yet; `None`: the service does not report them.
    pub(crate) async fn pending(&self) -> Result<Option<u64>, Error> {
        let url = self.target.url("/api/health");
        let mut request =
            Request::get(self.target.path("/api/health")).header(HOST, self.target.host_header());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, bearer(&token.0).ok_or(Error::Unsendable)?);
        }
        let request = request.body(Full::<Bytes>::default()).map_err(|_| Error::Unsendable)?;
        let mut connection = match tokio::time::timeout(TIMEOUT, Connection::open(&self.target)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(source)) => return Err(Error::Unreachable { url, source }),
            Err(_) => return Err(Error::Silent(url)),
        };
        let answer = connection.exchange(request, Body::Keep, TIMEOUT).await;
        let answer = answer.map_err(|_| Error::Silent(url))?;
        let health: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
        Ok(health.and_then(|health| health.get("pending")?.as_u64()))
    }
}
