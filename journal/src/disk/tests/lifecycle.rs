//! Opening, rolling over, recycling, limits.

use rangemap::RangeSet;

use super::disk::Fault;
use super::*;

#[test]
fn rows_come_back_in_order_with_their_keys() {
    let disk = Disk::new();
    let (mut writer, reader, _) = open_disk(&disk, &settings(16, 100)).unwrap();
    let rows: Vec<Vec<u8>> = (0..500).map(|number| tuple(number, number as usize % 700)).collect();
    for group in rows.chunks(20) {
        let batches: Vec<Vec<u8>> = group.chunks(2).map(<[Vec<u8>]>::concat).collect();
        let keys = [(1, [7; 16])];
        let records: Vec<Records<'_>> =
            batches.iter().map(|rows| Records { rows, events: 2, keys: &keys }).collect();
        writer.append(&records).unwrap();
        writer.flush().unwrap();
    }
    let journal = held(&reader, writer.journal()).unwrap();
    assert_eq!((journal.first, journal.end, journal.current), (0, 500, true));
    assert!(journal.segments > 2, "it rolled over");
    for max_bytes in [1, 5000, 1 << 20] {
        let (read, gaps) = read_all(&reader, &journal, max_bytes);
        assert_eq!(gaps, []);
        assert!(
            read.iter()
                .zip(&rows)
                .enumerate()
                .all(|(at, ((sequence, read), row))| at as u64 == *sequence && read == row)
        );
    }
    for (from, until) in [(0, 1), (3, 4), (17, 44), (199, 222), (498, 500)] {
        let (mut at, mut keys, mut read) = (from, Vec::new(), Vec::new());
        while at < until {
            let JournalRead::Rows(part) = reader.read(journal.journal, at, until, 1 << 20).unwrap() else {
                panic!()
            };
            keys.extend_from_slice(&part.keys);
            read.extend(part.rows().flatten().copied());
            at = part.until;
        }
        assert_eq!(at, until);
        assert_eq!(read, rows[from as usize..until as usize].concat());
        let expected: Vec<_> = (from..until).filter(|at| at % 2 == 1).map(|at| (at, [7; 16])).collect();
        assert_eq!(keys, expected);
    }
}

fn one(writer: &mut JournalWriter, number: u64, bytes: usize) -> Result<(), AppendError> {
    append_one(writer, &tuple(number, bytes))?;
    writer.flush()
}

fn covered(range: std::ops::Range<u64>) -> RangeSet<u64> {
    [range].into_iter().collect()
}

#[test]
fn nothing_is_read_past_the_last_sync() {
    let (mut writer, reader, _) = open_disk(&Disk::new(), &settings(8, 10)).unwrap();
    one(&mut writer, 0, 10).unwrap();
    append_one(&mut writer, &tuple(1, 10)).unwrap();
    let journal = writer.journal();
    assert_eq!(held(&reader, journal).unwrap().end, 1);
    let JournalRead::Rows(part) = reader.read(journal, 0, 9, 1000).unwrap() else { panic!() };
    assert_eq!(part.until, 1);
    assert!(matches!(reader.read(journal, 1, 2, 1000), Err(JournalError::NotHeld { sequence: 1, .. })));
    writer.flush().unwrap();
    assert!(matches!(reader.read(journal, 1, 2, 1000), Ok(JournalRead::Rows(_))));
}

#[test]
fn a_second_process_on_one_folder_is_refused() {
    let disk = Disk::new();
    let first = open_disk(&disk, &settings(8, 10)).unwrap();
    assert!(matches!(open_disk(&disk, &settings(8, 10)), Err(DiskError::Locked(_))));
    drop(first);
    open_disk(&disk, &settings(8, 10)).unwrap();
}

#[test]
fn copies_of_a_folder_never_give_out_a_sequence_of_each_other() {
    let disk = Disk::new();
    let (mut writer, reader, _) = open_disk(&disk, &settings(8, 10)).unwrap();
    one(&mut writer, 0, 10).unwrap();
    let old = writer.journal();
    let copies = [disk.copy(), disk.copy()].map(|disk| open_disk(&disk, &settings(8, 10)).unwrap());
    let ids = copies.each_ref().map(|(writer, ..)| writer.journal());
    assert!(ids[0] != ids[1] && !ids.contains(&old));
    for (writer, copy, _) in &copies {
        assert_eq!(writer.next_sequence(), 0);
        assert_eq!(copy.held()[0], HeldJournal { current: false, ..held(&reader, old).unwrap() });
    }
}

#[test]
fn journals_without_events_leave_nothing_behind() {
    let disk = Disk::new();
    for _ in 0..5 {
        drop(open_disk(&disk, &settings(8, 10)).unwrap());
    }
    assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());
}

