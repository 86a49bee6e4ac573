//! Room: which segments are given up, and where the next one comes from.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rangemap::RangeSet;

use super::error::AppendError;
use super::files::{File, is_no_space, write_all};
use super::format::SegmentHeader;
use super::store::{NEW_SPARE, SPARE, Segment, SegmentState, State, Store, lock, segment_name};
use super::{JournalId, PAGE};

/// What a new file is filled with at once.
const FILL: usize = 1 << 20;

/// From so many groups on a segment is worth being filled ahead: 64 MiB cost 150 ms of a core, and save 0.1 ms a group.
const MANY_GROUPS: u64 = 1024;

type Spare = Option<Arc<dyn File>>;

impl Store {
    /// Says which sequences are covered: whatever happens, they are not wanted for a replay. Sealed segments all of whose
    /// sequences are covered are kept for a rewind as far as `keep_bytes` goes; older ones are given up.
    ///
    /// Segments are given up from a journal's beginning on only: one that is missing in between would look like a loss.
    pub fn trim(&self, journal: JournalId, covered: &RangeSet<u64>) -> io::Result<()> {
        let mut state = lock(&self.state);
        for held in state.journals.iter_mut().filter(|held| held.id == journal) {
            for segment in held.segments.iter_mut().filter(|segment| segment.state == SegmentState::Sealed) {
                if covered.gaps(&(segment.first..segment.end)).next().is_none() {
                    segment.state = SegmentState::Kept;
                }
            }
        }
        drop(state);
        let result = self.give_up_beyond(self.settings.keep_bytes);
        if self.may_grow() {
            self.gate.set_full(false);
        }
        self.wake();
        result
    }

    fn give_up_beyond(&self, keep_bytes: u64) -> io::Result<()> {
        let mut spare = lock(&self.spare);
        while lock(&self.state).bytes(true) > keep_bytes {
            if !self.give_up_one(&mut spare, true)? {
                break;
            }
        }
        Ok(())
    }

    /// Gives up the oldest segment that may be; false if there is none. It becomes the spare one if that is missing and
    /// `recycle` says so.
    fn give_up_one(&self, spare: &mut Spare, recycle: bool) -> io::Result<bool> {
        let Some(segment) = take_oldest_kept(&mut lock(&self.state)) else { return Ok(false) };
        let path = self.path(segment_name(segment.place));
        // A file that is being read must not be written again; removed, it stays with its readers.
        let unread = Arc::strong_count(&segment.pin) == 1;
        let recycle = recycle && unread && spare.is_none() && segment.bytes == self.settings.segment_bytes;
        let given_up =
            if recycle { self.files.rename(&path, &self.path(SPARE)) } else { self.files.remove(&path) };
        if let Err(error) = given_up {
            // It stays, and all behind it: a segment that is missing in between would look like a loss.
            put_back(&mut lock(&self.state), segment);
            return Err(error);
        }
        // A journal goes with its last segment.
        lock(&self.state).journals.retain(|journal| journal.current || !journal.segments.is_empty());
        // One at a time, for the same reason; and before a byte of a recycled file is written, as else the old name could
        // come back with new content.
        if let Err(error) = self.files.sync_dir(&self.settings.dir) {
            lock(&self.state).names_unknown = true;
            let _poisoned = self.sync_failed(&error);
            return Err(error);
        }
        if recycle {
            *spare = Some(self.files.open(&self.path(SPARE), super::Access::Write)?);
        }
        Ok(true)
    }

    /// Whether the limits leave room for one more segment, if all kept ones were given up.
    pub(super) fn may_grow(&self) -> bool {
        lock(&self.state).bytes(false) + self.settings.segment_bytes <= self.settings.max_bytes
    }

    /// Looks how much the file system still takes; gives up kept segments if that is too little.
    pub(super) fn look_at_free_space(&self) -> io::Result<()> {
        let min_free = self.settings.min_free;
        self.gate.set_free(self.files.free_space(&self.settings.dir)?, min_free);
        while self.gate.is_low() && self.give_up_one(&mut lock(&self.spare), false)? {
            self.gate.set_free(self.files.free_space(&self.settings.dir)?, min_free);
        }
        Ok(())
    }

    /// Makes the spare file the segment of this header, in place and synced.
    pub(super) fn install(&self, header: &SegmentHeader) -> Result<(Arc<dyn File>, Segment), AppendError> {
        let mut spare = lock(&self.spare);
        let segment_bytes = self.settings.segment_bytes;
        loop {
            let (pending, kept) = {
                let state = lock(&self.state);
                (state.bytes(false), state.bytes(true))
            };
            if pending + segment_bytes > self.settings.max_bytes {
                self.gate.set_full(true);
                return Err(AppendError::Full);
            }
            if pending + kept + segment_bytes <= self.settings.max_bytes
                || !self
                    .give_up_one(&mut spare, true)
                    .map_err(|error| self.failed("give up a segment", error))?
            {
                break;
            }
        }
        self.prepare(&mut spare)?;
        let Some(file) = spare.clone() else { return Err(AppendError::Full) };
        let write = |file: &dyn File| {
            write_all(file, &header.encode(), 0).map_err(|error| self.failed("write a header", error))?;
            file.fdatasync().map_err(|error| self.sync_failed(&error))
        };
        write(&*file)?;
        let place = super::format::Place { journal: header.journal, number: header.number };
        let path = self.path(segment_name(place));
        self.files.rename(&self.path(SPARE), &path).map_err(|error| self.failed("name a segment", error))?;
        *spare = None;
        self.files.sync_dir(&self.settings.dir).map_err(|error| self.sync_failed(&error))?;
        let segment = Segment {
            place,
            bytes: segment_bytes,
            nonce: Some(header.nonce),
            first: header.first,
            end: header.first,
            used: PAGE,
            state: SegmentState::Open,
            pin: Arc::default(),
        };
        Ok((file, segment))
    }

