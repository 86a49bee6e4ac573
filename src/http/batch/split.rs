//! Splits a streamed batch into its events; at most one incomplete event is kept.

use super::super::wire::error::ApiError;
use crate::ingest::text;

/// The item at one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchItem<'a> {
    /// An event's bytes, without surrounding white space.
    Event(&'a [u8]),
    /// A line of white space.
    Blank,
    /// An event of too many bytes, which were not kept.
    TooLong,
}

/// Splits a body that arrives in pieces of any size.
#[derive(Debug)]
pub(super) enum Splitter {
    /// NDJSON: an event a line.
    Lines(Partial),
    /// JSON of which no value has begun.
    Undecided(Start),
    /// A JSON array: an event an element.
    Array(Partial, ArrayState),
    /// JSON values that begin with an object, each of a line or more: a line's end within brackets is a part of its value.
    Values(Partial, Within),
}

/// The part of a body before its first value.
#[derive(Debug)]
pub(super) struct Start {
    /// Bytes of a byte-order mark.
    mark: usize,
    /// Ends of lines.
    lines: u64,
    max_event_bytes: usize,
}

impl Start {
    /// Skips the bytes before the first value; returns the first byte of the value.
    fn skip(&mut self, chunk: &mut &[u8]) -> Option<u8> {
        loop {
            let (byte, rest) = chunk.split_first()?;
            match *byte {
                byte if Some(&byte) == text::MARK.get(self.mark) && self.lines == 0 => self.mark += 1,
                b'\n' => self.lines += 1,
                b' ' | b'\t' | b'\r' => {}
                byte => return Some(byte),
            }
            *chunk = rest;
        }
    }
}

/// The start of an incomplete event.
#[derive(Debug)]
pub(super) struct Partial {
    bytes: Vec<u8>,
    too_long: bool,
    max_event_bytes: usize,
}

