//! Cuts bytes into batches of lines, and makes events of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;
use serde_json::json;

use super::Format;
use crate::outbound::event_sender::RejectedLine;

/// The size of a read.
pub(super) const READ_BYTES: usize = 256 * 1024;
/// The size from which a batch is sent.
const BATCH_BYTES: usize = 1024 * 1024;
/// The most lines of a batch.
pub(super) const BATCH_LINES: usize = 10_000;
/// The longest line that is kept; a longer one is rejected here, without its text.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// Windows' programs begin UTF-8 with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes that were read and not sent.
#[derive(Debug)]
pub(super) struct LineSplitter {
    format: Format,
    buffer: Vec<u8>,
    /// Bytes of a line longer than [`MAX_LINE_BYTES`] that were dropped: the buffer begins in or behind it.
    dropped: u64,
}

impl LineSplitter {
    /// A splitter without bytes.
    pub(super) fn new(format: Format) -> Self {
        Self { format, buffer: Vec::new(), dropped: 0 }
    }

    /// Whether lines are text; `None`: no line was seen.
    pub(super) fn is_text(&self) -> Option<bool> {
        match self.format {
            Format::Auto => None,
            format => Some(format == Format::Text),
        }
    }

    /// The bytes in memory.
    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it has no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.dropped == 0
    }

    /// Drops all bytes. The form of the lines stays unless the file is read from its beginning.
    pub(super) fn restart(&mut self, format: Option<Format>) {
        self.buffer = Vec::new();
        self.dropped = 0;
        self.format = format.unwrap_or(self.format);
    }

    /// Whether there is enough for a batch.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= BATCH_BYTES && self.buffer.contains(&b'\n')
    }

    /// Adds bytes. Those of a line that is too long are dropped and counted.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.buffer.len() >= MAX_LINE_BYTES && !self.buffer.contains(&b'\n') {
            self.dropped += self.buffer.len() as u64;
            self.buffer = Vec::new();
        }
        if self.dropped > 0 && self.buffer.is_empty() {
            let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
            self.dropped += end as u64;
            bytes = bytes.get(end..).unwrap_or_default();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next batch; `None`: no line has ended. At the end of the input the last line needs no end. The first `skipped` places of the
    /// batch stay blank.
    pub(super) fn next_batch(&mut self, has_ended: bool, skipped: u64) -> Option<Batch> {
        let mut batch = Batch { skipped: usize::try_from(skipped).unwrap_or_default(), ..Batch::default() };
        let mut rest = &self.buffer[..];
        let mut dropped = self.dropped;
        let mut is_more = !rest.is_empty() || (has_ended && dropped > 0);
        while is_more && batch.body_bytes < BATCH_BYTES && batch.lines.len() < BATCH_LINES {
            let (line, next) = match memchr(b'\n', rest) {
                Some(end) => (rest.get(..end).unwrap_or_default(), end + 1),
                None if has_ended => (rest, rest.len()),
                None => break,
            };
            let is_too_long = dropped > 0 || line.len() >= MAX_LINE_BYTES;
            if self.format == Format::Auto && !is_too_long && !line.trim_ascii().is_empty() {
                self.format = detect(line);
            }
            batch.push(line, next as u64 + std::mem::take(&mut dropped), self.format, is_too_long);
            rest = rest.get(next..).unwrap_or_default();
            is_more = !rest.is_empty();
        }
        (!batch.lines.is_empty()).then_some(batch)
    }

    /// The last of the first `bytes` bytes, as far as they are kept: at most `most`.
    pub(super) fn last(&self, bytes: u64, most: usize) -> &[u8] {
        let kept = usize::try_from(bytes.saturating_sub(self.dropped)).unwrap_or_default();
        let sent = self.buffer.get(..kept).unwrap_or_default();
        sent.get(sent.len().saturating_sub(most)..).unwrap_or_default()
    }

    /// Removes bytes that were sent.
    pub(super) fn consume(&mut self, bytes: u64) {
        let dropped = std::mem::take(&mut self.dropped);
        let kept = usize::try_from(bytes.saturating_sub(dropped)).unwrap_or(usize::MAX);
        self.buffer.drain(..kept.min(self.buffer.len()));
    }
}

