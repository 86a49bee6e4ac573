//! Owns the tasks behind [`super::Ingest`]: starts the lanes, and drains them when the service stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batcher::{BatchSettings, Batcher};
use super::dead_letters::{self, DeadLetterWriter, DeadLetters};
use super::id::IdMint;
use super::landing::{Lander, LandingTable};
use super::level::Load;
use super::queue::{Limits, Queue};
use super::rates::Rates;
use super::writer::Writer;
use super::{Ingest, Shared, row};
use crate::config::{DeadLetterConfig, IngestConfig};
use crate::db::Database;
use crate::observe::Metrics;

/// What the pipeline is built from.
#[derive(Debug, Clone)]
pub struct IngestSettings {
    /// Queue, batches and lanes.
    pub ingest: IngestConfig,
    /// The dead-letter queue.
    pub dead_letters: DeadLetterConfig,
}

/// The running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    ingest: Ingest,
    queue: Arc<Queue>,
    lanes: JoinSet<()>,
    dead_letter_writer: JoinSet<()>,
    sampler: JoinSet<()>,
    stop_dead_letters: CancellationToken,
}

/// What a drain left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Accepted events that are neither stored nor dead.
    pub events_left: u64,
    /// Dead letters that are not stored.
    pub dead_letters_left: u64,
}

impl Drained {
    /// Whether nothing was left.
    pub fn is_complete(&self) -> bool {
        self.events_left == 0 && self.dead_letters_left == 0
    }
}

impl Pipeline {
    /// Starts the lanes on the current runtime.
    pub fn start(settings: &IngestSettings, database: &Database, metrics: &Arc<Metrics>) -> Self {
        let IngestSettings { ingest: config, dead_letters: dead } = settings;
        let queue = Queue::new(Limits {
            capacity: Load { events: config.max_queue_size, bytes: config.max_queue_bytes },
            admit_wait: Duration::from_millis(config.admit_wait_ms),
            max_waiting_bytes: config.max_waiting_bytes,
        });
        let dead_queue = Queue::new(Limits {
            capacity: Load { events: dead.max_dead_queue_size, bytes: dead.max_dead_queue_bytes },
            admit_wait: Duration::from_secs(1),
            max_waiting_bytes: config.max_copy_bytes,
        });
        let dead_letters = DeadLetters::new(Arc::clone(&dead_queue), Arc::clone(metrics));
        let lander = |table| {
            let deadline = Duration::from_secs(config.copy_timeout_s);
            Lander::new(database.clone(), table, Arc::clone(metrics), deadline)
        };
        let requests = lander(LandingTable {
            name: "requests",
            copy: database
                .sql(include_str!("../../sql/ingest/copy_requests.sql"))
                .replace("{columns}", row::COLUMNS),
            has_id: database.sql(include_str!("../../sql/ingest/request_exists.sql")),
        });
        let dead_lander = lander(LandingTable {
            name: "dead_letters",
            copy: database
                .sql(include_str!("../../sql/ingest/copy_dead_letters.sql"))
                .replace("{columns}", dead_letters::COLUMNS),
            has_id: database.sql(include_str!("../../sql/ingest/dead_letter_exists.sql")),
        });
        let rates = Arc::new(Rates::default());
        let ingest = Ingest {
            shared: Arc::new(Shared {
                queue: Arc::clone(&queue),
                dead_letters: dead_letters.clone(),
                ids: IdMint::new(),
                metrics: Arc::clone(metrics),
                rates: Arc::clone(&rates),
                max_json_depth: config.max_json_depth,
                writer_status: Arc::clone(requests.status()),
                dead_letter_writer_status: Arc::clone(dead_lander.status()),
            }),
        };

        let batcher = Arc::new(Batcher::new(
            BatchSettings {
                batch_size: config.batch_size,
                flush_interval: Duration::from_millis(config.flush_interval_ms),
                max_copy_bytes: config.max_copy_bytes,
            },
            Arc::clone(&queue),
        ));
        let writer = Writer { batcher, lander: requests, dead_letters, metrics: Arc::clone(metrics) };
        let mut lanes = JoinSet::new();
        for _ in 0..config.writers {
            lanes.spawn(writer.clone().run());
        }

        let stop_dead_letters = CancellationToken::new();
        let dead_letter_writer = DeadLetterWriter {
            queue: dead_queue,
            lander: dead_lander,
            metrics: Arc::clone(metrics),
            interval: Duration::from_millis(dead.dead_flush_interval_ms),
            max_copy_bytes: config.max_copy_bytes,
        };
        let mut dead_letter_tasks = JoinSet::new();
        dead_letter_tasks.spawn(dead_letter_writer.run(stop_dead_letters.clone()));

        let mut sampler = JoinSet::new();
        sampler.spawn(sample_rates(rates, Arc::clone(metrics)));
        Self { ingest, queue, lanes, dead_letter_writer: dead_letter_tasks, sampler, stop_dead_letters }
    }

    /// The way in.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Resolves when a lane has ended though the queue is open: a fault after which nothing may be accepted.
    pub async fn failed(&mut self) {
        tokio::select! {
            Some(_ended) = self.lanes.join_next() => {}
            Some(_ended) = self.dead_letter_writer.join_next() => {}
        }
    }

    /// Takes nothing more and stores what is held, until `deadline`.
    pub async fn drain(mut self, deadline: Instant) -> Drained {
        self.queue.close();
        let _all_landed =
            tokio::time::timeout_at(deadline, async { while self.lanes.join_next().await.is_some() {} })
                .await;
        self.stop_dead_letters.cancel();
        let _all_stored = tokio::time::timeout_at(deadline, self.dead_letter_writer.join_next()).await;
        self.sampler.abort_all();
        let left = self.ingest.snapshot();
        // A lane that panicked gave its room back, but not its events a row: `pending` knows.
        Drained {
            events_left: left.pending().max(left.held.events),
            dead_letters_left: left.dead_held.events,
        }
    }
}

async fn sample_rates(rates: Arc<Rates>, metrics: Arc<Metrics>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        rates.sample(metrics.accepted.get(), metrics.committed.get() + metrics.dead.get());
    }
}
