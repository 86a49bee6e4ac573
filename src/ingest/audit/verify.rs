//! Recounts: whether each accepted event is where its receipt says.
//!
//! One pass over `requests`, by the journal and sequence in the ids. It reads in one snapshot, so that a running service
//! does not disturb it. The comparison itself is a pure function of what was read.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use rangemap::RangeSet;
use serde::Serialize;
use uuid::Uuid;

use crate::db::{Database, DbError, presets};
use crate::ingest::checkpoint::backlog::length;
use crate::ingest::checkpoint::receipts::Counts;
use crate::ingest::journal::{Loss, LossState};

/// The most ranges that are named of one difference.
const MOST_NAMED: usize = 20;
/// For each statement: all rows are counted.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Sequences of each journal, by tag.
type ByTag = HashMap<Vec<u8>, Present>;

/// What a table holds of a journal.
#[derive(Debug, Clone, Default)]
struct Present {
    sequences: RangeSet<u64>,
    /// Ranges that hold more rows than sequences.
    doubled: Vec<Range<u64>>,
    rows: u64,
    /// First and last time of each range, in milliseconds of Unix time, in the order of the ranges.
    times: Vec<(Range<u64>, u64, u64)>,
}

/// Contents of this host's journal folder.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The sequences of journals on its disk.
    pub held: Vec<(Uuid, Range<u64>)>,
    /// Losses that were recorded.
    pub losses: Vec<(Loss, LossState)>,
    /// Journals whose losses were acknowledged without a record.
    pub acknowledged: Vec<Uuid>,
}

/// What the database says of one journal.
#[derive(Debug, Clone, Default)]
struct Journal {
    journal: Uuid,
    tag: Vec<u8>,
    registered_ms: u64,
    receipts: Vec<(Range<u64>, Counts)>,
}

/// Everything that is compared, as of one moment.
#[derive(Debug, Default)]
pub struct Books {
    journals: Vec<Journal>,
    requests: ByTag,
    dead: ByTag,
    duplicates: ByTag,
    removed: ByTag,
    /// Sequences below it may have been taken out by time; `None`: all of them.
    removed_before: HashMap<Vec<u8>, Option<u64>>,
    /// Times, in milliseconds of Unix time, whose rows were taken out with their partition.
    removed_between: Vec<(u64, u64)>,
    /// Times for which there is a partition; `None`: `requests` is one table.
    days: Option<RangeSet<u64>>,
    now_ms: u64,
}

/// What a recount found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The journals, in the order in which they were registered.
    pub journals: Vec<JournalVerdict>,
    /// Rows of `requests` whose ids name no journal: imported, stored with DURABILITY=memory, or by another program.
    pub rows_without_journal: u64,
    /// Unacknowledged losses on this host.
    pub losses: Vec<Loss>,
    /// Losses in receipts of which this host has no record.
    pub lost_elsewhere: Vec<LostElsewhere>,
}

/// Quarantined events of a journal that was on another host, or in a folder that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostElsewhere {
    /// The journal.
    pub journal: Uuid,
    /// How many.
    pub events: u64,
}

/// One journal's account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JournalVerdict {
    /// The journal.
    pub journal: Uuid,
    /// Sequences that were accepted, as far as the receipts and the journal on this host tell.
    pub accepted: u64,
    /// Rows of `requests`, now or before they were taken out.
    pub committed: u64,
    /// Left out, as their keys were there.
    pub duplicates: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that an operator deleted.
    pub discarded: u64,
    /// Unreadable on disk.
    pub quarantined: u64,
    /// In the journal on this host, and not settled.
    pub pending: u64,
    /// Of the committed: rows that were taken out later, by an operator or RETENTION_DAYS.
    pub removed: u64,
    /// What does not add up.
    pub differences: Vec<Difference>,
}

/// Something that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What is wrong.
    pub kind: DifferenceKind,
    /// How many events.
    pub events: u64,
    /// The sequences, first and last; the first of them, if there are many.
    pub ranges: Vec<(u64, u64)>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// A receipt says that they are settled, and they are nowhere.
    Missing,
    /// They are stored, and no receipt says so.
    WithoutReceipt,
    /// They are stored more than once.
    Doubled,
    /// More of them are stored than the receipt says.
    Surplus,
    /// Two receipts stand for them.
    CoveredTwice,
    /// No receipt stands for them, though later ones are settled and this host's journal does not hold them.
    Uncovered,
}

