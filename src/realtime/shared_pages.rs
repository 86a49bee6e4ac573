//! Pages of the table, each read once for all subscribers that want it at the same time.
//!
//! Many subscribers come back at once after an outage of the network or of a node, most of them at one position. The first of them that gets a
//! read permit reads the page, and all others wait for it: they share its changes, their encoded forms, and its permit, which is released when the
//! last of them has sent the page.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use super::hub::ReadPermit;
use super::store::{ChangeStore, Range};
use super::{Change, Place, Poll, Snapshot};
use crate::db::DbError;

/// The pages that subscribers have now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedPages(Arc<Mutex<HashMap<PageKey, Weak<SharedPage>>>>);

/// What is read: equal keys have equal pages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PageKey {
    pub(super) base: Arc<Snapshot>,
    pub(super) end: Arc<Snapshot>,
    pub(super) after: Place,
    pub(super) topics: Arc<[String]>,
}

/// A page that was read.
#[derive(Debug)]
pub(super) struct ReadPage {
    pub(super) changes: Vec<Arc<Change>>,
    pub(super) poll: Arc<Poll>,
    pub(super) is_full: bool,
    pub(super) is_gone: bool,
    /// The memory of the page.
    _permit: ReadPermit,
}

/// A page, once it is read.
#[derive(Debug)]
pub(super) struct SharedPage {
    pages: SharedPages,
    key: PageKey,
    page: OnceCell<ReadPage>,
    read: Notify,
}

impl SharedPages {
    /// The page of this key: another subscriber's, if there is one.
    pub(super) fn page(&self, key: PageKey) -> Arc<SharedPage> {
        let mut pages = self.0.lock();
        if let Some(page) = pages.get(&key).and_then(Weak::upgrade) {
            return page;
        }
        let (page, read) = (OnceCell::new(), Notify::new());
        let page = Arc::new(SharedPage { pages: self.clone(), key: key.clone(), page, read });
        pages.insert(key, Arc::downgrade(&page));
        page
    }
}

impl SharedPage {
    /// The page, if it was read.
    pub(super) fn get(&self) -> Option<&ReadPage> {
        self.page.get()
    }

    /// Waits until another subscriber has read the page. Cancel-safe.
    pub(super) async fn read_by_another(&self) {
        let mut read = std::pin::pin!(self.read.notified());
        // Before the check, so that nothing between the two is missed.
        read.as_mut().enable();
        if self.page.get().is_none() {
            read.await;
        }
    }

    /// Reads the page, unless another subscriber does.
    ///
    /// # Errors
    ///
    /// [`DbError`]: the next one with a permit tries again.
    pub(super) async fn read(&self, changes: &ChangeStore, permit: ReadPermit) -> Result<&ReadPage, DbError> {
        let reading = async {
            let PageKey { base, end, after, topics } = &self.key;
            let range = Range { base, end: Some(end), after: *after };
            let page = changes.page_of_topics(range, topics).await?;
            Ok(ReadPage {
                changes: page.changes.into_iter().map(Arc::new).collect(),
                poll: page.poll,
                is_full: page.is_full,
                is_gone: page.is_gone,
                _permit: permit,
            })
        };
        let page = self.page.get_or_try_init(|| reading).await;
        self.read.notify_waiters();
        page
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        let mut pages = self.pages.0.lock();
        // Another one may have come in its place.
        if pages.get(&self.key).is_some_and(|page| page.strong_count() == 0) {
            pages.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(xmax: u64, topic: &str) -> PageKey {
        let snapshot = |xmax: u64| Arc::new(Snapshot::parse(&format!("{xmax}:{xmax}:")).unwrap());
        let topics = Arc::from([topic.to_owned()]);
        PageKey { base: snapshot(xmax), end: snapshot(xmax + 9), after: Place::START, topics }
    }

    #[test]
    fn a_page_is_shared_while_somebody_has_it_and_by_those_that_want_the_same() {
        let pages = SharedPages::default();
        let first = pages.page(key(1, "a"));
        assert!(Arc::ptr_eq(&first, &pages.page(key(1, "a"))), "equal snapshots of other polls");
        assert!(
            !Arc::ptr_eq(&first, &pages.page(key(2, "a"))) && !Arc::ptr_eq(&first, &pages.page(key(1, "b")))
        );
        assert_eq!(pages.0.lock().len(), 1, "unused pages are forgotten");
        drop(first);
        assert!(pages.0.lock().is_empty());
    }
}
