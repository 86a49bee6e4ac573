//! Listening, connections, and the limits of requests.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use super::setting::address;
use super::{Kind, Setting};

/// Listening, connections, and the limits of requests.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerConfig {
    /// Address to listen on.
    #[serde(deserialize_with = "host")]
    pub host: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// Threads that serve requests; 0: half the cores.
    pub http_threads: usize,
    /// Client connections at once.
    pub max_connections: usize,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// Bytes of request bodies under way, all together.
    pub max_body_memory: u64,
    /// Seconds for a request's head.
    pub header_timeout_s: u64,
    /// Seconds for a request's body.
    pub body_timeout_s: u64,
    /// Seconds that a connection may be idle.
    pub idle_timeout_s: u64,
    /// Seconds for a shutdown.
    pub shutdown_timeout_s: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting { name: "HOST", default: "127.0.0.1", kind: Kind::Address, help: "Address to listen on." },
    Setting {
        name: "PORT",
        default: "3000",
        kind: Kind::Int { min: 0, max: 65_535, unit: "TCP port; 0 takes a free one" },
        help: "Port to listen on.",
    },
    Setting {
        name: "HTTP_THREADS",
        default: "0",
        kind: Kind::Int {
            min: 0,
            max: 256,
            unit: "threads; 0: half the cores, as Postgres needs the others",
        },
        help: "Threads that serve requests.",
    },
    Setting {
        name: "MAX_CONNECTIONS",
        default: "10000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "connections" },
        help: "Client connections at once; further ones are answered 503 and closed.",
    },
    Setting {
        name: "MAX_HEADER_BYTES",
        default: "32768",
        kind: Kind::Int { min: 8_192, max: 1_048_576, unit: "bytes" },
        help: "Size of a request's head; a larger one is answered 431.",
    },
    Setting {
        name: "MAX_BODY_MEMORY",
        default: "134217728",
        kind: Kind::Int { min: 33_554_432, max: 1_099_511_627_775, unit: "bytes" },
        help: "Bytes of request bodies under way, all together; beyond it requests are answered 503.",
    },
    Setting {
        name: "HEADER_TIMEOUT_S",
        default: "10",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time for a request's head, from its first byte.",
    },
    Setting {
        name: "BODY_TIMEOUT_S",
        default: "30",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time for a request's body.",
    },
    Setting {
        name: "IDLE_TIMEOUT_S",
        default: "75",
        kind: Kind::Int { min: 1, max: 86_400, unit: "seconds" },
        help: "Time that a connection may wait for its next request, or for its client to read.",
    },
    Setting {
        name: "SHUTDOWN_TIMEOUT_S",
        default: "30",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time for answering, draining and stopping after SIGTERM.",
    },
];

fn host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    address(&text).ok_or_else(|| serde::de::Error::custom("not an address"))
}

impl ServerConfig {
    /// Threads that serve requests, at least one.
    pub fn http_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if self.http_threads == 0 { (cores / 2).max(1) } else { self.http_threads }
    }
}
