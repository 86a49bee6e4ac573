//! Webhooks: signed POSTs to URLs that clients chose.
//!
//! A client must not reach the service's own network through it, so:
//!
//! * URLs are `https`; `http` only for loopback, with `WEBHOOK_ALLOW_PRIVATE`.
//! * Names are resolved here, at each connection. All addresses of a name have to be permitted ([`AddressPolicy`]), and the connection goes to one
//!   of those that were checked: a name cannot be permitted first and then resolve to another address.
//! * Redirects are failures, and proxies of the environment are not used.
//! * A delivery has a limit of time, and its answer one of size.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use tokio::time::timeout;

use super::address::{AddressPolicy, is_loopback, literal};
use super::client;

/// Bytes of a URL.
pub const MAX_URL_BYTES: usize = 2_048;
/// Bytes of an answer that are read. A longer one counts as received, without a content.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;
/// For a connection, with the look-up of its name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the look-up of a name, before a URL is accepted.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection without requests is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_IDLE_PER_HOST: usize = 2;

static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Why a URL is refused. The text is for the client that chose it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL.
    #[error("is no absolute URL")]
    Malformed,
    /// Longer than [`MAX_URL_BYTES`].
    #[error("is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Another scheme than `https`.
    #[error("takes an https URL; http only to this machine, with WEBHOOK_ALLOW_PRIVATE")]
    Scheme,
    /// A name and a password.
    #[error("takes a URL without a user name and a password")]
    UserInfo,
    /// An address that is not permitted. The address of a name is not repeated: it may be known to this network alone.
    #[error("leads to an address that webhooks may not reach")]
    Address,
}

/// Why a delivery failed, as its subscription reports it.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL, or an address of its host.
    #[error("the URL {0}")]
    Url(#[from] UrlError),
    /// No answer in time.
    #[error("the receiver did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Another status than 2xx; a redirect is not followed.
    #[error("the receiver answered with status {}", .0.as_u16())]
    Status(StatusCode),
    /// No connection, or it broke off.
    #[error("the receiver cannot be reached")]
    Connect(#[source] reqwest::Error),
    /// The signature is no header.
    #[error("the signature is malformed")]
    Signature,
}

/// A name resolved to an address that is not permitted.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that webhooks may not reach")]
struct BlockedName;

/// Looks the addresses of a name up.
type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

fn system_look_up(name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    Box::pin(async move {
        let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// Resolves names to permitted addresses, or not at all.
#[derive(Clone)]
struct CheckedResolver {
    policy: AddressPolicy,
    look_up: LookUp,
}

impl CheckedResolver {
    async fn addresses(self, name: String) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let addresses = (self.look_up)(name.clone()).await?;
        let is_permitted =
            |address: &IpAddr| self.policy.permits(*address) && (!is_local(&name) || is_loopback(*address));
        if !addresses.iter().all(is_permitted) {
            return Err(BlockedName.into());
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = self.clone().addresses(name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(addresses.await?.into_iter()) as Addrs) })
    }
}

/// Whether a name is one of this machine (RFC 6761).
fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Sends webhooks; cheap to clone.
#[derive(Clone)]
pub struct WebhookClient {
    client: Client,
    resolver: CheckedResolver,
}

impl std::fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookClient").field("policy", &self.resolver.policy).finish_non_exhaustive()
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS.
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    /// HTTP.
    #[error("HTTP")]
    Http(#[from] reqwest::Error),
}

impl WebhookClient {
    /// A client that connects to the permitted addresses.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn new(policy: AddressPolicy) -> Result<Self, ClientError> {
        Self::with_look_up(policy, Arc::new(system_look_up))
    }

    fn with_look_up(policy: AddressPolicy, look_up: LookUp) -> Result<Self, ClientError> {
        let resolver = CheckedResolver { policy, look_up };
        let client = client::builder()?
            .dns_resolver(resolver.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .referer(false)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, resolver })
    }

    /// Checks a URL before it is accepted, and the addresses of its name. A name that cannot be looked up now is accepted: each delivery checks it
    /// again.
    ///
    /// # Errors
    ///
    /// [`UrlError`].
    pub async fn check(&self, url: &str) -> Result<(), UrlError> {
        let url = self.parse(url)?;
        let host = url.host_str().unwrap_or_default();
        if literal(host).is_some() {
            return Ok(());
        }
        match timeout(LOOK_UP_TIMEOUT, self.resolver.clone().addresses(host.to_owned())).await {
            Ok(Err(error)) if error.is::<BlockedName>() => Err(UrlError::Address),
            _ => Ok(()),
        }
    }

    /// Parses a URL, and checks all of it but the addresses of a name.
    fn parse(&self, text: &str) -> Result<Url, UrlError> {
        if text.len() > MAX_URL_BYTES {
            return Err(UrlError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| UrlError::Malformed)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlError::Malformed)?;
        let address = literal(host);
        let is_on_loopback = address.map_or_else(|| is_local(host), is_loopback);
        match url.scheme() {
            "https" => {}
            "http" if is_on_loopback && self.resolver.policy == AddressPolicy::Private => {}
            _ => return Err(UrlError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::UserInfo);
        }
        // The client connects to an address in a URL without asking the resolver.
        if address.is_some_and(|address| !self.resolver.policy.permits(address)) {
            return Err(UrlError::Address);
        }
        Ok(url)
    }

    /// Sends `body`, which is JSON, with its signature. Returns the content of a 2xx answer; an empty one where it is larger than
    /// [`MAX_ANSWER_BYTES`].
    ///
    /// # Errors
    ///
    /// [`WebhookError`]; the receiver may have received it all the same.
    pub async fn post(
        &self,
        url: &str,
        body: Bytes,
        signature: &str,
        within: Duration,
    ) -> Result<Vec<u8>, WebhookError> {
        let signature = HeaderValue::from_str(signature).map_err(|_| WebhookError::Signature)?;
        let build = |client: &Client, url: Url| {
            client
                .post(url)
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .header(&WEBHOOK_SIGNATURE, signature)
                .body(body)
        };
        self.ask(url, build, within).await
    }

    /// Sends the request that `build` makes for a URL. Returns the content of a 2xx answer, as [`Self::post`] does.
    ///
    /// # Errors
    ///
    /// [`WebhookError`].
    pub(super) async fn ask(
        &self,
        url: &str,
        build: impl FnOnce(&Client, Url) -> RequestBuilder,
        within: Duration,
    ) -> Result<Vec<u8>, WebhookError> {
        let request = build(&self.client, self.parse(url)?);
        let answered = timeout(within, async {
            let mut response = request.send().await.map_err(failure)?;
            if !response.status().is_success() {
                return Err(WebhookError::Status(response.status()));
            }
            let mut content = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(failure)? {
                if content.len() + piece.len() > MAX_ANSWER_BYTES {
                    return Ok(Vec::new());
                }
                content.extend_from_slice(&piece);
            }
            Ok(content)
        });
        answered.await.unwrap_or(Err(WebhookError::Timeout(within)))
    }
}

