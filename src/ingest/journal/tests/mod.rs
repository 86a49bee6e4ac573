//! What the journal guarantees, each with a test of that name.

mod damage;
mod disk;
mod faults;
mod lifecycle;
mod power_loss;

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::ingest::row::{Content, Row, tuples};
use disk::Disk;

const DIR: &str = "/data/journal";

fn settings(pages: u64, segments: u64) -> JournalSettings {
    let segment_bytes = pages * PAGE;
    let (max_bytes, dir) = (segments * segment_bytes, Path::new(DIR).to_owned());
    JournalSettings { dir, segment_bytes, max_bytes, keep_bytes: 0, min_free: 0 }
}

/// So many cases of a property, unless `PROPTEST_CASES` says otherwise: each is slower than proptest expects.
fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").map_or(usual, |cases| cases.parse().unwrap())
}

/// Without the thread, so that the calls to the disk come in one order.
fn open_disk(
    disk: &Arc<Disk>,
    settings: &JournalSettings,
) -> Result<(JournalWriter, Arc<JournalReader>, Recovered), JournalError> {
    open(Arc::clone(disk) as Arc<dyn Files>, settings.clone())
}

/// A row that tells which one it is.
fn tuple(number: u64, bytes: usize) -> Vec<u8> {
    let body: Vec<u8> = (0..bytes).map(|at| (number as usize * 31 + at * 7) as u8).collect();
    let id = Uuid::from_u128(u128::from(number));
    let content = Content::Bytes(&body);
    let row = Row { id, trace_id: b"trace", content, content_type: None, received_at_us: number as i64 };
    let mut out = Vec::new();
    row.encode(&mut out);
    out
}

fn append_one(appender: &mut JournalWriter, row: &[u8]) -> Result<(), AppendError> {
    appender.append(&[Records { rows: row, events: 1, keys: &[] }])
}

/// A row with its sequence.
type Numbered = (u64, Vec<u8>);
/// Sequences that are missing.
type Gap = std::ops::Range<u64>;

/// All that is held of a journal: each row with its sequence, and the gaps.
fn read_all(store: &JournalReader, held: &Held, max_bytes: usize) -> (Vec<Numbered>, Vec<Gap>) {
    let (mut rows, mut gaps, mut at) = (Vec::new(), Vec::new(), held.first);
    while at < held.end {
        match store.read(held.journal, at, held.end, max_bytes).unwrap() {
            Piece::Rows(chunk) => {
                assert_eq!(chunk.from, at);
                assert!(chunk.until > at, "a read gives at least one event");
                let before = rows.len();
                for tuple in chunk.rows().flat_map(tuples) {
                    rows.push((at + (rows.len() - before) as u64, tuple.bytes().to_vec()));
                }
                assert_eq!((rows.len() - before) as u64, chunk.until - chunk.from);
                at = chunk.until;
            }
            Piece::Damaged { from, until, .. } => {
                assert!(from == at && until > from && until <= held.end);
                gaps.push(from..until);
                at = until;
            }
        }
    }
    (rows, gaps)
}

fn held(store: &JournalReader, journal: JournalId) -> Option<Held> {
    store.journals().into_iter().find(|held| held.journal == journal)
}
