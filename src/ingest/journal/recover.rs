//! Reads what former runs left, and begins a journal of our own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::append::{self, Appender};
use super::files::Files;
use super::format::{ALIGNMENT, FIRST_BLOCK, ReadHeader, Salt, SegmentHeader};
use super::read::Reader;
use super::segment::{self, Segment};
use super::store::Store;
use super::{JournalError, JournalId, JournalSettings};

/// What a start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Journals of former runs that hold events.
    pub journals: usize,
    /// Their events.
    pub events: u64,
    /// Bytes of writes that were cut short, or never promised.
    pub torn_bytes: u64,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { journals, events, torn_bytes } = self;
        write!(f, "the journal is open; {journals} of former runs hold {events} events")?;
        if *torn_bytes > 0 {
            write!(f, ", and a write of {torn_bytes} bytes that was never promised was cut")?;
        }
        Ok(())
    }
}

/// Recovers the journals in a folder, which is made if it is not there, and begins a new one.
///
/// # Errors
///
/// [`JournalError`] if another process has it, or the files cannot be used. Damage is no error.
pub fn open(
    files: Arc<dyn Files>,
    settings: JournalSettings,
) -> Result<(Appender, Arc<Store>, Recovered), JournalError> {
    let dir = settings.dir.clone();
    let io = |source| JournalError::Io { path: dir.clone(), source };
    files.make_dir(&dir).map_err(io)?;
    let lock = files.lock(&dir.join("lock")).map_err(io)?.ok_or_else(|| JournalError::InUse(dir.clone()))?;
    let (mut segments, recovered) = scan(&*files, &dir, false)?;
    // What is kept is made durable before it is counted.
    for file in segments.iter().filter_map(|segment| segment.file.as_ref()) {
        file.sync().map_err(io)?;
    }
    // Journals without an event are of no use to anyone.
    for segment in segments.extract_if(.., |segment| segment.first == segment.end) {
        if segment.file.is_some() {
            files.remove(&segment.path).map_err(io)?;
        }
    }
    files.sync_dir(&dir).map_err(io)?;
    let journal = append::new_journal();
    let store = Arc::new(Store::new(files, settings, segments, Some(lock), Some(journal)));
    let appender = Appender::begin(Arc::clone(&store), journal)?;
    Ok((appender, store, recovered))
}

/// Looks at the journals in a folder, beside a service that may be running; changes nothing.
///
/// # Errors
///
/// As [`open`].
pub fn inspect(files: Arc<dyn Files>, dir: &Path) -> Result<Arc<Store>, JournalError> {
    let (segments, _) = scan(&*files, dir, true)?;
    let settings = JournalSettings {
        dir: dir.to_owned(),
        segment_bytes: 0,
        max_bytes: u64::MAX,
        keep_bytes: u64::MAX,
        min_free: 0,
    };
    Ok(Arc::new(Store::new(files, settings, segments, None, None)))
}

fn scan(files: &dyn Files, dir: &Path, read_only: bool) -> Result<(Vec<Segment>, Recovered), JournalError> {
    let mut journals: BTreeMap<JournalId, Vec<Found>> = BTreeMap::new();
    for path in files.list(dir).map_err(|source| JournalError::Io { path: dir.to_owned(), source })? {
        if let Some(salt) = segment::parse_name(&path) {
            let found = find(files, &path, salt, read_only)?;
            journals.entry(salt.journal).or_default().push(found);
        }
    }
    let mut recovered = Recovered::default();
    let mut in_order: Vec<Vec<Segment>> = Vec::new();
    for (_, found) in journals {
        let segments = assemble(dir, found, &mut recovered)?;
        let events: u64 = segments.iter().map(|segment| segment.end - segment.first).sum();
        recovered.journals += usize::from(events > 0);
        recovered.events += events;
        in_order.push(segments);
    }
    in_order.sort_by_key(|segments| {
        segments.iter().map(|segment| segment.created_ms).find(|created| *created > 0)
    });
    Ok((in_order.into_iter().flatten().collect(), recovered))
}

/// A segment's file, and its header if that is good.
struct Found {
    segment: Segment,
    header: Option<SegmentHeader>,
}

