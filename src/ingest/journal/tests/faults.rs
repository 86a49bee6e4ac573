//! One call to the disk fails, each in its turn, in each way.

use rangemap::RangeSet;

use super::disk::Fault;
use super::*;

/// What a producer was told.
#[derive(Default)]
struct Told {
    journal: Option<JournalId>,
    /// Rows of groups that were appended.
    rows: Vec<Vec<u8>>,
    synced: usize,
    /// Of the group that poisoned the journal: may be there or not.
    unknown: Vec<Vec<u8>>,
    /// Covered up to here.
    covered: u64,
    errors: Vec<AppendError>,
}

fn group(number: u64) -> Vec<Vec<u8>> {
    (0..1 + number % 4).map(|row| tuple(number * 10 + row, 300 + (number as usize * 997) % 3000)).collect()
}

/// Goes on after each error, as the service does.
fn scenario(disk: &Arc<Disk>, settings: &JournalSettings) -> Told {
    let mut told = Told::default();
    let Ok((mut appender, store, _)) = open_disk(disk, settings) else { return told };
    let journal = appender.journal();
    told.journal = Some(journal);
    for number in 0..24 {
        let rows = group(number);
        let records: Vec<_> = rows.iter().map(|rows| Records { rows, events: 1, keys: &[] }).collect();
        let before = appender.next_sequence();
        match appender.append(&records) {
            Ok(()) => told.rows.extend(rows),
            Err(error) => {
                assert_eq!(appender.next_sequence(), before);
                if matches!(error, AppendError::Poisoned(_)) && told.unknown.is_empty() {
                    told.unknown = rows;
                }
                told.errors.push(error);
            }
        }
        match appender.sync() {
            Ok(()) => told.synced = told.rows.len(),
            Err(error) => {
                if !matches!(error, AppendError::Poisoned(_)) {
                    // Taken back: its sequences are given out again.
                    told.rows.truncate(told.synced);
                    assert_eq!(appender.next_sequence(), told.synced as u64);
                }
                told.errors.push(error);
            }
        }
        if number % 8 == 7 {
            if let Err(error) = appender.seal() {
                told.errors.push(error);
            }
            // All but the latest rows are covered.
            told.covered = (told.synced as u64).saturating_sub(6);
            let mut covered = RangeSet::new();
            covered.insert(0..told.covered.max(1));
            let _tried_again_later = store.trim(journal, &covered);
        }
        let held = held(&store, journal).unwrap();
        if held.end > held.first {
            let piece = store.read(journal, held.first, held.end, 4096);
            assert!(matches!(piece, Ok(Piece::Rows(_)) | Err(JournalError::Io { .. })), "{piece:?}");
        }
    }
    if let Some(poisoned) = told.errors.iter().position(|error| matches!(error, AppendError::Poisoned(_))) {
        let after = &told.errors[poisoned..];
        assert!(after.iter().all(|error| matches!(error, AppendError::Poisoned(_))), "poisoned is for ever");
        assert_eq!(store.accepting(), Err(Refusal::Poisoned));
    }
    told
}

fn check(disk: &Arc<Disk>, settings: &JournalSettings, told: &Told) {
    let (_, store, recovered) = open_disk(disk, settings).unwrap();
    assert_eq!(recovered.damaged, []);
    let Some(journal) = told.journal else { return };
    let Some(held) = held(&store, journal) else {
        assert_eq!(told.covered.max(told.synced as u64), told.covered);
        return;
    };
    assert!(held.first <= told.covered && held.end >= told.synced as u64, "{held:?}");
    let (rows, gaps) = read_all(&store, &held, 100_000);
    assert_eq!(gaps, []);
    let all: Vec<_> = told.rows.iter().chain(&told.unknown).collect();
    for (sequence, row) in rows {
        assert!(all.get(sequence as usize) == Some(&&row), "a row that was refused is there");
    }
}

fn run(fault: Fault) {
    let settings = settings(8, 6);
    let whole = Disk::new();
    let told = scenario(&whole, &settings);
    assert_eq!((told.errors.len(), told.synced), (0, told.rows.len()));
    for call in 0..whole.calls() {
        let disk = Disk::new();
        disk.fail_at(call, fault);
        let told = scenario(&disk, &settings);
        let failed = disk.failed();
        let poisoned = told.errors.iter().any(|error| matches!(error, AppendError::Poisoned(_)));
        match (fault, failed.first().copied()) {
            // Cut back, and it goes on by itself: at most one group is refused.
            (Fault::NoSpace, Some("pwrite")) => {
                assert!(!poisoned && told.errors.len() <= 1, "{:?}", told.errors);
            }
            (Fault::Shortage, Some(_)) => {
                assert!(!poisoned && told.errors.len() <= 1, "{failed:?} {:?}", told.errors);
            }
            (Fault::Eio, Some("pwrite")) if told.journal.is_some() => {
                assert!(poisoned, "call {call}");
            }
            (Fault::Short, _) => assert_eq!(told.errors.len(), 0, "call {call} {failed:?}"),
            _ => {}
        }
        check(&disk.copy(), &settings, &told);
        for seed in 0..4 {
            check(&disk.lose_power(call * 31 + seed), &settings, &told);
        }
    }
}

