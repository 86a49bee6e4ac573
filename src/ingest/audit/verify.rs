//! Verification: whether each accepted event is where its receipt states.
//!
//! One pass over `requests`, by the journal and sequence in the ids, within one snapshot, so that a running service does not
//! disturb it. The comparison itself is a pure function of the data read ([`compare`]).

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use rangemap::RangeSet;
use serde::Serialize;
use uuid::Uuid;

use crate::db::{Database, DbError, presets, sql};
use crate::ingest::checkpoint::backlog::length;
use crate::ingest::checkpoint::receipts::Counts;
use crate::ingest::journal::{Loss, LossState};

/// The most ranges listed of one difference.
const MAX_LISTED: usize = 20;
/// For each statement, which counts all rows.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// A table's sequences, by tag.
type ByTag = HashMap<Vec<u8>, Present>;

/// A table's rows of one journal.
#[derive(Debug, Clone, Default)]
struct Present {
    sequences: RangeSet<u64>,
    /// Ranges with more rows than sequences.
    doubled: Vec<Range<u64>>,
    rows: u64,
    /// The first and last time of each range, in milliseconds of Unix time, in the order of the ranges.
    times: Vec<(Range<u64>, u64, u64)>,
}

/// The contents of this host's journal folder.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The sequences of the journals on disk.
    pub held: Vec<(Uuid, Range<u64>)>,
    /// The recorded losses.
    pub losses: Vec<(Loss, LossState)>,
    /// Journals whose losses were acknowledged without a record.
    pub acknowledged: Vec<Uuid>,
}

/// One journal in the database.
#[derive(Debug, Clone, Default)]
struct Journal {
    journal: Uuid,
    tag: Vec<u8>,
    registered_ms: u64,
    receipts: Vec<(Range<u64>, Counts)>,
}

/// The database's data, as of one snapshot.
#[derive(Debug, Default)]
pub struct Books {
    journals: Vec<Journal>,
    requests: ByTag,
    dead: ByTag,
    duplicates: ByTag,
    removed: ByTag,
    /// Sequences below it may have been removed by time; `None`: all of them.
    removed_before: HashMap<Vec<u8>, Option<u64>>,
    /// Spans, in milliseconds of Unix time, whose rows were removed with their partition.
    removed_between: Vec<(u64, u64)>,
    /// The spans with a partition; `None`: `requests` is not partitioned.
    days: Option<RangeSet<u64>>,
    now_ms: u64,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The journals, in the order of their registration.
    pub journals: Vec<JournalReport>,
    /// Rows of `requests` whose ids belong to no journal: imported, stored with DURABILITY=memory, or by another program.
    pub rows_without_journal: u64,
    /// Unacknowledged losses on this host.
    pub losses: Vec<Loss>,
    /// Losses in receipts without a record on this host.
    pub lost_elsewhere: Vec<LostElsewhere>,
}

/// Quarantined events of a journal on another host, or in a removed folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostElsewhere {
    /// The journal.
    pub journal: Uuid,
    /// Their number.
    pub events: u64,
}

/// One journal's account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JournalReport {
    /// The journal.
    pub journal: Uuid,
    /// Accepted sequences, as far as the receipts and the journal on this host show.
    pub accepted: u64,
    /// Rows of `requests`, including removed ones.
    pub committed: u64,
    /// Skipped because of their keys.
    pub duplicates: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that an operator deleted.
    pub discarded: u64,
    /// Unreadable on disk.
    pub quarantined: u64,
    /// In the journal on this host and not settled.
    pub pending: u64,
    /// Committed rows that were removed later, by an operator or RETENTION_DAYS.
    pub removed: u64,
    /// The differences found.
    pub differences: Vec<Difference>,
}

/// A difference between receipts and tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its kind.
    pub kind: DifferenceKind,
    /// The number of events.
    pub events: u64,
    /// The first and last sequence of each range; only the first ranges, if there are many.
    pub ranges: Vec<(u64, u64)>,
}

/// The kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// Settled by a receipt, and in no table.
    Missing,
    /// Stored without a receipt.
    WithoutReceipt,
    /// Stored more than once.
    Doubled,
    /// More rows than the receipt states.
    Surplus,
    /// Covered by two receipts.
    CoveredTwice,
    /// Not covered by a receipt and not in this host's journal, though later sequences are settled.
    Uncovered,
}

