//! What pages have shown already, so that the feed does not tell it again.
//!
//! A page shows what its statement's snapshot saw, of the messages up to where it ended. So a change is shown if the page that
//! its message's place belongs to saw its transaction. That is exact, whatever was committed meanwhile and in whatever order.

use crate::conversations::place::Place;
use crate::realtime::Snapshot;

/// Snapshots that are told apart. The pages of more than these count as seen by earlier ones, which may tell of something twice.
/// Each event's id names them all.
const MAX_SNAPSHOTS: usize = 32;

/// Bytes that they take in an event's id, all together. It comes back in a header, for which proxies as a rule have 8 KiB, and so
/// has the least `MAX_HEADER_BYTES`, with room for others.
pub(super) const MAX_BYTES: usize = 6 * 1024;

/// Bytes that each of them takes there beside its own text, at the most: the place, and what is around them.
const PLACE_BYTES: usize = 48;

/// What pages have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Of pages that saw the same the place where the last one ended, and what they saw.
    pages: Vec<(Place, Snapshot)>,
}

impl Shown {
    /// Adds a page that ended at this place.
    pub(super) fn add(&mut self, end: Place, snapshot: Snapshot) {
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
            // What was between two that are the same is gone.
            self.pages.dedup_by(|later, earlier| {
                let is_same = later.1 == earlier.1;
                if is_same {
                    earlier.0 = later.0;
                }
                is_same
            });
        }
    }

    /// The first of the two neighbours between which the fewest transactions began and ended: what these did is told twice.
    fn nearest(&self) -> Option<usize> {
        let moved = |earlier: u64, later: u64| u128::from(later.saturating_sub(earlier));
        let apart = self.pages.windows(2).map(|two| match two {
            [(_, earlier), (_, later)] => moved(earlier.xmin, later.xmin) + moved(earlier.xmax, later.xmax),
            _ => u128::MAX,
        });
        apart.enumerate().min_by_key(|(_, apart)| *apart).map(|(nearest, _)| nearest)
    }

    fn is_too_much(&self) -> bool {
        let bytes = self.pages.iter().map(|(_, snapshot)| snapshot.text_bytes() + PLACE_BYTES).sum::<usize>();
        self.pages.len() > MAX_SNAPSHOTS || bytes > MAX_BYTES
    }

    /// The same with a further page.
    pub(super) fn with(&self, end: Place, snapshot: &Snapshot) -> Self {
        let mut shown = self.clone();
        shown.add(end, snapshot.clone());
        shown
    }

    /// Where pages ended and what they saw, in order.
    pub(super) fn pages(&self) -> &[(Place, Snapshot)] {
        &self.pages
    }

    /// Where the last page ended.
    pub(super) fn end(&self) -> Option<Place> {
        self.pages.last().map(|(end, _)| *end)
    }

    /// What the first page saw: from there on the feed is read.
    pub(super) fn first(&self) -> Option<&Snapshot> {
        self.pages.first().map(|(_, snapshot)| snapshot)
    }

    /// Whether what a transaction did to the message at this place was shown.
    pub(super) fn has(&self, xid: u64, place: Place) -> bool {
        // What is behind the last page was not there when that was read.
        let page = self.pages.iter().find(|(end, _)| place <= *end);
        page.is_some_and(|(_, snapshot)| snapshot.saw(xid))
    }

    /// Whether nothing that such a transaction or a later one did can have been shown.
    pub(super) fn is_past(&self, xid: u64) -> bool {
        self.pages.iter().all(|(_, snapshot)| snapshot.xmax <= xid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::super::Micros;
    use super::*;

    fn place(us: i64) -> Place {
        Place { at: Micros(us), id: Uuid::nil() }
    }

    #[test]
    fn a_page_has_shown_what_it_saw_of_its_own_messages() {
        let snapshot = |text: &str| Snapshot::parse(text).unwrap();
        let mut shown = Shown::default().with(place(10), &snapshot("5:8:6"));
        shown.add(place(20), snapshot("9:9:"));
        assert!(shown.has(5, place(1)) && shown.has(7, place(10)) && !shown.has(6, place(10)));
        assert!(shown.has(6, place(11)) && shown.has(8, place(20)) && !shown.has(9, place(20)));
        assert!(!shown.has(1, place(21)), "nobody showed that");
        assert!(!shown.is_past(8) && shown.is_past(9));
        for n in 3..200 {
            shown.add(place(n * 10), snapshot("9:9:"));
        }
        assert_eq!(shown.pages.len(), 2, "pages that saw the same count as one");
        assert!(shown.has(8, place(1990)) && !shown.has(6, place(10)) && shown.has(6, place(30)));
        for n in 200..300 {
            shown.add(place(n * 10), snapshot(&format!("{n}:{n}:")));
        }
        assert_eq!(shown.pages.len(), MAX_SNAPSHOTS);
        assert!(!shown.has(200, place(2010)), "what is not told apart is rather told twice than left out");
        assert!(shown.has(6, place(30)) && shown.has(200, place(2990)), "those that are far apart stay so");
    }

    proptest! {
        #[test]
        fn nothing_counts_as_shown_that_its_page_did_not_see(
            // How many transactions begin before each page, and every which of those that run goes on.
            all in prop::collection::vec((prop_oneof![0..3_u64, 0..60_u64, 0..900_u64], 1..5_usize), 1..80)
        ) {
            let (mut pages, mut shown, mut running, mut xid) = (Vec::new(), Shown::default(), Vec::new(), u64::MAX / 2);
            let first = xid;
            for (nth, (begun, step)) in all.into_iter().enumerate() {
                running.extend(xid..xid + begun);
                xid += begun;
                running = running.into_iter().rev().step_by(step).take(1_000).collect();
                running.reverse();
                let list: Vec<String> = running.iter().map(u64::to_string).collect();
                let text = format!("{}:{xid}:{}", running.first().unwrap_or(&xid), list.join(","));
                let page = (place(nth as i64), Snapshot::parse(&text).unwrap());
                shown.add(page.0, page.1.clone());
                pages.push(page);
                let text: usize = shown.pages.iter().map(|(_, snapshot)| snapshot.to_string().len()).sum();
                prop_assert!(text <= MAX_BYTES && shown.pages.len() <= MAX_SNAPSHOTS);
                prop_assert_eq!(shown.end(), Some(place(nth as i64)));
            }
            prop_assert!(shown.pages.windows(2).all(|two| two[0].1 != two[1].1 && two[0].0 < two[1].0));
            for (end, snapshot) in &pages {
                for xid in (first..xid + 10).step_by(1 + (xid - first) as usize / 300) {
                    prop_assert!(snapshot.saw(xid) || !shown.has(xid, *end));
                }
            }
        }
    }
}
