//! Room: which segments are given up, and where the next one comes from.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rangemap::RangeSet;

use super::error::{AppendError, Refusal};
use super::files::{File, FileId, is_no_space, is_shortage, uninterrupted, write_all};
use super::format::SegmentHeader;
use super::store::{
    JournalReader, NEW_SPARE, QUARANTINE, SPARE, Segment, SegmentState, State, lock, segment_name,
};
use super::{JournalId, PAGE};

/// What a new file is filled with at once.
const FILL: usize = 1 << 20;

/// From so many groups on a segment is worth being filled ahead: 64 MiB cost 150 ms of a core, and save 0.1 ms a group.
const MANY_GROUPS: u64 = 1024;

type Spare = Option<Arc<dyn File>>;

impl JournalReader {
    /// Says which sequences are covered: whatever happens, they are not wanted for a replay. Sealed segments all of whose
    /// sequences are covered are kept for a rewind as far as `keep_bytes` goes; older ones are given up.
    ///
    /// Segments are given up from a journal's beginning on only: one that is missing in between would look like a loss.
    pub fn trim(&self, journal: JournalId, covered: &RangeSet<u64>) -> io::Result<()> {
        if self.gate.is_gone() {
            // There is nothing to be removed, and the folder may come back.
            return Ok(());
        }
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
        let is_beyond = |state: &State| state.bytes(true) > keep_bytes || position_of_empty(state).is_some();
        while is_beyond(&lock(&self.state)) {
            if !self.give_up_one(&mut spare, true)? {
                break;
            }
        }
        Ok(())
    }