impl Partial {
    fn new(max_event_bytes: usize) -> Self {
        Self { bytes: Vec::new(), too_long: false, max_event_bytes }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    fn keep(&mut self, bytes: &[u8]) {
        // White space before an event is not part of it, of any length.
        let bytes = if self.bytes.is_empty() { bytes.trim_ascii_start() } else { bytes };
        if self.too_long || self.bytes.len() + bytes.len() > self.max_event_bytes + TRAILING_SPACE {
            self.too_long = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The event that ends with `rest`.
    fn complete<T>(&mut self, rest: &[u8], take: impl FnOnce(BatchItem<'_>) -> T) -> T {
        if self.is_empty() {
            return take(item(rest, self.max_event_bytes));
        }
        self.keep(rest);
        let taken = if self.too_long {
            take(BatchItem::TooLong)
        } else {
            take(item(&self.bytes, self.max_event_bytes))
        };
        self.bytes.clear();
        self.too_long = false;
        taken
    }
}

/// Bytes of white space behind an event that do not make it too long while its end has not come yet.
const TRAILING_SPACE: usize = 1024;

fn item(bytes: &[u8], max_event_bytes: usize) -> BatchItem<'_> {
    match text::without_mark(bytes.trim_ascii()).trim_ascii_start() {
        [] => BatchItem::Blank,
        event if event.len() > max_event_bytes => BatchItem::TooLong,
        event => BatchItem::Event(event),
    }
}

impl Splitter {
    pub(super) fn lines(max_event_bytes: usize) -> Self {
        Self::Lines(Partial::new(max_event_bytes))
    }

    /// A JSON array; or an object a line, as many clients declare NDJSON to be JSON.
    pub(super) fn json(max_event_bytes: usize) -> Self {
        Self::Undecided(Start { mark: 0, lines: 0, max_event_bytes })
    }

    /// Passes each item that ends in `chunk` to `take`.
    pub(super) fn split(
        &mut self,
        mut chunk: &[u8],
        mut take: impl FnMut(BatchItem<'_>) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        if let Self::Undecided(start) = self {
            let Some(first) = start.skip(&mut chunk) else { return Ok(()) };
            if !matches!(first, b'[' | b'{') || (start.mark > 0 && start.mark < text::MARK.len()) {
                return Err(not_json());
            }
            let partial = Partial::new(start.max_event_bytes);
            if first == b'[' {
                *self = Self::Array(partial, ArrayState::default());
            } else {
                // Lines before the first value count, so that an index is the number of a line.
                for _ in 0..start.lines {
                    take(BatchItem::Blank)?;
                }
                *self = Self::Values(partial, Within::default());
            }
        }
        match self {
            Self::Undecided(_) => {}
            Self::Values(partial, within) => {
                while let Some(end) = within.line_end(chunk) {
                    partial.complete(&chunk[..end], &mut take)?;
                    chunk = &chunk[end + 1..];
                }
                partial.keep(chunk);
            }
            Self::Lines(partial) => {
                while let Some(end) = memchr::memchr(b'\n', chunk) {
                    partial.complete(&chunk[..end], &mut take)?;
                    chunk = &chunk[end + 1..];
                }
                partial.keep(chunk);
            }
            Self::Array(partial, state) => {
                while !chunk.is_empty() {
                    let (length, found) = state.scan(chunk)?;
                    let (text, rest) = chunk.split_at(length);
                    match found {
                        Found::Nothing => partial.keep(text),
                        Found::Skip => {}
                        Found::Element => partial.complete(&text[..length - 1], |item| match item {
                            // `[1,,2]`: a missing element is not JSON.
                            BatchItem::Blank => take(BatchItem::Event(b"")),
                            item => take(item),
                        })?,
                        Found::End => partial.complete(&text[..length - 1], |item| match item {
                            BatchItem::Blank if !state.after_comma => Ok(()),
                            BatchItem::Blank => take(BatchItem::Event(b"")),
                            item => take(item),
                        })?,
                    }
                    chunk = rest;
                }
            }
        }
        Ok(())
    }

    /// Passes the last item to `take`, which the body's end completes.
    pub(super) fn finish(
        self,
        mut take: impl FnMut(BatchItem<'_>) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        match self {
            Self::Lines(mut partial) | Self::Values(mut partial, _) if !partial.is_empty() => {
                partial.complete(&[], &mut take)
            }
            Self::Lines(_) | Self::Values(..) => Ok(()),
            Self::Undecided(_) => Err(not_json()),
            Self::Array(_, ArrayState { phase: Phase::After, .. }) => Ok(()),
            Self::Array(_, ArrayState { phase: Phase::Before, .. }) => Err(not_json()),
            Self::Array(..) => Err(ApiError::invalid("the array breaks off before its end")),
        }
    }
}

fn not_json() -> ApiError {
    ApiError::invalid("the body is neither a JSON array nor JSON objects, one a line")
}

/// Where in a value's text a scan is.
#[derive(Debug, Default)]
pub(super) struct Within {
    /// Containers that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Within {
    /// Takes a byte; whether it is outside of texts and containers.
    fn is_outside(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            // A closing bracket of the wrong kind makes this value no JSON, and no other.
            b']' | b'}' if self.depth > 0 => self.depth -= 1,
            _ => return self.depth == 0,
        }
        false
    }

    /// Where the line ends that ends the value. A text has no line's end, so one that is not closed ends with its line.
    fn line_end(&mut self, chunk: &[u8]) -> Option<usize> {
        let end = chunk.iter().position(|&byte| {
            let ends_text = byte == b'\n' && self.in_string;
            (self.is_outside(byte) && byte == b'\n') || ends_text
        });
        if end.is_some() {
            *self = Self::default();
        }
        end
    }
}

/// Where in an array's text a scan is.
#[derive(Debug, Default)]
pub(super) struct ArrayState {
    phase: Phase,
    within: Within,
    after_comma: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Before,
    Within,
    After,
}

enum Found {
    /// The chunk ended within an element.
    Nothing,
    /// White space or the opening bracket.
    Skip,
    /// The comma behind an element.
    Element,
    /// The closing bracket.
    End,
}

impl ArrayState {
    /// Scans up to the next border between elements; the length includes the border's own byte.
    fn scan(&mut self, chunk: &[u8]) -> Result<(usize, Found), ApiError> {
        if self.phase != Phase::Within {
            return self.scan_outside(chunk);
        }
        for (at, &byte) in chunk.iter().enumerate() {
            if !self.within.is_outside(byte) {
                continue;
            }
            match byte {
                b']' => {
                    self.phase = Phase::After;
                    return Ok((at + 1, Found::End));
                }
                b',' => {
                    self.after_comma = true;
                    return Ok((at + 1, Found::Element));
                }
                _ => {}
            }
        }
        Ok((chunk.len(), Found::Nothing))
    }

    fn scan_outside(&mut self, chunk: &[u8]) -> Result<(usize, Found), ApiError> {
        let space = chunk.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        match (self.phase, chunk.get(space)) {
            (_, None) => Ok((space, Found::Skip)),
            (Phase::Before, Some(b'[')) => {
                self.phase = Phase::Within;
                Ok((space + 1, Found::Skip))
            }
            (Phase::Before, Some(_)) => Err(not_json()),
            (_, Some(_)) => Err(ApiError::invalid("something stands behind the array's end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(mut splitter: Splitter, body: &[u8], step: usize) -> Result<Vec<Option<Vec<u8>>>, String> {
        let mut pieces = Vec::new();
        let mut take = |piece: BatchItem<'_>| {
            match piece {
                BatchItem::Event(event) => pieces.push(Some(event.to_vec())),
                BatchItem::TooLong => pieces.push(Some(b"TOO LONG".to_vec())),
                BatchItem::Blank => pieces.push(None),
            }
            Ok(())
        };
        for chunk in body.chunks(step) {
            splitter.split(chunk, &mut take).map_err(|error| format!("{error:?}"))?;
        }
        splitter.finish(&mut take).map_err(|error| format!("{error:?}"))?;
        Ok(pieces)
    }

    fn texts(pieces: &[Option<Vec<u8>>]) -> Vec<&str> {
        pieces
            .iter()
            .map(|piece| piece.as_deref().map_or("-", |text| std::str::from_utf8(text).unwrap()))
            .collect()
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        let body = b" {\"a\":1}\r\n\n  \n12345678901\n[2]";
        for step in 1..=body.len() {
            let pieces = split(Splitter::lines(10), body, step).unwrap();
            assert_eq!(texts(&pieces), ["{\"a\":1}", "-", "-", "TOO LONG", "[2]"], "{step}");
        }
    }

    #[test]
    fn elements_are_cut_wherever_the_chunks_end() {
        let body = br#" [ {"a":"],[\"}"} , [1,[2]],3 , "\\", 12345678901234567890, {"b":1] ,] "#;
        for step in 1..=body.len() {
            let pieces = split(Splitter::json(15), body, step).unwrap();
            let wanted = [r#"{"a":"],[\"}"}"#, "[1,[2]]", "3", r#""\\""#, "TOO LONG", r#"{"b":1]"#, ""];
            assert_eq!(texts(&pieces), wanted, "{step}");
        }
        assert_eq!(split(Splitter::json(10), b" [ ] ", 1).unwrap(), []);
        for broken in ["", "\n", "\u{feff}", "[1", "[\"]", "[1] 2", "[[1]", "1", "x"] {
            assert!(split(Splitter::json(10), broken.as_bytes(), 3).is_err(), "{broken}");
        }
    }

    #[test]
    fn json_that_is_no_array_is_cut_by_its_lines_and_values_may_have_several() {
        let body = b"\xef\xbb\xbf \n{\"a\":1}\r\n{\n  \"b\": [1,\n2]\n}\n\"broken\n{}\n}\n1\n\n 12345678901234567890";
        for step in 1..=body.len() {
            let pieces = split(Splitter::json(15), body, step).unwrap();
            let wanted = ["-", "{\"a\":1}", "TOO LONG", "\"broken", "{}", "}", "1", "-", "TOO LONG"];
            assert_eq!(texts(&pieces), wanted, "{step}");
            let pieces = split(Splitter::json(30), b"\xef\xbb\xbf[{},\n1]", step).unwrap();
            assert_eq!(texts(&pieces), ["{}", "1"], "{step}");
            let pieces = split(Splitter::lines(10), b"\xef\xbb\xbf{}\n\xef\xbb\xbf \n1", step).unwrap();
            assert_eq!(texts(&pieces), ["{}", "-", "1"], "{step}");
        }
        assert!(split(Splitter::json(15), b"\xef{}", 1).is_err());
    }

    #[test]
    fn an_endless_event_costs_no_memory() {
        let mut splitter = Splitter::lines(100);
        for _ in 0..10_000 {
            splitter.split(&[b'x'; 1000], |_| Ok(())).unwrap();
        }
        let Splitter::Lines(partial) = splitter else { unreachable!() };
        assert_eq!((partial.too_long, partial.bytes.capacity()), (true, 0));
    }

    proptest! {
        #[test]
        fn both_forms_give_the_events_back(values in prop::collection::vec("[a-z\\[\\]{},: \\\\\"]{0,20}", 0..20), step in 1usize..50) {
            let events: Vec<String> = values.iter().map(|value| serde_json::to_string(value).unwrap()).collect();
            let lines = split(Splitter::lines(100), events.join("\n").as_bytes(), step).unwrap();
            let array = split(Splitter::json(100), format!("[{}]", events.join(",")).as_bytes(), step).unwrap();
            prop_assert_eq!(texts(&lines), events.iter().map(String::as_str).collect::<Vec<_>>());
            let objects: Vec<String> = events.iter().map(|event| format!("{{\"a\":{event}}}")).collect();
            let values = split(Splitter::json(100), objects.join("\n").as_bytes(), step);
            prop_assert_eq!(texts(&array), events.iter().map(String::as_str).collect::<Vec<_>>());
            if objects.is_empty() {
                prop_assert!(values.is_err());
            } else {
                let values = values.unwrap();
                prop_assert_eq!(texts(&values), objects.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
    }
}
