//! The service's health: whether it answers, and its pending events.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};

use crate::client::{Body, ConnectError, Connection, Target, bearer};
use crate::protocol::Token;
use crate::view::ServiceGlance;

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
#[derive(Debug, Clone)]
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
        Ok(self.report().await?.and_then(|health| health.get("pending")?.as_u64()))
    }

    /// What the service reports of its queue; `None`: nothing, or it does not answer.
    pub(crate) async fn glance(&self) -> Option<ServiceGlance> {
        let health = self.report().await.ok()??;
        Some(ServiceGlance {
            queue: health.pointer("/queue/events")?.as_u64()?,
            pending: health.get("pending")?.as_u64()?,
            resident_bytes: health.pointer("/memory/resident_bytes").and_then(serde_json::Value::as_u64),
        })
    }

    /// The version of the service, if it reports one.
    pub(crate) async fn version(&self) -> Option<String> {
        self.report().await.ok()??.get("version")?.as_str().map(str::to_owned)
    }

    async fn report(&self) -> Result<Option<serde_json::Value>, Error> {
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
        Ok(serde_json::from_slice(&answer.body).ok())
    }
}
