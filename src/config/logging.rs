//! Logs.

use serde::Deserialize;

use super::{Kind, Setting};

/// Logs.
#[derive(Debug, Clone, Deserialize)]
pub struct LoggingConfig {
    /// What is logged.
    pub log: String,
    /// How it is written.
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "LOG",
        default: "info",
        kind: Kind::Text(
            "a level (error, warn, info, debug, trace) or directives such as info,tidegate=debug",
        ),
        help: "What is logged, to stderr; at debug one line a request.",
    },
    Setting {
        name: "LOG_FORMAT",
        default: "auto",
        kind: Kind::OneOf(&["auto", "human", "json"]),
        help: "How it is written: auto is human on a terminal and JSON otherwise.",
    },
];
