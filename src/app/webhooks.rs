//! Webhooks of subscriptions to streams: their sender, and the URLs that they name.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::config::Config;
use crate::outbound::AddressPolicy;
use crate::outbound::webhooks::{ClientError, WebhookClient};
use crate::streams::subscriptions::{PublicUrls, WebhookSender};

/// The addresses that URLs of clients may lead to.
pub(super) fn policy(config: &Config) -> AddressPolicy {
    match config.streams.webhook_allow_private.is_on() {
        true => AddressPolicy::Private,
        false => AddressPolicy::Public,
    }
}

/// The client, as subscriptions see it.
#[derive(Debug)]
pub(super) struct Sender(WebhookClient);

impl Sender {
    /// A sender to the addresses that the settings permit.
    pub(super) fn new(config: &Config) -> Result<Self, ClientError> {
        WebhookClient::new(policy(config)).map(Self)
    }
}

impl WebhookSender for Sender {
    fn check<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move { self.0.check(url).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn send<'a>(
        &'a self,
        url: &'a str,
        body: Bytes,
        signature: String,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        async move {
            let sent = self.0.post(url, body, &signature, within).await;
            sent.map_err(|error| {
                tracing::debug!(error = crate::db::chain(&error), "a webhook failed");
                error.to_string()
            })
        }
        .boxed()
    }
}

/// The URLs of the service. Without `PUBLIC_URL` they are those of the address that it listens on, if that is of this machine alone: a client's
/// `Host` could lead callbacks and keys elsewhere.
pub(super) fn urls(config: &Config, address: SocketAddr) -> PublicUrls {
    let own = || address.ip().is_loopback().then(|| format!("http://{address}"));
    PublicUrls::new(config.server.public_url.clone().or_else(own))
}
