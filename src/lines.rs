//! NDJSON lines of a reader, with one line in memory at a time.

use std::io::{self, Read};

use memchr::memchr;

/// The size of a read.
const READ_BYTES: usize = 256 * 1024;

/// A line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes, without its end and surrounding white space.
    Text(&'a [u8]),
    /// White space only.
    Blank,
    /// Longer than the maximum; dropped.
    TooLong,
}

/// Reads lines: each ends with LF, or at the end of the input.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    max_bytes: usize,
    buffer: Vec<u8>,
    /// The bytes of the buffer that were not returned yet.
    rest: std::ops::Range<usize>,
    /// Bytes returned since the beginning of the input.
    taken: u64,
    ended: bool,
}

impl<R: Read> LineReader<R> {
    /// A reader of lines of up to `max_bytes`.
    pub fn new(reader: R, max_bytes: usize) -> Self {
        Self { reader, max_bytes, buffer: Vec::new(), rest: 0..0, taken: 0, ended: false }
    }

    /// Bytes up to the end of the last line returned.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The input.
    pub fn reader(&self) -> &R {
        &self.reader
    }

    /// The next line. Each byte is searched for a line's end once.
    ///
    /// # Errors
    ///
    /// Those of the input.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut searched = 0;
        let mut dropped = false;
        loop {
            let unread = self.buffer.get(self.rest.clone()).unwrap_or_default();
            let end = memchr(b'\n', unread.get(searched..).unwrap_or_default()).map(|at| searched + at);
            let length = match end {
                Some(end) => end + 1,
                None if self.ended && unread.is_empty() && !dropped => return Ok(None),
                None if self.ended => unread.len(),
                None => {
                    searched = unread.len();
                    // Space for the line's end, and for white space around the line.
                    if searched > self.max_bytes + READ_BYTES {
                        self.taken += searched as u64;
                        self.rest.start = self.rest.end;
                        (searched, dropped) = (0, true);
                    }
                    self.fill()?;
                    continue;
                }
            };
            let line = self.rest.start..self.rest.start + length;
            self.rest.start = line.end;
            self.taken += length as u64;
            let text = self.buffer.get(line).unwrap_or_default().trim_ascii();
            return Ok(Some(match text {
                _ if dropped || text.len() > self.max_bytes => Line::TooLong,
                [] => Line::Blank,
                text => Line::Text(text),
            }));
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.rest.clone(), 0);
        let kept = self.rest.len();
        self.buffer.resize(kept + READ_BYTES, 0);
        self.rest = 0..kept;
        let read = loop {
            match self.reader.read(self.buffer.get_mut(kept..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.rest.end = kept + read;
        self.ended = read == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An input that returns the given number of bytes at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(out.len());
            let (now, later) = self.0.split_at(length);
            out[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    fn read(bytes: &[u8], piece: usize, max_bytes: usize) -> (Vec<Option<String>>, u64) {
        let mut lines = LineReader::new(Pieces(bytes, piece), max_bytes);
        let mut read = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            read.push(match line {
                Line::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                Line::Blank => Some(String::new()),
                Line::TooLong => None,
            });
        }
        (read, lines.taken())
    }

    #[test]
    fn a_line_that_is_too_long_is_not_held() {
        let mut bytes = b"a\n".to_vec();
        bytes.resize(3_000_000, b'x');
        bytes.extend_from_slice(b"\nb");
        let mut lines = LineReader::new(&bytes[..], 100);
        assert_eq!(lines.next_line().unwrap(), Some(Line::Text(b"a")));
        assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong));
        assert!(lines.buffer.capacity() < 2_000_000, "{}", lines.buffer.capacity());
        assert_eq!(lines.next_line().unwrap(), Some(Line::Text(b"b")));
        assert_eq!(lines.next_line().unwrap(), None);
        assert_eq!(lines.taken(), bytes.len() as u64);
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text_however_it_comes(text in "[a \n]{0,60}", piece in 1_usize..9, max in 1_usize..6) {
            let (lines, taken) = read(text.as_bytes(), piece, max);
            let whole = text.strip_suffix('\n').unwrap_or(&text);
            let expected: Vec<_> = match text.is_empty() {
                true => Vec::new(),
                false => whole.split('\n').map(str::trim).map(|line| (line.len() <= max).then(|| line.to_owned())).collect(),
            };
            prop_assert_eq!(lines, expected);
            prop_assert_eq!(taken, text.len() as u64);
        }
    }
}