    /// Gives up the oldest segment that may be; false if there is none. It becomes the spare one if that is missing and
    /// `recycle` says so. One with bytes that could not be read goes into quarantine.
    fn give_up_one(&self, spare: &mut Spare, recycle: bool) -> io::Result<bool> {
        if lock(&self.state).names_unsynced {
            self.sync_names()?;
            lock(&self.state).names_unsynced = false;
        }
        let Some(segment) = take_oldest_kept(&mut lock(&self.state)) else { return Ok(false) };
        let journal = segment.place.journal;
        let name = segment_name(segment.place);
        let path = self.path(&name);
        // A file that is being read must not be written again; removed, it stays with its readers.
        let unread = Arc::strong_count(&segment.pin) == 1;
        let recycle = recycle
            && unread
            && spare.is_none()
            && !segment.unread
            && segment.bytes == self.settings.segment_bytes;
        let is_last = {
            let state = lock(&self.state);
            let held = state.journals.iter().find(|held| held.id == journal);
            held.is_none_or(|held| !held.current && held.segments.is_empty())
        };
        let noted = if is_last { self.remove_extent(journal) } else { self.sync_extent(journal) };
        let given_up = noted.and_then(|()| match (recycle, segment.unread) {
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
        match given_up {
            Ok(()) => {}
            // All of it is covered, so nothing is lost with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => recycled = false,
            Err(error) => {
                // It stays, and all behind it: a segment that is missing in between would look like a loss.
                put_back(&mut lock(&self.state), segment);
                return Err(error);
            }
        }
        // A journal goes with its last segment.
        lock(&self.state).journals.retain(|journal| journal.current || !journal.segments.is_empty());
        // One at a time, for the same reason; and before a byte of a recycled file is written, as else the old name could
        // come back with new content.
        if let Err(error) = self.sync_names() {
            if is_shortage(&error) {
                lock(&self.state).names_unsynced = true;
            } else {
                lock(&self.state).names_unknown = true;
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
                self.wake();
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
            // Nothing was promised of this file: it is written again by the next try.
            uninterrupted(|| file.fdatasync()).map_err(|error| {
                match is_shortage(&error) || is_no_space(&error) {
                    true => self.failed("write a header", error),
                    false => self.sync_failed(&error),
                }
            })
        };
        write(&*file)?;
        let place = super::format::Place { journal: header.journal, number: header.number };
        let path = self.path(segment_name(place));
        self.files.rename(&self.path(SPARE), &path).map_err(|error| self.failed("name a segment", error))?;
        if let Err(error) = self.sync_names() {
            // The name has to be on the disk before the first event is. Where that cannot be had now, it is taken back,
            // so that the next try changes the folder again.
            let passes = is_shortage(&error) || is_no_space(&error);
            if passes && self.files.rename(&path, &self.path(SPARE)).is_ok() {
                return Err(self.failed("name a segment", error));
            }
            *spare = None;
            return Err(self.sync_failed(&error));
        }
        *spare = None;
        let segment = Segment {
            place,
            bytes: segment_bytes,
            nonce: Some(header.nonce),
            first: header.first,
            end: header.first,
            used: PAGE,
            state: SegmentState::Open,
            pin: Arc::default(),
            file: Some(Arc::clone(&file)),
            unread: false,
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
        self.gate.set_gone(!self.is_in_place());
        if self.gate.is_gone() {
            return self.report();
        }
        self.look_at_losses();
        self.sync_extents();
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
        self.report();
    }

    /// Whether the folder, and the segment that is appended to, are those that were opened. An error that says nothing
    /// about them leaves them in place.
    pub(super) fn is_in_place(&self) -> bool {
        let is = |path: &std::path::Path, expected: FileId| match self.files.identity(path) {
            Ok(found) => found == expected,
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if !self.home.is_none_or(|home| is(&self.settings.dir, home)) {
            return false;
        }
        let open = {
            let state = lock(&self.state);
            let current = state.journals.iter().find(|journal| journal.current);
            let last = current.and_then(|journal| journal.segments.back());
            last.and_then(|segment| Some((segment.place, segment.file.clone()?)))
        };
        let Some((place, file)) = open else { return true };
        file.identity().map_or(true, |expected| is(&self.path(segment_name(place)), expected))
    }

    /// One line for each change of what the journal takes.
    fn report(&self) {
        let now = self.gate.trouble();
        let before = std::mem::replace(&mut *lock(&self.reported), now);
        if now == before {
            return;
        }
        let (free_bytes, min_free, max_bytes) =
            (self.gate.free(), self.settings.min_free, self.settings.max_bytes);
        let dir = self.settings.dir.display();
        match now {
            None => tracing::info!(free_bytes, "the journal takes events again"),
            Some(Refusal::MinFree) => tracing::warn!(
                free_bytes,
                JOURNAL_MIN_FREE = min_free,
                "the journal takes no events: its disk has less room than JOURNAL_MIN_FREE leaves to others"
            ),
            Some(Refusal::Full) => {
                let held_bytes = lock(&self.state).bytes(false);
                tracing::warn!(
                    free_bytes,
                    held_bytes,
                    JOURNAL_MAX_BYTES = max_bytes,
                    "the journal takes no events: it holds JOURNAL_MAX_BYTES that Postgres does not have"
                );
            }
            Some(Refusal::NoSpace) => {
                tracing::warn!(free_bytes, "the journal takes no events: its file system has no room");
            }
            Some(Refusal::Shortage) => tracing::warn!(
                free_bytes,
                "the journal takes no events: the system has no descriptors or memory (ulimit -n)"
            ),
            Some(Refusal::Gone) => tracing::error!(
                %dir,
                "the journal takes no events: its folder was removed or replaced. Put it back, or restart; what is not stored yet is stored from the open file"
            ),
            Some(Refusal::Poisoned) => {
                let reason = self.gate.poisoned();
                tracing::error!(reason, "the journal takes no events until a restart");
            }
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

    /// A write, or what is like one, failed. What passes is refused and tried again by the next group; a disk that fails
    /// is not written any more.
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

    /// A sync failed, whatever the error: nothing is known any more of what the disk holds.
    pub(super) fn sync_failed(&self, error: &io::Error) -> AppendError {
        self.poison(format!("a sync failed: {error}"))
    }

    fn poison(&self, reason: String) -> AppendError {
        self.gate.poison(reason.clone());
        self.wake();
        AppendError::Poisoned(reason)
    }
}

/// Takes out the oldest kept segment that is its journal's first.
fn take_oldest_kept(state: &mut State) -> Option<Segment> {
    if state.names_unknown {
        return None;
    }
    let is_kept = |segment: &Segment| segment.state == SegmentState::Kept;
    let oldest = || state.journals.iter().position(|journal| journal.segments.front().is_some_and(is_kept));
    let index = position_of_empty(state).or_else(oldest)?;
    let journal = state.journals.get_mut(index)?;
    journal.segments.pop_front()
}

/// The first journal that begins with a covered segment of which nothing is there: it is of no use to anybody.
fn position_of_empty(state: &State) -> Option<usize> {
    let is_empty = |segment: &Segment| segment.state == SegmentState::Kept && segment.bytes == 0;
    state.journals.iter().position(|journal| journal.segments.front().is_some_and(is_empty))
}

fn put_back(state: &mut State, segment: Segment) {
    if let Some(journal) = state.journals.iter_mut().find(|journal| journal.id == segment.place.journal) {
        journal.segments.push_front(segment);
    }
}
