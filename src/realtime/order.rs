//! The order of the changes of large polls, kept for the pages that follow.
//!
//! The order of a poll is known only from all of its changes, so the statement that reads a page looks at each of them. A subscriber that
//! comes back after a while may have hundreds of pages to read: the first is read so, and for the others the order is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Place, Snapshot};

/// The most places that are read and kept for a poll at once: half a megabyte.
pub(super) const MAX_PLACES: i64 = 20_000;
/// The most orders that are kept.
const MAX_ORDERS: usize = 16;

/// A poll of some topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OrderKey {
    pub(super) base: Arc<Snapshot>,
    pub(super) end: Arc<Snapshot>,
    /// `None`: of all topics.
    pub(super) topics: Option<Vec<String>>,
}

/// A change's transaction and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) xid: u64,
    pub(super) place: Place,
}

/// A part of the order of a poll.
#[derive(Debug)]
pub(super) struct PollOrder {
    key: OrderKey,
    /// It begins behind this place.
    after: Place,
    places: Vec<Placed>,
    /// Whether the poll ends with it.
    is_whole: bool,
}

impl PollOrder {
    /// The places behind `after`, of which a read limited to [`MAX_PLACES`] returned these.
    pub(super) fn new(key: OrderKey, after: Place, places: Vec<Placed>) -> Self {
        let is_whole = (places.len() as i64) < MAX_PLACES;
        Self { key, after, places, is_whole }
    }

    /// Up to `limit` places behind `after`, and whether the poll has more. `None`: they are not in this part.
    pub(super) fn page(&self, after: Place, limit: usize) -> Option<(&[Placed], bool)> {
        let start = self.places.partition_point(|placed| placed.place <= after);
        let left = self.places.get(start..).unwrap_or_default();
        let is_known = after >= self.after && (self.is_whole || !left.is_empty());
        let page = left.get(..limit).unwrap_or(left);
        is_known.then_some((page, page.len() < left.len() || !self.is_whole))
    }
}

/// Orders that were used last.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<VecDeque<Arc<PollOrder>>>);

impl Orders {
    /// The part of a poll's order that has the places behind `after`.
    pub(super) fn find(&self, key: &OrderKey, after: Place) -> Option<Arc<PollOrder>> {
        let mut orders = self.0.lock();
        let is_it = |order: &Arc<PollOrder>| order.key == *key && order.page(after, 1).is_some();
        let found = orders.iter().position(is_it)?;
        let order = orders.remove(found)?;
        orders.push_back(Arc::clone(&order));
        Some(order)
    }

    /// Keeps a part; the one that was not used for the longest goes.
    pub(super) fn keep(&self, order: Arc<PollOrder>) {
        let mut orders = self.0.lock();
        if orders.len() == MAX_ORDERS {
            orders.pop_front();
        }
        orders.push_back(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(after: i64, numbers: std::ops::Range<i64>, is_whole: bool) -> PollOrder {
        let key = OrderKey { base: Arc::default(), end: Arc::default(), topics: None };
        let placed = |number| Placed { xid: 1, place: place(number) };
        PollOrder { key, after: place(after), places: numbers.map(placed).collect(), is_whole }
    }

    fn place(number: i64) -> Place {
        Place { last: number, number }
    }

    #[test]
    fn a_part_of_an_order_knows_the_pages_that_are_in_it() {
        let numbers = |order: &PollOrder, after, limit| {
            let (page, is_more) = order.page(place(after), limit)?;
            Some((page.iter().map(|placed| placed.place.number).collect::<Vec<_>>(), is_more))
        };
        let part = order(10, 11..15, false);
        assert_eq!(numbers(&part, 9, 2), None);
        assert_eq!(numbers(&part, 10, 2), Some((vec![11, 12], true)));
        assert_eq!(numbers(&part, 12, 2), Some((vec![13, 14], true)));
        assert_eq!(numbers(&part, 14, 2), None, "the next part");
        let whole = order(10, 11..15, true);
        assert_eq!(numbers(&whole, 12, 2), Some((vec![13, 14], false)));
        assert_eq!(numbers(&whole, 14, 2), Some((vec![], false)));
    }

    #[test]
    fn the_orders_used_last_are_kept() {
        let orders = Orders::default();
        let key = |n: u64| {
            let end = Snapshot::parse(&format!("{n}:{n}:")).unwrap();
            OrderKey { base: Arc::default(), end: Arc::new(end), topics: None }
        };
        for n in 0..MAX_ORDERS as u64 {
            orders.keep(Arc::new(PollOrder { key: key(n + 1), ..order(0, 1..3, true) }));
        }
        assert!(orders.find(&key(1), place(0)).is_some());
        orders.keep(Arc::new(PollOrder { key: key(99), ..order(0, 1..3, true) }));
        assert!(orders.find(&key(1), place(0)).is_some() && orders.find(&key(2), place(0)).is_none());
    }
}
