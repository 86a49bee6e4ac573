//! Guarantees of the journal on disk, each with a test of that name.

mod damage;
mod disk;
mod faults;
mod lifecycle;
mod power_loss;

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::tuple::tuples;
use disk::Disk;

const DIR: &str = "/data/journal";

fn settings(pages: u64, segments: u64) -> DiskSettings {
    let segment_bytes = pages * PAGE;
    let (max_bytes, dir) = (segments * segment_bytes, Path::new(DIR).to_owned());
    DiskSettings { dir, columns: "columns", segment_bytes, max_bytes, keep_bytes: 0, min_free: 0 }
}

/// Number of cases of a property, overridden by `PROPTEST_CASES`. Each case is slower than proptest expects.
fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").map_or(usual, |cases| cases.parse().unwrap())
}

type Parts = (JournalWriter, Arc<JournalReader>, Recovered);

fn open_disk(disk: &Arc<Disk>, settings: &DiskSettings) -> Result<Parts, DiskError> {
    parts(open_on(Arc::clone(disk) as Arc<dyn Files>, settings.clone()))
}

fn parts(opened: Result<OpenedJournal, DiskError>) -> Result<Parts, DiskError> {
    opened.map(|OpenedJournal { writer, reader, recovered }| (writer, reader, recovered))
}

fn loss_records(disk: &Arc<Disk>) -> LossRecords {
    LossRecords::new(Arc::clone(disk) as Arc<dyn Files>, Path::new(DIR))
}

/// A row that identifies its number.
fn tuple(number: u64, bytes: usize) -> Vec<u8> {
    let body: Vec<u8> = (0..bytes).map(|at| (number as usize * 31 + at * 7) as u8).collect();
    let id = u128::from(number).to_be_bytes();
    let time = number.to_be_bytes();
    let fields = [Some(&id[..]), Some(b"trace"), None, Some(&body), None, Some(&time)];
    let mut out = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        out.extend_from_slice(&field.map_or(-1, |bytes| bytes.len() as i32).to_be_bytes());
        out.extend_from_slice(field.unwrap_or_default());
    }
    out
}

fn append_one(writer: &mut JournalWriter, row: &[u8]) -> Result<(), AppendError> {
    writer.append(&[Records { rows: row, events: 1, keys: &[] }])
}

/// A sequence and its row.
type Numbered = (u64, Vec<u8>);
/// Missing sequences.
type Gap = std::ops::Range<u64>;

/// Reads a journal as a whole: each row with its sequence, and the gaps.
fn read_all(reader: &JournalReader, held: &HeldJournal, max_bytes: usize) -> (Vec<Numbered>, Vec<Gap>) {
    let (mut rows, mut gaps, mut at) = (Vec::new(), Vec::new(), held.first);
    while at < held.end {
        match reader.read(held.journal, at, held.end, max_bytes).unwrap() {
            JournalRead::Rows(part) => {
                assert_eq!(part.from, at);
                assert!(part.until > at, "a read gives at least one event");
                let before = rows.len();
                for tuple in part.rows().flat_map(tuples) {
                    rows.push((at + (rows.len() - before) as u64, tuple.bytes().to_vec()));
                }
                assert_eq!((rows.len() - before) as u64, part.until - part.from);
                at = part.until;
            }
            JournalRead::Damaged { from, until, .. } => {
                assert!(from == at && until > from && until <= held.end);
                gaps.push(from..until);
                at = until;
            }
        }
    }
    (rows, gaps)
}

fn held(reader: &JournalReader, journal: JournalId) -> Option<HeldJournal> {
    reader.held().into_iter().find(|held| held.journal == journal)
}
