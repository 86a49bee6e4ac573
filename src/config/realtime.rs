//! Following what changes.

use serde::Deserialize;

use super::{Kind, Setting};

/// Following what changes.
#[derive(Debug, Clone, Deserialize)]
pub struct RealtimeConfig {
    /// Milliseconds between two looks for what other nodes changed.
    pub feed_poll_ms: u64,
    /// Followers at once.
    pub max_followers: usize,
    /// Followers of one user at once.
    pub max_user_followers: usize,
    /// Changes that wait for a follower.
    pub follower_changes: usize,
    /// Bytes of the changes that wait for a follower.
    pub follower_bytes: usize,
    /// Bytes of all that is held for followers and that their sockets have not taken.
    pub followers_bytes: usize,
    /// Bytes of the longest message (`MAX_MESSAGE_BYTES`).
    #[serde(skip)]
    pub message_bytes: usize,
    /// Seconds without an event after which a follower is sent a comment, and his token is looked at again.
    pub follower_heartbeat_s: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "FEED_POLL_MS",
        default: "50",
        kind: Kind::Int { min: 5, max: 60_000, unit: "milliseconds" },
        help: "Time between two looks for what other nodes changed, while somebody follows. What this node changes is seen at once.",
    },
    Setting {
        name: "MAX_FOLLOWERS",
        default: "10000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "followers" },
        help: "Followers of conversations at once; further ones are answered 503.",
    },
    Setting {
        name: "MAX_USER_FOLLOWERS",
        default: "100",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "followers" },
        help: "Followers of one user at once; further ones are answered 503. Where nobody has to say who he is, MAX_FOLLOWERS alone counts.",
    },
    Setting {
        name: "FOLLOWER_CHANGES",
        default: "1000",
        kind: Kind::Int { min: 1, max: 1_000_000, unit: "changes" },
        help: "Changes that wait for one follower; beyond it he is cut off, and comes back to where he was.",
    },
    Setting {
        name: "FOLLOWER_BYTES",
        default: "1048576",
        kind: Kind::Int { min: 65_536, max: 1_073_741_824, unit: "bytes" },
        help: "Bytes of the changes that wait for one follower; beyond it he is cut off.",
    },
    Setting {
        name: "FOLLOWERS_BYTES",
        default: "134217728",
        kind: Kind::Int { min: 524_288, max: 1_099_511_627_775, unit: "bytes" },
        help: "Bytes of all that is held for followers and that their sockets have not taken. Half is for what is read of the database for those that catch up, at half a MiB each; the others wait for their turn. Half is for changes and chunks; the slowest followers are cut off before it is used up.",
    },
    Setting {
        name: "FOLLOWER_HEARTBEAT_S",
        default: "15",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time without an event after which a follower is sent an id or a comment, and his token is looked at again.",
    },
];
