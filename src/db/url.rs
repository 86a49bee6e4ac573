//! The connection URL, in the form that libpq's programs take too.
//!
//! tokio-postgres knows neither `sslmode=verify-ca|verify-full` nor `sslrootcert`; they are taken out of the URL here
//! and turned into what [`super::tls`] does. Everything else is left to tokio-postgres.

use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// How far the server's certificate is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verification {
    /// Encrypted, and nothing more: `prefer` and `require`, as libpq does.
    None,
    /// Signed by a root that we trust: `verify-ca`.
    Authority,
    /// And issued for the host's name: `verify-full`.
    Full,
}

/// Whose signature is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those of the operating system.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// A parsed connection URL.
#[derive(Debug, Clone)]
pub struct ConnectionUrl {
    pub(super) config: Config,
    pub(super) verification: Verification,
    pub(super) roots: Roots,
}

/// What is wrong with a connection URL; never quotes it, as it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is not a URL of this kind.
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    /// A parameter has a value that it does not take.
    #[error("sslmode is one of disable, prefer, require, verify-ca, verify-full")]
    SslMode,
    /// The rest was refused.
    #[error("{0}")]
    Invalid(String),
}

impl ConnectionUrl {
    /// Parses a `postgres://` URL.
    ///
    /// # Errors
    ///
    /// [`UrlError`] says what is wrong without quoting the URL.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(UrlError::Scheme);
        }
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut ssl_mode = SslMode::Prefer;
        let mut verification = Verification::None;
        let mut roots = None;
        let mut rest = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match name {
                "sslmode" => (ssl_mode, verification) = parse_ssl_mode(&value)?,
                "sslrootcert" if value == "system" => roots = Some(Roots::System),
                "sslrootcert" => roots = Some(Roots::File(PathBuf::from(value.as_ref()))),
                _ => rest.push(parameter),
            }
        }
        // libpq: with a root certificate named, `require` verifies as `verify-ca` does.
        if ssl_mode == SslMode::Require && verification == Verification::None && roots.is_some() {
            verification = Verification::Authority;
        }
        let address =
            if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
        let mut config =
            Config::from_str(&address).map_err(|error| UrlError::Invalid(super::chain(&error)))?;
        config.ssl_mode(ssl_mode);
        if config.get_application_name().is_none() {
            config.application_name("tidegate");
        }
        Ok(Self { config, verification, roots: roots.unwrap_or(Roots::System) })
    }
}

fn parse_ssl_mode(value: &str) -> Result<(SslMode, Verification), UrlError> {
    Ok(match value {
        "disable" => (SslMode::Disable, Verification::None),
        "allow" | "prefer" => (SslMode::Prefer, Verification::None),
        "require" => (SslMode::Require, Verification::None),
        "verify-ca" => (SslMode::Require, Verification::Authority),
        "verify-full" => (SslMode::Require, Verification::Full),
        _ => return Err(UrlError::SslMode),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ssl_mode_is_understood() {
        for (mode, ssl, verification) in [
            ("disable", SslMode::Disable, Verification::None),
            ("prefer", SslMode::Prefer, Verification::None),
            ("require", SslMode::Require, Verification::None),
            ("verify-ca", SslMode::Require, Verification::Authority),
            ("verify-full", SslMode::Require, Verification::Full),
        ] {
            let url =
                ConnectionUrl::parse(&format!("postgres://u@h/d?sslmode={mode}&connect_timeout=3")).unwrap();
            assert_eq!((url.config.get_ssl_mode(), url.verification), (ssl, verification), "{mode}");
            assert_eq!(url.config.get_connect_timeout().map(|time| time.as_secs()), Some(3));
        }
        let url =
            ConnectionUrl::parse("postgres://u@h/d?sslmode=require&sslrootcert=%2Ftmp%2Fca.pem").unwrap();
        assert_eq!(
            (url.verification, url.roots),
            (Verification::Authority, Roots::File("/tmp/ca.pem".into()))
        );
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in
            ["mysql://u:secret@h/d", "postgres://u:secret@h/d?sslmode=maybe", "postgres://u:secret@h:port/d"]
        {
            let error = ConnectionUrl::parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
