//! Cost of an event: encoding it, and appending it to the journal. Times are for a whole group; divide by its events.
//!
//! The journal's folder is in the system's temporary folder; `TMPDIR` selects the disk.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use tidegate::ingest::journal::disk::{self, DiskSettings, OpenedJournal};
use tidegate::ingest::journal::{JournalReader, JournalWriter, Records};
use tidegate::ingest::row::{COLUMNS, Content, Row};
use uuid::Uuid;

/// Bytes of an event's body.
const BODY: usize = 300;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

fn open() -> (JournalWriter, Arc<JournalReader>, Folder) {
    let folder = Folder(std::env::temp_dir().join(format!("tidegate-bench-{}", Uuid::new_v4())));
    let settings = DiskSettings {
        dir: folder.0.clone(),
        columns: COLUMNS,
        segment_bytes: 64 << 20,
        max_bytes: 1 << 30,
        keep_bytes: 0,
        min_free: 0,
    };
    match disk::open(settings) {
        Ok(OpenedJournal { writer, reader, .. }) => {
            // Prepares segments, and ends with the writer.
            let maintained = Arc::clone(&reader);
            std::thread::spawn(move || while maintained.maintain().is_continue() {});
            (writer, reader, folder)
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn row(body: &[u8]) -> Row<'_> {
    Row {
        id: Uuid::from_u128(7),
        trace_id: b"3f8e4c1a9b7d4e2f8a6c5b4d3e2f1a0b",
        content: Content::Jsonb(body),
        content_type: Some("application/json"),
        received_at_us: 1_700_000_000_000_000,
    }
}

fn encode(criterion: &mut Criterion) {
    let body = vec![b'x'; BODY];
    let mut group = criterion.benchmark_group("row");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(1 << 10);
        bencher.iter(|| {
            out.clear();
            black_box(row(black_box(&body))).encode(&mut out);
            out.len()
        });
    });
    group.finish();
}

fn append(criterion: &mut Criterion) {
    let body = vec![b'x'; BODY];
    let mut one = Vec::new();
    row(&body).encode(&mut one);
    let batch = one.repeat(1000);
    let singles: Vec<_> = (0..64).map(|_| Records { rows: &one, events: 1, keys: &[] }).collect();
    let batches = [Records { rows: &batch, events: 1000, keys: &[] }];
    for (name, records) in [("64 single events", &singles[..]), ("a batch of 1000", &batches[..])] {
        let events: u64 = records.iter().map(|record| u64::from(record.events)).sum();
        for sync in [false, true] {
            let mut group = criterion.benchmark_group(if sync { "append and sync" } else { "append" });
            group.throughput(Throughput::Elements(events)).sample_size(if sync { 20 } else { 50 });
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                let (mut writer, reader, _folder) = open();
                let journal = writer.journal();
                bencher.iter(|| {
                    let mut done = writer.append(records).is_ok();
                    if sync {
                        done &= writer.flush().is_ok();
                    }
                    if !done {
                        eprintln!("the journal refused");
                        std::process::exit(1);
                    }
                    // All segments but the current one are recycled, as in a service that keeps up.
                    let appended = || std::iter::once(0..writer.next_sequence()).collect();
                    if writer.next_sequence() % 64_000 < events && reader.trim(journal, &appended()).is_err()
                    {
                        eprintln!("the journal cannot be trimmed");
                    }
                });
            });
            group.finish();
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    append(&mut criterion);
    criterion.final_summary();
}
