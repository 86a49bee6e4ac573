//! Events that the followers of a stream share: one of them reads and formats a slice, the others that continue at the same offset take its bytes.
//!
//! An event holds for the wake-up that it was read behind ([`StreamWatch::version`](crate::streams::StreamWatch::version)): after another one there may be more
//! to read. Named events, of connections with many streams, and those of the first read are not shared.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::connection::SMALL_CHUNK_BYTES;
use crate::http::wire::body::{MemoryBudget, MemoryPermit};
use crate::streams::{Offset, StreamHead, StreamPath};

/// The shared events of a service's streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::http::streams) struct SharedEvents(Arc<Mutex<Slots>>);

type Slots = HashMap<StreamPath, Weak<EventSlot>>;

/// The place of a stream's last shared event, which its followers hold.
#[derive(Debug)]
pub(super) struct EventSlot {
    path: StreamPath,
    slots: Weak<Mutex<Slots>>,
    event: Mutex<Option<Arc<SharedEvent>>>,
}

/// A slice as events.
#[derive(Debug)]
pub(super) struct SharedEvent {
    /// The version of the watch before the slice was read.
    pub(super) version: u64,
    pub(super) stream: Arc<StreamHead>,
    /// The offset of its first byte, and the one at which its followers continue.
    pub(super) from: Offset,
    pub(super) at: Offset,
    /// The last byte before that is CR.
    pub(super) after_cr: bool,
    pub(super) is_tail: bool,
    /// The event `data`; empty where nothing is to be written.
    pub(super) data: Bytes,
    /// The event `control`.
    pub(super) control: Bytes,
    /// The cursor in it; `None`: the stream is closed.
    pub(super) cursor: Option<u64>,
    pub(super) permit: Option<MemoryPermit>,
}

impl SharedEvents {
    /// The slot of a stream.
    pub(super) fn slot(&self, path: &StreamPath) -> Arc<EventSlot> {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.get(path).and_then(Weak::upgrade) {
            return slot;
        }
        let slot = Arc::new(EventSlot {
            path: path.clone(),
            slots: Arc::downgrade(&self.0),
            event: Mutex::new(None),
        });
        slots.insert(path.clone(), Arc::downgrade(&slot));
        slot
    }
}

impl EventSlot {
    /// The event of a slice from an offset on, if it holds for a version.
    pub(super) fn get(&self, from: Offset, version: u64) -> Option<Arc<SharedEvent>> {
        let event = self.event.lock();
        event.as_ref().filter(|event| event.from == from && event.version == version).map(Arc::clone)
    }

    /// Whether others follow the stream: one of the handles is the caller's.
    pub(super) fn is_shared(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    /// Shares an event, if there is memory for it.
    pub(super) fn put(&self, mut event: SharedEvent, memory: &Arc<MemoryBudget>) {
        let bytes = event.data.len() + event.control.len();
        if bytes > SMALL_CHUNK_BYTES {
            let mut permit = MemoryPermit::new(memory);
            if permit.grow(bytes).is_err() {
                return;
            }
            event.permit = Some(permit);
        }
        let former = self.event.lock().replace(Arc::new(event));
        drop(former);
    }
}

impl Drop for EventSlot {
    fn drop(&mut self) {
        let Some(slots) = self.slots.upgrade() else { return };
        let mut slots = slots.lock();
        // Another one may have come in its place.
        if slots.get(&self.path).is_some_and(|slot| slot.strong_count() == 0) {
            slots.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::streams::sse::form::tests::text_stream;

    fn event(from: u64, version: u64, data: Bytes) -> SharedEvent {
        let stream = text_stream();
        SharedEvent {
            version,
            stream: Arc::new(stream),
            from: Offset(from),
            at: Offset(9),
            after_cr: false,
            is_tail: true,
            data,
            control: Bytes::new(),
            cursor: None,
            permit: None,
        }
    }

    #[test]
    fn an_event_is_for_those_at_its_offset_and_for_one_wake_up() {
        let (events, memory) = (SharedEvents::default(), MemoryBudget::new(10_000));
        let path = StreamPath::new("a").unwrap();
        let one = events.slot(&path);
        assert!(!one.is_shared());
        let other = events.slot(&path);
        assert!(one.is_shared());
        one.put(event(3, 7, Bytes::from_static(b"x")), &memory);
        assert_eq!(other.get(Offset(3), 7).unwrap().data, "x");
        assert!(other.get(Offset(2), 7).is_none() && other.get(Offset(3), 8).is_none());
        // Large ones count, and give way to what needs the memory.
        other.put(event(9, 8, Bytes::from(vec![b'x'; 9_000])), &memory);
        assert_eq!((one.get(Offset(9), 8).is_some(), memory.used() >= 9_000), (true, true));
        one.put(event(9, 9, Bytes::from(vec![b'x'; 9_000])), &memory);
        assert!(one.get(Offset(9), 9).is_none());
        drop((one, other));
        assert_eq!((memory.used(), events.0.lock().len()), (0, 0));
    }
}
