//! The HTTP client of all connections to other services.

use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use rustls::{ClientConfig, RootCertStore};

/// A client that trusts the system's certificates, as they are now. It follows no redirect and uses no proxy: only the URL of a request is
/// trusted.
///
/// # Errors
///
/// If the TLS library has no usable protocol.
pub(super) fn builder() -> Result<ClientBuilder, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::builder().tls_backend_preconfigured(tls).redirect(Policy::none()).no_proxy())
}
