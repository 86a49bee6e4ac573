//! What could not become a row of `requests`, kept in `dead_letters` with the reason.
//!
//! Dead letters have a bounded queue of their own, flushed every `DEAD_FLUSH_INTERVAL_MS`. The overloads, whose
//! clients were told 503, are dropped when it is full, counted and logged. A row that Postgres refused was accepted
//! before, so it waits for room instead.
//!
//! A dead letter is the event's own tuple with four more fields behind it.

mod redrive;
mod store;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::redrive::{Redriven, Selection};
pub use self::store::{Body, Cursor, DeadLetter, DeadLetterStore, Filter};
use super::id::unix_now_us;
use super::landing::{Lander, Lane, Rejected, Unlanded};
use super::level::Load;
use super::lot::{Kind, Lot};
use super::parcel::{Parcel, Stretch};
use super::queue::Queue;
use super::row::{self, Tuple};
use crate::observe::Metrics;

/// The columns of `dead_letters` that a tuple fills.
pub const COLUMNS: &str =
    "id, trace_id, payload, body, content_type, received_at, error, reason, attempts, failed_at";
const FIELDS: i16 = 10;
/// Where `reason` stands in [`COLUMNS`].
const REASON_FIELD: usize = 7;

/// Why an event is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The queue was full, or the journal took nothing; the client was told 503.
    Overload,
    /// Postgres refused the row.
    Rejected,
}

impl Reason {
    /// The reason as it stands in the table and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Rejected => "rejected",
        }
    }
}

/// Takes dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl DeadLetters {
    /// Puts them into `queue`.
    pub fn new(queue: Arc<Queue>, metrics: Arc<Metrics>) -> Self {
        Self { queue, metrics }
    }

    /// What waits to be stored.
    pub fn held(&self) -> Load {
        self.queue.held()
    }

    /// Keeps an event that was refused, with the reason why, if there is room.
    pub fn add_overload(&self, tuple: Tuple<'_>, error: &str) {
        let parcel = parcel(encode(tuple, error, Reason::Overload, 0));
        match self.queue.try_reserve(parcel.load()) {
            Ok(mut room) => room.push(parcel),
            Err(_full) => self.dropped(Reason::Overload),
        }
    }

    /// Keeps a row that Postgres refused; waits while the queue is full.
    pub async fn add_rejected(&self, tuple: Tuple<'_>, rejected: &Rejected) {
        let error = rejected.error.with_sources();
        let parcel = parcel(encode(tuple, &error, Reason::Rejected, rejected.attempts));
        let load = parcel.load();
        if !load.fits(self.queue.limits().capacity) {
            self.dropped(Reason::Rejected);
            return;
        }
        let mut room = loop {
            if let Ok(room) = self.queue.reserve(load).await {
                break room;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        room.push(parcel);
    }

    fn dropped(&self, reason: Reason) {
        let dropped = self.metrics.dead_letters_dropped.with_label_values(&[reason.name()]);
        dropped.inc();
        let total = dropped.get();
        if total.is_power_of_two() {
            tracing::warn!(
                reason = reason.name(),
                total,
                "the dead-letter queue is full; dead letters are dropped"
            );
        }
    }
}

fn parcel(row: Vec<u8>) -> Parcel {
    Parcel::one(Stretch { rows: row.into(), events: 1 }, None)
}

/// The tuple of a dead letter.
pub fn encode(tuple: Tuple<'_>, error: &str, reason: Reason, attempts: u32) -> Vec<u8> {
    let mut rows = Vec::with_capacity(tuple.bytes().len() + error.len() + reason.name().len() + 32);
    rows.extend_from_slice(&FIELDS.to_be_bytes());
    // A text column takes no NUL, which an error's message could quote.
    let error = error.replace('\0', "\\0");
    match (reason, tuple.fields()) {
        // What Postgres refused may be the payload itself: it is kept byte for byte in `body`.
        (
            Reason::Rejected,
            [id, trace_id, Some([_version, payload @ ..]), None, content_type, received_at],
        ) => {
            for field in [id, trace_id, None, Some(payload), content_type, received_at] {
                match field {
                    Some(bytes) => row::put_field(&mut rows, bytes),
                    None => row::put_null(&mut rows),
                }
            }
        }
        _ => rows.extend_from_slice(&tuple.bytes()[2..]),
    }
    row::put_field(&mut rows, error.as_bytes());
    row::put_field(&mut rows, reason.name().as_bytes());
    row::put_field(&mut rows, &(attempts as i32).to_be_bytes());
    row::put_field(&mut rows, &row::postgres_timestamp(unix_now_us()));
    rows
}

/// Stores dead letters.
#[derive(Debug)]
pub struct DeadLetterWriter {
    /// Where they wait.
    pub queue: Arc<Queue>,
    /// Stores them.
    pub lander: Lander,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How often they are stored.
    pub interval: Duration,
    /// The most bytes in one COPY.
    pub max_copy_bytes: u64,
}

impl DeadLetterWriter {
    /// Stores what waits, every interval, until `stop` is cancelled and nothing waits any more.
    pub async fn run(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopping = stop.is_cancelled();
            while self.flush().await {}
            if stopping {
                return;
            }
            tokio::select! {
                _ = interval.tick() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Stores one batch; false when nothing waited.
    async fn flush(&self) -> bool {
        let batch = self.queue.take(self.max_copy_bytes);
        if batch.load().events == 0 {
            return false;
        }
        let rows: Vec<&[u8]> = batch.stretches().collect();
        let mut lane = Lane::new(0);
        let mut pending = vec![&rows[..]];
        while let Some(rows) = pending.pop() {
            let lot = Lot::new(Kind::DeadLetters, rows.len() as u64, None, Vec::new(), rows.to_vec());
            match self.lander.land(&lot, &mut lane).await {
                Ok(_landed) => self.stored(rows),
                Err(Unlanded::Rejected(rejected)) if rows.len() <= 1 => {
                    let error = rejected.error.with_sources();
                    self.metrics.dead_letters_dropped.with_label_values(&["refused"]).inc();
                    tracing::error!(error, "a dead letter is refused by Postgres and lost");
                }
                Err(_cut_up) => {
                    let (left, right) = rows.split_at(rows.len() / 2);
                    pending.extend([right, left]);
                }
            }
        }
        true
    }

    fn stored(&self, rows: &[&[u8]]) {
        for tuple in rows.iter().flat_map(|row| row::tuples(row)) {
            let overload = tuple.field(REASON_FIELD) == Some(Reason::Overload.name().as_bytes());
            let reason = if overload { Reason::Overload } else { Reason::Rejected };
            self.metrics.dead_letters.with_label_values(&[reason.name()]).inc();
        }
    }
}
