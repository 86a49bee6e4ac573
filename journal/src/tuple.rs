//! Framing of rows: tuples of Postgres' binary COPY.
//!
//! A tuple is a 16-bit field count, then for each field a 32-bit length (−1 for null) and the field's bytes, all
//! big-endian ("COPY", file formats, in Postgres' manual). The journal does not interpret the fields.

/// An encoded tuple.
#[derive(Debug, Clone, Copy)]
pub struct Tuple<'a>(&'a [u8]);

impl<'a> Tuple<'a> {
    /// The tuple's bytes.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The first `N` fields; `None`: null, or missing.
    #[inline]
    pub fn fields<const N: usize>(self) -> [Option<&'a [u8]>; N] {
        let mut fields = self.iter();
        std::array::from_fn(|_| fields.next().flatten())
    }

    /// The field at `index`, from 0; `None`: null, or missing.
    #[inline]
    pub fn field(self, index: usize) -> Option<&'a [u8]> {
        self.iter().nth(index).flatten()
    }

    #[inline]
    fn iter(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let mut at = 2;
        std::iter::from_fn(move || {
            let length = field_length(self.0, at);
            at += 4;
            let field = length.and_then(|length| self.0.get(at..at + length));
            at += length.unwrap_or(0);
            (at <= self.0.len()).then_some(field)
        })
    }
}

/// The tuples in `rows`, which are concatenated.
#[inline]
pub fn tuples(rows: &[u8]) -> impl Iterator<Item = Tuple<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let count = rows.get(at..at + 2)?.try_into().ok()?;
        at += 2;
        for _ in 0..i16::from_be_bytes(count) {
            at += 4 + field_length(rows, at).unwrap_or(0);
        }
        rows.get(start..at).map(Tuple)
    })
}

/// The length at the offset `at`; `None`: a null field.
#[inline]
fn field_length(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(i32::from_be_bytes(length)).ok()
}
