//! Space: the release of segments, and the preparation of new ones.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rangemap::RangeSet;

use super::files::{File, FileId, is_no_space, is_shortage, uninterrupted, write_all};
use super::format::SegmentHeader;
use super::segments::{
    JournalReader, NEW_SPARE, QUARANTINE, SPARE, Segment, SegmentState, State, segment_name,
};
use super::{AppendError, Refusal};
use super::{JournalId, PAGE};

/// Bytes written at once to fill a new file.
const FILL: usize = 1 << 20;

/// Groups per segment from which filling pays: 64 MiB cost 150 ms of a core, and save 0.1 ms per group.
const MANY_GROUPS: u64 = 1024;

type Spare = Option<Arc<dyn File>>;

impl JournalReader {
    /// Releases covered sequences, which are durable elsewhere and need no replay. Sealed segments whose sequences are all
    /// covered are kept for a rewind, up to `keep_bytes`; older ones are released. Journals without segments are forgotten.
    ///
    /// Segments are released from a journal's beginning only: a gap would look like a loss.
    ///
    /// # Errors
    ///
    /// A segment cannot be released. It stays, and a later call tries again.
    pub fn trim(&self, journal: JournalId, covered: &RangeSet<u64>) -> io::Result<()> {
        if self.gate.is_gone() {
            // The folder may come back.
            return Ok(());
        }
        let mut state = self.state.lock();
        for held in state.journals.iter_mut().filter(|held| held.id == journal) {
            for segment in held.segments.iter_mut().filter(|segment| segment.state == SegmentState::Sealed) {
                if covered.gaps(&(segment.first..segment.end)).next().is_none() {
                    segment.state = SegmentState::Kept;
                }
            }
        }
        drop(state);
        let released = self.release_beyond(self.settings.keep_bytes);
        self.shorten_registered();
        if self.may_grow() {
            self.gate.set_full(false);
        }
        self.wake();
        released
    }

    fn release_beyond(&self, keep_bytes: u64) -> io::Result<()> {
        let mut spare = self.spare.lock();
        let is_beyond = |state: &State| state.bytes(true) > keep_bytes || position_of_empty(state).is_some();
        while is_beyond(&self.state.lock()) {
            if !self.release_oldest(&mut spare, true)? {
                break;
            }
        }
        Ok(())
    }

    /// Releases the oldest kept segment; false if there is none. With `recycle` it becomes the spare segment, if that is
    /// missing. A segment with unreadable bytes is moved to quarantine.
    fn release_oldest(&self, spare: &mut Spare, recycle: bool) -> io::Result<bool> {
        if self.state.lock().names_unsynced {
            self.sync_names()?;
            self.state.lock().names_unsynced = false;
        }
        let Some(segment) = take_oldest_kept(&mut self.state.lock()) else { return Ok(false) };
        let journal = segment.id.journal;
        let name = segment_name(segment.id);
        let path = self.path(&name);
        // A file with readers must not be overwritten; removed, it stays open for them.
        let has_readers = Arc::strong_count(&segment.pin) > 1;
        let recycle = recycle
            && !has_readers
            && spare.is_none()
            && !segment.unreadable
            && segment.bytes == self.settings.segment_bytes;
        let is_last = {
            let state = self.state.lock();
            let held = state.journals.iter().find(|held| held.id == journal);
            held.is_none_or(|held| !held.current && held.segments.is_empty())
        };
        let excluded = if is_last { self.remove_extent(journal) } else { self.sync_extent(journal) };
        let released = excluded.and_then(|()| match (recycle, segment.unreadable) {
            (true, _) => self.files.rename(&path, &self.path(SPARE)),
            (false, true) => {
                let quarantine = self.path(QUARANTINE);
                self.files.create_dir(&quarantine)?;
                self.files.rename(&path, &quarantine.join(&name))?;
                self.files.sync_dir(&quarantine)
            }
            (false, false) => self.files.remove(&path),
        });
        let mut recycled = recycle;
        match released {
            Ok(()) => {}
            // All of its events are covered, so nothing is lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => recycled = false,
            Err(error) => {
                // It stays, and all behind it: a gap would look like a loss.
                put_back(&mut self.state.lock(), segment);
                return Err(error);
            }
        }
        // A journal without segments is forgotten.
        self.state.lock().journals.retain(|journal| journal.current || !journal.segments.is_empty());
        // One at a time, for the same reason. And before a recycled file is written: the old name could reappear with new
        // content.
        if let Err(error) = self.sync_names() {
            if is_shortage(&error) {
                self.state.lock().names_unsynced = true;
            } else {
                self.state.lock().names_in_doubt = true;
                let _poisoned = self.sync_failed(&error);
            }
            return Err(error);
        }
        if recycled {
            *spare = Some(self.files.open(&self.path(SPARE), super::Access::Write)?);
        }
        Ok(true)
    }

    fn sync_names(&self) -> io::Result<()> {
        uninterrupted(|| self.files.sync_dir(&self.settings.dir))
    }

