//! Watches of paths: what a live reader waits for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::path::StreamPath;

/// The watches of a path share a channel of the number of wake-ups so far.
type Channels = Mutex<HashMap<StreamPath, watch::Sender<u64>>>;

/// The watches of a store, by path. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watches(Arc<Channels>);

impl Watches {
    /// Watches a path from now on. `ended` is called when the last watch of the path has ended.
    pub fn watch(&self, path: &StreamPath, ended: Option<Arc<dyn WatchEnded>>) -> StreamWatch {
        let mut watches = self.0.lock();
        let receiver = match watches.get(path) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(0);
                watches.insert(path.clone(), sender);
                receiver
            }
        };
        StreamWatch { path: path.clone(), receiver: Some(receiver), watches: Arc::downgrade(&self.0), ended }
    }

    /// Wakes the watches of a path.
    pub fn wake(&self, path: &StreamPath) {
        // Woken tasks take no lock of this.
        if let Some(sender) = self.0.lock().get(path) {
            sender.send_modify(count);
        }
    }

    /// Wakes all watches, of which some may have missed a change.
    pub fn wake_all(&self) {
        for sender in self.0.lock().values() {
            sender.send_modify(count);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Whether a path is watched.
    pub fn has(&self, path: &StreamPath) -> bool {
        self.0.lock().contains_key(path)
    }

    /// The paths that are watched.
    pub fn paths(&self) -> Vec<StreamPath> {
        self.0.lock().keys().cloned().collect()
    }
}

fn count(wake_ups: &mut u64) {
    *wake_ups = wake_ups.wrapping_add(1);
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watches").field(&self.0.lock().len()).finish()
    }
}

/// Hears of the end of a path's last watch.
pub trait WatchEnded: Send + Sync {
    /// The last watch of the path has ended. Must return at once.
    fn ended(&self, path: &StreamPath);
}

/// A watch of a path. While it is held, a stream there does not end by its TTL.
pub struct StreamWatch {
    path: StreamPath,
    receiver: Option<watch::Receiver<u64>>,
    watches: Weak<Channels>,
    ended: Option<Arc<dyn WatchEnded>>,
}

impl StreamWatch {
    /// Resolves when the stream may have grown, was closed, deleted or created since the last return, or since the watch began. Cancel-safe.
    pub async fn changed(&mut self) {
        let is_open = match &mut self.receiver {
            Some(receiver) => receiver.changed().await.is_ok(),
            None => false,
        };
        if !is_open {
            // The store is gone, and with it every change.
            std::future::pending::<()>().await;
        }
    }
}

impl StreamWatch {
    /// The number of wake-ups that all watches of the path have in common. What is read behind this call holds for it: [`Self::changed`] resolves for later ones
    /// only.
    pub fn version(&mut self) -> u64 {
        self.receiver.as_mut().map_or(0, |receiver| *receiver.borrow_and_update())
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        let Some(watches) = self.watches.upgrade() else { return };
        {
            let mut watches = watches.lock();
            // Under the lock, so that no other watch begins in between.
            drop(self.receiver.take());
            if watches.get(&self.path).is_none_or(|sender| sender.receiver_count() > 0) {
                return;
            }
            watches.remove(&self.path);
        }
        if let Some(ended) = &self.ended {
            ended.ended(&self.path);
        }
    }
}

impl fmt::Debug for StreamWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamWatch").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    struct Count(AtomicUsize);

    impl WatchEnded for Count {
        fn ended(&self, _: &StreamPath) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_watch_wakes_for_changes_of_its_path_since_it_began() {
        let (watches, count) = (Watches::default(), Arc::new(Count(AtomicUsize::new(0))));
        let (a, b) = (StreamPath::new("a").unwrap(), StreamPath::new("b").unwrap());
        let ended = || Some(Arc::clone(&count) as Arc<dyn WatchEnded>);
        let (mut one, mut other) = (watches.watch(&a, ended()), watches.watch(&a, ended()));
        assert!(one.changed().now_or_never().is_none());
        watches.wake(&b);
        assert!(one.changed().now_or_never().is_none());
        watches.wake(&a);
        watches.wake(&a);
        assert!(one.changed().now_or_never().is_some() && one.changed().now_or_never().is_none());
        assert!(watches.watch(&a, None).changed().now_or_never().is_none());
        assert_eq!((one.version(), watches.watch(&a, None).version()), (2, 2));
        watches.wake_all();
        assert_eq!((one.version(), one.changed().now_or_never()), (3, None));
        assert!(other.changed().now_or_never().is_some());
        drop(one);
        assert!(watches.has(&a) && count.0.load(Ordering::Relaxed) == 0);
        drop(other);
        assert!(!watches.has(&a) && count.0.load(Ordering::Relaxed) == 1);
        assert_eq!(watches.paths(), []);
    }
}