impl DifferenceKind {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Missing => "settled by a receipt and nowhere to be found",
            Self::WithoutReceipt => "stored without a receipt",
            Self::Doubled => "stored more than once",
            Self::Surplus => "stored beyond what the receipt says",
            Self::CoveredTwice => "settled by two receipts",
            Self::Uncovered => "neither settled nor in this host's journal",
        }
    }
}

impl Verdict {
    /// Whether everything adds up.
    pub fn balances(&self) -> bool {
        self.journals.iter().all(|journal| journal.differences.is_empty())
    }

    /// Acknowledged events that are lost, until an operator acknowledges the loss; 1 for a loss of unknown size.
    pub fn lost(&self) -> u64 {
        let elsewhere: u64 = self.lost_elsewhere.iter().map(|lost| lost.events).sum();
        self.losses.iter().map(Loss::lost).sum::<u64>() + elsewhere
    }
}

/// Reads the books of a database.
///
/// # Errors
///
/// Whatever Postgres says.
pub async fn read(database: &Database) -> Result<Books, DbError> {
    let mut client = database.connect().await?;
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    transaction.batch_execute(&presets(TIMEOUT)).await?;
    let sql = |text: &str| database.sql(text);
    let mut books = Books::default();
    for row in transaction.query(&sql(include_str!("../../../sql/ingest/verify_receipts.sql")), &[]).await? {
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
    let islands = sql(include_str!("../../../sql/ingest/verify_islands.sql"));
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
    for row in transaction.query(&sql(include_str!("../../../sql/ingest/verify_removed.sql")), &[]).await? {
        let range = row.try_get::<_, i64>(1)? as u64..row.try_get::<_, i64>(2)? as u64 + 1;
        books.removed.entry(row.try_get(0)?).or_default().sequences.insert(range);
    }
    let before = sql(include_str!("../../../sql/ingest/verify_removed_before.sql"));
    for row in transaction.query(&before, &[]).await? {
        let first_left: Option<i64> = row.try_get(1)?;
        books.removed_before.insert(row.try_get(0)?, first_left.map(|first| first as u64));
    }
    let between = sql(include_str!("../../../sql/ingest/verify_removed_between.sql"));
    for row in transaction.query(&between, &[]).await? {
        books.removed_between.push((row.try_get::<_, i64>(0)? as u64, row.try_get::<_, i64>(1)? as u64));
    }
    for row in transaction.query(&sql(include_str!("../../../sql/ingest/verify_days.sql")), &[]).await? {
        let days = books.days.get_or_insert_default();
        books.now_ms = row.try_get::<_, i64>(2)? as u64;
        // Neither bound: the default partition.
        if let (Some(from), Some(to)) = (row.try_get::<_, Option<i64>>(0)?, row.try_get::<_, Option<i64>>(1)?)
            && from < to
        {
            days.insert(from as u64..to as u64);
        }
    }
    Ok(books)
}

/// Ids are given out a little out of the order of their times.
const DISORDER_MS: u64 = 60_000;

impl Books {
    /// Whether events that are nowhere may have gone with a partition that was truncated, dropped or detached. Their
    /// time is between those of their neighbours.
    fn went_with_a_partition(&self, journal: &Journal, stored: &Present, gap: &Range<u64>) -> bool {
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

/// Compares. `host` was looked at after the books were read: what was not settled then is there.
pub fn compare(books: &Books, host: &Host) -> Verdict {
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
    Verdict {
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
fn account(journal: &Journal, books: &Books, held: Option<&Range<u64>>) -> JournalVerdict {
    let nothing = Present::default();
    let of = |by_tag: &'_ ByTag| by_tag.get(&journal.tag).cloned().unwrap_or_else(|| nothing.clone());
    let (requests, dead) = (of(&books.requests), of(&books.dead));
    let (duplicates, removed) = (of(&books.duplicates), of(&books.removed));
    let removed_before = books.removed_before.get(&journal.tag);
    let mut verdict = JournalVerdict { journal: journal.journal, ..JournalVerdict::default() };
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
        let buried = intersection(&dead.sequences, &whole);
        // What is in none of the tables: discarded, unreadable, or taken out; the rest is missing.
        let mut nowhere = whole;
        for place in [&stored, &buried, &duplicates.sequences] {
            nowhere = difference(&nowhere, place);
        }
        let mut taken_out = intersection(&nowhere, &removed.sequences);
        if let Some(first_left) = removed_before {
            let mut before = RangeSet::new();
            before.insert(0..first_left.unwrap_or(u64::MAX).max(1));
            taken_out = taken_out.union(&intersection(&nowhere, &before)).collect();
        }
        let gone: Vec<Range<u64>> = difference(&nowhere, &taken_out).iter().cloned().collect();
        taken_out.extend(gone.into_iter().filter(|gap| books.went_with_a_partition(journal, &requests, gap)));
        // Keys, and with them what is known of duplicates, are forgotten after their window.
        let forgotten = counts.duplicates
            - length(&intersection(&duplicates.sequences, &RangeSet::from([range.clone()])))
                .min(counts.duplicates);
        let allowed = counts.discarded + counts.quarantined + forgotten;
        let lost = length(&nowhere).saturating_sub(length(&taken_out)).saturating_sub(allowed);
        if lost > 0 {
            missing_events += lost;
            missing.extend(difference(&nowhere, &taken_out));
        }
        verdict.removed += length(&taken_out).min(counts.committed.saturating_sub(length(&stored)));
        if length(&stored) > counts.committed || length(&buried) > counts.dead {
            surplus.extend(if length(&stored) > counts.committed { stored } else { buried });
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
    verdict.pending = length(&intersection(&uncovered, &on_disk));
    let uncovered = difference(&uncovered, &on_disk);
    (verdict.committed, verdict.duplicates) = (sums.committed, sums.duplicates);
    (verdict.dead, verdict.discarded, verdict.quarantined) = (sums.dead, sums.discarded, sums.quarantined);
    verdict.accepted = sums.total() + verdict.pending;
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
            let named = ranges.iter().take(MOST_NAMED).map(|range| (range.start, range.end - 1)).collect();
            let events = events.unwrap_or_else(|| length(&ranges));
            verdict.differences.push(Difference { kind, events, ranges: named });
        }
    }
    verdict
}

fn intersection(one: &RangeSet<u64>, other: &RangeSet<u64>) -> RangeSet<u64> {
    one.intersection(other).collect()
}

/// What is in `from` and not in `other`.
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

    type Named = (DifferenceKind, u64, Vec<(u64, u64)>);

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

    fn differences(books: &Books) -> Vec<Named> {
        let verdict = compare(books, &Host::default());
        let named = |difference: Difference| (difference.kind, difference.events, difference.ranges);
        verdict.journals.into_iter().flat_map(|journal| journal.differences).map(named).collect()
    }

    #[test]
    fn books_that_balance_show_no_difference_and_what_is_pending() {
        let verdict = compare(&books(), &holding(0..12));
        assert!(verdict.balances(), "{verdict:?}");
        assert_eq!((verdict.journals[0].accepted, verdict.journals[0].pending), (12, 2));
    }

    #[test]
    fn a_row_that_is_gone_is_missing_unless_its_removal_was_noted() {
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
    fn rows_that_went_with_a_partition_are_told_apart_by_their_neighbours_times() {
        let mut books = books();
        // Of 2 only; its neighbours are of the second and sixth million.
        books.requests = present(&[(0, 2), (6, 10)]);
        (books.days, books.now_ms) = (Some(std::iter::once(0..20_000_000).collect()), 10_000_000);
        assert_eq!(differences(&books).len(), 1, "there is a partition for all of it");
        books.days = Some(RangeSet::from([0..3_000_000, 7_000_000..20_000_000]));
        assert_eq!(differences(&books), [], "some of its time has none");
        books.days = Some(RangeSet::from([0..8_000_000, 9_000_000..20_000_000]));
        assert_eq!(differences(&books).len(), 1, "another time has none");
        books.removed_between = vec![(7_000_000, 8_000_000)];
        assert_eq!(differences(&books).len(), 1, "another time was truncated");
        books.removed_between.push((3_000_000, 4_000_000));
        assert_eq!(differences(&books), []);
    }

    #[test]
    fn what_receipts_say_is_lost_is_reported_unless_it_was_acknowledged() {
        let mut books = books();
        books.journals[0].receipts[0].1 =
            Counts { committed: 7, duplicates: 1, dead: 1, discarded: 0, quarantined: 1 };
        let verdict = compare(&books, &Host::default());
        assert_eq!((verdict.balances(), verdict.lost()), (true, 1));
        let host = Host { acknowledged: vec![Uuid::nil()], ..Host::default() };
        assert_eq!(compare(&books, &host).lost(), 0);
    }

    #[test]
    fn what_is_stored_without_a_receipt_or_twice_is_named() {
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
