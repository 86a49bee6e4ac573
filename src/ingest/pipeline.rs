//! The tasks behind [`super::Ingest`]: their start, and their drain when the service stops.
//!
//! With a journal a stop needs only the sync of the accepted events. Those that Postgres does not have by the deadline are
//! left to the next run.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{DeadLetterConfig, IngestConfig, MemoryShares, limits};
use crate::db::Database;
use crate::ingest::admit::admission::{Ingest, Journaled, Shared};
use crate::ingest::admit::group_commit::GroupCommit;
use crate::ingest::admit::rates::Rates;
use crate::ingest::checkpoint::backlog::Backlog;
use crate::ingest::checkpoint::checkpointer::{CheckpointError, Checkpointer, Checkpoints};
use crate::ingest::dead_letters::{DeadLetterWriter, DeadLetters};
use crate::ingest::event::id::IdMint;
use crate::ingest::event::json::JsonLimits;
use crate::ingest::journal::{JournalReader, JournalWriter};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::refusal::Refusal;
use crate::ingest::queue::{Limits, Queue};
use crate::ingest::write::batcher::Source;
use crate::ingest::write::batcher::{BatchSettings, Batcher};
use crate::ingest::write::copy_writer::{CopyWriter, TargetTables};
use crate::ingest::write::hook::BatchHook;
use crate::ingest::write::lanes::LaneSlot;
use crate::ingest::write::writer::Writer;
use crate::observe::Metrics;
use crate::supervisor::{Backoff, Next, Supervisor};

/// The settings of the pipeline.
#[derive(Debug, Clone)]
pub struct IngestSettings {
    /// Queue, batches and lanes.
    pub ingest: IngestConfig,
    /// The dead-letter queue.
    pub dead_letters: DeadLetterConfig,
    /// Connections that `COPY` at once.
    pub writers: usize,
    /// Time of one `COPY`.
    pub copy_timeout: Duration,
    /// Bytes of the queues.
    pub memory: MemoryShares,
    /// Statements of users within batches.
    pub hook: Arc<dyn BatchHook>,
}

/// The journal of a pipeline.
#[derive(Debug)]
pub struct OpenJournal {
    /// Appends to it.
    pub writer: JournalWriter,
    /// Reads it.
    pub reader: Arc<JournalReader>,
    /// Whether all its events go to a database that does not know it.
    pub adopt: bool,
}

/// The running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    ingest: Ingest,
    queue: Arc<Queue>,
    journal: Option<JournalParts>,
    lanes: Vec<AbortOnDropHandle<()>>,
    dead_letter_writer: AbortOnDropHandle<()>,
    stop_dead_letters: CancellationToken,
}

#[derive(Debug)]
struct JournalParts {
    /// Cancelled when the thread that owns the journal ends.
    ended: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    backlog: Arc<Backlog>,
    checkpointer: AbortOnDropHandle<()>,
    stop_checkpointer: CancellationToken,
}

/// The result of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Accepted events that are neither stored nor dead.
    pub events_left: u64,
    /// Whether they are in the journal, so that the next run stores them.
    pub journaled: bool,
    /// Overloads that are not stored.
    pub dead_letters_left: u64,
    /// Acknowledged events that the journal or Postgres lost, without losses that an operator acknowledged.
    pub lost: u64,
    /// Events that this run could not read, including recovered ones.
    pub unreadable: u64,
}

impl Drained {
    /// Whether nothing was lost.
    pub fn is_complete(&self) -> bool {
        (self.events_left == 0 || self.journaled) && self.dead_letters_left == 0
    }
}