impl DifferenceKind {
    /// A description for reports.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Missing => "settled by a receipt and in no table",
            Self::WithoutReceipt => "stored without a receipt",
            Self::Doubled => "stored more than once",
            Self::Surplus => "stored beyond the number in the receipt",
            Self::CoveredTwice => "settled by two receipts",
            Self::Uncovered => "neither settled nor in this host's journal",
        }
    }
}

impl VerifyReport {
    /// Whether there is no difference.
    pub fn balances(&self) -> bool {
        self.journals.iter().all(|journal| journal.differences.is_empty())
    }

    /// Lost acknowledged events, until an operator acknowledges the loss; 1 for a loss of unknown size.
    pub fn lost(&self) -> u64 {
        let elsewhere: u64 = self.lost_elsewhere.iter().map(|lost| lost.events).sum();
        self.losses.iter().map(Loss::lost).sum::<u64>() + elsewhere
    }
}

/// Reads the data of a database.
///
/// # Errors
///
/// Any error of Postgres.
pub async fn read(database: &Database) -> Result<Books, DbError> {
    let mut client = database.connect().await?;
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    transaction.batch_execute(&presets(TIMEOUT)).await?;
    let mut books = Books::default();
    for row in transaction.query(sql!(database, "ingest/verify_receipts.sql"), &[]).await? {
        let journal: Uuid = row.try_get(0)?;
        if books.journals.last().is_none_or(|last| last.journal != journal) {
            let registered_ms = row.try_get::<_, i64>(10)?.max(0) as u64;
            books.journals.push(Journal {
                journal,
                tag: row.try_get(1)?,
                registered_ms,
                receipts: Vec::new(),
            });
        }
        let Some(first) = row.try_get::<_, Option<i64>>(3)? else { continue };
        let count = |index| row.try_get::<_, i64>(index).map(|count| count as u64);
        let counts = Counts {
            committed: count(5)?,
            duplicates: count(6)?,
            dead: count(7)?,
            discarded: count(8)?,
            quarantined: count(9)?,
        };
        if let Some(last) = books.journals.last_mut() {
            last.receipts.push((first as u64..count(4)? + 1, counts));
        }
    }
    let islands = sql!(database, "ingest/verify_islands.sql");
    let of = |table: &str, which: &str| islands.replace("{table}", table).replace("{which}", which);
    for (statement, table) in [
        (of("requests", "true"), &mut books.requests),
        (of("dead_letters", "reason <> 'overload'"), &mut books.dead),
        (of("ingest_duplicates", "true"), &mut books.duplicates),
    ] {
        for row in transaction.query(&statement, &[]).await? {
            let range = row.try_get::<_, i64>(1)? as u64..row.try_get::<_, i64>(2)? as u64 + 1;
            let rows = row.try_get::<_, i64>(3)? as u64;
            let present = table.entry(row.try_get(0)?).or_default();
            if rows > range.end - range.start {
                present.doubled.push(range.clone());
            }
            present.rows += rows;
            let ms = |index| row.try_get::<_, i64>(index).map(|ms| ms.max(0) as u64);
            present.times.push((range.clone(), ms(4)?, ms(5)?));
            present.sequences.insert(range);
        }
    }
    for row in transaction.query(sql!(database, "ingest/verify_removed.sql"), &[]).await? {
        let range = row.try_get::<_, i64>(1)? as u64..row.try_get::<_, i64>(2)? as u64 + 1;
        books.removed.entry(row.try_get(0)?).or_default().sequences.insert(range);
    }
    let before = sql!(database, "ingest/verify_removed_before.sql");
    for row in transaction.query(before, &[]).await? {
        let first_left: Option<i64> = row.try_get(1)?;
        books.removed_before.insert(row.try_get(0)?, first_left.map(|first| first as u64));
    }
    let between = sql!(database, "ingest/verify_removed_between.sql");
    for row in transaction.query(between, &[]).await? {
        books.removed_between.push((row.try_get::<_, i64>(0)? as u64, row.try_get::<_, i64>(1)? as u64));
    }
    for row in transaction.query(sql!(database, "ingest/verify_days.sql"), &[]).await? {
        let days = books.days.get_or_insert_default();
        books.now_ms = row.try_get::<_, i64>(2)? as u64;
        // The default partition has no bounds.
        if let (Some(from), Some(to)) = (row.try_get::<_, Option<i64>>(0)?, row.try_get::<_, Option<i64>>(1)?)
            && from < to
        {
            days.insert(from as u64..to as u64);
        }
    }
    Ok(books)
}

