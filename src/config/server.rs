//! Listening, connections, and the limits of requests.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::ServerConfig;
use super::setting::address;

pub(super) fn host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    address(&text).ok_or_else(|| serde::de::Error::custom("not an address"))
}

impl ServerConfig {
    /// Time for a request's head.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs((self.body_timeout_s / 3).max(1))
    }

    /// Threads that serve requests, at least one.
    pub fn http_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if self.http_threads == 0 { (cores / 2).max(1) } else { self.http_threads }
    }
}
