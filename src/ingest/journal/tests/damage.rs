//! Bytes that are not what was written.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A small journal on a disk: three segments of groups of two blocks, and a marker at the end.
struct Small {
    disk: Arc<Disk>,
    settings: JournalSettings,
    journal: JournalId,
    rows: Vec<Vec<u8>>,
    files: Vec<PathBuf>,
    /// The last file's length without its unused end.
    used: u64,
}

fn small(groups: u64, seal: bool) -> Small {
    small_of(8, groups, seal)
}

fn small_of(pages: u64, groups: u64, seal: bool) -> Small {
    let (disk, settings) = (Disk::new(), settings(pages, 100));
    let (mut appender, store, _) = open_disk(&disk, &settings).unwrap();
    let rows: Vec<Vec<u8>> =
        (0..2 * groups).map(|number| tuple(number, 1500 + number as usize * 50)).collect();
    for group in rows.chunks(2) {
        let records: Vec<_> = group.iter().map(|rows| Records { rows, events: 1, keys: &[] }).collect();
        appender.append(&records).unwrap();
        appender.sync().unwrap();
    }
    let mut used = store.segments().iter().rev().find(|segment| segment.journal.is_some()).unwrap().used;
    if seal {
        appender.seal().unwrap();
        used += PAGE;
    }
    let files = store.segments().into_iter().filter(|segment| segment.journal.is_some());
    let files = files.map(|segment| segment.file).collect();
    Small { journal: appender.journal(), disk, settings, rows, files, used }
}

impl Small {
    /// What is read is right; how many events that and the gaps are.
    fn check(&self, store: &Store) -> (usize, u64) {
        let Some(held) = held(store, self.journal) else { return (0, 0) };
        let (rows, gaps) = read_all(store, &held, 6000);
        for (sequence, row) in &rows {
            assert!(self.rows[*sequence as usize] == *row, "a wrong row");
        }
        (rows.len(), gaps.iter().map(|gap| gap.end - gap.start).sum())
    }

    fn inspected(&self, disk: &Arc<Disk>) -> (usize, u64) {
        let files = Arc::clone(disk) as Arc<dyn Files>;
        self.check(&inspect(files, Path::new(DIR)).unwrap().0)
    }

    /// The same before and after a recovery that may change the disk, and at the next one.
    fn recovered(&self, disk: &Arc<Disk>) -> (usize, u64) {
        let before = self.inspected(disk);
        for _ in 0..2 {
            let (_, store, _) = open_disk(disk, &self.settings).unwrap();
            assert_eq!(self.check(&store), before);
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
            small.disk.poke(path, at, flip);
            let (rows, missing) = if at % 509 == 0 {
                small.recovered(&small.disk.copy())
            } else {
                small.inspected(&small.disk)
            };
            assert_eq!(rows as u64 + missing, 6, "byte {at} of file {index}");
            assert!(missing <= 1, "byte {at} of file {index} costs {missing}");
            small.disk.poke(path, at, flip);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_block_is_cut_unless_a_marker_says_that_it_was_synced() {
    for seal in [false, true] {
        let small = small(1, seal);
        let path = &small.files[0];
        let mut bytes = small.disk.bytes(path).unwrap();
        bytes[2 * PAGE as usize + 100] ^= 1;
        small.disk.put(path, bytes);
        assert_eq!(small.recovered(&small.disk), (1, u64::from(seal)));
    }
}

#[test]
fn a_tail_that_was_cut_never_comes_back() {
    let (disk, settings) = (Disk::new(), settings(8, 100));
    let (mut appender, store, _) = open_disk(&disk, &settings).unwrap();
    append_one(&mut appender, &tuple(0, 100)).unwrap();
    append_one(&mut appender, &tuple(1, 5000)).unwrap();
    appender.sync().unwrap();
    let (journal, file) = (appender.journal(), store.segments().remove(0).file);
    drop((appender, store));
    // A page that reads one way now, and the other way later.
    for rows in [1, 1] {
        disk.poke(&file, 3 * PAGE as usize + 5, |byte| !byte);
        let (_, store, _) = open_disk(&disk, &settings).unwrap();
        assert_eq!(held(&store, journal).unwrap().end, rows);
    }
}

#[test]
fn a_file_cut_at_any_byte_is_recovered_or_accounted_for() {
    let small = small_of(4, 3, true);
    let last = small.files.len() - 1;
    for (index, path) in small.files.iter().enumerate() {
        let bytes = small.disk.bytes(path).unwrap();
        for at in (0..bytes.len()).rev() {
            small.disk.cut(path, at);
            let (rows, missing) = if at % 1021 == 0 {
                small.recovered(&small.disk.copy())
            } else {
                small.inspected(&small.disk)
            };
            // Nothing testifies for the end of the last segment but the marker, which is cut off first.
            if index < last && (index > 0 || at >= PAGE as usize + 64) {
                assert_eq!(rows as u64 + missing, 6, "{at} bytes of file {index}");
            } else {
                assert!(rows as u64 + missing <= 6);
            }
        }
        small.disk.put(path, bytes);
    }
}

#[test]
fn a_missing_segment_is_a_gap() {
    let small = small(8, true);
    let (whole, _) = small.inspected(&small.disk);
    small.disk.take(&small.files[1]);
    let (rows, missing) = small.recovered(&small.disk);
    assert_eq!((whole, rows as u64 + missing), (16, 16));
    assert!(missing > 0);
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
        let (_, store, _) = open_disk(&small.disk, &small.settings).unwrap();
        for _ in 0..2 {
            let piece = store.read(small.journal, 0, 8, 1 << 20).unwrap();
            assert_eq!(piece, Piece::Damaged { from: 0, until: 1, file: path.clone() });
        }
        assert_eq!(store.usage().quarantined, Quarantined { blocks: 1, bytes: PAGE });
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
    assert!(matches!(error, JournalError::Newer { version: 2, .. }), "{error}");
    let after: Vec<_> = small.disk.paths().iter().map(|path| small.disk.bytes(path)).collect();
    let locked = after.len() - before.len();
    assert!(locked <= 1 && before.iter().all(|bytes| after.contains(bytes)));
}

#[test]
fn damage_before_a_torn_tail_is_still_damage_at_the_next_start() {
    // The only block that testifies to the sync of the first, damaged one belongs to the last group, which is torn.
    let small = small(8, false);
    let path = &small.files[2];
    small.disk.poke(path, FIRST_BLOCK as usize, |byte| !byte);
    small.disk.poke(path, 3 * PAGE as usize, |byte| !byte);
    assert_eq!(small.recovered(&small.disk), (13, 1));
}

fn mutations() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    // Where, how much, and what: 0 zeros, 1 noise, 2 a copy of other bytes of the file, 3 a page moved here.
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