/// Ids are assigned slightly out of the order of their times.
const DISORDER_MS: u64 = 60_000;

impl Books {
    /// Whether missing events may have been removed with a partition that was truncated, dropped or detached. Their time lies
    /// between the times of their neighbours.
    fn removed_with_partition(&self, journal: &Journal, stored: &Present, gap: &Range<u64>) -> bool {
        let after = stored.times.partition_point(|(range, ..)| range.start < gap.start);
        let before = after.checked_sub(1).and_then(|index| stored.times.get(index));
        let low = before.map_or(journal.registered_ms, |(_, _, last_ms)| *last_ms);
        let next = stored.times.get(after);
        let high = next.map_or(self.now_ms, |(_, first_ms, _)| *first_ms).max(low);
        let is_between = |(from, to): &(u64, u64)| {
            from.saturating_sub(DISORDER_MS) <= high && to.saturating_add(DISORDER_MS) >= low
        };
        let has_no_day = |days: &RangeSet<u64>| days.gaps(&(low..high + 1)).next().is_some();
        self.removed_between.iter().any(is_between) || self.days.as_ref().is_some_and(has_no_day)
    }
}

/// Compares the database with this host. `host` is read after `books`, so that it holds the events that were not settled
/// then.
pub fn compare(books: &Books, host: &Host) -> VerifyReport {
    let known = |tag: &Vec<u8>| books.journals.iter().any(|journal| journal.tag == *tag);
    let foreign = books.requests.iter().filter(|(tag, _)| !known(tag));
    let is_known = |journal: Uuid| {
        host.acknowledged.contains(&journal) || host.losses.iter().any(|(loss, _)| loss.journal == journal)
    };
    let quarantined = |journal: &Journal| {
        let events = journal.receipts.iter().map(|(_, counts)| counts.quarantined).sum();
        let unknown = events > 0 && !is_known(journal.journal);
        unknown.then_some(LostElsewhere { journal: journal.journal, events })
    };
    let reported = host.losses.iter().filter(|(_, state)| *state == LossState::Lost);
    VerifyReport {
        losses: reported.map(|(loss, _)| loss.clone()).collect(),
        lost_elsewhere: books.journals.iter().filter_map(quarantined).collect(),
        rows_without_journal: foreign.map(|(_, present)| present.rows).sum(),
        journals: books
            .journals
            .iter()
            .map(|journal| {
                let held = host.held.iter().find(|(id, _)| *id == journal.journal).map(|(_, range)| range);
                account(journal, books, held)
            })
            .collect(),
    }
}