/// The failure of a request. The URL is the subscription's own, and is not repeated.
fn failure(error: reqwest::Error) -> WebhookError {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(next) = cause {
        if next.is::<BlockedName>() {
            return UrlError::Address.into();
        }
        cause = next.source();
    }
    WebhookError::Connect(error.without_url())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn client(policy: AddressPolicy, addresses: &'static [&'static str]) -> WebhookClient {
        let look_up = move |_name| {
            let found = addresses.iter().map(|text| text.parse().unwrap()).collect();
            Box::pin(std::future::ready(Ok(found))) as BoxFuture<'static, _>
        };
        WebhookClient::with_look_up(policy, Arc::new(look_up)).unwrap()
    }

    /// Answers every request with `answer`; counts connections.
    async fn receiver(answer: String) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let _read = socket.read(&mut request).await;
                    let _sent = socket.write_all(answer.as_bytes()).await;
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        (port, connections)
    }

    async fn post(client: &WebhookClient, url: &str, within: Duration) -> Result<Vec<u8>, WebhookError> {
        client.post(url, Bytes::from_static(b"{}"), "t=1,kid=ds_x,ed25519=y", within).await
    }

    #[tokio::test]
    async fn urls_are_https_and_http_leads_only_to_this_machine_where_that_is_allowed() {
        let (public, private) =
            (client(AddressPolicy::Public, &["1.1.1.1"]), client(AddressPolicy::Private, &["127.0.0.1"]));
        let long = format!("https://example.com/{}", "x".repeat(MAX_URL_BYTES));
        for (url, in_public, in_private) in [
            ("https://example.com/hook", Ok(()), Ok(())),
            ("https://1.1.1.1:8443/", Ok(()), Ok(())),
            ("http://example.com/hook", Err(UrlError::Scheme), Err(UrlError::Scheme)),
            ("http://10.0.0.1/hook", Err(UrlError::Scheme), Err(UrlError::Scheme)),
            ("https://10.0.0.1/hook", Err(UrlError::Address), Ok(())),
            ("http://127.0.0.1:9/hook", Err(UrlError::Scheme), Ok(())),
            ("http://localhost:9/hook", Err(UrlError::Scheme), Ok(())),
            ("http://[::1]:9/", Err(UrlError::Scheme), Ok(())),
            // The forms of 127.0.0.1 that the URL standard knows.
            ("https://2130706433/", Err(UrlError::Address), Ok(())),
            ("https://0x7f.1/", Err(UrlError::Address), Ok(())),
            ("https://[::ffff:7f00:1]/", Err(UrlError::Address), Ok(())),
            ("https://169.254.169.254/", Err(UrlError::Address), Err(UrlError::Address)),
            ("http://0.0.0.0/", Err(UrlError::Scheme), Err(UrlError::Scheme)),
            ("https://user:word@example.com/", Err(UrlError::UserInfo), Err(UrlError::UserInfo)),
            ("ftp://example.com/", Err(UrlError::Scheme), Err(UrlError::Scheme)),
            ("file:///etc/passwd", Err(UrlError::Malformed), Err(UrlError::Malformed)),
            ("/hook", Err(UrlError::Malformed), Err(UrlError::Malformed)),
            ("https://", Err(UrlError::Malformed), Err(UrlError::Malformed)),
            ("", Err(UrlError::Malformed), Err(UrlError::Malformed)),
            (long.as_str(), Err(UrlError::TooLong), Err(UrlError::TooLong)),
        ] {
            assert_eq!((public.check(url).await, private.check(url).await), (in_public, in_private), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_is_refused_if_one_of_its_addresses_is() {
        let (port, connections) = receiver("HTTP/1.1 204 No Content\r\n\r\n".to_owned()).await;
        let url = format!("https://receiver.example:{port}/");
        for addresses in [&["1.1.1.1", "127.0.0.1"][..], &["127.0.0.1"], &["::1", "1.1.1.1"]] {
            let client = client(AddressPolicy::Public, addresses);
            assert_eq!(client.check(&url).await, Err(UrlError::Address));
            let refused = post(&client, &url, SOON).await;
            assert!(matches!(refused, Err(WebhookError::Url(UrlError::Address))), "{refused:?}");
        }
        // A name of this machine cannot lead elsewhere without TLS.
        let elsewhere = client(AddressPolicy::Private, &["10.0.0.1"]);
        let refused = post(&elsewhere, "http://localhost:9/", SOON).await;
        assert!(matches!(refused, Err(WebhookError::Url(UrlError::Address))), "{refused:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_delivery_returns_the_content_of_a_2xx_answer_and_follows_no_redirect() {
        let client = client(AddressPolicy::Private, &["127.0.0.1"]);
        let (target, reached) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
        let body = r#"{"done":true}"#;
        let (port, _) =
            receiver(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        let answer = post(&client, &format!("http://localhost:{port}/hook"), SOON).await.unwrap();
        assert_eq!(answer, body.as_bytes());
        for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
            let head = format!("HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:{target}/\r\n");
            let (port, _) = receiver(format!("{head}content-length: 0\r\n\r\n")).await;
            let refused = post(&client, &format!("http://127.0.0.1:{port}/"), SOON).await;
            assert!(
                matches!(refused, Err(WebhookError::Status(found)) if status.starts_with(found.as_str())),
                "{refused:?}"
            );
        }
        assert_eq!(reached.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_receiver_that_never_answers_or_answers_without_end_is_left() {
        let client = client(AddressPolicy::Private, &[]);
        let (port, _) = receiver(String::new()).await;
        let refused = post(&client, &format!("http://127.0.0.1:{port}/"), Duration::from_millis(50)).await;
        assert!(matches!(refused, Err(WebhookError::Timeout(_))), "{refused:?}");
        let content = format!("{{\"done\":true}}{}", " ".repeat(MAX_ANSWER_BYTES));
        let (port, _) =
            receiver(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{content}", content.len())).await;
        assert_eq!(post(&client, &format!("http://127.0.0.1:{port}/"), SOON).await.unwrap(), b"");
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let refused = post(&client, &format!("http://127.0.0.1:{closed}/"), SOON).await;
        assert!(matches!(refused, Err(WebhookError::Connect(_))), "{refused:?}");
        assert!(!refused.unwrap_err().to_string().contains("127.0.0.1"));
    }
}
