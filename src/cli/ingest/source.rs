//! A file that is sent: its identity, and its bytes from an offset on.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::Format;
use super::decoder::{Decoder, SIGNATURE_BYTES, is_compressed};
use super::lines::{Batch, LineSplitter, READ_BYTES};
use super::state::{Entry, FileId, Progress, State};

/// The most bytes of a file's beginning, and before the offset, that are compared.
const SAMPLE_BYTES: u64 = 1024;
/// The time without growth after which a file that was renamed away is done with.
const GRACE: Duration = Duration::from_secs(30);

/// An open file. It stays open when it is renamed.
pub(super) struct Source {
    file: File,
    entry: Entry,
    is_compressed: bool,
    /// A start without a state finds the same key again.
    is_derived: bool,
    reader: Option<Decoder<File>>,
    splitter: LineSplitter,
    /// As the user named it.
    format: Format,
    /// The offset up to which the reader has read.
    read: u64,
    /// The size at which reading stopped, for files that are read again from the offset when they have grown.
    stopped_at: Option<(u64, End)>,
    /// Why it cannot be read further. Whole lines before the damage are sent first.
    damage: Option<io::Error>,
    /// Its end was reached by the last read.
    is_caught_up: bool,
    /// It is at none of the watched paths any more.
    is_orphan: bool,
    grew: Instant,
    is_done: bool,
    is_given_up: bool,
}

/// How the reading of a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// A compressed file that may still be written.
    BrokenOff,
}

