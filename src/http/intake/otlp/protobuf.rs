//! The wire format of protobuf, read in place.
//!
//! A library that builds messages makes some hundred bytes of an empty one, which has two bytes on the wire: a body within its limit would
//! take more memory than all requests together may. So fields are read one by one, and nothing is built.
//!
//! The format is that of <https://protobuf.dev/programming-guides/encoding>. Groups, which were removed from the language, are errors.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field<'a> {
    /// `int64`, `uint32`, `bool` and enums.
    Varint(u64),
    /// `fixed64` and `double`.
    Fixed64(u64),
    /// `string`, `bytes`, and messages.
    Bytes(&'a [u8]),
    /// `fixed32`.
    Fixed32(u32),
}

/// Bytes that are no protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The fields of a message, in order, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of a message in these bytes.
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn read(&mut self) -> Result<(u32, Field<'a>), Malformed> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or(Malformed)?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed),
        };
        Ok((number, field))
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Malformed> {
        self.take(LENGTH)?.try_into().map_err(|_| Malformed)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    /// After an error there is no further field.
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    put_raw(out, u64::from(number) << 3);
    put_raw(out, value);
}

/// Appends a text, bytes or a message.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_raw(out, u64::from(number) << 3 | 2);
    put_raw(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_raw(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u32, Field<'_>)>, Malformed> {
        Fields::of(bytes).collect()
    }

    #[test]
    fn every_wire_type_is_read() {
        // The examples of the specification, and the four types.
        assert_eq!(read(&[0x08, 0x96, 0x01]), Ok(vec![(1, Field::Varint(150))]));
        assert_eq!(read(b"\x12\x07testing"), Ok(vec![(2, Field::Bytes(b"testing"))]));
        assert_eq!(read(&[0x19, 1, 0, 0, 0, 0, 0, 0, 0x80]), Ok(vec![(3, Field::Fixed64(1 << 63 | 1))]));
        assert_eq!(
            read(&[0x25, 7, 0, 0, 0, 0x0a, 0]),
            Ok(vec![(4, Field::Fixed32(7)), (1, Field::Bytes(b""))])
        );
        let minus_one = [&[0x08][..], &[0xff; 9], &[1]].concat();
        assert_eq!(read(&minus_one), Ok(vec![(1, Field::Varint(u64::MAX))]));
    }

    #[test]
    fn cut_groups_and_too_long_numbers_are_malformed() {
        for bad in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x0a, 2, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x09, 1, 2],
            &[0x0d, 1],
            &[0x0b],
            &[0x0c],
            &[0x0f],
            &[0x00, 1],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(read(bad), Err(Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_what_is_written_can_be_read(
            bytes: Vec<u8>, number in 1u32..1 << 29, value: u64, text: Vec<u8>,
        ) {
            let _any = read(&bytes);
            let mut out = Vec::new();
            put_varint(&mut out, number, value);
            put_bytes(&mut out, number, &text);
            prop_assert_eq!(read(&out), Ok(vec![(number, Field::Varint(value)), (number, Field::Bytes(&text))]));
        }
    }
}