    /// Whether the limits allow one more segment, once all kept ones are released.
    pub(super) fn may_grow(&self) -> bool {
        self.state.lock().bytes(false) + self.settings.segment_bytes <= self.settings.max_bytes
    }

    /// Reads the free space, and releases kept segments if it is too little.
    pub(super) fn check_free_space(&self) -> io::Result<()> {
        let min_free = self.settings.min_free;
        self.gate.set_free(self.files.free_space(&self.settings.dir)?, min_free);
        while self.gate.is_low() && self.release_oldest(&mut self.spare.lock(), false)? {
            self.gate.set_free(self.files.free_space(&self.settings.dir)?, min_free);
        }
        Ok(())
    }

    /// Turns the spare file into the segment of this header, synced under its name.
    pub(super) fn install(&self, header: &SegmentHeader) -> Result<(Arc<dyn File>, Segment), AppendError> {
        let mut spare = self.spare.lock();
        let segment_bytes = self.settings.segment_bytes;
        loop {
            let (pending, kept) = {
                let state = self.state.lock();
                (state.bytes(false), state.bytes(true))
            };
            if pending + segment_bytes > self.settings.max_bytes {
                self.gate.set_full(true);
                self.wake();
                return Err(AppendError::Full);
            }
            if pending + kept + segment_bytes <= self.settings.max_bytes
                || !self
                    .release_oldest(&mut spare, true)
                    .map_err(|error| self.failed("release a segment", error))?
            {
                break;
            }
        }
        self.prepare(&mut spare)?;
        let Some(file) = spare.clone() else { return Err(AppendError::Full) };
        let write = |file: &dyn File| {
            write_all(file, &header.encode(), 0).map_err(|error| self.failed("write a header", error))?;
            // The file holds no events yet: the next try writes it again.
            uninterrupted(|| file.fdatasync()).map_err(|error| {
                match is_shortage(&error) || is_no_space(&error) {
                    true => self.failed("write a header", error),
                    false => self.sync_failed(&error),
                }
            })
        };
        write(&*file)?;
        let id = super::format::SegmentId { journal: header.journal, number: header.number };
        let path = self.path(segment_name(id));
        self.files.rename(&self.path(SPARE), &path).map_err(|error| self.failed("name a segment", error))?;
        if let Err(error) = self.sync_names() {
            // The name must be durable before the first event. After a transient error it is reverted, so that the next try
            // changes the folder again.
            let is_transient = is_shortage(&error) || is_no_space(&error);
            if is_transient && self.files.rename(&path, &self.path(SPARE)).is_ok() {
                return Err(self.failed("name a segment", error));
            }
            *spare = None;
            return Err(self.sync_failed(&error));
        }
        *spare = None;
        let segment = Segment {
            id,
            bytes: segment_bytes,
            nonce: Some(header.nonce),
            first: header.first,
            end: header.first,
            used: PAGE,
            state: SegmentState::Open,
            pin: Arc::default(),
            file: Some(Arc::clone(&file)),
            unreadable: false,
        };
        Ok((file, segment))
    }

    /// Provides a spare segment: the oldest kept one if space is short, else a new file.
    fn prepare(&self, spare: &mut Spare) -> Result<(), AppendError> {
        if spare.is_some() {
            return Ok(());
        }
        let wanted = self.settings.min_free.saturating_add(self.settings.segment_bytes);
        while self.files.free_space(&self.settings.dir).unwrap_or(u64::MAX) < wanted {
            // A recycled segment needs no free space.
            if !self.release_oldest(spare, true).map_err(|error| self.failed("release a segment", error))? {
                self.gate.no_segment();
                return Err(AppendError::MinFree);
            }
            if spare.is_some() {
                return Ok(());
            }
        }
        match self.make_spare() {
            Ok(file) => *spare = Some(file),
            Err(error) => {
                // The file holds no events, so its failed sync does not poison: it is not used.
                let _half_filled = self.files.remove(&self.path(NEW_SPARE));
                return Err(self.failed("prepare a segment", error));
            }
        }
        Ok(())
    }

    /// Creates a file of zeros, synced.
    ///
    /// A sync of bytes that were written before is half the work, so a segment for many small groups is filled before its
    /// use. For few large groups, writing everything twice would cost more than it saves: the blocks are only reserved.
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

    /// False where the file system does not support it.
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

    /// Chooses how to create the next segments, by the number of groups in the last one.
    pub(super) fn segment_took(&self, groups: u64) {
        self.fills_spares.store(groups >= MANY_GROUPS, Ordering::Relaxed);
    }

    /// The work of a maintenance step.
    pub(super) fn run_maintenance(&self) {
        self.gate.set_gone(!self.is_in_place());
        if self.gate.is_gone() {
            return self.report();
        }
        self.refresh_losses();
        self.sync_extents();
        let looked = self.check_free_space();
        let grows = self.may_grow();
        if grows {
            self.gate.set_full(false);
        }
        // The writer repeats what fails here, and reports it.
        if looked.is_ok() && grows && !self.gate.is_low() && self.gate.poisoned().is_none() {
            let mut spare = self.spare.lock();
            let _tried_again = self.prepare_ahead(&mut spare);
            if spare.is_some() {
                self.gate.segment_prepared();
            }
        }
        self.report();
    }

