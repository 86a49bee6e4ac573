//! Sends batches of lines to a service's batch route, for `tidegate ingest`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use super::client;

/// For one batch. The service waits for its journal, and for its queue.
const TIMEOUT: Duration = Duration::from_secs(60);
const ROUTE: &str = "api/v1/events/batch";
/// Characters of an answer that is repeated in an error.
const MAX_ANSWER: usize = 300;

/// A sender to one service.
#[derive(Debug)]
pub struct EventSender {
    client: Client,
    url: Url,
    token: Option<HeaderValue>,
    /// The service has no journal, so only what is in Postgres survives a crash.
    waits_for_commit: AtomicBool,
}

/// A sender that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// The URL is none, or not of HTTP.
    #[error("--url takes a URL such as https://events.example")]
    Url,
    /// The token has characters that a header cannot hold.
    #[error("--token takes a key or a token")]
    Token,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Client(String),
}

/// What became of a batch.
#[derive(Debug)]
pub enum Sent {
    /// Its lines were accepted, but for these. They survive a crash of the service.
    Accepted(Vec<RejectedLine>),
    /// It may be sent again, after a while: the service is away or cannot take it now.
    Again {
        /// The time that the service named.
        after: Option<Duration>,
        /// Whether there was no answer in time: a smaller batch may get one.
        is_slow: bool,
        /// What is the matter.
        reason: String,
    },
    /// It is larger than the service takes.
    TooLarge,
    /// It will never be accepted.
    Refused(String),
}

/// A line that was not accepted.
#[derive(Debug, Deserialize)]
pub struct RejectedLine {
    /// Its place in the batch.
    pub index: usize,
    /// A code in `snake_case`.
    pub code: String,
    /// A sentence.
    pub message: String,
}

#[derive(Deserialize)]
struct Answer {
    accepted: u64,
    rejected: Vec<RejectedLine>,
    /// Accepted events that did not become rows. They are kept as dead letters.
    #[serde(default)]
    dead_lettered: Vec<serde::de::IgnoredAny>,
}

/// The result of one request.
enum Posted {
    Settled(Sent),
    /// A crash of the service would lose the lines.
    Queued,
}

impl EventSender {
    /// A sender to the service at `url`, with a token if it needs one.
    ///
    /// # Errors
    ///
    /// [`SenderError`].
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, SenderError> {
        let mut base = url.trim_end_matches('/').to_owned();
        base.push('/');
        let base = Url::parse(&base).ok().filter(|base| matches!(base.scheme(), "http" | "https"));
        let url = base.and_then(|base| base.join(ROUTE).ok()).ok_or(SenderError::Url)?;
        let token = match token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                    .map_err(|_| SenderError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let builder = client::builder().map_err(|error| SenderError::Client(error.to_string()))?;
        let client = builder.timeout(TIMEOUT).build();
        let client = client.map_err(|error| SenderError::Client(error.to_string()))?;
        Ok(Self { client, url, token, waits_for_commit: AtomicBool::new(false) })
    }

    /// Sends lines. `key` identifies them: lines that are sent again with the same key are stored once.
    pub async fn send(&self, lines: impl Into<Bytes>, key: &str) -> Sent {
        let lines = lines.into();
        // At most a second time, to wait for the commit.
        for _ in 0..2 {
            match self.post(lines.clone(), key).await {
                Posted::Settled(sent) => return sent,
                Posted::Queued => self.waits_for_commit.store(true, Ordering::Relaxed),
            }
        }
        Sent::Again { after: None, is_slow: false, reason: "accepted, but not stored yet".into() }
    }

    async fn post(&self, lines: Bytes, key: &str) -> Posted {
        let mut url = self.url.clone();
        if self.waits_for_commit.load(Ordering::Relaxed) {
            url.set_query(Some("ack=committed"));
        }
        let mut request = self.client.post(url).body(lines);
        request = request.header(CONTENT_TYPE, "application/x-ndjson").header("idempotency-key", key);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Posted::Settled(again(None, error)),
        };
        let status = response.status();
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let after = seconds.map(Duration::from_secs);
        let is_queued = response.headers().get("x-ack").is_some_and(|ack| ack == "queued");
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return Posted::Settled(again(after, error)),
        };
        let text = || String::from_utf8_lossy(&body).chars().take(MAX_ANSWER).collect::<String>();
        Posted::Settled(match status {
            status if status.is_success() => match serde_json::from_slice::<Answer>(&body) {
                // With a dead letter the answer does not say of the others that they are stored, but they are.
                Ok(answer) if is_queued && answer.accepted > 0 && answer.dead_lettered.is_empty() => {
                    return Posted::Queued;
                }
                Ok(answer) => Sent::Accepted(answer.rejected),
                Err(_) => Sent::Refused(format!("another service answers there: {}", text())),
            },
            StatusCode::PAYLOAD_TOO_LARGE => Sent::TooLarge,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Sent::Again { after, is_slow: false, reason: format!("{status}: {}", text()) }
            }
            status if status.is_server_error() => {
                Sent::Again { after, is_slow: false, reason: format!("{status}: {}", text()) }
            }
            status => Sent::Refused(format!("{status}: {}", text())),
        })
    }
}

/// The error's causes, without the URL, which may hold a password.
fn again(after: Option<Duration>, error: reqwest::Error) -> Sent {
    let is_slow = error.is_timeout() && !error.is_connect();
    Sent::Again { after, is_slow, reason: crate::db::chain(&error.without_url()) }
}
