//! A subscription as a store keeps it, and what decisions on it see and change.

use std::sync::Arc;

use super::super::{Offset, StreamId, StreamPath};
use super::config::{SubscriptionConfig, SubscriptionId};
use super::wake::{Link, Moment, WakeState};
use crate::time::Micros;

/// Links of one answer, wake or message to a webhook.
pub const MAX_SHOWN_LINKS: usize = 1_000;

/// The number of a subscription. None is used twice, though an id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionNumber(pub u64);

/// A subscription without the state of its delivery.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// Its number.
    pub number: SubscriptionNumber,
    /// Its configuration.
    pub config: Arc<SubscriptionConfig>,
    /// The time of its creation.
    pub created_at: Micros,
}

/// A subscription as GET shows it.
#[derive(Debug, Clone)]
pub struct SubscriptionView {
    /// The subscription.
    pub subscription: Subscription,
    /// The state of its delivery.
    pub state: WakeState,
    /// Links, at most [`MAX_SHOWN_LINKS`], in the order of their paths.
    pub links: Vec<Link>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A subscription under its lock.
pub(super) struct Locked<'a> {
    /// The subscription.
    pub(super) subscription: &'a Subscription,
    /// Its state, which is stored afterwards.
    pub(super) state: &'a mut WakeState,
    /// The links and the time. Their acknowledged offsets are stored afterwards.
    pub(super) moment: Moment<'a>,
}

/// The links that a decision sees, beside those that are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Those with pending data, then others, [`MAX_SHOWN_LINKS`] together.
    ToShow,
    /// Enough of those with pending data to know whether there is another one than those that are named.
    Pending,
}

/// A link as it is stored: with the stream whose offset was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredLink {
    pub(super) stream: Option<StreamId>,
    pub(super) acked: Offset,
    pub(super) is_explicit: bool,
}

/// A living stream, as far as links depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkedStream {
    pub(super) id: StreamId,
    /// Its first own position: 0, or the place where a fork begins to differ.
    pub(super) start: Offset,
    pub(super) tail: Offset,
}

impl StoredLink {
    /// The link to the stream that lives at its path now. Offsets of an earlier one at the same path have no meaning for it.
    pub(super) fn resolve(self, path: &StreamPath, stream: Option<LinkedStream>) -> Link {
        let (acked, tail) = match stream {
            Some(stream) if self.stream == Some(stream.id) => (self.acked, stream.tail),
            Some(stream) => (stream.start, stream.tail),
            None => (Offset::START, Offset::START),
        };
        let stream = stream.map(|stream| stream.id);
        Link { path: path.clone(), stream, is_explicit: self.is_explicit, acked, tail }
    }
}