/// The form of a file whose first line is this.
fn detect(line: &[u8]) -> Format {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii();
    let is_json = matches!(line.first(), Some(b'{' | b'['))
        && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    if is_json { Format::Ndjson } else { Format::Text }
}

/// Lines that are sent together. Each has its place, blank ones too, as the service makes a line's key of it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Blank places before the first line.
    skipped: usize,
    lines: Vec<BatchLine>,
    body_bytes: usize,
    is_cut: bool,
}

#[derive(Debug)]
struct BatchLine {
    /// As an event; empty: blank, or left out.
    event: Vec<u8>,
    /// Bytes of the input, with the end of the line.
    bytes: u64,
    /// Why it is left out, and a sentence.
    left_out: Option<(&'static str, &'static str)>,
}

/// A rejected line, for the file of rejects.
#[derive(Debug)]
pub(super) struct Reject {
    /// Its offset in the input.
    pub(super) offset: u64,
    /// A code in `snake_case`.
    pub(super) code: String,
    /// A sentence.
    pub(super) message: String,
    /// As it was sent.
    pub(super) event: Vec<u8>,
}

impl Batch {
    fn push(&mut self, line: &[u8], bytes: u64, format: Format, is_too_long: bool) {
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let event = match format {
            _ if is_too_long => Vec::new(),
            _ if line.trim_ascii().is_empty() => Vec::new(),
            // JSON is UTF-8, but programs copy what their clients send, as in the logs of web servers.
            Format::Ndjson | Format::Auto => {
                String::from_utf8_lossy(line.trim_ascii()).into_owned().into_bytes()
            }
            Format::Text => match std::str::from_utf8(line) {
                Ok(line) => json!({ "line": line }).to_string().into_bytes(),
                // Nothing of it is lost.
                Err(_) => json!({ "line_base64": STANDARD.encode(line) }).to_string().into_bytes(),
            },
        };
        self.body_bytes += event.len() + 1;
        let left_out = is_too_long.then_some(("too_large", "longer than 16 MiB; its text was dropped"));
        self.lines.push(BatchLine { event, bytes, left_out });
    }

