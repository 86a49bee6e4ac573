//! Losses of power against a reference model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rangemap::RangeSet;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Sizes of the rows, by records of a group.
    Append(Vec<Vec<usize>>),
    Flush,
    Mark,
    /// Covers this many thousandths of the synced rows, from the beginning.
    Trim(u64),
    LosePower(u64),
    /// The process ends; the disk keeps its power.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 0usize..600, 1 => 2000usize..9000];
    let group = prop::collection::vec(prop::collection::vec(size, 1..4), 1..4);
    let step = prop_oneof![
        8 => group.prop_map(Step::Append),
        6 => Just(Step::Flush),
        1 => Just(Step::Mark),
        1 => (0u64..1100).prop_map(Step::Trim),
        2 => any::<u64>().prop_map(Step::LosePower),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..60)
}

/// Expected content of a journal.
#[derive(Debug, Default)]
struct Expected {
    rows: Vec<Vec<u8>>,
    synced: usize,
    /// Rows before may be released.
    covered: u64,
}

type Model = BTreeMap<JournalId, Expected>;

/// Compares the result of a recovery, which becomes the expectation.
fn check(model: &mut Model, reader: &JournalReader, recovered: &Recovered) {
    assert_eq!(recovered.damaged, [], "a loss of power is never taken for damage");
    for (journal, expected) in &mut *model {
        let Some(held) = held(reader, *journal) else {
            assert!(expected.covered >= expected.synced as u64, "a journal is gone");
            *expected = Expected::default();
            continue;
        };
        assert!(held.first <= expected.covered, "{} > {}", held.first, expected.covered);
        assert!(held.end >= expected.synced as u64, "synced rows are lost: {held:?} {}", expected.synced);
        assert!(held.end <= expected.rows.len() as u64, "rows that nobody appended");
        let (rows, gaps) = read_all(reader, &held, 10_000);
        assert_eq!(gaps, []);
        for (sequence, row) in rows {
            assert_eq!(row, expected.rows[sequence as usize]);
        }
        expected.rows.truncate(held.end as usize);
        expected.synced = expected.rows.len();
    }
    model.retain(|_, expected| !expected.rows.is_empty());
    let held = reader.held().into_iter().filter(|held| held.end > held.first);
    assert!(held.into_iter().all(|held| model.contains_key(&held.journal)), "a journal from nowhere");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives_any_loss_of_power_and_nothing_else_appears(steps in steps()) {
        let settings = settings(8, 1000);
        let mut disk = Disk::new();
        let (mut writer, mut reader, _) = open_disk(&disk, &settings).unwrap();
        let mut model = Model::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Append(group) => {
                    let expected = model.entry(writer.journal()).or_default();
                    let batches: Vec<Vec<u8>> = group.iter().map(|sizes| {
                        sizes.iter().flat_map(|size| {
                            let row = tuple(number, *size);
                            number += 1;
                            row
                        }).collect()
                    }).collect();
                    let records: Vec<Records<'_>> = batches.iter().zip(&group)
                        .map(|(rows, sizes)| Records { rows, events: sizes.len() as u32, keys: &[] }).collect();
                    match writer.append(&records) {
                        Ok(()) => expected.rows.extend(
                            batches.iter().flat_map(|rows| tuples(rows)).map(|row| row.bytes().to_vec())
                        ),
                        Err(AppendError::TooLarge) => {}
                        Err(error) => panic!("{error}"),
                    }
                    prop_assert_eq!(writer.next_sequence(), expected.rows.len() as u64);
                }
                Step::Flush => {
                    writer.flush().unwrap();
                    let expected = model.entry(writer.journal()).or_default();
                    expected.synced = expected.rows.len();
                }
                Step::Mark => writer.mark().unwrap(),
                Step::Trim(thousandths) => {
                    for (journal, expected) in &mut model {
                        expected.covered = expected.covered.max(expected.synced as u64 * thousandths.min(1000) / 1000);
                        let mut covered = RangeSet::new();
                        if expected.covered > 0 {
                            covered.insert(0..expected.covered);
                        }
                        reader.trim(*journal, &covered).unwrap();
                    }
                }
                Step::Kill => {
                    drop((writer, reader));
                    let recovered;
                    (writer, reader, recovered) = open_disk(&disk, &settings).unwrap();
                    check(&mut model, &reader, &recovered);
                }
                Step::LosePower(seed) => {
                    let after = disk.lose_power(seed);
                    drop((writer, reader));
                    let recovered;
                    (writer, reader, recovered) = open_disk(&after, &settings).unwrap();
                    check(&mut model, &reader, &recovered);
                    // A recovery syncs what it keeps: another loss of power removes nothing.
                    drop((writer, reader));
                    disk = after.lose_power(seed.wrapping_add(1));
                    let recovered;
                    (writer, reader, recovered) = open_disk(&disk, &settings).unwrap();
                    let ends: Vec<_> = model.iter().map(|(journal, expected)| (*journal, expected.rows.len())).collect();
                    check(&mut model, &reader, &recovered);
                    for (journal, end) in ends {
                        let kept = model.get(&journal).map(|expected| expected.rows.len());
                        prop_assert!(kept.is_none_or(|kept| kept == end));
                    }
                }
            }
        }
    }
}