    /// Makes a spare segment, if there is none: the oldest kept one that has to go, else a new file.
    fn prepare(&self, spare: &mut Spare) -> Result<(), AppendError> {
        if spare.is_some() {
            return Ok(());
        }
        let wanted = self.settings.min_free.saturating_add(self.settings.segment_bytes);
        while self.files.free_space(&self.settings.dir).unwrap_or(u64::MAX) < wanted {
            // Recycled, a kept segment is the spare one, and no free space is needed.
            if !self.give_up_one(spare, true).map_err(|error| self.failed("give up a segment", error))? {
                self.gate.no_space();
                return Err(AppendError::MinFree);
            }
            if spare.is_some() {
                return Ok(());
            }
        }
        match self.make_spare() {
            Ok(file) => *spare = Some(file),
            Err(error) => {
                // Nothing was promised of this file, so a failed sync of it is no reason to stop: it is not used.
                let _half_filled = self.files.remove(&self.path(NEW_SPARE));
                return Err(self.failed("prepare a segment", error));
            }
        }
        Ok(())
    }

    /// A new file of zeros, synced.
    ///
    /// A sync of bytes that were written before is half the work, so a segment of many small groups is filled ahead of
    /// its use. In one of few large groups that saves less than writing everything twice costs: its blocks are only
    /// reserved.
    fn make_spare(&self) -> io::Result<Arc<dyn File>> {
        let file = self.files.create(&self.path(NEW_SPARE))?;
        let reserved = !self.fills_spares.load(Ordering::Relaxed) && self.reserve(&*file)?;
        if !reserved {
            self.fill(&*file)?;
        }
        file.fdatasync()?;
        self.files.rename(&self.path(NEW_SPARE), &self.path(SPARE))?;
        self.files.sync_dir(&self.settings.dir)?;
        Ok(file)
    }

    /// False where the file system cannot.
    fn reserve(&self, file: &dyn File) -> io::Result<bool> {
        match file.reserve(self.settings.segment_bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fill(&self, file: &dyn File) -> io::Result<()> {
        let zeros = vec![0; FILL.min(self.settings.segment_bytes as usize)];
        let mut offset = 0;
        while offset < self.settings.segment_bytes {
            let length = zeros.len().min((self.settings.segment_bytes - offset) as usize);
            write_all(file, &zeros[..length], offset)?;
            offset += length as u64;
        }
        Ok(())
    }

    /// A segment took so many groups: what its successors are to be made for.
    pub(super) fn segment_took(&self, groups: u64) {
        self.fills_spares.store(groups >= MANY_GROUPS, Ordering::Relaxed);
    }

    /// What the background thread does once a second and when it is woken.
    pub(super) fn tend(&self) {
        let looked = self.look_at_free_space();
        let grows = self.may_grow();
        if grows {
            self.gate.set_full(false);
        }
        // Whatever fails here is tried again by the appender, who can say so.
        if looked.is_ok() && grows && !self.gate.is_low() && self.gate.poisoned().is_none() {
            let mut spare = lock(&self.spare);
            let _tried_again = self.prepare_ahead(&mut spare);
        }
    }

    /// A spare segment ahead of its use takes nothing away from those kept, unless they have to go anyway.
    fn prepare_ahead(&self, spare: &mut Spare) -> Result<(), AppendError> {
        let held = {
            let state = lock(&self.state);
            state.bytes(false) + state.bytes(true)
        };
        if spare.is_none() && held + self.settings.segment_bytes > self.settings.max_bytes {
            self.give_up_one(spare, true).map_err(AppendError::NoSpace)?;
        }
        if spare.is_some() || self.gate.free() < self.settings.min_free + self.settings.segment_bytes {
            return Ok(());
        }
        match self.make_spare() {
            Ok(file) => *spare = Some(file),
            Err(error) => {
                let _half_filled = self.files.remove(&self.path(NEW_SPARE));
                return Err(AppendError::NoSpace(error));
            }
        }
        Ok(())
    }

    pub(super) fn wake(&self) {
        lock(&self.signal.state).work = true;
        self.signal.changed.notify_all();
    }

    /// A write, or what is like one, failed.
    pub(super) fn failed(&self, doing: &str, error: io::Error) -> AppendError {
        if is_no_space(&error) {
            self.gate.no_space();
            return AppendError::NoSpace(error);
        }
        self.poison(format!("cannot {doing}: {error}"))
    }

    /// A sync failed, whatever the error: nothing is known any more of what the disk holds.
    pub(super) fn sync_failed(&self, error: &io::Error) -> AppendError {
        self.poison(format!("a sync failed: {error}"))
    }

    fn poison(&self, reason: String) -> AppendError {
        self.gate.poison(reason.clone());
        AppendError::Poisoned(reason)
    }
}

/// Takes out the oldest kept segment that is its journal's first.
fn take_oldest_kept(state: &mut State) -> Option<Segment> {
    if state.names_unknown {
        return None;
    }
    let is_kept = |segment: &Segment| segment.state == SegmentState::Kept;
    let index = state.journals.iter().position(|journal| journal.segments.front().is_some_and(is_kept))?;
    let journal = state.journals.get_mut(index)?;
    journal.segments.pop_front()
}

fn put_back(state: &mut State, segment: Segment) {
    if let Some(journal) = state.journals.iter_mut().find(|journal| journal.id == segment.place.journal) {
        journal.segments.push_front(segment);
    }
}
