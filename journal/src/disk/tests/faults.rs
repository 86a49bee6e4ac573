//! One call to the disk fails: each call, in each way.

use rangemap::RangeSet;

use super::disk::Fault;
use super::*;

/// The results that a producer got.
#[derive(Default)]
struct ProducerLog {
    journal: Option<JournalId>,
    /// Rows of appended groups.
    rows: Vec<Vec<u8>>,
    synced: usize,
    /// Rows of the group that poisoned the journal: they may survive or not.
    unknown: Vec<Vec<u8>>,
    /// End of the covered sequences.
    covered: u64,
    errors: Vec<AppendError>,
}

fn group(number: u64) -> Vec<Vec<u8>> {
    (0..1 + number % 4).map(|row| tuple(number * 10 + row, 300 + (number as usize * 997) % 3000)).collect()
}

/// Continues after each error, as the service does.
fn scenario(disk: &Arc<Disk>, settings: &DiskSettings) -> ProducerLog {
    let mut log = ProducerLog::default();
    let Ok((mut writer, reader, _)) = open_disk(disk, settings) else { return log };
    let journal = writer.journal();
    log.journal = Some(journal);
    for number in 0..24 {
        let rows = group(number);
        let records: Vec<_> = rows.iter().map(|rows| Records { rows, events: 1, keys: &[] }).collect();
        let before = writer.next_sequence();
        match writer.append(&records) {
            Ok(()) => log.rows.extend(rows),
            Err(error) => {
                assert_eq!(writer.next_sequence(), before);
                if matches!(error, AppendError::Poisoned(_)) && log.unknown.is_empty() {
                    log.unknown = rows;
                }
                log.errors.push(error);
            }
        }
        match writer.flush() {
            Ok(()) => log.synced = log.rows.len(),
            Err(error) => {
                if !matches!(error, AppendError::Poisoned(_)) {
                    // Erased: its sequences are assigned again.
                    log.rows.truncate(log.synced);
                    assert_eq!(writer.next_sequence(), log.synced as u64);
                }
                log.errors.push(error);
            }
        }
        if number % 8 == 7 {
            if let Err(error) = writer.mark() {
                log.errors.push(error);
            }
            // All but the latest rows are covered.
            log.covered = (log.synced as u64).saturating_sub(6);
            let mut covered = RangeSet::new();
            covered.insert(0..log.covered.max(1));
            let _tried_again_later = reader.trim(journal, &covered);
        }
        let held = held(&reader, journal).unwrap();
        if held.end > held.first {
            let piece = reader.read(journal, held.first, held.end, 4096);
            assert!(matches!(piece, Ok(JournalRead::Rows(_)) | Err(JournalError::Storage(_))), "{piece:?}");
        }
    }
    if let Some(poisoned) = log.errors.iter().position(|error| matches!(error, AppendError::Poisoned(_))) {
        let after = &log.errors[poisoned..];
        assert!(after.iter().all(|error| matches!(error, AppendError::Poisoned(_))), "poisoned is for ever");
        assert_eq!(reader.accepting(), Err(Refusal::Poisoned));
    }
    log
}

fn check(disk: &Arc<Disk>, settings: &DiskSettings, log: &ProducerLog) {
    let (_, reader, recovered) = open_disk(disk, settings).unwrap();
    assert_eq!(recovered.damaged, []);
    let Some(journal) = log.journal else { return };
    let Some(held) = held(&reader, journal) else {
        assert_eq!(log.covered.max(log.synced as u64), log.covered);
        return;
    };
    assert!(held.first <= log.covered && held.end >= log.synced as u64, "{held:?}");
    let (rows, gaps) = read_all(&reader, &held, 100_000);
    assert_eq!(gaps, []);
    let all: Vec<_> = log.rows.iter().chain(&log.unknown).collect();
    for (sequence, row) in rows {
        assert!(all.get(sequence as usize) == Some(&&row), "a row that was refused is there");
    }
}

