//! The parser of a stream's answer: the head, chunks, and of the events in them the ids and the audited changes. Little else, as the generator
//! shares its machine with the service.

use memchr::{memchr, memmem};

use super::audit::Delivered;

/// The longest head of an answer, and the longest line of an event; an answer beyond it is broken.
const LONGEST: usize = 4 << 20;

/// What a subscriber notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noticed {
    /// The head came, with this status.
    Head(u16),
    /// PocketBase's first event, whose id is that of the client.
    Connected,
    /// `ready`: nothing committed behind it is missed.
    Ready,
    /// `reset`: changes may be missing.
    Reset,
    /// A change of this run, and the microseconds of its sending.
    Change(Delivered, u64),
}

/// The answer is not what a stream's should be, or it has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Other,
    Connected,
    Ready,
    Reset,
}

/// The state of one answer.
#[derive(Debug)]
pub(super) struct AnswerReader {
    part: Part,
    /// The beginning of an incomplete head or chunk size.
    framing: Vec<u8>,
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    kind: Kind,
    change: Option<(Delivered, u64)>,
    /// The id of the event that is read.
    id: Vec<u8>,
}

/// Finds the changes of one run.
pub(super) struct Marker(memmem::Finder<'static>);

impl Marker {
    /// For a run's name, which is in no other text.
    pub(super) fn new(run: &str) -> Self {
        Self(memmem::Finder::new(&format!("\"{run}:")).into_owned())
    }

    /// The value that a record carries. `run` is the name of [`Self::new`].
    pub(super) fn value(run: &str, change: Delivered, sent_us: u64) -> String {
        let Delivered { number, previous, floor } = change;
        // 0: none. Numbers are one higher, so that each is a number.
        let previous = previous.map_or(0, |previous| previous + 1);
        format!("{run}:{number}:{previous}:{floor}:{sent_us}")
    }

    fn find(&self, data: &[u8]) -> Option<(Delivered, u64)> {
        let start = self.0.find(data)? + self.0.needle().len();
        let value = data.get(start..)?;
        let value = value.get(..memchr(b'"', value)?)?;
        let mut numbers = value.split(|byte| *byte == b':').map(number);
        let mut next = || numbers.next().flatten();
        let (number, previous, floor, sent_us) = (next()?, next()?, next()?, next()?);
        Some((Delivered { number, previous: previous.checked_sub(1), floor }, sent_us))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl AnswerReader {
    pub(super) fn new() -> Self {
        Self {
            part: Part::Head,
            framing: Vec::new(),
            line: Vec::new(),
            kind: Kind::Other,
            change: None,
            id: Vec::new(),
        }
    }

    /// Parses received bytes. `last_id` becomes the id of the last complete event.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        marker: &Marker,
        last_id: &mut Vec<u8>,
        mut noticed: impl FnMut(Noticed),
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            match self.part {
                Part::Head => {
                    let Some(rest) = self.framed(bytes, b"\r\n\r\n")? else { return Ok(()) };
                    bytes = rest;
                    let head = String::from_utf8_lossy(&self.framing).to_ascii_lowercase();
                    let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
                    noticed(Noticed::Head(status.ok_or(Broken)?));
                    if !head.contains("transfer-encoding: chunked") {
                        return Err(Broken);
                    }
                    self.framing = Vec::new();
                    self.part = Part::ChunkSize;
                }
                Part::ChunkSize => {
                    let Some(rest) = self.framed(bytes, b"\r\n")? else { return Ok(()) };
                    bytes = rest;
                    let digits = std::str::from_utf8(&self.framing).map_err(|_| Broken)?;
                    let size = usize::from_str_radix(digits.trim(), 16).map_err(|_| Broken)?;
                    self.framing.clear();
                    if size == 0 {
                        return Err(Broken);
                    }
                    self.part = Part::Chunk(size);
                }
                Part::Chunk(left) => {
                    let (chunk, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    self.lines(chunk, marker, last_id, &mut noticed)?;
                    self.part = match left - chunk.len() {
                        0 => Part::ChunkEnd,
                        left => Part::Chunk(left),
                    };
                }
                Part::ChunkEnd => {
                    let Some(rest) = self.framed(bytes, b"\r\n")? else { return Ok(()) };
                    bytes = rest;
                    self.framing.clear();
                    self.part = Part::ChunkSize;
                }
            }
        }
        Ok(())
    }

    /// Collects bytes up to `end`, which is left out; returns the bytes behind it.
    fn framed<'a>(&mut self, bytes: &'a [u8], end: &[u8]) -> Result<Option<&'a [u8]>, Broken> {
        let before = self.framing.len();
        // The end may have begun in the bytes before.
        let from = before.saturating_sub(end.len() - 1);
        let window = bytes.len().min(LONGEST);
        self.framing.extend_from_slice(bytes.get(..window).unwrap_or_default());
        let found = memmem::find(self.framing.get(from..).unwrap_or_default(), end);
        match found {
            Some(at) => {
                let at = from + at;
                self.framing.truncate(at);
                Ok(bytes.get(at + end.len() - before..))
            }
            None if self.framing.len() >= LONGEST => Err(Broken),
            None => Ok(None),
        }
    }

    fn lines(
        &mut self,
        mut chunk: &[u8],
        marker: &Marker,
        last_id: &mut Vec<u8>,
        noticed: &mut impl FnMut(Noticed),
    ) -> Result<(), Broken> {
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            chunk = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.line(line, marker, last_id, noticed);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.line(&whole, marker, last_id, noticed);
                whole.clear();
                self.line = whole;
            }
        }
        if self.line.len() + chunk.len() > LONGEST {
            return Err(Broken);
        }
        self.line.extend_from_slice(chunk);
        Ok(())
    }

    fn line(
        &mut self,
        line: &[u8],
        marker: &Marker,
        last_id: &mut Vec<u8>,
        noticed: &mut impl FnMut(Noticed),
    ) {
        if let Some(data) = field(line, b"data:") {
            self.change = marker.find(data);
        } else if let Some(id) = field(line, b"id:") {
            self.id.clear();
            self.id.extend_from_slice(id);
        } else if let Some(event) = field(line, b"event:") {
            self.kind = match event {
                b"PB_CONNECT" => Kind::Connected,
                b"ready" => Kind::Ready,
                b"reset" => Kind::Reset,
                _ => Kind::Other,
            };
        } else if line.is_empty() {
            if !self.id.is_empty() {
                std::mem::swap(last_id, &mut self.id);
                self.id.clear();
            }
            match (std::mem::take(&mut self.kind), self.change.take()) {
                (Kind::Connected, _) => noticed(Noticed::Connected),
                (Kind::Ready, _) => noticed(Noticed::Ready),
                (Kind::Reset, _) => noticed(Noticed::Reset),
                (Kind::Other, Some((change, sent_us))) => noticed(Noticed::Change(change, sent_us)),
                (Kind::Other, None) => {}
            }
        }
    }
}

