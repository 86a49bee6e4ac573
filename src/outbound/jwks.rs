//! Fetches the keys that an issuer of tokens publishes (RFC 7517), from `JWT_JWKS_URL` and nowhere else.
//!
//! At the start, every `JWT_JWKS_REFRESH_S`, and when a token came that none of the keys fits, but not more often than every half minute:
//! made-up tokens must not make us hammer the issuer. While it does not answer, the keys that were fetched last are good.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

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
    #[error("the URL has no host, or another scheme than http and https")]
    Url,
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("it cannot be connected to")]
    Connect(#[from] std::io::Error),
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    #[error("HTTP")]
    Http(#[from] hyper::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer breaks off, or is larger than {MAX_BYTES} bytes")]
    Body,
    #[error("the answer is {0}")]
    Keys(#[from] IssuerError),
}

/// Starts the task that keeps the verifier's keys those that are published at `url`, fetched every `refresh`.
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
        let fetched = timeout(TIMEOUT, fetch(&self.url)).await.unwrap_or(Err(FetchError::Timeout));
        let keys = fetched.and_then(|set| Ok(self.verifier.replace_issuer_keys(&set)?)).map_err(|error| {
            let cause = crate::db::chain(&error);
            StepError::new(format!("the issuer's keys cannot be fetched (JWT_JWKS_URL): {cause}"))
        })?;
        tracing::debug!(keys, "the issuer's keys were fetched");
        self.is_fresh = true;
        Ok(Next::Interval)
    }
}

async fn fetch(url: &str) -> Result<Bytes, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
    let host = uri.host().ok_or(FetchError::Url)?;
    // An IPv6 address has its brackets in a URL, and none elsewhere.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let by_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(FetchError::Url),
    };
    let port = uri.port_u16().unwrap_or(if by_tls { 443 } else { 80 });
    let stream = TcpStream::connect((name, port)).await?;
    if !by_tls {
        return get(stream, &uri).await;
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|_| FetchError::Url)?;
    get(tls()?.connect(name, stream).await?, &uri).await
}

fn tls() -> Result<TlsConnector, FetchError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let authority = uri.authority().ok_or(FetchError::Url)?.as_str();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority).header(ACCEPT, "application/json");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| FetchError::Url)?;
    let asking = async {
        let response = sender.send_request(request).await?;
        // A redirect is not followed: what is named is what is trusted.
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(|_| FetchError::Body)?.to_bytes())
    };
    tokio::pin!(asking);
    tokio::select! {
        answered = &mut asking => answered,
        // A server that closes has answered before, or never will.
        _ended = connection => asking.await,
    }
}