fn run(fault: Fault) {
    let settings = settings(8, 6);
    let whole = Disk::new();
    let log = scenario(&whole, &settings);
    assert_eq!((log.errors.len(), log.synced), (0, log.rows.len()));
    for call in 0..whole.calls() {
        let disk = Disk::new();
        disk.fail_at(call, fault);
        let log = scenario(&disk, &settings);
        let failed = disk.failed();
        let poisoned = log.errors.iter().any(|error| matches!(error, AppendError::Poisoned(_)));
        match (fault, failed.first().copied()) {
            // Erased, and appends continue: at most one group is refused.
            (Fault::NoSpace, Some("pwrite")) => {
                assert!(!poisoned && log.errors.len() <= 1, "{:?}", log.errors);
            }
            (Fault::Shortage, Some(_)) => {
                assert!(!poisoned && log.errors.len() <= 1, "{failed:?} {:?}", log.errors);
            }
            (Fault::Eio, Some("pwrite")) if log.journal.is_some() => {
                assert!(poisoned, "call {call}");
            }
            (Fault::Short, _) => assert_eq!(log.errors.len(), 0, "call {call} {failed:?}"),
            _ => {}
        }
        check(&disk.copy(), &settings, &log);
        for seed in 0..4 {
            check(&disk.lose_power(call * 31 + seed), &settings, &log);
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
    let (mut writer, reader, _) = open_disk(&disk, &settings(8, 6)).unwrap();
    let first = tuple(1, 10);
    append_one(&mut writer, &first).unwrap();
    writer.flush().unwrap();
    append_one(&mut writer, &tuple(2, 10)).unwrap();
    disk.fail_at(disk.calls(), Fault::Eio);
    assert!(matches!(writer.flush(), Err(AppendError::Poisoned(_))));
    let calls = disk.calls();
    assert!(matches!(writer.flush(), Err(AppendError::Poisoned(_))));
    assert!(matches!(append_one(&mut writer, &first), Err(AppendError::Poisoned(_))));
    assert!(matches!(writer.mark(), Err(AppendError::Poisoned(_))));
    assert_eq!(disk.calls(), calls, "no call reaches the disk any more");
    assert_eq!(reader.accepting(), Err(Refusal::Poisoned));
    // What was synced keeps draining, and nothing else.
    let held = held(&reader, writer.journal()).unwrap();
    assert_eq!(read_all(&reader, &held, 1000).0, [(0, first)]);
}

/// The system may mark the pages of a failed sync as clean, so they are overwritten before the next sync.
#[test]
fn a_sync_without_room_takes_its_group_back_and_passes() {
    for fault in [Fault::NoSpace, Fault::Shortage] {
        let (disk, settings) = (Disk::new(), settings(8, 6));
        let (mut writer, _store, _) = open_disk(&disk, &settings).unwrap();
        let [first, refused, last] = [1, 2, 3].map(|number| tuple(number, 10));
        append_one(&mut writer, &first).unwrap();
        writer.flush().unwrap();
        append_one(&mut writer, &refused).unwrap();
        disk.fail_at(disk.calls(), fault);
        assert!(matches!(writer.flush(), Err(AppendError::NoSpace(_) | AppendError::Shortage(_))));
        assert_eq!(writer.next_sequence(), 1);
        append_one(&mut writer, &last).unwrap();
        writer.flush().unwrap();
        let journal = writer.journal();
        for disk in [disk.copy(), disk.lose_power(1), disk.lose_power(2)] {
            let (_, reader, recovered) = open_disk(&disk, &settings).unwrap();
            assert_eq!(recovered.damaged, []);
            let held = held(&reader, journal).unwrap();
            assert_eq!(read_all(&reader, &held, 1000).0, [(0, first.clone()), (1, last.clone())]);
        }
    }
}

/// Blocks of a refused group stay behind the end, where a later, shorter group may border on one of them.
#[test]
fn what_is_left_of_a_refused_group_is_never_taken_for_a_row() {
    let (settings, refused) = (settings(16, 6), tuple(9, 3000));
    let disk = Disk::new();
    let (mut writer, _store, _) = open_disk(&disk, &settings).unwrap();
    let kept = tuple(1, 3000);
    append_one(&mut writer, &kept).unwrap();
    writer.flush().unwrap();
    // Two blocks of a page each; the write of 2 pages ends after the first.
    let two: Vec<_> = (0..4).map(|_| Records { rows: &refused, events: 1, keys: &[] }).collect();
    disk.fail_at(disk.calls(), Fault::NoSpace);
    assert!(matches!(writer.append(&two), Err(AppendError::NoSpace(_))));
    append_one(&mut writer, &kept).unwrap();
    writer.flush().unwrap();
    let journal = writer.journal();
    for disk in [disk.copy(), disk.lose_power(1)] {
        let (_, reader, _) = open_disk(&disk, &settings).unwrap();
        let held = held(&reader, journal).unwrap();
        assert_eq!(read_all(&reader, &held, 1000).0, [(0, kept.clone()), (1, kept.clone())]);
    }
}
