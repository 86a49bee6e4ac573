//! The messages of a stream: JSON of several shapes, made from a sequence number.

use bytes::{BufMut, BytesMut};

/// The form of a message's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object of numbers and text.
    Flat,
    /// Objects in an object.
    Nested,
    /// An array of objects.
    Array,
    /// A flat object over several lines.
    Multiline,
    /// All of them in rotation.
    Mixed,
}

impl Shape {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "flat" => Self::Flat,
            "nested" => Self::Nested,
            "array" => Self::Array,
            "multiline" => Self::Multiline,
            "mixed" => Self::Mixed,
            _ => return None,
        })
    }
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    /// Its number, from 1.
    pub(super) sequence: u64,
    /// Its Unix time in milliseconds.
    pub(super) time_ms: u64,
    /// Its size in bytes, with padding.
    pub(super) size: usize,
    pub(super) shape: Shape,
}

impl Message {
    /// Writes the JSON. It has `size` bytes, or a few more or less if padding cannot reach this size.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let start = out.len();
        match self.shape() {
            Shape::Flat | Shape::Mixed => {
                self.numbers(out, b"{\"seq\":", b",\"time_ms\":");
                self.pad(out, start, b",\"pad\":\"", b"\"", b"}");
            }
            Shape::Nested => {
                self.numbers(out, b"{\"message\":{\"seq\":", b",\"times\":{\"made\":{\"time_ms\":");
                out.put_slice(b"}}}");
                self.pad(out, start, b",\"meta\":{\"pad\":\"", b"\"}", b"}");
            }
            Shape::Array => {
                self.numbers(out, b"[{\"seq\":", b"},{\"time_ms\":");
                out.put_slice(b"}");
                self.pad(out, start, b",{\"pad\":\"", b"\"}", b"]");
            }
            Shape::Multiline => {
                self.numbers(out, b"{\n  \"seq\": ", b",\n  \"time_ms\": ");
                self.pad(out, start, b",\n  \"pad\": \"", b"\"", b"\n}");
            }
        }
    }

    fn shape(&self) -> Shape {
        match (self.shape, self.sequence % 4) {
            (Shape::Mixed, 1) => Shape::Flat,
            (Shape::Mixed, 2) => Shape::Nested,
            (Shape::Mixed, 3) => Shape::Array,
            (Shape::Mixed, _) => Shape::Multiline,
            (shape, _) => shape,
        }
    }

    fn numbers(&self, out: &mut BytesMut, before: &[u8], between: &[u8]) {
        let mut digits = itoa::Buffer::new();
        out.put_slice(before);
        out.put_slice(digits.format(self.sequence).as_bytes());
        out.put_slice(between);
        out.put_slice(digits.format(self.time_ms).as_bytes());
    }

    /// Pads the message that began at `start` up to its size, if the padding's frame fits, and closes it.
    fn pad(&self, out: &mut BytesMut, start: usize, before: &[u8], after: &[u8], close: &[u8]) {
        let framed = out.len() - start + before.len() + after.len() + close.len();
        if let Some(filling) = self.size.checked_sub(framed) {
            out.put_slice(before);
            out.put_bytes(b'x', filling);
            out.put_slice(after);
        }
        out.put_slice(close);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn written(shape: Shape, sequence: u64, size: usize) -> BytesMut {
        let mut out = BytesMut::from("before");
        Message { sequence, time_ms: 1_700_000_000_000, size, shape }.write(&mut out);
        out.split_off(6)
    }

    #[test]
    fn each_shape_is_json_with_the_number_in_it() {
        for (shape, pointer) in [
            (Shape::Flat, "/seq"),
            (Shape::Nested, "/message/seq"),
            (Shape::Array, "/0/seq"),
            (Shape::Multiline, "/seq"),
        ] {
            for size in [0, 64, 1000] {
                let json: Value = serde_json::from_slice(&written(shape, u64::MAX, size)).unwrap();
                assert_eq!(json.pointer(pointer), Some(&Value::from(u64::MAX)), "{json}");
            }
        }
    }

    #[test]
    fn a_message_is_filled_to_its_size() {
        for shape in [Shape::Flat, Shape::Nested, Shape::Array, Shape::Multiline, Shape::Mixed] {
            for size in [120, 1_000, 65_536] {
                assert_eq!(written(shape, 12, size).len(), size, "{shape:?}");
            }
        }
    }

    #[test]
    fn mixed_is_every_shape_in_turn() {
        for (sequence, shape) in
            [(1, Shape::Flat), (2, Shape::Nested), (3, Shape::Array), (4, Shape::Multiline), (5, Shape::Flat)]
        {
            assert_eq!(written(Shape::Mixed, sequence, 200), written(shape, sequence, 200));
        }
    }
}
