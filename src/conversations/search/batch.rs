//! The contents of an index batch, its end, and the size of the next one.

use std::time::Duration;

use uuid::Uuid;

/// The least and the most changes of a batch, and documents of its imports.
const LEAST: i64 = 100;
const MOST: i64 = 2_000;
/// The time of a batch. Subscribers of the feed wait for the end of each transaction that writes.
const TARGET: Duration = Duration::from_millis(30);
/// The longest pause between two batches.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// The ids that the imports of a batch may span; one alone may span more. A part of an import has at most as many lines.
const MOST_IDS: u128 = 32_768;
/// Ranges of ids that are no further apart are read as one.
const GAP: u128 = 64;

/// The changes of a batch, and the documents of its imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchSize(i64);

impl BatchSize {
    /// To begin with, and after an error.
    pub(super) const LEAST: Self = Self(LEAST);

    /// The limit for statements.
    pub(super) fn limit(self) -> i64 {
        self.0
    }

    /// The size of the next batch, after one of this size that took so long. Only a full batch lets it grow.
    pub(super) fn next(self, took: Duration, is_full: bool) -> Self {
        let fits = i128::from(self.0) * TARGET.as_micros() as i128 / took.as_micros().max(1) as i128;
        let most = if is_full { self.0 * 2 } else { self.0 };
        Self((fits.min(i128::from(most)) as i64).max(self.0 / 2).clamp(LEAST, MOST))
    }
}

/// The pause after a batch that took so long: half of the time is left to requests.
pub(super) fn rest_after(took: Duration) -> Duration {
    took.clamp(Duration::from_millis(1), LONGEST_REST)
}

/// A place in a poll: its changes up to it were indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexPlace {
    pub(super) xid: String,
    pub(super) number: i64,
    /// The last indexed message of the import that comes next.
    pub(super) part: Option<Uuid>,
}

impl IndexPlace {
    /// The place before all changes of a poll.
    pub(super) fn start() -> Self {
        Self { xid: "0".into(), number: -1, part: None }
    }
}

/// A change that has to be indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexedChange {
    pub(super) xid: String,
    pub(super) number: i64,
    pub(super) documents: Documents,
}

/// The documents of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Documents {
    /// That of a message, or of a title.
    One(Uuid),
    /// Those of imported messages.
    Import(Import),
}

/// The messages of a conversation with ids from `first` to `last`, about `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) conversation: Uuid,
    pub(super) first: Uuid,
    pub(super) last: Uuid,
    pub(super) count: i64,
}

impl IndexedChange {
    /// The place right before it: nothing is between two numbers.
    fn before(&self, part: Option<Uuid>) -> IndexPlace {
        IndexPlace { xid: self.xid.clone(), number: self.number - 1, part }
    }
}

/// A batch of changes.
#[derive(Debug)]
pub(super) struct IndexBatch {
    changes: Vec<IndexedChange>,
    end: IndexPlace,
    /// Whether it ends before the last change that was read.
    is_cut: bool,
}

/// The part of a batch that is indexed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Indexed {
    /// The messages and titles, each once.
    pub(super) ids: Vec<Uuid>,
    pub(super) next: IndexPlace,
    /// Whether changes that were read are left.
    pub(super) is_cut: bool,
}

impl IndexBatch {
    /// A batch of the ordered changes behind `place`, which end at `end`: up to the imports that make `limit` documents, and up to the one
    /// that would make it read too much.
    pub(super) fn new(
        place: &IndexPlace,
        mut changes: Vec<IndexedChange>,
        end: IndexPlace,
        limit: i64,
    ) -> Self {
        if let (Some(part), Some(head)) = (place.part, changes.first_mut())
            && (&head.xid, head.number - 1) == (&place.xid, place.number)
            && let Documents::Import(import) = &mut head.documents
        {
            import.first = import.first.max(Uuid::from_u128(part.as_u128().saturating_add(1)));
        }
        let imports: Vec<Import> = imports(&changes).collect();
        // The first one is always indexed. More of them never span fewer ids.
        let counts: Vec<usize> = (2..=imports.len()).collect();
        let fits = |count: &usize| {
            let (those, before) = (imports.get(..*count), imports.get(..*count - 1));
            let documents =
                before.unwrap_or_default().iter().map(|import| import.count).fold(0, i64::saturating_add);
            documents < limit && span(those.unwrap_or_default()) <= MOST_IDS
        };
        let count = 1 + counts.partition_point(fits);
        let is_import =
            |(_, change): &(usize, &IndexedChange)| matches!(change.documents, Documents::Import(_));
        let over = changes.iter().enumerate().filter(is_import).nth(count);
        let Some((over, before)) = over.map(|(over, import)| (over, import.before(None))) else {
            return Self { changes, end, is_cut: false };
        };
        changes.truncate(over);
        Self { changes, end: before, is_cut: true }
    }