/// The inode of a file.
pub(super) fn file_id(metadata: &Metadata) -> FileId {
    let birth = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let birth = match birth {
        Some(birth) => birth.as_nanos().to_string(),
        None => format!("device {}", metadata.dev()),
    };
    FileId { inode: metadata.ino(), birth }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a file's first line, of at most [`SAMPLE_BYTES`], the number of its bytes, and whether that stays so when the file grows.
fn head(file: &File) -> io::Result<(String, u64, bool)> {
    let mut head = bytes_at(file, 0, SAMPLE_BYTES)?;
    let end = memchr::memchr(b'\n', &head);
    let is_whole = end.is_some() || head.len() as u64 == SAMPLE_BYTES;
    if let Some(end) = end {
        head.truncate(end + 1);
    }
    Ok((hash(&head), head.len() as u64, is_whole))
}

/// Bytes of a file, fewer at its end. The reader's place, which all handles of an open file share, stays.
fn bytes_at(file: &File, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut read = vec![0; usize::try_from(bytes.min(SAMPLE_BYTES)).unwrap_or_default()];
    let mut filled = 0;
    while let Some(rest) = read.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    read.truncate(filled);
    Ok(read)
}

/// Whether a file has the first bytes and the bytes before the offset that it had.
fn is_same(file: &File, entry: &Entry) -> io::Result<bool> {
    let Entry { head, head_bytes, tail, tail_bytes, .. } = entry;
    let is_as_long = |bytes: &[u8], length: u64| bytes.len() as u64 == length;
    let first = bytes_at(file, 0, *head_bytes)?;
    if !is_as_long(&first, *head_bytes) || hash(&first) != *head {
        return Ok(false);
    }
    if *tail_bytes == 0 {
        return Ok(true);
    }
    let last = bytes_at(file, entry.progress.offset.saturating_sub(*tail_bytes), *tail_bytes)?;
    Ok(is_as_long(&last, *tail_bytes) && hash(&last) == *tail)
}

impl Source {
    /// Opens a file, and finds how far it was sent.
    pub(super) fn open(path: &Path, state: &State, format: Format) -> io::Result<Self> {
        let file = File::open(path)?;
        let id = file_id(&file.metadata()?);
        let path = std::path::absolute(path)?;
        let known = state.entry(&id).map(|entry| Ok::<_, io::Error>((entry.clone(), is_same(&file, entry)?)));
        let entry = match known.transpose()? {
            Some((entry, true)) => Entry { path, ..entry },
            other => {
                let (head, head_bytes, _) = head(&file)?;
                Entry {
                    id,
                    progress: Progress::default(),
                    key: String::new(),
                    head,
                    head_bytes,
                    tail: String::new(),
                    tail_bytes: 0,
                    generation: other.map_or(0, |(entry, _)| entry.generation + 1),
                    is_text: None,
                    path,
                    seen: 0,
                }
            }
        };
        // The first line decides, also for those behind the offset.
        let known = match (format, entry.is_text) {
            (Format::Auto, Some(true)) => Format::Text,
            (Format::Auto, Some(false)) => Format::Ndjson,
            _ => format,
        };
        Ok(Self {
            file,
            read: entry.progress.offset,
            entry,
            is_compressed: false,
            is_derived: false,
            reader: None,
            splitter: LineSplitter::new(known),
            format,
            stopped_at: None,
            damage: None,
            is_caught_up: false,
            is_orphan: false,
            grew: Instant::now(),
            is_done: false,
            is_given_up: false,
        })
    }

    /// What is remembered of it.
    pub(super) fn entry(&self) -> Entry {
        Entry { is_text: self.splitter.is_text(), ..self.entry.clone() }
    }

    /// Whether its key, if it is a new one, needs a record before it is used.
    pub(super) fn needs_record(&self, state: &State) -> bool {
        let is_known = state.entry(self.id()).is_some_and(|known| known.key == self.entry.key);
        !is_known && !self.is_derived
    }

    /// Bytes that were sent.
    pub(super) fn offset(&self) -> u64 {
        self.entry.progress.offset
    }

    pub(super) fn path(&self) -> &Path {
        &self.entry.path
    }

    pub(super) fn id(&self) -> &FileId {
        &self.entry.id
    }

    /// It is at this path now.
    pub(super) fn found_at(&mut self, path: &Path) {
        if let Ok(path) = std::path::absolute(path) {
            self.entry.path = path;
        }
        self.is_orphan = false;
    }

    /// It is at no watched path.
    pub(super) fn lose_path(&mut self) {
        if !std::mem::replace(&mut self.is_orphan, true) {
            self.grew = Instant::now();
        }
    }

    /// Whether nothing more is to be expected of it.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Reads it no further.
    pub(super) fn give_up(&mut self) {
        (self.is_done, self.is_given_up) = (true, true);
    }

    /// Whether it could not be read.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// Of the open file, wherever it is.
    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    /// The size of the file, at least what was sent of it: of a compressed one the decompressed size is not known.
    pub(super) fn size(&self) -> u64 {
        self.length().unwrap_or_default().max(self.offset())
    }

    /// Whether it was found damaged, which the next read reports.
    pub(super) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Since when it has not grown; `None`: there is more to read.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.is_caught_up && !self.is_orphan).then_some(self.grew)
    }

    /// The size up to which it was read.
    pub(super) fn idle_length(&self) -> u64 {
        self.stopped_at.map_or(self.read, |(length, _)| length)
    }

    /// The bytes of incomplete lines in memory.
    pub(super) fn held(&self) -> usize {
        self.splitter.held()
    }

    /// Drops what it holds in memory. It is read again when the file has grown.
    pub(super) fn release(&mut self) {
        let stopped_at = self.stopped_at.unwrap_or((self.read, End::Whole));
        self.restart();
        self.stopped_at = Some(stopped_at);
    }

    /// Whether the file was truncated, or written anew.
    pub(super) fn is_truncated(&self) -> io::Result<bool> {
        if self.is_done {
            return Ok(false);
        }
        // The offset of a compressed file counts decompressed bytes.
        let is_shorter = self.length()? < self.offset() && !self.has_signature()?;
        Ok(is_shorter || !is_same(&self.file, &self.entry)?)
    }

    fn has_signature(&self) -> io::Result<bool> {
        Ok(is_compressed(&bytes_at(&self.file, 0, SIGNATURE_BYTES as u64)?))
    }

    /// Begins at the beginning of a file that was truncated. It is another file, with other keys.
    pub(super) fn begin_anew(&mut self) -> io::Result<()> {
        let (head, head_bytes, _) = head(&self.file)?;
        let entry = &mut self.entry;
        (entry.head, entry.head_bytes) = (head, head_bytes);
        (entry.tail, entry.tail_bytes) = (String::new(), 0);
        (entry.key, entry.progress, entry.is_text) = (String::new(), Progress::default(), None);
        entry.generation += 1;
        self.restart();
        Ok(())
    }

    /// Reads again from the offset.
    fn restart(&mut self) {
        (self.reader, self.stopped_at) = (None, None);
        self.splitter.restart((self.offset() == 0).then_some(self.format));
        self.read = self.offset();
    }

    /// Reads up to a batch. Returns whether the last line has ended: with `follow`, one without an end waits for it.
    pub(super) fn fill(&mut self, follow: bool) -> io::Result<bool> {
        if self.is_done {
            return Ok(false);
        }
        if self.entry.key.is_empty() && self.splitter.is_empty() {
            // What was read of the head before may have been the beginning of a line.
            (self.entry.head, self.entry.head_bytes, _) = head(&self.file)?;
        }
        if let Some(error) = self.damage.take() {
            return Err(error);
        }
        let length = self.length()?;
        let is_over = self.is_orphan && self.grew.elapsed() >= GRACE;
        let is_compressed = self.has_signature()?;
        let was_plain = !std::mem::replace(&mut self.is_compressed, is_compressed);
        let is_stale = self.stopped_at.is_some_and(|(stopped, end)| {
            stopped != length || (is_over && (!is_compressed || end == End::BrokenOff))
        });
        // The first bytes of a file that is being written do not show yet that it is compressed.
        if is_stale || (was_plain && is_compressed && self.entry.key.is_empty()) {
            self.restart();
        }
        let mut end = self.stopped_at.map(|(_, end)| end);
        if !is_compressed && length > 0 && self.read == length {
            end = Some(End::Whole);
        }
        let mut buffer = if end.is_none() { vec![0; READ_BYTES] } else { Vec::new() };
        while end.is_none() && self.damage.is_none() && !self.splitter.is_full() {
            match self.reader().and_then(|reader| reader.read(&mut buffer)) {
                Ok(0) => end = Some(End::Whole),
                Ok(read) => {
                    self.grew = Instant::now();
                    self.splitter.push(buffer.get(..read).unwrap_or_default());
                    self.read += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && follow && !is_over => {
                    end = Some(End::BrokenOff);
                }
                Err(error) => self.damage = Some(error),
            }
        }
        if self.damage.is_some() {
            return Ok(false);
        }
        if is_compressed {
            self.stopped_at = end.map(|end| (length, end));
        } else if end.is_some() {
            // One handle of a file is enough until it grows.
            self.reader = None;
        }
        self.is_caught_up = end.is_some();
        let is_whole = end == Some(End::Whole);
        let is_last = is_whole && (!follow || is_over);
        if is_last {
            self.is_done = true;
        }
        Ok(is_last || (is_whole && is_compressed))
    }

    /// The next lines that were read.
    pub(super) fn next_batch(&mut self, has_ended: bool) -> io::Result<Option<Batch>> {
        let Some(batch) = self.splitter.next_batch(has_ended, self.entry.progress.base_lines) else {
            return Ok(None);
        };
        if self.entry.key.is_empty() {
            // From now on it is this file, whatever is found out about its first line later.
            let is_whole;
            (self.entry.head, self.entry.head_bytes, is_whole) = head(&self.file)?;
            self.is_derived = is_whole && self.entry.generation == 0;
            let Entry { id, head, generation, .. } = &self.entry;
            self.entry.key = hash(format!("{} {} {head} {generation}", id.inode, id.birth).as_bytes());
        }
        Ok(Some(batch))
    }

    /// Records that a batch was sent.
    pub(super) fn advance(&mut self, batch: &Batch) {
        let tail = match self.is_compressed {
            false => self.splitter.last(batch.bytes(), SAMPLE_BYTES as usize),
            true => &[],
        };
        (self.entry.tail, self.entry.tail_bytes) = (hash(tail), tail.len() as u64);
        self.entry.progress.advance(batch.bytes(), batch.places(), batch.is_cut());
        self.splitter.consume(batch.bytes());
    }

    /// The reader, at the offset up to which the file was read.
    fn reader(&mut self) -> io::Result<&mut Decoder<File>> {
        if self.reader.is_none() {
            let mut file = self.file.try_clone()?;
            let signature = match self.is_compressed {
                true => bytes_at(&file, 0, SIGNATURE_BYTES as u64)?,
                false => Vec::new(),
            };
            file.seek(SeekFrom::Start(0))?;
            let mut reader = Decoder::new(&signature, file)?;
            match &mut reader {
                Decoder::Plain(file) => {
                    file.seek(SeekFrom::Start(self.read))?;
                }
                compressed => {
                    io::copy(&mut compressed.take(self.read), &mut io::sink())?;
                }
            }
            self.reader = Some(reader);
        }
        self.reader.as_mut().ok_or_else(|| io::Error::other("no reader"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    /// A folder with a growing file, and a state.
    struct Bench {
        folder: PathBuf,
        state: State,
    }

    impl Bench {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("tidegate-ingest-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir(&folder).unwrap();
            let state = State::open(&folder.join("state")).unwrap();
            Self { folder, state }
        }

        fn append(&self, bytes: &[u8]) {
            let path = self.folder.join("a.log");
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(bytes).unwrap();
        }

        fn open(&self) -> Source {
            Source::open(&self.folder.join("a.log"), &self.state, Format::Text).unwrap()
        }

        /// The next batch with `--follow`, and its key.
        fn next(source: &mut Source) -> Option<(Batch, String)> {
            let has_ended = source.fill(true).unwrap();
            let batch = source.next_batch(has_ended).unwrap()?;
            Some((batch, source.entry().key))
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_file_keeps_its_key_from_the_first_batch_on_whatever_its_first_line_became() {
        let mut bench = Bench::new();
        bench.append(b"begi");
        let mut source = bench.open();
        assert!(Bench::next(&mut source).is_none());
        bench.append(b"nning\n");
        let (batch, key) = Bench::next(&mut source).unwrap();
        bench.state.record(source.entry(), 0).unwrap();
        // A kill before the checkpoint: the same batch, with more lines.
        bench.append(b"more\n");
        let mut again = bench.open();
        assert_eq!(Bench::next(&mut again).unwrap().1, key);
        source.advance(&batch);
        bench.state.record(source.entry(), 0).unwrap();
        let mut again = bench.open();
        assert_eq!((again.offset(), Bench::next(&mut again).unwrap().1), (10, key));
    }

    #[test]
    fn a_file_that_was_written_anew_with_the_same_first_line_is_another_one() {
        let mut bench = Bench::new();
        bench.append(b"#header\n1\n");
        let mut source = bench.open();
        let (batch, key) = Bench::next(&mut source).unwrap();
        source.advance(&batch);
        bench.state.record(source.entry(), 0).unwrap();
        assert!(!source.is_truncated().unwrap());
        std::fs::write(bench.folder.join("a.log"), "#header\n2\n3\n").unwrap();
        assert!(source.is_truncated().unwrap());
        let mut again = bench.open();
        assert_eq!(again.offset(), 0);
        assert_ne!(Bench::next(&mut again).unwrap().1, key);
        source.begin_anew().unwrap();
        assert_eq!(Bench::next(&mut source).unwrap().1, Bench::next(&mut bench.open()).unwrap().1);
    }

    #[test]
    fn the_last_line_of_a_file_that_was_renamed_away_needs_no_end() {
        let bench = Bench::new();
        bench.append(b"1\n2");
        let mut source = bench.open();
        let (batch, _) = Bench::next(&mut source).unwrap();
        source.advance(&batch);
        source.lose_path();
        assert!(Bench::next(&mut source).is_none() && !source.is_done());
        // Not in memory any more.
        source.release();
        assert_eq!(source.held(), 0);
        source.grew = Instant::now().checked_sub(GRACE).unwrap();
        let (batch, _) = Bench::next(&mut source).unwrap();
        assert_eq!(batch.body(), b"{\"line\":\"2\"}\n");
        assert!(source.is_done());
    }

    #[test]
    fn a_compressed_file_that_is_still_written_is_read_on() {
        let bench = Bench::new();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(b"1\n").unwrap();
        encoder.flush().unwrap();
        let begun = encoder.get_ref().clone();
        encoder.write_all(b"2").unwrap();
        let whole = encoder.finish().unwrap();
        // Its first byte alone could be of a text.
        bench.append(&whole[..1]);
        let mut source = bench.open();
        assert!(Bench::next(&mut source).is_none());
        bench.append(&whole[1..begun.len()]);
        let (batch, _) = Bench::next(&mut source).unwrap();
        assert_eq!(batch.body(), b"{\"line\":\"1\"}\n");
        source.advance(&batch);
        assert!(Bench::next(&mut source).is_none() && !source.is_truncated().unwrap());
        bench.append(&whole[begun.len()..]);
        let (batch, _) = Bench::next(&mut source).unwrap();
        assert_eq!(batch.body(), b"{\"line\":\"2\"}\n");
        source.advance(&batch);
        assert!(Bench::next(&mut source).is_none() && !source.is_truncated().unwrap());
        // Cut off: an error once the command does not wait for the rest.
        std::fs::write(bench.folder.join("a.log"), &whole[..begun.len()]).unwrap();
        let mut source = bench.open();
        assert!(!source.fill(false).unwrap() && source.is_damaged());
        assert!(source.next_batch(false).unwrap().is_some());
        assert!(source.fill(false).is_err());
    }
}
