//! Connections to Postgres: the URL in libpq's format, TLS, and the attempts at its hosts.
//!
//! The service and the load test connect by the same URLs; this package is what they share, so that building the one does not
//! compile the other.

mod connect;
mod tls;
mod url;

pub use connect::{ConnectError, Connected, Connector, Failure, io_error, is_passing, is_unknown_host};
pub use url::{ConnectionUrl, UrlError};

/// An error with its sources, outermost first.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        // Some wrappers repeat their source.
        if !text.ends_with(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}