    /// Its imports, in order.
    pub(super) fn imports(&self) -> impl Iterator<Item = Import> {
        imports(&self.changes)
    }

    /// The disjoint ranges of ids that hold all messages of its imports.
    pub(super) fn ranges(&self) -> Vec<(Uuid, Uuid)> {
        ranges(self.imports())
    }

    /// The part that is indexed, from the messages that were found, each with the ordinal of its import among [`Self::imports`], in their
    /// order. At the limit there may be more, and the batch ends at the last one.
    pub(super) fn indexed(self, found: &[(usize, Uuid)], limit: usize) -> Indexed {
        let last = found.last().filter(|_| found.len() >= limit);
        let imports = self
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| matches!(change.documents, Documents::Import(_)));
        let unread = last.and_then(|(nth, id)| {
            imports.clone().nth(*nth).map(|(at, import)| (at, import.before(Some(*id))))
        });
        let (count, next, is_cut) = match unread {
            Some((at, next)) => (at, next, true),
            None => (self.changes.len(), self.end, self.is_cut),
        };
        let ones = self.changes.iter().take(count).filter_map(|change| match change.documents {
            Documents::One(id) => Some(id),
            Documents::Import(_) => None,
        });
        let mut ids: Vec<Uuid> = ones.chain(found.iter().map(|(_, id)| *id)).collect();
        // Two changes of one message make one document.
        ids.sort_unstable();
        ids.dedup();
        Indexed { ids, next, is_cut }
    }
}

fn imports(changes: &[IndexedChange]) -> impl Iterator<Item = Import> {
    changes.iter().filter_map(|change| match change.documents {
        Documents::Import(import) => Some(import),
        Documents::One(_) => None,
    })
}

fn ranges(imports: impl Iterator<Item = Import>) -> Vec<(Uuid, Uuid)> {
    let ids = imports.map(|import| (import.first, import.last));
    let mut ids: Vec<(Uuid, Uuid)> = ids.filter(|(first, last)| first <= last).collect();
    ids.sort_unstable();
    let mut ranges: Vec<(Uuid, Uuid)> = Vec::new();
    for (first, last) in ids {
        match ranges.last_mut() {
            Some(range) if first.as_u128() <= range.1.as_u128().saturating_add(GAP) => {
                range.1 = range.1.max(last);
            }
            _ => ranges.push((first, last)),
        }
    }
    ranges
}

