//! Durable Streams: where they are kept, and how they are served.

use serde::Deserialize;

use super::{Config, ConfigError, StreamsConfig, refuse};
use crate::time::Millis;

/// Where streams are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamsStoreKind {
    /// In Postgres.
    Postgres,
    /// In memory: they end with the process.
    Memory,
}

pub(super) const TIME_TAKES: &str = "a time such as 2024-10-09T00:00:00Z (RFC 3339)";
pub(super) const REGISTRY_PATH_TAKES: &str =
    "a path below /v1/stream/, such as __registry__: letters, digits, and . _ ~ - between /; not __ds";
pub(super) const PUBLIC_URL_TAKES: &str =
    "a URL of http or https without a / at its end, such as https://streams.example.com";

impl StreamsConfig {
    /// The time at which cursors begin, in microseconds of Unix time.
    pub fn cursor_epoch_us(&self) -> i64 {
        Millis::parse(&self.streams_cursor_epoch).map_or(0, |time| time.0 * 1_000)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if Millis::parse(&self.streams_cursor_epoch).is_none() {
            return Err(refuse("STREAMS_CURSOR_EPOCH", &self.streams_cursor_epoch, TIME_TAKES));
        }
        match &self.streams_registry_path {
            Some(path) if !is_path(path) => Err(refuse("STREAMS_REGISTRY_PATH", path, REGISTRY_PATH_TAKES)),
            _ => Ok(()),
        }
    }
}

/// Whether this is a path that is spelled in one way.
fn is_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain);
    path.len() <= 200 && path.split('/').all(is_segment) && path.split('/').next() != Some("__ds")
}

fn is_public_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_in_url = |byte: u8| byte.is_ascii_graphic() && !b"?#@\\\"<>".contains(&byte);
    rest.is_some_and(|rest| {
        !rest.starts_with(['/', ':'])
            && !rest.is_empty()
            && !rest.ends_with('/')
            && rest.bytes().all(is_in_url)
    })
}

impl Config {
    /// Refuses settings of streams that cannot be read.
    pub(super) fn check_streams(&self) -> Result<(), ConfigError> {
        self.streams.check()?;
        match &self.server.public_url {
            Some(url) if !is_public_url(url) => Err(refuse("PUBLIC_URL", url, PUBLIC_URL_TAKES)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::load;

    #[test]
    fn settings_of_streams_are_read_and_bad_ones_are_named() {
        let config = load(&[]).unwrap();
        assert_eq!(config.streams.cursor_epoch_us(), 1_728_432_000_000_000);
        let good = [
            ("STREAMS_REGISTRY_PATH", "__registry__"),
            ("STREAMS_REGISTRY_PATH", "a/b.c"),
            ("PUBLIC_URL", "https://a.example:8443/base"),
            ("STREAMS_CURSOR_EPOCH", "2020-01-01T00:00:00+01:00"),
        ];
        for setting in good {
            assert!(load(&[setting]).is_ok(), "{setting:?}");
        }
        for (name, value) in [
            ("STREAMS_REGISTRY_PATH", "/a"),
            ("STREAMS_REGISTRY_PATH", "__ds/a"),
            ("STREAMS_REGISTRY_PATH", "a/../b"),
            ("STREAMS_REGISTRY_PATH", "a b"),
            ("PUBLIC_URL", "a.example"),
            ("PUBLIC_URL", "https://"),
            ("PUBLIC_URL", "https://a.example/"),
            ("PUBLIC_URL", "https://user@a.example"),
            ("STREAMS_CURSOR_EPOCH", "yesterday"),
            ("STREAMS_STORE", "disk"),
            ("STREAMS_MAX_ANSWER_BYTES", "127"),
        ] {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: got {value:?}, takes ")), "{error}");
        }
    }
}
