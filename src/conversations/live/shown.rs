//! What pages have shown already, so that the feed does not tell it again.
//!
//! A page shows what its statement's snapshot saw, of the messages up to where it ended. So a change is shown if the page that
//! its message's place belongs to saw its transaction. That is exact, whatever was committed meanwhile and in whatever order.

use crate::conversations::place::Place;
use crate::realtime::Snapshot;

/// Pages that are told apart. Of more than these the first ones count as one, which may tell of something twice. Each event's
/// id names them all.
const MAX_PAGES: usize = 32;

/// What pages have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Of each page the place where it ended, and what it saw.
    pages: Vec<(Place, Snapshot)>,
}

impl Shown {
    /// Adds a page that ended at this place.
    pub(super) fn add(&mut self, end: Place, snapshot: Snapshot) {
        if self.pages.len() == MAX_PAGES
            && let [first, second, ..] = &mut self.pages[..]
        {
            first.0 = second.0;
            self.pages.remove(1);
        }
        self.pages.push((end, snapshot));
    }

    /// The same with a further page.
    pub(super) fn with(&self, end: Place, snapshot: &Snapshot) -> Self {
        let mut shown = self.clone();
        shown.add(end, snapshot.clone());
        shown
    }

    /// The pages, in order.
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
    use uuid::Uuid;

    use super::super::super::Micros;
    use super::*;

    fn place(us: i64) -> Place {
        Place { at: Micros(us), id: Uuid::nil() }
    }

    #[test]
    fn a_page_has_shown_what_it_saw_of_its_own_messages() {
        let snapshot = |text| Snapshot::parse(text).unwrap();
        let mut shown = Shown::default().with(place(10), &snapshot("5:8:6"));
        shown.add(place(20), snapshot("9:9:"));
        assert!(shown.has(5, place(1)) && shown.has(7, place(10)) && !shown.has(6, place(10)));
        assert!(shown.has(6, place(11)) && shown.has(8, place(20)) && !shown.has(9, place(20)));
        assert!(!shown.has(1, place(21)), "nobody showed that");
        assert!(!shown.is_past(8) && shown.is_past(9));
        for n in 3..200 {
            shown.add(place(n * 10), snapshot("9:9:"));
        }
        assert_eq!(shown.pages.len(), MAX_PAGES);
        assert!(!shown.has(6, place(30)), "what is not told apart is rather told twice than left out");
    }
}