#[test]
fn registered_journals_are_known_to_later_processes_until_they_are_trimmed() {
    let (disk, settings) = (Disk::new(), settings(8, 10));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    one(&mut writer, 0, 10).unwrap();
    let journal = writer.journal();
    reader.register(journal).unwrap();
    reader.set_schema("2 files").unwrap();
    drop((writer, reader));
    let (writer, reader, recovered) = open_disk(&disk, &settings).unwrap();
    assert_eq!(recovered.strays.len(), 0);
    assert_eq!((reader.is_registered(journal), reader.schema()), (true, Some("2 files".into())));
    reader.trim(journal, &covered(0..1)).unwrap();
    assert_eq!((reader.is_registered(journal), reader.schema()), (false, Some("2 files".into())));
    drop((writer, reader));
    assert!(!open_disk(&disk, &settings).unwrap().1.is_registered(journal));
}

#[test]
fn a_registration_that_is_not_durable_does_not_count() {
    let disk = Disk::new();
    let (writer, reader, _) = open_disk(&disk, &settings(8, 10)).unwrap();
    // Create, write, sync, rename, sync of the folder.
    for call in 0..5 {
        disk.fail_at(disk.calls() + call, Fault::Eio);
        assert!(reader.register(writer.journal()).is_err());
        assert!(!reader.is_registered(writer.journal()));
    }
    reader.register(writer.journal()).unwrap();
    assert!(reader.is_registered(writer.journal()));
}

#[test]
fn old_rows_in_a_recycled_segment_are_never_taken_for_new_ones() {
    let (disk, settings) = (Disk::new(), settings(8, 10));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    let journal = writer.journal();
    // Blocks of one page, six a segment.
    for number in 0..6 {
        one(&mut writer, number, 3000).unwrap();
    }
    let stale = disk.bytes(&reader.segments()[0].file).unwrap();
    one(&mut writer, 6, 3000).unwrap();
    reader.trim(journal, &covered(0..6)).unwrap();
    assert_eq!(held(&reader, journal).unwrap().first, 6);
    // The third segment is the first one's file.
    for number in 7..13 {
        one(&mut writer, number, 3000).unwrap();
    }
    let info = reader.segments().into_iter().find(|segment| segment.number == 2).unwrap();
    let page = PAGE as usize;
    assert_eq!(disk.bytes(&info.file).unwrap()[2 * page..], stale[2 * page..], "it holds the old rows");
    let (_, reader, recovered) = open_disk(&disk.copy(), &settings).unwrap();
    assert_eq!(recovered.damaged, []);
    let (rows, gaps) = read_all(&reader, &held(&reader, journal).unwrap(), 1000);
    assert_eq!(gaps, []);
    let expected: Vec<_> = (6..13).map(|number| (number, tuple(number, 3000))).collect();
    assert!(rows == expected);
}

#[test]
fn rows_of_another_journal_in_a_recycled_segment_are_never_taken_for_new_ones() {
    let (disk, settings) = (Disk::new(), settings(8, 10));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    (0..7).for_each(|number| one(&mut writer, number, 3000).unwrap());
    reader.trim(writer.journal(), &covered(0..6)).unwrap();
    drop((writer, reader));
    // Its first segment is the file of rows 0 to 5; so behind its only row comes, at its place, an old row 1.
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    one(&mut writer, 100, 3000).unwrap();
    let journal = writer.journal();
    drop((writer, reader));
    let (_, reader, _) = open_disk(&disk, &settings).unwrap();
    assert!(read_all(&reader, &held(&reader, journal).unwrap(), 1000).0 == [(0, tuple(100, 3000))]);
}

#[test]
fn a_group_lies_wholly_in_one_segment() {
    let (mut writer, reader, _) = open_disk(&Disk::new(), &settings(8, 10)).unwrap();
    one(&mut writer, 0, 10_000).unwrap();
    one(&mut writer, 1, 15_000).unwrap();
    let ranges: Vec<_> = reader.segments().iter().map(|segment| (segment.first, segment.end)).collect();
    assert_eq!(ranges, [(0, 1), (1, 2)]);
    assert!(matches!(one(&mut writer, 2, 8 * 4096), Err(AppendError::TooLarge)));
    let most = writer.largest_group() as usize - 64 - tuple(2, 0).len();
    one(&mut writer, 2, most).unwrap();
    assert!(matches!(one(&mut writer, 3, most + 1), Err(AppendError::TooLarge)));
    assert_eq!(writer.next_sequence(), 3);
}