/// The number of ids in the ranges: no fewer than messages.
fn span(imports: &[Import]) -> u128 {
    let lengths = ranges(imports.iter().copied()).into_iter();
    lengths
        .map(|(first, last)| (last.as_u128() - first.as_u128()).saturating_add(1))
        .fold(0, u128::saturating_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batches_grow_and_shrink_towards_their_time_within_their_bounds() {
        let after = |size: i64, ms, is_full| BatchSize(size).next(Duration::from_millis(ms), is_full).0;
        assert_eq!([after(100, 3, true), after(100, 3, false), after(100, 900, true)], [200, 100, 100]);
        assert_eq!(
            [after(1_000, 60, true), after(1_000, 600, false), after(2_000, 0, true)],
            [500, 500, 2_000]
        );
        assert_eq!([after(400, 30, true), after(400, 40, true)], [400, 300]);
        let rests = [0, 40, 60_000].map(|ms| rest_after(Duration::from_millis(ms)).as_millis());
        assert_eq!(rests, [1, 40, 1_000]);
    }

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn place(number: i64, part: Option<u128>) -> IndexPlace {
        IndexPlace { xid: "7".into(), number, part: part.map(id) }
    }

    fn import(number: i64, conversation: u128, first: u128, last: u128) -> IndexedChange {
        let import = Import { conversation: id(conversation), first: id(first), last: id(last), count: 5 };
        IndexedChange { xid: "7".into(), number, documents: Documents::Import(import) }
    }

    #[test]
    fn a_batch_ends_before_the_import_that_would_read_too_much_but_one_is_always_taken() {
        let many = (0..40_000_u128).map(|n| import(n as i64, n, n * 5, n * 5 + 4)).collect();
        let batch = IndexBatch::new(&place(-1, None), many, place(50_000, None), 1_000_000);
        assert_eq!((batch.imports().count(), batch.ranges()), (6_553, vec![(id(0), id(32_764))]));
        assert_eq!(batch.indexed(&[], 1), Indexed { ids: vec![], next: place(6_552, None), is_cut: true });
        // Interleaved ones span the same ids.
        let many = (0..1_000).map(|n| import(n as i64, n, n, 30_000 + n)).collect();
        let batch = IndexBatch::new(&place(-1, None), many, place(50_000, None), 1_000_000);
        assert_eq!((batch.imports().count(), batch.ranges()), (1_000, vec![(id(0), id(30_999))]));
        let batch = IndexBatch::new(
            &place(-1, None),
            vec![import(0, 0, 0, u128::MAX), import(1, 1, 0, 1)],
            place(1, None),
            9,
        );
        assert_eq!(batch.imports().count(), 1, "which spans more than a batch may");
    }

    #[test]
    fn a_batch_ends_behind_the_import_that_fills_it() {
        let many = (0..9_u128).map(|n| import(n as i64, n, n * 5, n * 5 + 4)).collect();
        let batch = IndexBatch::new(&place(-1, None), many, place(50, None), 11);
        assert_eq!((batch.imports().count(), batch.end), (3, place(2, None)));
    }

    proptest! {
        /// As the loop does it: batch by batch, over changes of which each may be cut short anywhere.
        #[test]
        fn all_is_taken_in_order_whatever_the_sizes(
            changes in prop::collection::vec((any::<bool>(), 0..4_u128, 0..3_000_u128, 0..40_000_u128), 0..20),
            step in 1..400_u128, limits in prop::collection::vec((1..9_usize, 1..9_usize), 1..9)
        ) {
            // The messages there are: those with ids divisible by the step.
            let of = |first: u128, last: u128, conversation| {
                (first.div_ceil(step) * step..=last).step_by(step as usize).filter(move |n| n / step % 4 == conversation)
            };
            let all: Vec<IndexedChange> = changes.iter().enumerate().map(|(n, &(is_one, conversation, first, length))| {
                let one = IndexedChange { xid: "7".into(), number: n as i64, documents: Documents::One(id(first)) };
                if is_one { one } else { import(n as i64, conversation, first, first + length) }
            }).collect();
            let expected: std::collections::BTreeSet<Uuid> = all.iter().flat_map(|change| match change.documents {
                Documents::One(id) => vec![id],
                Documents::Import(import) =>
                    of(import.first.as_u128(), import.last.as_u128(), import.conversation.as_u128()).map(id).collect(),
            }).collect();
            let (mut at, mut done) = (place(-1, None), std::collections::BTreeSet::new());
            for &(count, limit) in limits.iter().cycle().take(200_000) {
                let batch: Vec<IndexedChange> =
                    all.iter().filter(|change| change.number > at.number).take(count).cloned().collect();
                let Some(last) = batch.last() else { break };
                let end = place(last.number, None);
                let batch = IndexBatch::new(&at, batch, end, limit as i64);
                let ranges = batch.ranges();
                prop_assert!(ranges.windows(2).all(|two| two[0].1 < two[1].0));
                let mut found = Vec::new();
                for (nth, import) in batch.imports().enumerate() {
                    for n in of(import.first.as_u128(), import.last.as_u128(), import.conversation.as_u128()) {
                        prop_assert!(ranges.iter().any(|range| range.0 <= id(n) && id(n) <= range.1));
                        found.push((nth, id(n)));
                    }
                }
                found.truncate(limit);
                let indexed = batch.indexed(&found, limit);
                prop_assert!((indexed.next.number, indexed.next.part) > (at.number, at.part), "it moves on");
                done.extend(indexed.ids);
                at = indexed.next;
            }
            prop_assert_eq!(done, expected);
        }
    }
}
