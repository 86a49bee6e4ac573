//! Listeners for changes of streams: subscriptions and the registry.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::content_type::ContentType;
use super::offset::Offset;
use super::path::StreamPath;
use super::stream_store::StreamId;
use crate::time::Micros;

/// A change of a stream that is durable.
#[derive(Debug, Clone)]
pub struct StreamEvent {
    /// The path.
    pub path: StreamPath,
    /// The stream.
    pub id: StreamId,
    /// Its end behind the change.
    pub tail: Offset,
    /// The change.
    pub kind: StreamEventKind,
}

/// The kind of a change.
#[derive(Debug, Clone)]
pub enum StreamEventKind {
    /// It was created, with a body if `tail` is behind the start.
    Created {
        /// Its type.
        content_type: ContentType,
        /// The time.
        at: Micros,
        /// Its first own position: the start, or the place where a fork begins to differ.
        start: Offset,
    },
    /// It has grown, and may be closed.
    Appended,
    /// It was closed without growing.
    Closed,
    /// It was deleted, or has expired.
    Deleted,
}

/// A listener for changes. In Postgres mode each node reports the changes that it made itself.
pub trait StreamListener: fmt::Debug + Send + Sync + 'static {
    /// Hears of a change. Must return at once: writers wait for it.
    fn changed(&self, event: &StreamEvent);
}

/// The listeners of a store.
#[derive(Debug, Default)]
pub struct Listeners(RwLock<Vec<Arc<dyn StreamListener>>>);

impl Listeners {
    /// Adds one.
    pub fn add(&self, listener: Arc<dyn StreamListener>) {
        self.0.write().push(listener);
    }

    /// Reports a change. `event` is made only for listeners.
    pub fn report(&self, event: impl FnOnce() -> StreamEvent) {
        let listeners = self.0.read();
        if listeners.is_empty() {
            return;
        }
        let event = event();
        for listener in &*listeners {
            listener.changed(&event);
        }
    }
}