#[test]
fn a_full_journal_refuses_before_it_writes_and_goes_on_once_trimmed() {
    let (mut writer, reader, _) = open_disk(&Disk::new(), &settings(8, 3)).unwrap();
    let journal = writer.journal();
    let mut number = 0;
    while number < 100 && one(&mut writer, number, 3000).is_ok() {
        number += 1;
    }
    assert!(matches!(one(&mut writer, number, 3000), Err(AppendError::Full)));
    assert_eq!((number, writer.next_sequence(), reader.accepting()), (18, 18, Err(Refusal::Full)));
    assert_eq!(reader.usage().uncovered_bytes, 3 * 8 * PAGE);
    // A segment that is not covered whole stays.
    reader.trim(journal, &covered(1..12)).unwrap();
    assert_eq!((reader.accepting(), held(&reader, journal).unwrap().first), (Ok(()), 0));
    one(&mut writer, number, 3000).unwrap();
    reader.trim(journal, &covered(0..12)).unwrap();
    assert_eq!(held(&reader, journal).unwrap().first, 12);
}

#[test]
fn covered_segments_are_kept_for_a_rewind_and_yield_when_room_is_needed() {
    let mut settings = settings(8, 5);
    settings.keep_bytes = 2 * settings.segment_bytes;
    let (mut writer, reader, _) = open_disk(&Disk::new(), &settings).unwrap();
    let journal = writer.journal();
    (0..24).for_each(|number| one(&mut writer, number, 3000).unwrap());
    reader.trim(journal, &covered(0..18)).unwrap();
    // Of three covered segments two are kept.
    assert_eq!((held(&reader, journal).unwrap().first, reader.usage().kept_bytes), (6, 2 * 8 * PAGE));
    assert!(matches!(reader.read(journal, 6, 7, 1000), Ok(JournalRead::Rows(_))));
    (24..42).for_each(|number| one(&mut writer, number, 3000).unwrap());
    assert_eq!(held(&reader, journal).unwrap().first, 12);
    let usage = reader.usage();
    assert_eq!((usage.uncovered_bytes, usage.kept_bytes), (4 * 8 * PAGE, 8 * PAGE));
    assert!(usage.uncovered_bytes + usage.kept_bytes <= settings.max_bytes);
}

#[test]
fn little_free_space_refuses_and_passes() {
    let (disk, mut settings) = (Disk::new(), settings(8, 10));
    settings.min_free = 1 << 20;
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    one(&mut writer, 0, 10).unwrap();
    disk.set_free((1 << 20) - 1);
    reader.run_maintenance();
    assert_eq!(reader.accepting(), Err(Refusal::MinFree));
    assert!(matches!(one(&mut writer, 1, 10), Err(AppendError::MinFree)));
    disk.set_free(1 << 30);
    reader.run_maintenance();
    assert_eq!(reader.accepting(), Ok(()));
    one(&mut writer, 1, 10).unwrap();
}

#[test]
fn free_space_without_a_further_segment_is_reported_until_it_passes() {
    let (disk, mut settings) = (Disk::new(), settings(8, 10));
    settings.min_free = 1 << 20;
    disk.set_free(1 << 20);
    // The first segment is tried as it opens.
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    assert_eq!(reader.refusal(), Some(Refusal::MinFree));
    assert!(matches!(one(&mut writer, 0, 10), Err(AppendError::MinFree)));
    assert_eq!((reader.accepting(), reader.refusal()), (Err(Refusal::MinFree), Some(Refusal::MinFree)));
    // The next event is tried, and the state stays.
    std::thread::sleep(gate::TRANSIENT + std::time::Duration::from_millis(5));
    reader.run_maintenance();
    assert_eq!((reader.accepting(), reader.refusal()), (Ok(()), Some(Refusal::MinFree)));
    disk.set_free(1 << 30);
    reader.run_maintenance();
    assert_eq!((reader.accepting(), reader.refusal()), (Ok(()), None));
    one(&mut writer, 0, 10).unwrap();
}

#[test]
fn it_opens_on_a_full_disk_so_that_what_is_pending_can_drain() {
    let (disk, mut settings) = (Disk::new(), settings(8, 10));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    one(&mut writer, 0, 10).unwrap();
    let old = writer.journal();
    drop((writer, reader));
    (settings.min_free, settings.segment_bytes) = (1 << 20, 16 * PAGE);
    disk.set_free(1000);
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    assert!(matches!(one(&mut writer, 0, 10), Err(AppendError::MinFree)));
    assert_eq!(read_all(&reader, &held(&reader, old).unwrap(), 1000).0, [(0, tuple(0, 10))]);
    reader.trim(old, &covered(0..1)).unwrap();
    disk.set_free(1 << 30);
    reader.run_maintenance();
    one(&mut writer, 0, 10).unwrap();
    assert_eq!(reader.held().len(), 1);
}

