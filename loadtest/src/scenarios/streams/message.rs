//! Messages of a known size, which name their writer, their number and the time of their sending.

use std::fmt::Write as _;

use bytes::Bytes;

/// The smallest message: its fields and the end.
pub(super) const LEAST_SIZE: usize = 48;

/// The fields of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// The writer.
    pub(super) writer: u32,
    /// Its number among the writer's messages of one stream.
    pub(super) number: u64,
    /// Microseconds from the start of the run to its sending.
    pub(super) sent_us: u64,
}

impl Message {
    /// A message of `size` bytes.
    pub(super) fn encode(self, size: usize) -> Bytes {
        let mut text = String::with_capacity(size);
        let _infallible = write!(text, "m{:06}:{:014}:{:014}:", self.writer, self.number, self.sent_us);
        while text.len() + 1 < size {
            text.push('x');
        }
        text.push('.');
        text.into_bytes().into()
    }

    /// The message of these bytes; `None`: they are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (fields, padding) = text.strip_prefix('m')?.split_at_checked(37)?;
        let mut fields = fields.split(':');
        let message = Self {
            writer: fields.next()?.parse().ok()?,
            number: fields.next()?.parse().ok()?,
            sent_us: fields.next()?.parse().ok()?,
        };
        let is_whole = padding.strip_suffix('.')?.bytes().all(|byte| byte == b'x');
        is_whole.then_some(message)
    }
}

/// Cuts a stream's bytes, as they arrive, into messages.
#[derive(Debug)]
pub(super) struct Cutter {
    size: usize,
    rest: Vec<u8>,
    /// Bytes that are no message.
    pub(super) garbled: u64,
}

impl Cutter {
    pub(super) fn new(size: usize) -> Self {
        Self { size, rest: Vec::new(), garbled: 0 }
    }

    /// Adds bytes; calls `each` for every message that is whole now.
    pub(super) fn add(&mut self, bytes: &[u8], mut each: impl FnMut(Message)) {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() - self.rest.len() % self.size;
        for message in self.rest[..whole].chunks(self.size) {
            match Message::decode(message) {
                Some(message) => each(message),
                None => self.garbled += self.size as u64,
            }
        }
        self.rest.drain(..whole);
    }

    /// Bytes of a message that is not whole.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_however_they_are_cut() {
        let sent: Vec<Message> =
            (0..20).map(|number| Message { writer: 3, number, sent_us: number * 1_000 }).collect();
        for size in [LEAST_SIZE, 100] {
            let bytes: Vec<u8> = sent.iter().flat_map(|message| message.encode(size)).collect();
            assert_eq!(bytes.len(), 20 * size);
            for piece in [1, 7, size, size + 1, bytes.len()] {
                let (mut cutter, mut came) = (Cutter::new(size), Vec::new());
                bytes.chunks(piece).for_each(|piece| cutter.add(piece, |message| came.push(message)));
                assert_eq!((came.as_slice(), cutter.garbled, cutter.left()), (sent.as_slice(), 0, 0));
            }
        }
        let mut cutter = Cutter::new(LEAST_SIZE);
        cutter.add(&[b'x'; LEAST_SIZE + 1], |_| panic!("that is none"));
        assert_eq!((cutter.garbled, cutter.left()), (LEAST_SIZE as u64, 1));
    }
}
