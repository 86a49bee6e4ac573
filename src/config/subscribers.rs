//! Limits of subscribers: how many there may be, and how much may wait for them.

use super::Config;

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
    /// Milliseconds between two polls for changes of other nodes.
    pub feed_poll_ms: u64,
    /// Seconds without an event before a comment.
    pub heartbeat_s: u64,
}

impl Config {
    /// Limits of subscribers.
    pub fn subscriber_limits(&self) -> SubscriberLimits {
        let realtime = &self.realtime;
        SubscriberLimits {
            max_subscribers: realtime.max_followers,
            max_user_subscribers: realtime.max_user_followers,
            max_changes: realtime.follower_changes,
            subscriber_bytes: realtime.follower_bytes,
            subscribers_bytes: realtime.followers_bytes,
            message_bytes: self.conversations.max_message_bytes,
            feed_poll_ms: realtime.feed_poll_ms,
            heartbeat_s: realtime.follower_heartbeat_s,
        }
    }
}
