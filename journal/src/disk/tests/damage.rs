//! Damaged bytes.

use std::path::PathBuf;

use proptest::prelude::*;

use super::super::format::FIRST_BLOCK;
use super::super::fuzz::{scan_bytes, scan_repaired};
use super::*;

/// A small journal on a disk: three segments of groups of two blocks, and a marker at the end.
struct Small {
    disk: Arc<Disk>,
    settings: DiskSettings,
    journal: JournalId,
    rows: Vec<Vec<u8>>,
    files: Vec<PathBuf>,
    /// Length of the last file without its unused end.
    used: u64,
}

fn extent_path(journal: JournalId) -> PathBuf {
    Path::new(DIR).join(format!("{journal}.extent"))
}

fn small(groups: u64, seal: bool) -> Small {
    small_of(8, groups, seal)
}

fn small_of(pages: u64, groups: u64, seal: bool) -> Small {
    let (disk, settings) = (Disk::new(), settings(pages, 100));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    let rows: Vec<Vec<u8>> =
        (0..2 * groups).map(|number| tuple(number, 1500 + number as usize * 50)).collect();
    for group in rows.chunks(2) {
        let records: Vec<_> = group.iter().map(|rows| Records { rows, events: 1, keys: &[] }).collect();
        writer.append(&records).unwrap();
        writer.flush().unwrap();
    }
    let mut used = reader.segments().iter().rev().find(|segment| segment.journal.is_some()).unwrap().used;
    if seal {
        writer.mark().unwrap();
        used += PAGE;
    }
    let files = reader.segments().into_iter().filter(|segment| segment.journal.is_some());
    let files = files.map(|segment| segment.file).collect();
    Small { journal: writer.journal(), disk, settings, rows, files, used }
}

impl Small {
    /// As in a folder of a version without extents.
    fn forget_extent(&self) {
        self.disk.remove_file(&extent_path(self.journal));
    }

    /// Checks the rows that are read. Returns the numbers of rows and of missing events.
    fn check(&self, reader: &JournalReader) -> (usize, u64) {
        let Some(held) = held(reader, self.journal) else { return (0, 0) };
        let (rows, gaps) = read_all(reader, &held, 6000);
        for (sequence, row) in &rows {
            assert!(self.rows[*sequence as usize] == *row, "a wrong row");
        }
        (rows.len(), gaps.iter().map(|gap| gap.end - gap.start).sum())
    }

    fn inspected(&self, disk: &Arc<Disk>) -> (usize, u64) {
        let files = Arc::clone(disk) as Arc<dyn Files>;
        self.check(&inspect_on(files, Path::new(DIR)).unwrap().0)
    }

    /// As [`Self::inspected`], with the same result after a recovery that may change the disk, and after the next one.
    fn recovered(&self, disk: &Arc<Disk>) -> (usize, u64) {
        let before = self.inspected(disk);
        for _ in 0..2 {
            let (_, reader, _) = open_disk(disk, &self.settings).unwrap();
            assert_eq!(self.check(&reader), before);
        }
        before
    }
}

