//! An HTTP/1.1 connection, kept open and driven by the task that uses it.
//!
//! The load generator shares its machine with the service, so this is hyper's bare connection: no pool, no background task,
//! `TCP_NODELAY`, and header values created once.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response, Uri, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// The longest answer; the service sends no longer ones.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The parts of the service's URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    host: String,
    port: u16,
    base_path: String,
}

/// An invalid URL.
#[derive(Debug, thiserror::Error)]
#[error("expected http://HOST[:PORT][/PATH]")]
pub(crate) struct BadUrl;

impl FromStr for Target {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        let uri: Uri = url.parse().map_err(|_| BadUrl)?;
        let authority = uri.authority().ok_or(BadUrl)?;
        if uri.scheme_str() != Some("http") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(BadUrl);
        }
        let base_path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(80), base_path })
    }
}

impl Target {
    /// The full URL of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{}{}{path}", self.host, self.port, self.base_path)
    }

    /// The request target of `path`.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base_path)
    }

    /// The service's address.
    pub(crate) async fn resolve(&self) -> io::Result<SocketAddr> {
        let found = tokio::net::lookup_host((self.hostname(), self.port)).await?.next();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The host without the brackets of an IPv6 address.
    fn hostname(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The value of the `Host` header.
    pub(crate) fn host_header(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// An answer of the service.
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body, if it was kept.
    pub(crate) body: Bytes,
}

/// Whether an answer's body is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Keep it.
    Keep,
    /// Discard it.
    Skip,
}

/// The reason why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No listener.
    #[error(transparent)]
    Tcp(#[from] io::Error),
    /// The connection does not speak HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// A failed exchange.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request was not sent; it is returned.
    NotSent(Box<Request<Full<Bytes>>>),
    /// It was sent, at least in part, and no answer came.
    Unanswered,
}

/// One open connection.
pub(crate) struct Connection {
    requests: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
}

struct Driver {
    protocol: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    closed: bool,
}

impl Driver {
    /// Waits for `future` while the connection reads and writes.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            if !self.closed {
                self.closed = self.protocol.as_mut().poll(context).is_ready();
            }
            future.as_mut().poll(context)
        })
        .await
    }
}

impl Connection {
    /// Connects to `target`.
    pub(crate) async fn open(target: &Target) -> Result<Self, ConnectError> {
        let stream = TcpStream::connect((target.hostname(), target.port)).await?;
        stream.set_nodelay(true)?;
        let (requests, protocol) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { requests, driver: Driver { protocol: Box::pin(protocol), closed: false } })
    }

    /// Waits for `future` while the connection watches for a close by the service.
    pub(crate) async fn idle<F: Future>(&mut self, future: F) -> F::Output {
        self.driver.drive(future).await
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.driver.closed
    }

    /// Sends a request and waits for the whole answer, up to `timeout`. After a failure the connection is unusable.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        body: Body,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        if self.driver.drive(self.requests.ready()).await.is_err() {
            return Err(Failure::NotSent(Box::new(request)));
        }
        let response = self.requests.try_send_request(request);
        let exchange = async {
            let mut error = match response.await {
                Ok(response) => return read(response, body).await,
                Err(error) => error,
            };
            Err(error
                .take_message()
                .map_or(Failure::Unanswered, |request| Failure::NotSent(Box::new(request))))
        };
        let answered = tokio::time::timeout(timeout, self.driver.drive(exchange)).await;
        answered.unwrap_or(Err(Failure::Unanswered))
    }
}

impl Connection {
    /// Sends a request and passes each chunk of the answer's body to `piece`, until that returns false or the answer ends. The
    /// head and each chunk may take `timeout`. Returns the status; 0: the answer ended early.
    pub(crate) async fn follow(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        mut piece: impl FnMut(&[u8]) -> bool,
    ) -> Result<u16, Failure> {
        let response = self.requests.send_request(request);
        let follow = async {
            let response = tokio::time::timeout(timeout, response).await.map_err(|_| Failure::Unanswered)?;
            let response = response.map_err(|_| Failure::Unanswered)?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            loop {
                let frame =
                    tokio::time::timeout(timeout, body.frame()).await.map_err(|_| Failure::Unanswered)?;
                let Some(frame) = frame else { return Ok(if status == 200 { 0 } else { status }) };
                let Ok(data) = frame.map_err(|_| Failure::Unanswered)?.into_data() else { continue };
                if status == 200 && !piece(&data) {
                    return Ok(status);
                }
            }
        };
        self.driver.drive(follow).await
    }
}

/// Reads an answer to its end, so that the connection can be reused.
async fn read(response: Response<Incoming>, keep: Body) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let mut kept = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Failure::Unanswered)?.into_data() else { continue };
        if keep == Body::Keep {
            if kept.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Unanswered);
            }
            kept.extend_from_slice(&data);
        }
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: kept.freeze() })
}

/// An authorization header that no debug output shows.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_put_together_again() {
        let target: Target = "http://127.0.0.1:3000".parse().unwrap();
        assert_eq!(target.url("/api/health"), "http://127.0.0.1:3000/api/health");
        let target: Target = "http://tide.example/gate/".parse().unwrap();
        assert_eq!(target.path("/api/v1/events"), "/gate/api/v1/events");
        assert_eq!(target.host_header(), "tide.example:80");
    }

    #[test]
    fn what_is_not_a_plain_http_url_is_refused() {
        for url in ["https://h", "127.0.0.1:3000", "http://", "/x", "http://user:pw@h", "http://h/?q=1", ""] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }
}