fn find(files: &dyn Files, path: &Path, salt: Salt, read_only: bool) -> Result<Found, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), source };
    let file = files.open(path, read_only).map_err(io)?;
    let bytes = file.length().map_err(io)?;
    let mut segment = Segment {
        salt,
        file: Some(file),
        path: path.to_owned(),
        created_ms: 0,
        first: 0,
        end: 0,
        used: bytes,
        bytes,
        kept: false,
    };
    let start = Reader {
        file: segment.file.clone().ok_or_else(|| JournalError::InUse(path.to_owned()))?,
        segment: &segment,
    }
    .read(0, ALIGNMENT as usize)?;
    let header = match SegmentHeader::read(&start) {
        ReadHeader::Valid(header) if header.salt == salt => Some(header),
        ReadHeader::Newer(version) => return Err(JournalError::Newer { path: path.to_owned(), version }),
        ReadHeader::OtherColumns(columns) => {
            return Err(JournalError::OtherColumns { path: path.to_owned(), columns });
        }
        ReadHeader::Valid(_) | ReadHeader::Damaged => None,
    };
    if let Some(header) = &header {
        segment.first = header.first;
        segment.created_ms = header.created_ms;
    }
    Ok(Found { segment, header })
}

/// Puts the segments of one journal in order, and finds where each ends.
fn assemble(
    dir: &Path,
    mut found: Vec<Found>,
    recovered: &mut Recovered,
) -> Result<Vec<Segment>, JournalError> {
    found.sort_by_key(|found| found.segment.salt.number);
    let mut segments: Vec<Segment> = Vec::new();
    for index in 0..found.len() {
        let Some(Found { segment, header }) = found.get(index) else { break };
        let mut segment = segment.clone();
        let extent = extent(&segment, header.as_ref().map(|header| header.first))?;
        // The segment behind tells for sure, if it is the next and its header is good.
        let next = found.get(index + 1).filter(|next| next.segment.salt.number == segment.salt.number + 1);
        let next = next.and_then(|next| next.header.as_ref());
        segment.first = extent.first;
        (segment.end, segment.used) = match next {
            Some(next) => (next.first.max(extent.end), next.previous_end.max(extent.used)),
            None => (extent.end, extent.used),
        };
        if index + 1 == found.len() {
            recovered.torn_bytes += extent.torn;
        }
        // What lies between it and the one before is missing.
        if let Some(before) = segments.last()
            && before.end < segment.first
        {
            let salt = Salt { number: before.salt.number + 1, ..before.salt };
            let (first, end) = (before.end, segment.first);
            let path = dir.join(segment::name(salt));
            segments.push(Segment {
                salt,
                file: None,
                path,
                first,
                end,
                used: 0,
                bytes: 0,
                ..segment.clone()
            });
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// What the blocks of a segment tell.
struct Extent {
    first: u64,
    end: u64,
    used: u64,
    torn: u64,
}

fn extent(segment: &Segment, first: Option<u64>) -> Result<Extent, JournalError> {
    let Some(file) = segment.file.clone() else {
        return Ok(Extent { first: segment.first, end: segment.end, used: segment.used, torn: 0 });
    };
    let reader = Reader { file, segment };
    // Without a header the first good block tells where it begins.
    let mut extent =
        Extent { first: first.unwrap_or(0), end: first.unwrap_or(0), used: FIRST_BLOCK, torn: 0 };
    let (mut begun, mut write, mut offset) = (first.is_some(), 0, FIRST_BLOCK);
    // Offsets of good blocks behind a bad one count once one of them says that the bad one had been synced.
    let mut bad: Option<u64> = None;
    while offset + ALIGNMENT <= segment.bytes {
        let good = reader.good(offset)?.filter(|header| header.write >= write);
        let good = good.filter(|header| match (begun, bad) {
            (false, _) => true,
            (true, None) => header.first == extent.end,
            (true, Some(bad)) => header.first >= extent.end && header.synced_before > bad,
        });
        let Some(header) = good else {
            bad.get_or_insert(offset);
            offset += ALIGNMENT;
            continue;
        };
        if !begun {
            (begun, extent.first) = (true, header.first);
        }
        (bad, write) = (None, header.write);
        extent.end = header.end();
        offset += u64::from(header.length);
        extent.used = offset;
    }
    if let Some(bad) = bad
        && let Some(bytes) = torn(&reader, bad)?
    {
        extent.torn = bytes;
    }
    Ok(extent)
}

/// How much of a write stands at `offset` that was never promised; `None` for what was never written.
fn torn(reader: &Reader<'_>, offset: u64) -> Result<Option<u64>, JournalError> {
    let bytes = reader.read(offset, ALIGNMENT as usize)?;
    Ok(bytes.iter().any(|byte| *byte != 0).then_some(ALIGNMENT))
}