    /// Whether the folder and the open segment are those that were opened. Errors other than a missing file prove nothing.
    pub(super) fn is_in_place(&self) -> bool {
        let is = |path: &std::path::Path, expected: FileId| match self.files.identity(path) {
            Ok(found) => found == expected,
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if !self.home.is_none_or(|home| is(&self.settings.dir, home)) {
            return false;
        }
        let open = {
            let state = self.state.lock();
            let current = state.journals.iter().find(|journal| journal.current);
            let last = current.and_then(|journal| journal.segments.back());
            last.and_then(|segment| Some((segment.id, segment.file.clone()?)))
        };
        let Some((id, file)) = open else { return true };
        file.identity().map_or(true, |expected| is(&self.path(segment_name(id)), expected))
    }

    /// Logs each change of the refusal, once.
    fn report(&self) {
        let now = self.gate.refusal_until_append();
        let before = std::mem::replace(&mut *self.reported.lock(), now);
        if now == before {
            return;
        }
        let (free_bytes, min_free, max_bytes) =
            (self.gate.free(), self.settings.min_free, self.settings.max_bytes);
        let dir = self.settings.dir.display();
        match now {
            None => tracing::info!(free_bytes, "the journal accepts events again"),
            Some(Refusal::MinFree) => tracing::warn!(
                free_bytes,
                JOURNAL_MIN_FREE = min_free,
                "the journal accepts no events: its disk has less free space than JOURNAL_MIN_FREE"
            ),
            Some(Refusal::Full) => {
                let held_bytes = self.state.lock().bytes(false);
                tracing::warn!(
                    free_bytes,
                    held_bytes,
                    JOURNAL_MAX_BYTES = max_bytes,
                    "the journal accepts no events: it holds JOURNAL_MAX_BYTES of events that Postgres does not have"
                );
            }
            Some(Refusal::NoSpace) => {
                tracing::warn!(free_bytes, "the journal accepts no events: its file system is full");
            }
            Some(Refusal::Shortage) => tracing::warn!(
                free_bytes,
                "the journal accepts no events: the system has no descriptors or memory (ulimit -n)"
            ),
            Some(Refusal::Gone) => tracing::error!(
                %dir,
                "the journal accepts no events: its folder was removed or replaced. Put it back, or restart; pending events are stored from the open file"
            ),
            Some(Refusal::Poisoned) => {
                let reason = self.gate.poisoned();
                tracing::error!(reason, "the journal accepts no events until a restart");
            }
        }
    }

    /// Prepares a spare segment before its use. Releases a kept one for it only at the limit.
    fn prepare_ahead(&self, spare: &mut Spare) -> Result<(), AppendError> {
        let held = {
            let state = self.state.lock();
            state.bytes(false) + state.bytes(true)
        };
        if spare.is_none() && held + self.settings.segment_bytes > self.settings.max_bytes {
            self.release_oldest(spare, true).map_err(AppendError::NoSpace)?;
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
        self.signal.state.lock().work = true;
        self.signal.changed.notify_all();
    }

    /// Classifies a failed write or a similar operation: a transient error refuses the group, any other poisons the journal.
    pub(super) fn failed(&self, doing: &str, error: io::Error) -> AppendError {
        let refused = if is_no_space(&error) {
            self.gate.no_space();
            AppendError::NoSpace(error)
        } else if is_shortage(&error) {
            self.gate.shortage();
            AppendError::Shortage(error)
        } else if !self.is_in_place() {
            self.gate.set_gone(true);
            AppendError::Gone
        } else {
            return self.poison(format!("cannot {doing}: {error}"));
        };
        self.wake();
        refused
    }

    /// A sync failed: the content of the disk is unknown.
    pub(super) fn sync_failed(&self, error: &io::Error) -> AppendError {
        self.poison(format!("a sync failed: {error}"))
    }

    fn poison(&self, reason: String) -> AppendError {
        self.gate.poison(reason.clone());
        self.wake();
        AppendError::Poisoned(reason)
    }
}

/// Removes the oldest kept segment that is the first of its journal.
fn take_oldest_kept(state: &mut State) -> Option<Segment> {
    if state.names_in_doubt {
        return None;
    }
    let is_kept = |segment: &Segment| segment.state == SegmentState::Kept;
    let oldest = || state.journals.iter().position(|journal| journal.segments.front().is_some_and(is_kept));
    let index = position_of_empty(state).or_else(oldest)?;
    let journal = state.journals.get_mut(index)?;
    journal.segments.pop_front()
}

/// The first journal that begins with a covered segment without a file.
fn position_of_empty(state: &State) -> Option<usize> {
    let is_empty = |segment: &Segment| segment.state == SegmentState::Kept && segment.bytes == 0;
    state.journals.iter().position(|journal| journal.segments.front().is_some_and(is_empty))
}

fn put_back(state: &mut State, segment: Segment) {
    if let Some(journal) = state.journals.iter_mut().find(|journal| journal.id == segment.id.journal) {
        journal.segments.push_front(segment);
    }
}