/// The value of a field of an event, with or without a space before it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: u64, previous: Option<u64>) -> Delivered {
        Delivered { number, previous, floor: number / 2 }
    }

    fn answer() -> Vec<u8> {
        let event = |change: Delivered| {
            let value = Marker::value("rt-x", change, change.number * 10);
            format!("id: p{}\nevent: change\ndata: {{\"record\":{{\"lt\": \"{value}\"}}}}\n\n", change.number)
        };
        let chunks = [
            "retry: 1000\n\n".to_owned(),
            "id: p\nevent: ready\ndata: {\"position\":\"p\"}\n\n".to_owned(),
            event(change(0, None)) + &event(change(1, Some(0))) + ":\n\n",
            "id: q\nevent: change\ndata: {\"record\":{\"lt\": \"rt-y:1:2:3:4\"}}\n\n".to_owned(),
            event(change(2, None)) + "id: r\n\n",
            "id: s\nevent: reset\ndata: {\"position\":\"s\"}\n\nid: half".to_owned(),
        ];
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in chunks {
            bytes.extend(format!("{:x}\r\n{chunk}\r\n", chunk.len()).bytes());
        }
        bytes
    }

    #[test]
    fn events_are_found_however_the_answer_is_cut() {
        let (bytes, marker) = (answer(), Marker::new("rt-x"));
        for length in 1..bytes.len() {
            let (mut reader, mut last_id, mut all) = (AnswerReader::new(), Vec::new(), Vec::new());
            for piece in bytes.chunks(length) {
                reader.read(piece, &marker, &mut last_id, |noticed| all.push(noticed)).unwrap();
            }
            let expected = [
                Noticed::Head(200),
                Noticed::Ready,
                Noticed::Change(change(0, None), 0),
                Noticed::Change(change(1, Some(0)), 10),
                Noticed::Change(change(2, None), 20),
                Noticed::Reset,
            ];
            assert_eq!(all, expected, "pieces of {length}");
            assert_eq!(last_id, b"s", "of the last complete event");
        }
    }

    #[test]
    fn events_of_pocketbase_are_found() {
        let value = Marker::value("rt-x", change(3, None), 7);
        let events = format!(
            "id:abc\nevent:PB_CONNECT\ndata:{{\"clientId\":\"abc\"}}\n\nid:abc\nevent:t/*\ndata:{{\"record\":{{\"lt\":\"{value}\"}}}}\n\n"
        );
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n",
            events.len()
        );
        let (mut reader, mut last_id, mut all) = (AnswerReader::new(), Vec::new(), Vec::new());
        let marker = Marker::new("rt-x");
        reader.read(answer.as_bytes(), &marker, &mut last_id, |noticed| all.push(noticed)).unwrap();
        assert_eq!(all, [Noticed::Head(200), Noticed::Connected, Noticed::Change(change(3, None), 7)]);
        assert_eq!(last_id, b"abc");
    }

    #[test]
    fn an_answer_that_ends_or_is_no_stream_is_broken() {
        let refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        let ended = [answer(), b"0\r\n\r\n".to_vec()].concat();
        for (bytes, first) in [(refused, Some(Noticed::Head(503))), (ended, Some(Noticed::Head(200)))] {
            let (mut reader, mut all) = (AnswerReader::new(), Vec::new());
            let marker = Marker::new("rt-x");
            let read = reader.read(&bytes, &marker, &mut Vec::new(), |noticed| all.push(noticed));
            assert_eq!((read, all.first().copied()), (Err(Broken), first));
        }
        let mut reader = AnswerReader::new();
        let read = reader.read(b"SSH-2.0\r\n\r\n", &Marker::new("rt-x"), &mut Vec::new(), |_| {});
        assert_eq!(read, Err(Broken));
    }
}