#[test]
fn inspecting_beside_a_running_service_changes_nothing() {
    let disk = Disk::new();
    let (mut writer, reader, _) = open_disk(&disk, &settings(8, 10)).unwrap();
    (0..9).for_each(|number| one(&mut writer, number, 3000).unwrap());
    append_one(&mut writer, &tuple(9, 9000)).unwrap();
    // A write in progress: the first page is there, the rest is not.
    append_one(&mut writer, &tuple(10, 5000)).unwrap();
    let last = reader.segments().pop().unwrap().file;
    let written = disk.bytes(&last).unwrap();
    let end = written.iter().rposition(|byte| *byte != 0).unwrap();
    disk.change_byte(&last, end, |byte| !byte);
    let all = || disk.paths().iter().map(|path| (path.clone(), disk.bytes(path))).collect::<Vec<_>>();
    let before = all();
    let (inspected, _) = inspect_on(Arc::clone(&disk) as Arc<dyn Files>, Path::new(DIR)).unwrap();
    let journal = held(&inspected, writer.journal()).unwrap();
    assert_eq!(read_all(&inspected, &journal, 1000).0.len(), 10);
    assert!(all() == before);
    // Released meanwhile: an error, not damage.
    disk.change_byte(&last, end, |byte| !byte);
    writer.flush().unwrap();
    reader.trim(journal.journal, &covered(0..6)).unwrap();
    assert!(inspected.read(journal.journal, 0, 9, 1000).is_err());
}

/// A real folder, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-journal-{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn settings(&self) -> DiskSettings {
        DiskSettings { dir: self.0.join("journal"), ..settings(64, 1000) }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn readers_follow_while_rows_are_appended_and_trimmed() {
    const ROWS: u64 = 4000;
    let folder = Folder::new();
    let (mut writer, reader, _) = parts(open(folder.settings())).unwrap();
    let journal = writer.journal();
    std::thread::scope(|scope| {
        scope.spawn(|| while reader.maintain().is_continue() {});
        for index in 0..2 {
            let reader = &reader;
            scope.spawn(move || {
                let mut at = 0;
                while at < ROWS {
                    if reader.flushed(journal).unwrap() <= at {
                        std::thread::yield_now();
                        continue;
                    }
                    let JournalRead::Rows(part) = reader.read(journal, at, ROWS, 50_000).unwrap() else {
                        panic!()
                    };
                    for row in part.rows().flat_map(tuples) {
                        assert!(row.bytes() == tuple(at, at as usize % 900));
                        at += 1;
                    }
                    // One of them trims, well behind what it has read.
                    if index == 0 && at > 1500 {
                        reader.trim(journal, &covered(0..at - 1500)).ok();
                    }
                }
            });
        }
        for number in 0..ROWS {
            append_one(&mut writer, &tuple(number, number as usize % 900)).unwrap();
            if number % 5 == 4 {
                writer.flush().unwrap();
            }
            // The other reader never falls behind the trim.
            while reader.flushed(journal).unwrap() + 5 < number {
                std::thread::yield_now();
            }
        }
        writer.flush().unwrap();
        drop(writer);
    });
}

#[test]
fn real_files_are_for_their_owner_alone_and_survive_a_restart() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (mut writer, reader, _) = parts(open(folder.settings())).unwrap();
    (0..200).for_each(|number| one(&mut writer, number, 3000).unwrap());
    writer.mark().unwrap();
    let journal = writer.journal();
    assert!(matches!(open(folder.settings()), Err(DiskError::Locked(_))));
    assert_eq!(mode(&folder.settings().dir), 0o700);
    for entry in std::fs::read_dir(folder.settings().dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    drop((writer, reader));
    let (_appender, reader, recovered) = parts(open(folder.settings())).unwrap();
    assert_eq!((recovered.damaged.len(), recovered.torn.len(), recovered.journals.len()), (0, 0, 1));
    let (rows, gaps) = read_all(&reader, &held(&reader, journal).unwrap(), 1 << 20);
    assert!(
        gaps.is_empty() && rows == (0..200).map(|number| (number, tuple(number, 3000))).collect::<Vec<_>>()
    );
}

#[test]
fn a_segment_is_filled_ahead_where_groups_are_many_and_reserved_where_they_are_few() {
    let disk = Disk::new();
    let (mut writer, reader, _) = open_disk(&disk, &settings(1500, 20)).unwrap();
    let segments_of = |writer: &JournalWriter| held(&reader, writer.journal()).unwrap().segments as u64;
    let mut fill = |bytes: usize, segments: u64| {
        let until = segments_of(&writer) + segments;
        while segments_of(&writer) < until {
            one(&mut writer, 0, bytes).unwrap();
        }
        disk.reserved()
    };
    assert_eq!(fill(100, 2), 0, "a page a group");
    assert_eq!(fill(40 * PAGE as usize, 3), 3, "forty pages a group");
    assert_eq!(fill(100, 3), 3, "a page a group again");
}
