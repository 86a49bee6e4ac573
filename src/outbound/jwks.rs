//! Fetches the published keys of an issuer of tokens (RFC 7517), from `JWT_JWKS_URL` and nowhere else.
//!
//! At the start, every ten minutes, and when a token fits none of the keys, but at most every half minute: made-up
//! tokens must not load the issuer. While the issuer does not answer, the keys of the last fetch remain valid.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Client, StatusCode};
use tokio::time::timeout;

use super::client;
use crate::auth::{IssuerError, Verifier};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

const LEAST_GAP: Duration = Duration::from_secs(30);
/// After the first failure.
const RETRY: Duration = Duration::from_secs(2);
/// For all of one fetch.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    #[error("HTTP")]
    Http(#[from] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the answer is {0}")]
    Keys(#[from] IssuerError),
}

/// Starts the task that fetches the verifier's keys from `url`, every `refresh`.
pub fn follow(url: String, refresh: Duration, verifier: Arc<Verifier>, supervisor: &Supervisor) {
    let gap = LEAST_GAP.min(refresh);
    let backoff = Backoff { first: RETRY, longest: gap.max(RETRY) };
    supervisor.periodic(
        "issuer-keys",
        gap,
        backoff,
        IssuerKeys { url, refresh, gap, verifier, is_fresh: false },
    );
}

/// Fetches the keys, and waits until they have to be fetched again.
struct IssuerKeys {
    url: String,
    refresh: Duration,
    gap: Duration,
    verifier: Arc<Verifier>,
    /// The last fetch succeeded.
    is_fresh: bool,
}

impl Step for IssuerKeys {
    async fn step(&mut self) -> Result<Next, StepError> {
        if std::mem::take(&mut self.is_fresh) {
            // Running out of time is the usual case.
            let _lacking = timeout(self.refresh - self.gap, self.verifier.lacks_an_issuer_key()).await;
        }
        let fetched = fetch(&self.url).await;
        let keys = fetched.and_then(|set| Ok(self.verifier.replace_issuer_keys(&set)?)).map_err(|error| {
            let cause = crate::db::chain(&error);
            StepError::new(format!("the issuer's keys cannot be fetched (JWT_JWKS_URL): {cause}"))
        })?;
        tracing::debug!(keys, "the issuer's keys were fetched");
        self.is_fresh = true;
        Ok(Next::Interval)
    }
}

async fn fetch(url: &str) -> Result<Vec<u8>, FetchError> {
    let request = client()?.get(url).header(ACCEPT, HeaderValue::from_static("application/json"));
    let mut response = request.send().await.map_err(without_url)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let mut set = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(without_url)? {
        if set.len() + chunk.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        set.extend_from_slice(&chunk);
    }
    Ok(set)
}

/// A client for one fetch, so that it reads the system's certificates anew.
fn client() -> Result<Client, FetchError> {
    Ok(client::builder()?.timeout(TIMEOUT).pool_max_idle_per_host(0).build()?)
}

/// The URL may hold a password.
fn without_url(error: reqwest::Error) -> FetchError {
    error.without_url().into()
}