#[test]
fn a_full_disk_at_any_call_loses_nothing_and_passes() {
    run(Fault::NoSpace);
}

#[test]
fn a_shortage_of_descriptors_at_any_call_loses_nothing_and_passes() {
    run(Fault::Shortage);
}

#[test]
fn an_io_error_at_any_call_loses_nothing_and_poisons() {
    run(Fault::Eio);
}

#[test]
fn a_short_write_or_read_at_any_call_changes_nothing() {
    run(Fault::Short);
}

#[test]
fn a_failed_sync_is_never_retried() {
    let disk = Disk::new();
    let (mut appender, store, _) = open_disk(&disk, &settings(8, 6)).unwrap();
    let first = tuple(1, 10);
    append_one(&mut appender, &first).unwrap();
    appender.sync().unwrap();
    append_one(&mut appender, &tuple(2, 10)).unwrap();
    disk.fail_at(disk.calls(), Fault::Eio);
    assert!(matches!(appender.sync(), Err(AppendError::Poisoned(_))));
    let calls = disk.calls();
    assert!(matches!(appender.sync(), Err(AppendError::Poisoned(_))));
    assert!(matches!(append_one(&mut appender, &first), Err(AppendError::Poisoned(_))));
    assert!(matches!(appender.seal(), Err(AppendError::Poisoned(_))));
    assert_eq!(disk.calls(), calls, "no call reaches the disk any more");
    assert_eq!(store.accepting(), Err(Refusal::Poisoned));
    // What was synced keeps draining, and nothing else.
    let held = held(&store, appender.journal()).unwrap();
    assert_eq!(read_all(&store, &held, 1000).0, [(0, first)]);
}

/// The system may call the pages of a failed sync clean, so they are written over before anything is synced again.
#[test]
fn a_sync_without_room_takes_its_group_back_and_passes() {
    for fault in [Fault::NoSpace, Fault::Shortage] {
        let (disk, settings) = (Disk::new(), settings(8, 6));
        let (mut appender, _store, _) = open_disk(&disk, &settings).unwrap();
        let [first, refused, last] = [1, 2, 3].map(|number| tuple(number, 10));
        append_one(&mut appender, &first).unwrap();
        appender.sync().unwrap();
        append_one(&mut appender, &refused).unwrap();
        disk.fail_at(disk.calls(), fault);
        assert!(matches!(appender.sync(), Err(AppendError::NoSpace(_) | AppendError::Shortage(_))));
        assert_eq!(appender.next_sequence(), 1);
        append_one(&mut appender, &last).unwrap();
        appender.sync().unwrap();
        let journal = appender.journal();
        for disk in [disk.copy(), disk.lose_power(1), disk.lose_power(2)] {
            let (_, store, recovered) = open_disk(&disk, &settings).unwrap();
            assert_eq!(recovered.damaged, []);
            let held = held(&store, journal).unwrap();
            assert_eq!(read_all(&store, &held, 1000).0, [(0, first.clone()), (1, last.clone())]);
        }
    }
}

/// A refused group's blocks stay behind the end, where a later, shorter group may reach up to one of them.
#[test]
fn what_is_left_of_a_refused_group_is_never_taken_for_a_row() {
    let (settings, refused) = (settings(16, 6), tuple(9, 3000));
    let disk = Disk::new();
    let (mut appender, _store, _) = open_disk(&disk, &settings).unwrap();
    let kept = tuple(1, 3000);
    append_one(&mut appender, &kept).unwrap();
    appender.sync().unwrap();
    // Two blocks of a page each; the write of 2 pages ends after the first.
    let two: Vec<_> = (0..4).map(|_| Records { rows: &refused, events: 1, keys: &[] }).collect();
    disk.fail_at(disk.calls(), Fault::NoSpace);
    assert!(matches!(appender.append(&two), Err(AppendError::NoSpace(_))));
    append_one(&mut appender, &kept).unwrap();
    appender.sync().unwrap();
    let journal = appender.journal();
    for disk in [disk.copy(), disk.lose_power(1)] {
        let (_, store, _) = open_disk(&disk, &settings).unwrap();
        let held = held(&store, journal).unwrap();
        assert_eq!(read_all(&store, &held, 1000).0, [(0, kept.clone()), (1, kept.clone())]);
    }
}