impl Pipeline {
    /// Starts the tasks. With a journal, its receipts are read before anything is stored; in the background if
    /// `postgres_is_away`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if the journal and the database do not belong together, or no thread can be started.
    pub async fn start(
        settings: &IngestSettings,
        journal: Option<OpenJournal>,
        postgres_is_away: bool,
        database: &Database,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
    ) -> Result<Self, CheckpointError> {
        let IngestSettings { ingest: config, dead_letters: dead, memory, .. } = settings;
        let queue = Queue::new(Limits {
            capacity: Size { events: config.max_queue_size, bytes: memory.queue },
            admit_wait: Duration::from_millis(config.admit_wait_ms),
            max_waiting_bytes: memory.waiting,
        });
        let dead_queue = Queue::new(Limits {
            capacity: Size { events: dead.max_dead_queue_size, bytes: memory.dead_letters },
            admit_wait: Duration::from_secs(1),
            max_waiting_bytes: limits::MAX_COPY_BYTES,
        });
        let dead_letters = DeadLetters::new(Arc::clone(&dead_queue), Arc::clone(metrics));
        let tables = Arc::new(TargetTables::new(database, config.idempotency_window_s));

        let mut checkpoints = Arc::<Checkpoints>::default();
        let (mut parts, mut journaled) = (None, None);
        if let Some(OpenJournal { writer, reader, adopt }) = journal {
            let backlog = Backlog::new(reader);
            let mut checkpointer =
                Checkpointer::new(database.clone(), &backlog, adopt, config.idempotency_window_s);
            if !postgres_is_away {
                match checkpointer.open_in_time().await {
                    // Postgres went away after the migrations. The checkpointer opens the journals once it is back.
                    Err(CheckpointError::Database(error)) if error.is_passing() => {
                        let error = error.with_sources();
                        tracing::warn!(error, "Postgres went away; the journal keeps accepting events");
                    }
                    opened => opened?,
                }
            }
            checkpoints = Arc::clone(checkpointer.checkpoints());
            journaled = Some(Journaled {
                backlog: Arc::clone(&backlog),
                ledger: Arc::clone(checkpointer.ledger()),
                checkpoint_status: Arc::clone(checkpointer.status()),
            });
            let group_commit = GroupCommit {
                queue: Arc::clone(&queue),
                journal: writer,
                backlog: Arc::clone(&backlog),
                metrics: Arc::clone(metrics),
            };
            parts = Some(JournalParts::start(group_commit, backlog, checkpointer, supervisor)?);
        }
        let copy_writer = || {
            CopyWriter::new(
                database.clone(),
                &tables,
                Arc::clone(metrics),
                settings.copy_timeout,
                &checkpoints,
                &settings.hook,
            )
        };
        let (events, dead_events) = (copy_writer(), copy_writer());
        let source = match &journaled {
            Some(journaled) => Source::Journal(Arc::clone(&journaled.backlog), Arc::clone(events.status())),
            None => Source::Queue(Arc::clone(&queue)),
        };
        let rates = Arc::new(Rates::default());
        let slots: Arc<[Arc<LaneSlot>]> = (0..settings.writers).map(|_| Arc::default()).collect();
        let ingest = Ingest {
            shared: Arc::new(Shared {
                queue: Arc::clone(&queue),
                journal: journaled,
                dead_letters: dead_letters.clone(),
                ids: IdMint::new(),
                metrics: Arc::clone(metrics),
                rates: Arc::clone(&rates),
                json_limits: JsonLimits { depth: limits::MAX_JSON_DEPTH, bytes: config.max_event_bytes },
                writer_status: Arc::clone(events.status()),
                dead_letter_writer_status: Arc::clone(dead_events.status()),
                lanes: Arc::clone(&slots),
            }),
        };

        let batches = BatchSettings {
            batch_size: config.batch_size,
            flush_interval: Duration::from_millis(config.flush_interval_ms),
            max_copy_bytes: limits::MAX_COPY_BYTES,
        };
        let batcher = Arc::new(Batcher::new(batches, source));
        let writer = Writer { batcher, copy_writer: events, metrics: Arc::clone(metrics), lanes: slots };
        let lane =
            |number| supervisor.spawn_drained(format!("lane-{number}"), writer.clone().run(number as i32));
        let lanes = (0..settings.writers).map(lane).collect();

        let stop_dead_letters = CancellationToken::new();
        let dead_letter_writer = DeadLetterWriter {
            queue: dead_queue,
            copy_writer: dead_events,
            metrics: Arc::clone(metrics),
            interval: Duration::from_millis(dead.dead_flush_interval_ms),
            max_copy_bytes: limits::MAX_COPY_BYTES,
        };
        let dead_letter_writer =
            supervisor.spawn_drained("dead-letter-writer", dead_letter_writer.run(stop_dead_letters.clone()));
        sample_rates(rates, Arc::clone(metrics), supervisor);
        Ok(Self { ingest, queue, journal: parts, lanes, dead_letter_writer, stop_dead_letters })
    }