    /// The body of a request.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.skipped + self.body_bytes);
        body.resize(self.skipped, b'\n');
        for line in &self.lines {
            if line.left_out.is_none() {
                body.extend_from_slice(&line.event);
            }
            body.push(b'\n');
        }
        body
    }

    /// The bytes of the input that it covers.
    pub(super) fn bytes(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }

    /// The number of lines, blank ones too.
    pub(super) fn places(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The number of lines that are not blank.
    pub(super) fn lines(&self) -> u64 {
        self.lines.iter().filter(|line| line.left_out.is_some() || !line.event.is_empty()).count() as u64
    }

    /// Keeps the first `lines` lines.
    pub(super) fn limit(&mut self, lines: usize) {
        self.is_cut |= lines < self.lines.len();
        self.lines.truncate(lines);
    }

    /// Whether lines were removed from it.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Leaves its lines out.
    pub(super) fn leave_out(&mut self, code: &'static str, message: &'static str) {
        for line in &mut self.lines {
            line.left_out = Some((code, message));
        }
    }

    /// The lines that the service rejected, and those that were left out. The batch began at `offset`.
    pub(super) fn rejected(&self, offset: u64, rejected: Vec<RejectedLine>) -> Vec<Reject> {
        let mut rejected = rejected.into_iter().peekable();
        let mut at = offset;
        let mut rejects = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let by_service =
                rejected.next_if(|one| one.index == self.skipped + index).map(|one| (one.code, one.message));
            let here = line.left_out.map(|(code, message)| (code.to_owned(), message.to_owned()));
            if let Some((code, message)) = by_service.or(here) {
                rejects.push(Reject { offset: at, code, message, event: line.event.clone() });
            }
            at += line.bytes;
        }
        rejects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(format: Format, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::new(format);
        let mut bodies = Vec::new();
        let mut take = |splitter: &mut LineSplitter, has_ended| {
            while let Some(batch) = splitter.next_batch(has_ended, 0) {
                bodies.push(String::from_utf8(batch.body()).unwrap());
                splitter.consume(batch.bytes());
            }
        };
        for piece in pieces {
            splitter.push(piece);
            take(&mut splitter, false);
        }
        take(&mut splitter, true);
        bodies
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_end_and_blank_ones_keep_their_place() {
        assert_eq!(
            bodies(Format::Auto, &[b"{\"a\":", b"1}\r\n\n[2", b"]\n{}"]),
            ["{\"a\":1}\n\n", "[2]\n", "{}\n"]
        );
        assert_eq!(
            bodies(Format::Auto, &[b"\na \"b\"\n{}\n"]),
            ["\n{\"line\":\"a \\\"b\\\"\"}\n{\"line\":\"{}\"}\n"]
        );
        assert_eq!(bodies(Format::Ndjson, &[b"\"\xff\""]), ["\"\u{fffd}\"\n"]);
        assert_eq!(bodies(Format::Text, &[b"\xff"]), ["{\"line_base64\":\"/w==\"}\n"]);
        assert_eq!(bodies(Format::Ndjson, &[b"bad\n"]), ["bad\n"]);
        assert_eq!(bodies(Format::Auto, &[b"\xef\xbb\xbf{}\n"]), ["{}\n"]);
    }

    #[test]
    fn a_line_that_is_too_long_costs_bounded_memory_and_is_rejected_at_its_place() {
        let mut splitter = LineSplitter::new(Format::Ndjson);
        splitter.push(b"1\n");
        let first = splitter.next_batch(false, 0).unwrap();
        splitter.consume(first.bytes());
        let piece = vec![b'x'; READ_BYTES];
        for _ in 0..200 {
            splitter.push(&piece);
            assert!(splitter.next_batch(false, 0).is_none());
        }
        assert!(splitter.buffer.len() <= MAX_LINE_BYTES + READ_BYTES);
        splitter.push(b"y\n2\n");
        let batch = splitter.next_batch(false, 0).unwrap();
        assert_eq!((batch.body(), batch.bytes()), (b"\n2\n".to_vec(), 200 * READ_BYTES as u64 + 4));
        let rejects = batch.rejected(2, Vec::new());
        assert_eq!((rejects.len(), rejects[0].offset, rejects[0].code.as_str()), (1, 2, "too_large"));
        assert_eq!(splitter.last(batch.bytes(), 9), b"\n2\n");
        splitter.consume(batch.bytes());
        assert!(splitter.buffer.is_empty());
        // Without an end, at the end.
        for _ in 0..200 {
            splitter.push(&piece);
        }
        assert!(splitter.next_batch(false, 0).is_none());
        let batch = splitter.next_batch(true, 0).unwrap();
        assert_eq!((batch.bytes(), batch.rejected(0, Vec::new()).len()), (200 * READ_BYTES as u64, 1));
        splitter.consume(batch.bytes());
        assert!(splitter.next_batch(true, 0).is_none());
    }

    #[test]
    fn a_batch_is_cut_down_to_a_line_and_lines_keep_their_places() {
        let mut splitter = LineSplitter::new(Format::Ndjson);
        splitter.push(b"1\n2\n3\n");
        let mut batch = splitter.next_batch(true, 2).unwrap();
        assert_eq!((batch.body(), batch.is_cut()), (b"\n\n1\n2\n3\n".to_vec(), false));
        batch.limit(2);
        let error = RejectedLine { index: 3, code: "c".into(), message: "m".into() };
        assert_eq!(batch.rejected(10, vec![error])[0].offset, 12);
        batch.limit(1);
        batch.leave_out("too_large", "");
        assert_eq!((batch.body(), batch.bytes(), batch.places()), (b"\n\n\n".to_vec(), 2, 1));
        assert!(batch.is_cut());
    }
}
