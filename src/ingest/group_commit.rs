//! The thread that owns the journal: writes what waits in one piece, syncs it once, and answers all who wait for it.
//!
//! There is no timer. While one group is being synced the next one gathers, so groups grow with the load: a lone request
//! waits for one sync, and a thousand share it.
//!
//! Ids are given out here, where the order of the journal is decided, so that the sequences of a journal have no gaps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::id::Tag;
use super::journal::{AppendError, Appender, Records};
use super::keys::Key;
use super::level::Load;
use super::parcel::Parcel;
use super::queue::{Batch, Queue, Taken};
use super::ticket::{NotJournaled, Wakeups};
use super::{Promise, Refusal, row};
use crate::observe::Metrics;

/// The most bytes that a group gathers; the last parcel may pass it.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// A journal that nothing was appended to for this long gets a mark that what it holds was synced.
const IDLE: Duration = Duration::from_millis(500);

/// The owner of the journal.
#[derive(Debug)]
pub struct GroupCommit {
    /// Where events come from.
    pub queue: Arc<Queue>,
    /// The journal.
    pub appender: Appender,
    /// What was synced is handed on to it.
    pub backlog: Arc<Backlog>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl GroupCommit {
    /// Runs until the queue is closed and empty. `check` is called before each group.
    pub fn run(mut self, check: &dyn Fn()) {
        let mut sealed = true;
        loop {
            check();
            match self.queue.take_blocking(GROUP_BYTES, IDLE) {
                Taken::Batch(batch) if batch.load().events == 0 => {}
                Taken::Batch(batch) => {
                    self.commit(batch);
                    sealed = false;
                }
                Taken::Nothing if !sealed => {
                    self.seal();
                    sealed = true;
                }
                Taken::Nothing => {}
                Taken::End => break,
            }
        }
        if !sealed {
            self.seal();
        }
        self.backlog.close();
    }

    fn seal(&mut self) {
        // Only a testimony: without it a damaged last block would be taken for a torn one.
        if let Err(error) = self.appender.seal() {
            tracing::debug!(error = error.to_string(), "the journal's end is not marked");
        }
    }

    fn commit(&mut self, mut batch: Batch) {
        let parcels = batch.parcels_mut();
        if self.commit_group(parcels) == Err(NotJournaled::Refused(Refusal::TooLarge)) && parcels.len() > 1 {
            // One large batch must not take the others down with it.
            for parcel in parcels.chunks_mut(1) {
                let _told = self.commit_group(parcel);
            }
        }
    }

    /// Commits parcels together. If they are refused they have been told so, but for being too large together.
    fn commit_group(&mut self, parcels: &mut [Parcel]) -> Result<(), NotJournaled> {
        let journal = self.appender.journal();
        let first = self.appender.next_sequence();
        stamp(parcels, journal.tag(), first);
        let load = parcels.iter().fold(Load::default(), |sum, parcel| sum + parcel.load());
        let started = Instant::now();
        let done = self.append(parcels).and_then(|()| self.sync());
        match done {
            Ok(()) => {
                self.metrics.group_committed(load.events, started.elapsed());
                self.register_waiting(parcels, first);
                self.backlog.synced(journal, first + load.events, load.bytes);
                self.metrics.accepted.inc_by(load.events);
                self.answer(parcels, None);
            }
            Err(NotJournaled::Refused(Refusal::TooLarge)) if parcels.len() > 1 => {}
            Err(refused) => self.refuse(parcels, refused),
        }
        done
    }

    fn refuse(&self, parcels: &[Parcel], refused: NotJournaled) {
        // Those who wait are told; of the others there is this count.
        let waits =
            |parcel: &Parcel| parcel.ticket.as_ref().is_some_and(|ticket| ticket.wants > Promise::Queued);
        let unheard = parcels.iter().filter(|parcel| !waits(parcel));
        let events: u64 = unheard.map(|parcel| parcel.load().events).sum();
        if events > 0 {
            self.metrics.refused.with_label_values(&["journal"]).inc_by(events);
            tracing::warn!(events, refused = ?refused, "events that were only queued are lost: the journal took nothing");
        }
        self.answer(parcels, Some(refused));
    }

    fn append(&mut self, parcels: &[Parcel]) -> Result<(), NotJournaled> {
        let mut records = Vec::with_capacity(parcels.len());
        let keys = split_keys(parcels);
        let stretches = parcels.iter().flat_map(|parcel| parcel.stretches());
        for (index, stretch) in stretches.enumerate().filter(|(_, stretch)| stretch.events > 0) {
            let keys = keys.get(index).map_or(&[][..], Vec::as_slice);
            records.push(Records { rows: &stretch.rows, events: stretch.events, keys });
        }
        self.appender.append(&records).map_err(|error| self.refused(&error))
    }

    fn sync(&mut self) -> Result<(), NotJournaled> {
        let started = Instant::now();
        let synced = self.appender.sync();
        self.metrics.journal_sync_seconds.observe(started.elapsed().as_secs_f64());
        synced.map_err(|error| match error {
            AppendError::Poisoned(_) => {
                tracing::error!(
                    error = error.to_string(),
                    "the journal could not be synced: nothing more is accepted until a restart; what was synced before is stored"
                );
                NotJournaled::OutcomeUnknown
            }
            AppendError::InDoubt(_) => {
                tracing::warn!(error = crate::db::chain(&error), "a group is in doubt");
                NotJournaled::OutcomeUnknown
            }
            // Taken back, for good.
            error => self.refused(&error),
        })
    }

    fn refused(&self, error: &AppendError) -> NotJournaled {
        // Changes of what the journal takes are logged by the journal, once each.
        tracing::debug!(error = crate::db::chain(error), "a group is refused");
        NotJournaled::Refused(Refusal::from(error))
    }

    fn register_waiting(&self, parcels: &[Parcel], first: u64) {
        let mut next = first;
        for parcel in parcels {
            let start = next;
            next += parcel.load().events;
            if let Some(ticket) = &parcel.ticket
                && ticket.wants == Promise::Committed
                // Its request holds another; without one its client has left.
                && Arc::strong_count(ticket) > 1
            {
                self.backlog.wait_for_commit(self.appender.journal(), start..next, ticket);
            }
        }
    }

    fn answer(&self, parcels: &[Parcel], refused: Option<NotJournaled>) {
        let mut wakeups = Wakeups::default();
        for parcel in parcels {
            let Some(ticket) = &parcel.ticket else { continue };
            let id = parcel.stretches().first().and_then(|stretch| row::first_id(&stretch.rows));
            let answer = match (refused, id) {
                (None, Some(id)) => Ok(id),
                (Some(refused), _) => Err(refused),
                (None, None) => Err(NotJournaled::OutcomeUnknown),
            };
            ticket.answer(answer, &mut wakeups);
        }
    }
}

/// Fills in the ids, from `sequence` on.
fn stamp(parcels: &mut [Parcel], tag: Tag, mut sequence: u64) {
    for parcel in parcels {
        let trace_from_id = parcel.ticket.as_ref().is_some_and(|ticket| ticket.trace_from_id);
        for stretch in parcel.stretches_mut() {
            row::stamp(&mut stretch.rows, tag, sequence, trace_from_id);
            sequence += u64::from(stretch.events);
        }
    }
}

/// The keys of each stretch, by the place in the stretch; nothing where no event has one.
fn split_keys(parcels: &[Parcel]) -> Vec<Vec<(u32, Key)>> {
    let keys_of = |parcel: &Parcel| parcel.ticket.as_ref().is_some_and(|ticket| !ticket.keys.is_empty());
    if !parcels.iter().any(keys_of) {
        return Vec::new();
    }
    let mut of_stretches = Vec::new();
    for parcel in parcels {
        // In order of their places, so each stretch takes the next of them.
        let mut keys = parcel.ticket.as_ref().map_or(&[][..], |ticket| &ticket.keys).iter().peekable();
        let mut first = 0;
        for stretch in parcel.stretches() {
            let end = first + stretch.events;
            let own = std::iter::from_fn(|| keys.next_if(|(index, _)| *index < end));
            of_stretches.push(own.map(|(index, key)| (index - first, *key)).collect());
            first = end;
        }
    }
    of_stretches
}