    /// The handle for request handlers.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Stops admission and stores the held events, until `deadline`.
    pub async fn drain(mut self, deadline: Instant) -> Drained {
        self.queue.close();
        let mut parts = self.journal.take();
        if let Some(parts) = &mut parts {
            parts.join_threads(deadline).await;
        }
        for lane in &mut self.lanes {
            if tokio::time::timeout_at(deadline, &mut *lane).await.is_err() {
                // Its transaction is rolled back, and the next run stores the batch.
                lane.abort();
                let _aborted = lane.await;
            }
        }
        self.stop_dead_letters.cancel();
        let _all_stored = tokio::time::timeout_at(deadline, &mut self.dead_letter_writer).await;
        if let Some(parts) = &mut parts {
            parts.stop_checkpointer.cancel();
            let _last_checkpoint = tokio::time::timeout_at(deadline, &mut parts.checkpointer).await;
        }
        let left = self.ingest.snapshot();
        // A removed folder keeps nothing for the next run.
        let is_gone = left.journal.as_ref().is_some_and(|journal| journal.refusal == Some(Refusal::Gone));
        // A lane that panicked has released its capacity without storing its events: `pending` counts them.
        Drained {
            events_left: left.pending.max(left.held.events),
            journaled: parts.is_some() && left.held.events == 0 && !is_gone,
            dead_letters_left: left.dead_held.events,
            lost: left.journal.map_or(0, |journal| journal.acknowledged_lost.events + journal.lost),
            unreadable: self.ingest.shared.metrics.quarantined.get(),
        }
    }
}

impl JournalParts {
    fn start(
        group_commit: GroupCommit,
        backlog: Arc<Backlog>,
        checkpointer: Checkpointer,
        supervisor: &Supervisor,
    ) -> std::io::Result<Self> {
        let [ended, stop_checkpointer] = std::array::from_fn(|_| CancellationToken::new());
        let guard = ended.clone().drop_guard();
        let reader = Arc::clone(backlog.reader());
        let second = Backoff::fixed(Duration::from_secs(1));
        let maintenance =
            supervisor.periodic_thread("journal-maintenance", second, move || reader.maintain())?;
        let thread = supervisor.spawn_thread("journal", move |check| {
            let _ended = guard;
            group_commit.run(check);
        })?;
        let checkpointer = supervisor.spawn_drained("fence", checkpointer.run(stop_checkpointer.clone()));
        Ok(Self { ended, threads: vec![thread, maintenance], backlog, checkpointer, stop_checkpointer })
    }

    /// Waits until all admitted events are synced.
    async fn join_threads(&mut self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, self.ended.cancelled()).await.is_ok() {
            // The end of the first ends the second, once its step is done.
            let threads = std::mem::take(&mut self.threads);
            let joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    // The supervisor has reported a panic.
                    let _ended = thread.join();
                }
            });
            let _joined = tokio::time::timeout_at(deadline, joined).await;
        }
        // Whether or not it ended, nothing more is synced.
        self.backlog.close();
    }
}

/// Starts the task that samples the rates of accepted and settled events.
fn sample_rates(rates: Arc<Rates>, metrics: Arc<Metrics>, supervisor: &Supervisor) {
    let second = Duration::from_secs(1);
    supervisor.periodic("rates", second, Backoff::fixed(second), move || {
        let settled = metrics.committed.get() + metrics.duplicates.get() + metrics.dead.get();
        rates.sample(metrics.accepted.get(), settled);
        std::future::ready(Ok(Next::Interval))
    });
}