#[test]
fn a_flipped_bit_at_any_byte_costs_at_most_its_block_and_is_accounted_for() {
    let small = small_of(4, 3, true);
    assert!(small.files.len() == 3);
    for (index, path) in small.files.iter().enumerate() {
        let bytes = small.disk.bytes(path).unwrap();
        let end = if index == 2 { small.used as usize } else { bytes.len() };
        for at in 0..end {
            let flip = |byte| byte ^ (1 << (at % 8));
            small.disk.change_byte(path, at, flip);
            let (rows, missing) = if at % 509 == 0 {
                small.recovered(&small.disk.copy())
            } else {
                small.inspected(&small.disk)
            };
            assert_eq!(rows as u64 + missing, 6, "byte {at} of file {index}");
            assert!(missing <= 1, "byte {at} of file {index} costs {missing}");
            small.disk.change_byte(path, at, flip);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_block_is_cut_unless_a_marker_or_the_extent_says_that_it_was_synced() {
    for (seal, noted) in [(false, false), (true, false), (false, true)] {
        let small = small(1, seal);
        if !noted {
            small.forget_extent();
        }
        let path = &small.files[0];
        let mut bytes = small.disk.bytes(path).unwrap();
        bytes[2 * PAGE as usize + 100] ^= 1;
        small.disk.put(path, bytes);
        assert_eq!(small.recovered(&small.disk), (1, u64::from(seal || noted)));
    }
}

#[test]
fn a_tail_that_was_cut_never_comes_back() {
    let (disk, settings) = (Disk::new(), settings(8, 100));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    append_one(&mut writer, &tuple(0, 100)).unwrap();
    append_one(&mut writer, &tuple(1, 5000)).unwrap();
    writer.flush().unwrap();
    let (journal, file) = (writer.journal(), reader.segments().remove(0).file);
    drop((writer, reader));
    disk.remove_file(&extent_path(journal));
    // A page that is damaged first, and valid later.
    for rows in [1, 1] {
        disk.change_byte(&file, 3 * PAGE as usize + 5, |byte| !byte);
        let (_, reader, _) = open_disk(&disk, &settings).unwrap();
        assert_eq!(held(&reader, journal).unwrap().end, rows);
    }
}

#[test]
fn a_file_cut_at_any_byte_is_recovered_or_accounted_for() {
    let small = small_of(4, 3, true);
    for (index, path) in small.files.iter().enumerate() {
        let bytes = small.disk.bytes(path).unwrap();
        for at in (0..bytes.len()).rev() {
            small.disk.truncate(path, at);
            let (rows, missing) = if at % 1021 == 0 {
                small.recovered(&small.disk.copy())
            } else {
                small.inspected(&small.disk)
            };
            assert_eq!(rows as u64 + missing, 6, "{at} bytes of file {index}");
        }
        small.disk.put(path, bytes);
    }
}

#[test]
fn missing_segments_are_gaps_wherever_they_were() {
    for taken in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 2], &[0, 1, 2]] {
        let small = small(8, true);
        let (whole, _) = small.inspected(&small.disk);
        for index in taken {
            small.disk.remove_file(&small.files[*index]);
        }
        let (rows, missing) = small.recovered(&small.disk);
        assert_eq!((whole, rows as u64 + missing), (16, 16), "{taken:?}");
        assert!(missing > 0);
        let (_, reader, recovered) = open_disk(&small.disk, &small.settings).unwrap();
        let reported: u64 = recovered.damaged.iter().map(|damage| damage.until - damage.from).sum();
        assert_eq!(reported, missing, "{taken:?} {:?}", recovered.damaged);
        assert_eq!(reader.lost().events, missing, "each was recorded when it was read");
        // They are released with their journal, and leave no gap.
        reader.trim(small.journal, &std::iter::once(0..16).collect()).unwrap();
        assert_eq!(held(&reader, small.journal), None);
        let (_, _, recovered) = open_disk(&small.disk.copy(), &small.settings).unwrap();
        assert_eq!((recovered.damaged.len(), recovered.journals.len()), (0, 0));
    }
}

#[test]
fn a_segment_of_which_nothing_is_left_is_a_loss_even_if_nothing_tells_its_size() {
    let small = small(2, false);
    small.forget_extent();
    small.disk.put(&small.files[0], vec![7; 3 * PAGE as usize]);
    let (_, reader, recovered) = open_disk(&small.disk, &small.settings).unwrap();
    assert_eq!((recovered.unknown.len(), held(&reader, small.journal)), (1, None));
    assert_eq!(reader.lost(), Lost { losses: 1, events: 1 });
    assert_eq!(reader.usage().quarantined.bytes, 3 * PAGE, "its bytes are kept");
    drop(reader);
    let (_, reader, recovered) = open_disk(&small.disk, &small.settings).unwrap();
    assert_eq!((recovered.unknown.len(), reader.lost().losses), (0, 1), "and it is reported over restarts");
}

#[test]
fn a_loss_is_reported_until_it_is_acknowledged() {
    let small = small(4, true);
    small.disk.change_byte(&small.files[0], PAGE as usize + 70, |byte| !byte);
    let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
    assert_eq!(reader.lost().events, 0, "what Postgres has is not lost, so nothing is before it is read");
    for _ in 0..2 {
        reader.read(small.journal, 0, 8, 1 << 20).unwrap();
        assert_eq!(reader.lost(), Lost { losses: 1, events: 1 });
    }
    let id = format!("{}-0", small.journal);
    let [(loss, LossState::Lost)] = &loss_records(&small.disk).list().unwrap()[..] else { panic!() };
    assert_eq!((loss.id(), loss.offset, loss.cause), (id.clone(), PAGE, Cause::Corrupt));
    assert_eq!(loss_records(&small.disk).acknowledge("nonsense").unwrap(), None);
    assert_eq!(loss_records(&small.disk).acknowledge(&id).unwrap(), Some(1));
    reader.run_maintenance();
    assert_eq!(reader.lost(), Lost::default());
    reader.read(small.journal, 0, 8, 1 << 20).unwrap();
    assert_eq!(reader.lost(), Lost::default(), "what was acknowledged is not reported again");
    drop(reader);
    assert_eq!(open_disk(&small.disk, &small.settings).unwrap().1.lost(), Lost::default());
}

#[test]
fn a_record_that_cannot_be_read_is_reported_and_does_not_keep_a_journal_from_opening() {
    let small = small(4, true);
    small.disk.change_byte(&small.files[0], PAGE as usize + 70, |byte| !byte);
    let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
    reader.read(small.journal, 0, 8, 1 << 20).unwrap();
    drop(reader);
    small.disk.change_byte(&Path::new(DIR).join(format!("losses/{}-0.lost", small.journal)), 0, |_| b'x');
    assert!(loss_records(&small.disk).list().is_err());
    let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
    assert_eq!(reader.lost(), Lost { losses: 1, events: 1 });
}

#[test]
fn reads_that_fail_twice_cost_no_row() {
    let small = small(8, true);
    for reads in [2, 4] {
        let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
        small.disk.fail_reads(reads);
        assert_eq!(small.check(&reader), (16, 0));
        assert_eq!((reader.lost().events, reader.usage().quarantined.blocks), (0, 0));
    }
}

#[test]
fn bytes_that_cannot_be_read_are_kept_with_their_segment_and_recovered_later() {
    let small = small(8, true);
    let (first, name) = (&small.files[0], small.files[0].file_name().unwrap());
    small.disk.set_bad_page(Some((first, PAGE)));
    let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
    let JournalRead::Damaged { from: 0, until, at } = reader.read(small.journal, 0, 16, 1 << 20).unwrap()
    else {
        panic!()
    };
    assert_eq!((at.cause, at.offset), (Cause::Unreadable, PAGE));
    // Another process finds it again, and releases it.
    drop(reader);
    let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
    reader.trim(small.journal, &std::iter::once(0..16).collect()).unwrap();
    assert_eq!(held(&reader, small.journal), None);
    let kept = Path::new(DIR).join("quarantine").join(name);
    assert!(small.disk.bytes(&kept).is_some(), "{:?}", small.disk.paths());
    let [(loss, _)] = &loss_records(&small.disk).list().unwrap()[..] else { panic!() };
    let salvage = || {
        let mut salvage = loss_records(&small.disk).salvage(loss).unwrap();
        let mut rows = Vec::new();
        while let Some(part) = salvage.next_rows().unwrap() {
            assert_eq!(part.from, rows.len() as u64);
            rows.extend(part.rows().flat_map(tuples).map(|tuple| tuple.bytes().to_vec()));
        }
        rows
    };
    assert_eq!(salvage().len(), 0);
    small.disk.set_bad_page(None);
    assert_eq!(salvage(), small.rows[..until as usize]);
    let mut recovered = loss.clone();
    recovered.recovered.push((0, until));
    loss_records(&small.disk).update(&recovered, LossState::Lost).unwrap();
    reader.run_maintenance();
    assert_eq!(reader.lost(), Lost::default());
}

#[test]
fn a_folder_or_segment_that_is_not_the_one_that_was_opened_takes_nothing_until_it_is_back() {
    let (disk, settings) = (Disk::new(), settings(8, 10));
    let (mut writer, reader, _) = open_disk(&disk, &settings).unwrap();
    append_one(&mut writer, &tuple(0, 10)).unwrap();
    writer.flush().unwrap();
    let segment = reader.segments().remove(0).file;
    let elsewhere = Path::new("/elsewhere");
    for gone in [true, false] {
        if gone {
            disk.set_dir_gone(true);
        } else {
            disk.move_to(&segment, elsewhere);
        }
        reader.run_maintenance();
        assert_eq!(reader.accepting(), Err(Refusal::Gone));
        assert!(matches!(append_one(&mut writer, &tuple(1, 10)), Err(AppendError::Gone)));
        let held = held(&reader, writer.journal()).unwrap();
        assert_eq!(
            read_all(&reader, &held, 1000).0,
            [(0, tuple(0, 10))],
            "what was accepted is read from the file"
        );
        if gone {
            disk.set_dir_gone(false);
        } else {
            disk.move_to(elsewhere, &segment);
        }
        reader.run_maintenance();
        assert_eq!((reader.accepting(), reader.lost()), (Ok(()), Lost::default()));
    }
    append_one(&mut writer, &tuple(1, 10)).unwrap();
}

#[test]
fn a_damaged_header_costs_no_row() {
    for index in 0..3 {
        let small = small(8, true);
        let mut bytes = small.disk.bytes(&small.files[index]).unwrap();
        bytes[..PAGE as usize].fill(0xA5);
        small.disk.put(&small.files[index], bytes);
        assert_eq!(small.recovered(&small.disk), (16, 0), "file {index}");
    }
}

#[test]
fn damaged_bytes_are_kept_once_and_counted() {
    let small = small(4, true);
    let mut bytes = small.disk.bytes(&small.files[0]).unwrap();
    bytes[PAGE as usize + 70] ^= 1;
    small.disk.put(&small.files[0], bytes.clone());
    let path = PathBuf::from(DIR).join("quarantine").join(format!("{}-00000000-4096.bin", small.journal));
    for _ in 0..2 {
        let (_, reader, _) = open_disk(&small.disk, &small.settings).unwrap();
        for _ in 0..2 {
            let piece = reader.read(small.journal, 0, 8, 1 << 20).unwrap();
            let JournalRead::Damaged { from: 0, until: 1, at } = piece else { panic!("{piece:?}") };
            assert_eq!((at.offset, at.bytes, at.copy.as_ref()), (PAGE, PAGE, Some(&path)));
        }
        assert_eq!(reader.usage().quarantined, Quarantined { blocks: 1, bytes: PAGE });
    }
    let start = PAGE as usize;
    assert_eq!(small.disk.bytes(&path).unwrap(), bytes[start..2 * start]);
}

#[test]
fn empty_and_foreign_files_keep_no_service_from_starting() {
    let small = small(4, true);
    let other = JournalId(Uuid::from_u128(7));
    let name = |journal: JournalId, number: u64| format!("{DIR}/{journal}-{number:08}.seg");
    for (path, bytes) in [
        (name(other, 0), vec![]),
        (name(other, 3), vec![0; 9000]),
        (name(other, 4), vec![0xEE; 40_000]),
        (name(small.journal, 77), vec![]),
        (name(small.journal, 78), vec![1; 5000]),
        (name(small.journal, u64::MAX), vec![]),
        (format!("{DIR}/spare"), vec![3; 10]),
        (format!("{DIR}/spare.new"), vec![3; 10]),
        (format!("{DIR}/notes.txt"), b"mine".to_vec()),
        (format!("{DIR}/x-00000001.seg"), vec![1]),
        (name(other, 9), small.disk.bytes(&small.files[0]).unwrap()),
    ] {
        small.disk.put(Path::new(&path), bytes);
    }
    assert_eq!(small.recovered(&small.disk), (8, 0));
    let left = small.disk.paths();
    assert!(left.contains(&PathBuf::from(format!("{DIR}/notes.txt"))), "foreign files are left alone");
    assert!(left.contains(&PathBuf::from(name(other, 9))), "a copy under another name is left alone");
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let small = small(4, true);
    let mut bytes = small.disk.bytes(&small.files[0]).unwrap();
    bytes[12] = 2;
    let crc = crc32fast::hash(&bytes[12..PAGE as usize]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    small.disk.put(&small.files[0], bytes);
    let before: Vec<_> = small.disk.paths().iter().map(|path| small.disk.bytes(path)).collect();
    let error = open_disk(&small.disk, &small.settings).unwrap_err();
    assert!(matches!(error, DiskError::Newer { version: 2, .. }), "{error}");
    let after: Vec<_> = small.disk.paths().iter().map(|path| small.disk.bytes(path)).collect();
    let locked = after.len() - before.len();
    assert!(locked <= 1 && before.iter().all(|bytes| after.contains(bytes)));
}

#[test]
fn damage_before_a_torn_tail_is_still_damage_at_the_next_start() {
    // The only block that records the sync of the first, damaged one belongs to the last group, which is torn.
    let small = small(8, false);
    small.forget_extent();
    let path = &small.files[2];
    small.disk.change_byte(path, FIRST_BLOCK as usize, |byte| !byte);
    small.disk.change_byte(path, 3 * PAGE as usize, |byte| !byte);
    assert_eq!(small.recovered(&small.disk), (13, 1));
}

fn mutations() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    // Offset, length, and kind: 0 zeros, 1 noise, 2 a copy of other bytes of the file, 3 a moved page.
    prop::collection::vec((0usize..32_768, 1usize..6000, 0u8..4), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), ..ProptestConfig::default() })]

    #[test]
    fn whatever_becomes_of_the_bytes_no_wrong_row_is_read(
        file in 0usize..3, mutations in mutations(), noise in any::<u64>()
    ) {
        let small = small(8, true);
        let mut rng = fastrand::Rng::with_seed(noise);
        let path = &small.files[file];
        let mut bytes = small.disk.bytes(path).unwrap();
        for (at, length, kind) in mutations {
            let until = (at + length).min(bytes.len());
            match kind {
                0 => bytes[at..until].fill(0),
                1 => bytes[at..until].iter_mut().for_each(|byte| *byte = rng.u8(..)),
                2 => bytes.copy_within(0..until - at, at),
                _ => {
                    let (page, from) = (PAGE as usize, rng.usize(0..8));
                    bytes.copy_within(from * page..(from + 1) * page, at / page * page);
                }
            }
        }
        let _no_panic = scan_bytes(&bytes);
        small.disk.put(path, bytes);
        let (rows, missing) = small.recovered(&small.disk);
        prop_assert!(rows as u64 + missing <= 16);
    }

    #[test]
    fn arbitrary_bytes_are_scanned_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert_eq!(scan_bytes(&bytes).events, 0);
    }

    #[test]
    fn bytes_with_right_checksums_are_scanned_without_a_panic_and_to_an_end(
        bytes in prop::collection::vec(any::<u8>(), 0..30_000)
    ) {
        prop_assert!(scan_repaired(bytes.clone()).steps <= bytes.len() as u64 / PAGE + 2);
    }
}
