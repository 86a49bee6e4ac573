//! Snapshots of delivered pages, so that the feed does not deliver their changes again.
//!
//! A page holds what its statement's snapshot saw of the messages up to its end. So a change was delivered if the page of its message saw
//! its transaction. That is exact, whatever was committed meanwhile and in whatever order.

use crate::paging::SortKey;
use crate::realtime::Snapshot;

/// The most snapshots that are kept. Further ones are merged into earlier ones, so that changes may be delivered twice. Each event's id
/// names them all.
const MAX_SNAPSHOTS: usize = 32;

/// The most bytes of all snapshots in an event's id. It comes back in a header, for which proxies as a rule have 8 KiB, and so has the least
/// `MAX_HEADER_BYTES`, with room for others.
pub(super) const MAX_BYTES: usize = 6 * 1024;

/// The most bytes of a snapshot beside its own text: the sort key and the separators.
const KEY_BYTES: usize = 48;

/// The snapshots of delivered pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SeenSnapshots {
    /// For pages with the same snapshot: the end of the last one, and the snapshot.
    pages: Vec<(SortKey, Snapshot)>,
}

impl SeenSnapshots {
    /// Adds a page that ends at this key.
    pub(super) fn add(&mut self, end: SortKey, snapshot: Snapshot) {
        match self.pages.last_mut() {
            // As a rule nothing began or ended between two pages.
            Some((last, same)) if *same == snapshot => *last = end,
            _ => self.pages.push((end, snapshot)),
        }
        while self.is_too_much() {
            if let Some(nearest) = self.nearest()
                && let Some([earlier, later]) = self.pages.get_mut(nearest..nearest + 2)
            {
                earlier.0 = later.0;
                self.pages.remove(nearest + 1);
            } else {
                for (_, snapshot) in &mut self.pages {
                    *snapshot = snapshot.least();
                }
                break;
            }
            // Neighbours may be the same now.
            self.pages.dedup_by(|later, earlier| {
                let is_same = later.1 == earlier.1;
                if is_same {
                    earlier.0 = later.0;
                }
                is_same
            });
        }
    }

    /// The first of the two neighbours between which the fewest transactions began and ended: their changes are delivered twice.
    fn nearest(&self) -> Option<usize> {
        let moved = |earlier: u64, later: u64| u128::from(later.saturating_sub(earlier));
        let apart = self.pages.windows(2).map(|two| match two {
            [(_, earlier), (_, later)] => moved(earlier.xmin, later.xmin) + moved(earlier.xmax, later.xmax),
            _ => u128::MAX,
        });
        apart.enumerate().min_by_key(|(_, apart)| *apart).map(|(nearest, _)| nearest)
    }

    fn is_too_much(&self) -> bool {
        let bytes = self.pages.iter().map(|(_, snapshot)| snapshot.text_bytes() + KEY_BYTES).sum::<usize>();
        self.pages.len() > MAX_SNAPSHOTS || bytes > MAX_BYTES
    }

    /// The same with a further page.
    pub(super) fn with(&self, end: SortKey, snapshot: &Snapshot) -> Self {
        let mut seen = self.clone();
        seen.add(end, snapshot.clone());
        seen
    }

    /// The ends of pages and their snapshots, in order.
    pub(super) fn pages(&self) -> &[(SortKey, Snapshot)] {
        &self.pages
    }

    /// The end of the last page.
    pub(super) fn end(&self) -> Option<SortKey> {
        self.pages.last().map(|(end, _)| *end)
    }

    /// The snapshot of the first page.
    pub(super) fn first(&self) -> Option<&Snapshot> {
        self.pages.first().map(|(_, snapshot)| snapshot)
    }

    /// Whether a page delivered the change of this transaction to the message with this key.
    pub(super) fn has(&self, xid: u64, key: SortKey) -> bool {
        // A message behind the last page was not there when that was read.
        let page = self.pages.iter().find(|(end, _)| key <= *end);
        page.is_some_and(|(_, snapshot)| snapshot.saw(xid))
    }

    /// Whether no page can have delivered a change that this snapshot did not see.
    pub(super) fn is_past(&self, delivered: &Snapshot) -> bool {
        self.pages.iter().all(|(_, snapshot)| delivered.covers(snapshot))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::time::Micros;

    fn key(us: i64) -> SortKey {
        SortKey { at: Micros(us), id: Uuid::nil() }
    }

    #[test]
    fn a_page_has_seen_its_own_messages_as_of_its_snapshot() {
        let snapshot = |text: &str| Snapshot::parse(text).unwrap();
        let mut seen = SeenSnapshots::default().with(key(10), &snapshot("5:8:6"));
        seen.add(key(20), snapshot("9:9:"));
        assert!(seen.has(5, key(1)) && seen.has(7, key(10)) && !seen.has(6, key(10)));
        assert!(seen.has(6, key(11)) && seen.has(8, key(20)) && !seen.has(9, key(20)));
        assert!(!seen.has(1, key(21)), "no page has it");
        assert!(!seen.is_past(&snapshot("8:9:8")) && seen.is_past(&snapshot("9:9:")));
        for n in 3..200 {
            seen.add(key(n * 10), snapshot("9:9:"));
        }
        assert_eq!(seen.pages.len(), 2, "pages with one snapshot count as one");
        assert!(seen.has(8, key(1990)) && !seen.has(6, key(10)) && seen.has(6, key(30)));
        for n in 200..300 {
            seen.add(key(n * 10), snapshot(&format!("{n}:{n}:")));
        }
        assert_eq!(seen.pages.len(), MAX_SNAPSHOTS);
        assert!(!seen.has(200, key(2010)), "merged snapshots deliver twice rather than never");
        assert!(seen.has(6, key(30)) && seen.has(200, key(2990)), "distant snapshots stay apart");
    }

    proptest! {
        #[test]
        fn no_change_counts_as_seen_that_its_page_did_not_see(
            // How many transactions begin before each page, and every which of those that run goes on.
            all in prop::collection::vec((prop_oneof![0..3_u64, 0..60_u64, 0..900_u64], 1..5_usize), 1..80)
        ) {
            let (mut pages, mut seen, mut running, mut xid) = (Vec::new(), SeenSnapshots::default(), Vec::new(), u64::MAX / 2);
            let first = xid;
            for (nth, (begun, step)) in all.into_iter().enumerate() {
                running.extend(xid..xid + begun);
                xid += begun;
                running = running.into_iter().rev().step_by(step).take(1_000).collect();
                running.reverse();
                let list: Vec<String> = running.iter().map(u64::to_string).collect();
                let text = format!("{}:{xid}:{}", running.first().unwrap_or(&xid), list.join(","));
                let page = (key(nth as i64), Snapshot::parse(&text).unwrap());
                seen.add(page.0, page.1.clone());
                pages.push(page);
                let text: usize = seen.pages.iter().map(|(_, snapshot)| snapshot.to_string().len()).sum();
                prop_assert!(text <= MAX_BYTES && seen.pages.len() <= MAX_SNAPSHOTS);
                prop_assert_eq!(seen.end(), Some(key(nth as i64)));
            }
            prop_assert!(seen.pages.windows(2).all(|two| two[0].1 != two[1].1 && two[0].0 < two[1].0));
            for (end, snapshot) in &pages {
                for xid in (first..xid + 10).step_by(1 + (xid - first) as usize / 300) {
                    prop_assert!(snapshot.saw(xid) || !seen.has(xid, *end));
                }
            }
        }
    }
}
