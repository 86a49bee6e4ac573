//! The parser of a stream's message ids, and little else: the generator shares its machine with the service.

use std::time::{Duration, Instant};

use crate::order::Order;

/// The longest line with an id; ids are far shorter.
const LONGEST_ID_LINE: usize = 64;

/// The position in one stream.
pub(super) struct Reader {
    per_s: f64,
    /// The arrival of the first message: it is due at once, and the others at their rate from then on.
    first_at: Option<Instant>,
    /// The order of the messages, by their ids less 1.
    pub(super) order: Order,
    /// The beginning of an incomplete line.
    line: Vec<u8>,
}

impl Reader {
    pub(super) fn new(per_s: f64) -> Self {
        Self { per_s, first_at: None, order: Order::default(), line: Vec::new() }
    }

    /// Parses a chunk that arrived `now`; reports the lateness of each message, and returns their number.
    pub(super) fn read(&mut self, piece: &[u8], now: Instant, mut late: impl FnMut(Duration)) -> u64 {
        let mut messages = 0;
        let mut lines = piece.split(|byte| *byte == b'\n');
        let unfinished = lines.next_back().unwrap_or_default();
        for line in lines {
            let id = if self.line.is_empty() { id(line) } else { self.finished(line) };
            let Some(id) = id else { continue };
            messages += 1;
            self.order.take(id.saturating_sub(1));
            let due = Duration::from_secs_f64(id.saturating_sub(1) as f64 / self.per_s);
            let first_at = *self.first_at.get_or_insert(now);
            late(now.saturating_duration_since(first_at + due));
        }
        self.keep(unfinished);
        messages
    }

    fn finished(&mut self, end: &[u8]) -> Option<u64> {
        self.keep(end);
        let id = id(&self.line);
        self.line.clear();
        id
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_ID_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn id(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line.strip_prefix(b"id: ")?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"retry: 1000\nid: 1\ndata: a\n\nid: 2\ndata: id: 7\n\n:\n\nid: 3\ndata: c\n\nid: 5\ndata: e\n\n";

    #[test]
    fn ids_are_found_however_the_stream_is_cut() {
        for length in 1..STREAM.len() {
            let mut reader = Reader::new(10.0);
            let mut messages = 0;
            for piece in STREAM.chunks(length) {
                messages += reader.read(piece, Instant::now(), |_| {});
            }
            assert_eq!(
                (messages, reader.order.missed(), reader.order.doubled),
                (4, 1, 0),
                "pieces of {length}"
            );
        }
    }

    #[test]
    fn lateness_counts_from_when_a_message_was_due() {
        let mut reader = Reader::new(10.0);
        let (mut late, start) = (Vec::new(), Instant::now());
        reader.read(b"id: 1\n", start, |by| late.push(by));
        reader.read(b"id: 2\nid: 3\n", start + Duration::from_millis(250), |by| late.push(by));
        reader.read(b"id: 4\n", start + Duration::from_millis(290), |by| late.push(by));
        assert_eq!(late.iter().map(Duration::as_millis).collect::<Vec<_>>(), [0, 150, 50, 0]);
    }
}
