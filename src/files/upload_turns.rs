//! Turns of uploads of files of records. Their number is bounded, and one address gets a part of them: guests may upload, and a slow client holds
//! its turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::limits::{MAX_RECORD_UPLOADS, MAX_RECORD_UPLOADS_PER_ADDRESS};

/// The turns of all addresses. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct UploadTurns {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadTurn {
    _of_all: OwnedSemaphorePermit,
    _of_address: OwnedSemaphorePermit,
    // Dropped last.
    _address: Address,
}

/// An address with turns or waits. The last one that is dropped forgets it.
#[derive(Debug)]
struct Address {
    turns: UploadTurns,
    address: IpAddr,
}

impl UploadTurns {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_RECORD_UPLOADS)), by_address: Arc::default() }
    }

    /// Waits for a turn of an address. `None`: none came in time.
    pub(super) async fn take(&self, address: IpAddr, longest: Duration) -> Option<UploadTurn> {
        let taking = async {
            let (of_address, address) = self.of(address);
            let of_address = of_address.acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(UploadTurn { _of_all: of_all, _of_address: of_address, _address: address })
        };
        tokio::time::timeout(longest, taking).await.ok()?
    }

    fn of(&self, address: IpAddr) -> (Arc<Semaphore>, Address) {
        let mut by_address = self.by_address.lock();
        let made = || Arc::new(Semaphore::new(MAX_RECORD_UPLOADS_PER_ADDRESS));
        let semaphore = Arc::clone(by_address.entry(address).or_insert_with(made));
        (semaphore, Address { turns: self.clone(), address })
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut by_address = self.turns.by_address.lock();
        if let Entry::Occupied(entry) = by_address.entry(self.address)
            // Permits and waits hold the others.
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_some_of_the_turns_and_leaves_the_others() {
        let turns = UploadTurns::new();
        let [slow, other, third] = [1, 2, 3].map(|last| IpAddr::from([127, 0, 0, last]));
        let take = async |address| turns.take(address, Duration::from_millis(1)).await;
        let mut held = Vec::new();
        for _ in 0..MAX_RECORD_UPLOADS_PER_ADDRESS {
            held.push(take(slow).await.unwrap());
        }
        assert!(take(slow).await.is_none());
        for _ in MAX_RECORD_UPLOADS_PER_ADDRESS..MAX_RECORD_UPLOADS {
            held.push(take(other).await.unwrap());
        }
        assert!(take(third).await.is_none());
        held.remove(0);
        held.push(take(third).await.unwrap());
        drop(held);
        assert!(turns.by_address.lock().is_empty());
        assert!(take(slow).await.is_some());
    }
}