/// The account of one journal.
fn account(journal: &Journal, books: &Books, held: Option<&Range<u64>>) -> JournalReport {
    let nothing = Present::default();
    let of = |by_tag: &'_ ByTag| by_tag.get(&journal.tag).cloned().unwrap_or_else(|| nothing.clone());
    let (requests, dead) = (of(&books.requests), of(&books.dead));
    let (duplicates, removed) = (of(&books.duplicates), of(&books.removed));
    let removed_before = books.removed_before.get(&journal.tag);
    let mut report = JournalReport { journal: journal.journal, ..JournalReport::default() };
    let mut sums = Counts::default();
    let (mut covered, mut twice, mut missing, mut surplus) =
        (RangeSet::new(), RangeSet::new(), RangeSet::new(), RangeSet::new());
    let mut missing_events = 0;
    for (range, counts) in &journal.receipts {
        sums += *counts;
        twice.extend(
            covered.overlapping(range).map(|both| both.start.max(range.start)..both.end.min(range.end)),
        );
        covered.insert(range.clone());
        let whole = RangeSet::from([range.clone()]);
        let stored = intersection(&requests.sequences, &whole);
        let dead_letters = intersection(&dead.sequences, &whole);
        // In no table: discarded, unreadable or removed. The rest is missing.
        let mut absent = whole;
        for present in [&stored, &dead_letters, &duplicates.sequences] {
            absent = difference(&absent, present);
        }
        let mut removed_here = intersection(&absent, &removed.sequences);
        if let Some(first_left) = removed_before {
            let mut before = RangeSet::new();
            before.insert(0..first_left.unwrap_or(u64::MAX).max(1));
            removed_here = removed_here.union(&intersection(&absent, &before)).collect();
        }
        let gaps: Vec<Range<u64>> = difference(&absent, &removed_here).iter().cloned().collect();
        removed_here
            .extend(gaps.into_iter().filter(|gap| books.removed_with_partition(journal, &requests, gap)));
        // Keys and duplicates expire after their window.
        let expired = counts.duplicates
            - length(&intersection(&duplicates.sequences, &RangeSet::from([range.clone()])))
                .min(counts.duplicates);
        let allowed = counts.discarded + counts.quarantined + expired;
        let lost = length(&absent).saturating_sub(length(&removed_here)).saturating_sub(allowed);
        if lost > 0 {
            missing_events += lost;
            missing.extend(difference(&absent, &removed_here));
        }
        report.removed += length(&removed_here).min(counts.committed.saturating_sub(length(&stored)));
        if length(&stored) > counts.committed || length(&dead_letters) > counts.dead {
            surplus.extend(if length(&stored) > counts.committed { stored } else { dead_letters });
        }
    }
    let without_receipt = difference(&requests.sequences.union(&dead.sequences).collect(), &covered);
    let end = covered.last().map_or(0, |range| range.end).max(held.map_or(0, |held| held.end));
    let mut uncovered = RangeSet::new();
    if end > 0 {
        uncovered = covered.gaps(&(0..end)).collect();
    }
    let on_disk =
        held.filter(|held| !held.is_empty()).map(|held| RangeSet::from([held.clone()])).unwrap_or_default();
    report.pending = length(&intersection(&uncovered, &on_disk));
    let uncovered = difference(&uncovered, &on_disk);
    (report.committed, report.duplicates) = (sums.committed, sums.duplicates);
    (report.dead, report.discarded, report.quarantined) = (sums.dead, sums.discarded, sums.quarantined);
    report.accepted = sums.total() + report.pending;
    let doubled: RangeSet<u64> = requests.doubled.iter().chain(&dead.doubled).cloned().collect();
    let both = intersection(&requests.sequences, &dead.sequences);
    let doubled = doubled.union(&both).collect();
    let missing_events = Some(missing_events);
    for (kind, ranges, events) in [
        (DifferenceKind::Missing, missing, missing_events),
        (DifferenceKind::WithoutReceipt, without_receipt, None),
        (DifferenceKind::Doubled, doubled, None),
        (DifferenceKind::Surplus, surplus, None),
        (DifferenceKind::CoveredTwice, twice, None),
        (DifferenceKind::Uncovered, uncovered, None),
    ] {
        if !ranges.is_empty() {
            let listed = ranges.iter().take(MAX_LISTED).map(|range| (range.start, range.end - 1)).collect();
            let events = events.unwrap_or_else(|| length(&ranges));
            report.differences.push(Difference { kind, events, ranges: listed });
        }
    }
    report
}

fn intersection(one: &RangeSet<u64>, other: &RangeSet<u64>) -> RangeSet<u64> {
    one.intersection(other).collect()
}

