//! The pace of sending: tickets for free connections, released when a request is due.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::schedule::Schedule;
use crate::timer::FineTimer;

/// The minimum between two wake-ups: closer requests leave together. Half of it would cost half as much CPU again at 20,000
/// requests a second, which the service on the same machine would lack.
const TICK: Duration = Duration::from_micros(200);

/// The time after its end for which a late schedule may catch up. Long enough for the last requests of a healthy run to find a
/// connection, short enough for an overloaded run to end on time.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(1);

/// The interval between checks whether the last requests have left.
const CATCH_UP_LOOK: Duration = Duration::from_millis(1);

/// A ticket to send one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    /// The worker's number of the request.
    pub(crate) n: u64,
    /// The due time, from which latency is measured.
    pub(crate) due: Instant,
}

/// The tickets of one worker.
pub(crate) struct Pace {
    start: Instant,
    duration: Duration,
    schedule: Option<Schedule>,
    permits: Semaphore,
    released: Cell<u64>,
    taken: Cell<u64>,
    stopped: Cell<bool>,
}

impl Pace {
    /// Starts the clock: at the fixed rate of `schedule`, or in a closed loop without one.
    pub(crate) fn start(schedule: Option<Schedule>, duration: Duration) -> Self {
        Self {
            start: Instant::now(),
            duration,
            schedule,
            permits: Semaphore::new(0),
            released: Cell::new(0),
            taken: Cell::new(0),
            stopped: Cell::new(false),
        }
    }

    /// Waits for the next ticket; `None`: the run is over.
    pub(crate) async fn next(&self) -> Option<Ticket> {
        if self.schedule.is_some() {
            self.permits.acquire().await.ok()?.forget();
        } else if self.is_stopped() {
            return None;
        }
        let n = self.taken.replace(self.taken.get() + 1);
        let due =
            self.schedule.as_ref().map_or_else(Instant::now, |schedule| self.start + schedule.due_at(n));
        Some(Ticket { n, due })
    }

    /// Releases every ticket at its time, and ends the run.
    pub(crate) async fn run(&self) -> io::Result<()> {
        let mut timer = FineTimer::new()?;
        let Some(schedule) = &self.schedule else {
            timer.sleep(self.duration).await?;
            self.stop();
            return Ok(());
        };
        while !self.is_stopped() && self.released.get() < schedule.total() {
            let due = schedule.due_by(self.start.elapsed());
            self.permits.add_permits((due - self.released.get()) as usize);
            self.released.set(due);
            if due < schedule.total() {
                timer.sleep(schedule.due_at(due).saturating_sub(self.start.elapsed()).max(TICK)).await?;
            }
        }
        let end = self.start.elapsed().max(self.duration) + CATCH_UP;
        while self.taken.get() < self.released.get() && self.start.elapsed() < end && !self.is_stopped() {
            timer.sleep(CATCH_UP_LOOK).await?;
        }
        self.stop();
        Ok(())
    }

    /// Ends the run: no further tickets.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.permits.close();
    }

    /// Whether the run is over.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// The start of the run.
    pub(crate) fn started(&self) -> Instant {
        self.start
    }

    /// The due times of tickets that no connection took.
    pub(crate) fn untaken(&self) -> impl Iterator<Item = Instant> + '_ {
        let schedule = self.schedule.as_ref();
        let left = if schedule.is_some() { self.taken.get()..self.released.get() } else { 0..0 };
        left.filter_map(move |n| schedule.map(|schedule| self.start + schedule.due_at(n)))
    }
}
