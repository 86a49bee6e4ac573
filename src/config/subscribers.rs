//! Limits of subscribers: how many there may be, and how much may wait for them.

use super::Config;

/// What a change that waits for a subscriber counts at least.
const LEAST_CHANGE_BYTES: usize = 1024;

/// Limits of subscribers.
#[derive(Debug, Clone)]
pub struct SubscriberLimits {
    /// Subscribers at once.
    pub max_subscribers: usize,
    /// Subscribers of one user at once.
    pub max_user_subscribers: usize,
    /// Changes that wait for one subscriber.
    pub max_changes: usize,
    /// Bytes of the changes that wait for one subscriber.
    pub subscriber_bytes: usize,
    /// Bytes held for all subscribers together.
    pub subscribers_bytes: usize,
    /// Bytes of the longest message (`MAX_MESSAGE_BYTES`).
    pub message_bytes: usize,
    /// Seconds without an event before a comment.
    pub heartbeat_s: u64,
}

impl Config {
    /// Limits of subscribers.
    pub fn subscriber_limits(&self) -> SubscriberLimits {
        let subscribers = &self.subscribers;
        SubscriberLimits {
            max_subscribers: subscribers.max_subscribers,
            max_user_subscribers: subscribers.max_user_subscribers,
            max_changes: subscribers.subscriber_bytes / LEAST_CHANGE_BYTES,
            subscriber_bytes: subscribers.subscriber_bytes,
            subscribers_bytes: usize::try_from(self.memory().subscribers).unwrap_or(usize::MAX),
            message_bytes: self.conversations.max_message_bytes,
            heartbeat_s: subscribers.sse_heartbeat_s,
        }
    }

    /// Streams of the stress API at once.
    pub fn max_stress_streams(&self) -> usize {
        (self.subscribers.max_subscribers / 5).max(1)
    }

    /// Subscribers of imports' progress at once.
    pub fn max_import_subscribers(&self) -> usize {
        (self.subscribers.max_subscribers / 50).max(1)
    }
}