/// The elements of `from` that are not in `other`.
fn difference(from: &RangeSet<u64>, other: &RangeSet<u64>) -> RangeSet<u64> {
    from.iter().flat_map(|range| other.gaps(range).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: [u8; 5] = [1; 5];

    fn present(ranges: &[(u64, u64)]) -> ByTag {
        let sequences: RangeSet<u64> = ranges.iter().map(|(start, end)| *start..*end).collect();
        let rows = length(&sequences);
        let times =
            sequences.iter().map(|range| (range.clone(), 1_000_000 * range.start, 1_000_000 * range.end));
        let times = times.collect();
        HashMap::from([(TAG.to_vec(), Present { sequences, doubled: Vec::new(), rows, times })])
    }

    fn holding(held: Range<u64>) -> Host {
        Host { held: vec![(Uuid::nil(), held)], ..Host::default() }
    }

    type Found = (DifferenceKind, u64, Vec<(u64, u64)>);

    /// Ten events, of which 3 is dead, 4 a duplicate, and 5 was discarded.
    fn books() -> Books {
        let counts = Counts { committed: 7, duplicates: 1, dead: 1, discarded: 1, quarantined: 0 };
        Books {
            journals: vec![Journal {
                journal: Uuid::nil(),
                tag: TAG.to_vec(),
                registered_ms: 0,
                receipts: vec![(0..10, counts)],
            }],
            requests: present(&[(0, 3), (6, 10)]),
            dead: present(&[(3, 4)]),
            duplicates: present(&[(4, 5)]),
            ..Books::default()
        }
    }

    fn differences(books: &Books) -> Vec<Found> {
        let report = compare(books, &Host::default());
        let found = |difference: Difference| (difference.kind, difference.events, difference.ranges);
        report.journals.into_iter().flat_map(|journal| journal.differences).map(found).collect()
    }

    #[test]
    fn balanced_books_show_no_difference_and_the_pending_events() {
        let report = compare(&books(), &holding(0..12));
        assert!(report.balances(), "{report:?}");
        assert_eq!((report.journals[0].accepted, report.journals[0].pending), (12, 2));
    }

    #[test]
    fn an_absent_row_is_missing_unless_its_removal_was_recorded() {
        let mut books = books();
        books.requests = present(&[(0, 2), (6, 10)]);
        let [(DifferenceKind::Missing, 1, ranges)] = &differences(&books)[..] else { panic!() };
        assert!(ranges.contains(&(2, 2)), "{ranges:?}");
        books.removed = present(&[(2, 3)]);
        assert_eq!(differences(&books), []);
        assert_eq!(compare(&books, &Host::default()).journals[0].removed, 1);
        books.removed = ByTag::new();
        books.removed_before = HashMap::from([(TAG.to_vec(), Some(6))]);
        assert_eq!(differences(&books), []);
    }

    #[test]
    fn rows_removed_with_a_partition_are_recognized_by_their_neighbours_times() {
        let mut books = books();
        // Only 2 is missing; the times of its neighbours are 2 and 6 million.
        books.requests = present(&[(0, 2), (6, 10)]);
        (books.days, books.now_ms) = (Some(std::iter::once(0..20_000_000).collect()), 10_000_000);
        assert_eq!(differences(&books).len(), 1, "its whole span has a partition");
        books.days = Some(RangeSet::from([0..3_000_000, 7_000_000..20_000_000]));
        assert_eq!(differences(&books), [], "a part of its span has none");
        books.days = Some(RangeSet::from([0..8_000_000, 9_000_000..20_000_000]));
        assert_eq!(differences(&books).len(), 1, "only another span has none");
        books.removed_between = vec![(7_000_000, 8_000_000)];
        assert_eq!(differences(&books).len(), 1, "only another span was truncated");
        books.removed_between.push((3_000_000, 4_000_000));
        assert_eq!(differences(&books), []);
    }

    #[test]
    fn losses_in_receipts_are_reported_unless_they_were_acknowledged() {
        let mut books = books();
        books.journals[0].receipts[0].1 =
            Counts { committed: 7, duplicates: 1, dead: 1, discarded: 0, quarantined: 1 };
        let report = compare(&books, &Host::default());
        assert_eq!((report.balances(), report.lost()), (true, 1));
        let host = Host { acknowledged: vec![Uuid::nil()], ..Host::default() };
        assert_eq!(compare(&books, &host).lost(), 0);
    }

    #[test]
    fn rows_without_a_receipt_and_doubled_rows_are_differences() {
        let mut books = books();
        books.requests = present(&[(0, 3), (6, 12)]);
        assert_eq!(differences(&books), [(DifferenceKind::WithoutReceipt, 2, vec![(10, 11)])]);
        books.requests = present(&[(0, 4), (6, 10)]);
        assert!(differences(&books).contains(&(DifferenceKind::Doubled, 1, vec![(3, 3)])));
    }

    #[test]
    fn a_gap_between_receipts_is_a_difference_unless_the_journal_holds_it() {
        let mut books = books();
        let counts = Counts { committed: 1, ..Counts::default() };
        books.journals[0].receipts.push((12..13, counts));
        books.requests = present(&[(0, 3), (6, 10), (12, 13)]);
        assert_eq!(differences(&books), [(DifferenceKind::Uncovered, 2, vec![(10, 11)])]);
        assert!(compare(&books, &holding(8..13)).balances());
    }
}
