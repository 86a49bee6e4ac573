//! The stress API, and faults on demand.

use serde::Deserialize;

use super::{ConfigError, Kind, NAME, Setting, Switch, Variables, is_name, refuse};

/// The stress API, and faults on demand.
#[derive(Debug, Clone, Deserialize)]
pub struct StressConfig {
    /// Whether `/api/stress` is served; see [`super::Config::serves_stress`].
    pub stress: Option<Switch>,
    /// Whether faults can be injected.
    pub faults: Switch,
    /// Faults at once.
    pub max_faults: usize,
    /// Milliseconds that a fault may delay a request.
    pub max_fault_delay_ms: u64,
    /// Streams of server-sent events at once.
    pub max_sse_streams: usize,
    /// The collection that a run uses if it is told no other.
    pub stress_default_collection: String,
    /// Milliseconds that an error on demand takes if it is told nothing else.
    pub stress_default_delay_ms: u64,
    /// Messages a second that a stream may ask for.
    pub sse_max_rate: u64,
    /// Messages a second of a stream that asks for nothing.
    pub sse_default_rate: u64,
    /// Bytes of one message's data.
    pub sse_max_message_bytes: usize,
    /// Bytes that a stream may owe its client.
    pub sse_buffer_bytes: u64,
    /// Seconds without a message after which a comment is sent.
    pub sse_heartbeat_s: u64,
    /// Milliseconds that clients are told to wait before they connect again.
    pub sse_retry_ms: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "STRESS",
        default: "",
        kind: Kind::Switch,
        help: "Serves /api/stress. Unset: on with AUTH=open, off with AUTH=required.",
    },
    Setting {
        name: "STRESS_DEFAULT_COLLECTION",
        default: "stress_test_items",
        kind: Kind::Text(NAME),
        help: "The collection that /api/stress/config names to stress runs.",
    },
    Setting {
        name: "STRESS_DEFAULT_DELAY_MS",
        default: "500",
        kind: Kind::Int { min: 1, max: 600_000, unit: "milliseconds" },
        help: "What /api/stress/error/timeout takes where delay_ms is left out; at most MAX_STRESS_DELAY_MS.",
    },
    Setting {
        name: "FAULTS",
        default: "off",
        kind: Kind::Switch,
        help: "Serves /_test/inject-error, by which clients make the service fail on purpose.",
    },
    Setting {
        name: "MAX_FAULTS",
        default: "100",
        kind: Kind::Int { min: 1, max: 10_000, unit: "faults" },
        help: "Faults at once, one a path.",
    },
    Setting {
        name: "MAX_FAULT_DELAY_MS",
        default: "60000",
        kind: Kind::Int { min: 1, max: 3_600_000, unit: "milliseconds" },
        help: "The longest that a fault may delay a request, its jitter included.",
    },
    Setting {
        name: "MAX_SSE_STREAMS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "streams" },
        help: "Streams of server-sent events at once; further ones are answered 503.",
    },
    Setting {
        name: "SSE_MAX_RATE",
        default: "10000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "messages a second" },
        help: "The most that a stream of the stress API may ask for.",
    },
    Setting {
        name: "SSE_DEFAULT_RATE",
        default: "10",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "messages a second" },
        help: "What a stream of the stress API that names no rate gets.",
    },
    Setting {
        name: "SSE_MAX_MESSAGE_BYTES",
        default: "65536",
        kind: Kind::Int { min: 256, max: 1_048_576, unit: "bytes" },
        help: "Size of one message's data that a stream of the stress API may ask for.",
    },
    Setting {
        name: "SSE_BUFFER_BYTES",
        default: "1048576",
        kind: Kind::Int { min: 65_536, max: 1_073_741_824, unit: "bytes" },
        help: "Messages that are due and that a client does not read; beyond it the stream is cut off.",
    },
    Setting {
        name: "SSE_HEARTBEAT_S",
        default: "15",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time without a message after which a stream is sent a comment.",
    },
    Setting {
        name: "SSE_RETRY_MS",
        default: "1000",
        kind: Kind::Int { min: 0, max: 3_600_000, unit: "milliseconds" },
        help: "Time that clients of a stream are told to wait before they connect again.",
    },
];

impl StressConfig {
    pub(super) fn check(&mut self, variables: &Variables) -> Result<(), ConfigError> {
        if !variables.is_set("SSE_DEFAULT_RATE") {
            self.sse_default_rate = self.sse_default_rate.min(self.sse_max_rate);
        }
        if self.sse_default_rate > self.sse_max_rate {
            let takes = format!("at most SSE_MAX_RATE, {}", self.sse_max_rate);
            return Err(refuse("SSE_DEFAULT_RATE", self.sse_default_rate, takes));
        }
        if !is_name(&self.stress_default_collection) {
            return Err(refuse("STRESS_DEFAULT_COLLECTION", &self.stress_default_collection, NAME));
        }
        Ok(())
    }
}
