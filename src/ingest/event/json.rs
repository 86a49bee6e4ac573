//! Classifies bodies before the COPY: whether one can be a `jsonb` value.
//!
//! One value that Postgres rejects fails a whole COPY, so the decision is made here, and agrees with Postgres in both
//! directions: a [`JsonKind::Jsonb`] is never rejected by Postgres, and a value that is rejected here would be rejected there.
//! The one exception is depth: Postgres' limit depends on `max_stack_depth` and on the platform's stack frames, so a lower,
//! fixed limit applies (`MAX_JSON_DEPTH`).
//!
//! # Rules
//!
//! * The grammar is RFC 8259, in UTF-8.
//! * `jsonb` has no U+0000 and no lone surrogates, in keys and values alike (`jsonapi.c`, `json_lex_string`).
//! * A number becomes a `numeric`: at most 131,072 digits before the decimal point and 16,383 after it, and an
//!   exponent below 2³⁰ − 1 in size (`numeric.c`, `set_var_from_str` and `make_result`).
//!
//! One pass, no recursion, and no allocation for documents up to 64 levels deep. [`measure`] also counts the length of the
//! stored document. [`classify_event`], on the path of events, counts only the growth of numbers with an exponent: `1e131071`
//! has 8 bytes when sent and 131,072 as written by `numeric`, and a program that writes many of those (`pg_dump`, a reader of
//! the row) runs out of memory.

use std::fmt;

use super::numeric::{EXPONENT_LIMIT, Number};

/// The kind of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// JSON that a `jsonb` column accepts.
    Jsonb,
    /// JSON by RFC 8259 that a `jsonb` column rejects.
    NotJsonb(Refusal),
    /// Not JSON; the offset of the first invalid byte.
    NotJson(usize),
}

/// Why `jsonb` rejects a JSON document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The escape `\u0000`.
    Nul,
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// A number that `numeric` cannot hold.
    Number,
    /// Nested deeper than `MAX_JSON_DEPTH`.
    Depth,
    /// Longer than `MAX_EVENT_BYTES` once its numbers are written without exponents.
    Size,
}

/// The limits for an event to become `jsonb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Nested containers.
    pub depth: usize,
    /// Bytes, with all digits of its numbers.
    pub bytes: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nul => "it holds \\u0000",
            Self::LoneSurrogate => "it holds half a surrogate pair",
            Self::Number => "it holds a number beyond numeric",
            Self::Depth => "it is nested too deep",
            Self::Size => "its numbers have too many digits once they are written without exponents",
        })
    }
}

/// Classifies `body`; containers nested deeper than `max_depth` make it [`Refusal::Depth`].
pub fn classify(body: &[u8], max_depth: usize) -> JsonKind {
    scan::<false>(body, max_depth).0
}

/// As [`classify`], but a document whose numbers have exponents and which `jsonb` writes with more than `limits.bytes` is
/// [`Refusal::Size`].
pub fn classify_event(body: &[u8], limits: JsonLimits) -> JsonKind {
    match scan::<false>(body, limits.depth) {
        // The scan counted white space, which is not stored.
        (JsonKind::Jsonb, bytes) if bytes > limits.bytes && measure(body, limits.depth).1 > limits.bytes => {
            JsonKind::NotJsonb(Refusal::Size)
        }
        (verdict, _) => verdict,
    }
}

/// As [`classify`], and the bytes of the document as written by `jsonb`, without the spaces between its tokens.
///
/// Numbers count with all digits that `numeric` writes. Text counts with its escapes, which are never shorter than those of
/// `jsonb`, and a repeated name counts each time. So the text of a `jsonb` never measures more than its source. The bytes are
/// meaningful for [`JsonKind::Jsonb`] only.
pub fn measure(body: &[u8], max_depth: usize) -> (JsonKind, usize) {
    scan::<true>(body, max_depth)
}

fn scan<const MEASURES: bool>(body: &[u8], max_depth: usize) -> (JsonKind, usize) {
    if let Err(error) = std::str::from_utf8(body) {
        return (JsonKind::NotJson(error.valid_up_to()), 0);
    }
    let mut scanner = Scanner::<MEASURES> { body, at: 0, refusal: None, dropped: 0, added: 0 };
    let verdict = match scanner.document(max_depth) {
        Err(Malformed) => JsonKind::NotJson(scanner.at),
        Ok(()) => scanner.refusal.map_or(JsonKind::Jsonb, JsonKind::NotJsonb),
    };
    (verdict, (body.len() - scanner.dropped).saturating_add(scanner.added))
}

/// The document is invalid at `Scanner::at`.
struct Malformed;

/// A pass over a document. It counts the bytes of the `jsonb`; white space and numbers without an exponent only if
/// `MEASURES`.
struct Scanner<'a, const MEASURES: bool> {
    body: &'a [u8],
    at: usize,
    /// The first reason why `jsonb` rejects it. The pass continues, since the text may turn out not to be JSON.
    refusal: Option<Refusal>,
    /// Bytes that are not stored: white space, and numbers that are written differently.
    dropped: usize,
    /// The bytes of those numbers as written.
    added: usize,
}

impl<const MEASURES: bool> Scanner<'_, MEASURES> {
    fn document(&mut self, max_depth: usize) -> Result<(), Malformed> {
        let mut open = Nesting::default();
        'value: loop {
            match self.next_token()? {
                b'{' => {
                    self.enter(&mut open, Container::Object, max_depth);
                    if self.peek_token() == Some(b'"') {
                        self.key()?;
                        continue 'value;
                    }
                    self.closing(b'}')?;
                    open.pop();
                }
                b'[' => {
                    self.enter(&mut open, Container::Array, max_depth);
                    if self.peek_token() != Some(b']') {
                        continue 'value;
                    }
                    self.at += 1;
                    open.pop();
                }
                b'"' => self.string()?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return Err(Malformed),
            }
            // After a value: close the containers that it completes, or continue with its sibling.
            loop {
                let Some(container) = open.top() else {
                    return if self.peek_token().is_none() { Ok(()) } else { Err(Malformed) };
                };
                match (container, self.peek_token()) {
                    (Container::Array, Some(b',')) => {
                        self.at += 1;
                        continue 'value;
                    }
                    (Container::Object, Some(b',')) => {
                        self.at += 1;
                        self.key()?;
                        continue 'value;
                    }
                    (Container::Array, Some(b']')) | (Container::Object, Some(b'}')) => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(Malformed),
                }
            }
        }
    }

    fn enter(&mut self, open: &mut Nesting, container: Container, max_depth: usize) {
        self.at += 1;
        open.push(container);
        if open.depth > max_depth {
            self.refuse(Refusal::Depth);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    /// The next byte that is not white space, left in place.
    #[inline]
    fn peek_token(&mut self) -> Option<u8> {
        while let Some(&byte) = self.body.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
            if MEASURES {
                self.dropped += 1;
            }
        }
        None
    }

    #[inline]
    fn next_token(&mut self) -> Result<u8, Malformed> {
        self.peek_token().ok_or(Malformed)
    }

    fn closing(&mut self, wanted: u8) -> Result<(), Malformed> {
        if self.peek_token() != Some(wanted) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// A name and its colon.
    #[inline]
    fn key(&mut self) -> Result<(), Malformed> {
        if self.peek_token() != Some(b'"') {
            return Err(Malformed);
        }
        self.string()?;
        self.closing(b':')
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if !self.body[self.at..].starts_with(word) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    /// A string, including its quotes.
    #[inline]
    fn string(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        loop {
            let rest = &self.body[self.at..];
            let Some(plain) = rest.iter().position(|&byte| ENDS_PLAIN_TEXT[usize::from(byte)]) else {
                self.at = self.body.len();
                return Err(Malformed);
            };
            self.at += plain;
            match rest[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _control_character => return Err(Malformed),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        match self.body.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                match self.code_unit()? {
                    0 => self.refuse(Refusal::Nul),
                    0xD800..=0xDBFF => {
                        // The other half must follow immediately, as an escape.
                        let paired = self.body[self.at..].starts_with(b"\\u")
                            && matches!(self.code_unit()?, 0xDC00..=0xDFFF);
                        if !paired {
                            self.refuse(Refusal::LoneSurrogate);
                        }
                    }
                    0xDC00..=0xDFFF => self.refuse(Refusal::LoneSurrogate),
                    _ => {}
                }
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    /// The four hex digits of the `\uXXXX` that starts here.
    fn code_unit(&mut self) -> Result<u16, Malformed> {
        let digits = self.body.get(self.at + 2..self.at + 6).ok_or(Malformed)?;
        let mut unit = 0;
        for &digit in digits {
            let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
            unit = unit << 4 | value as u16;
        }
        self.at += 6;
        Ok(unit)
    }

    #[inline]
    fn number(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        let negative = self.body[self.at] == b'-';
        if negative {
            self.at += 1;
        }
        let integer = self.at;
        let integer_digits = self.digits()?;
        if integer_digits > 1 && self.body[integer] == b'0' {
            self.at = integer + 1;
            return Err(Malformed);
        }
        let mut fraction_digits = 0;
        if self.body.get(self.at) == Some(&b'.') {
            self.at += 1;
            fraction_digits = self.digits()?;
        }
        let mantissa = integer..self.at;
        let mut exponent = 0;
        if let Some(b'e' | b'E') = self.body.get(self.at) {
            self.at += 1;
            exponent = self.exponent()?;
        }
        // No number this short, without an exponent, can be out of range.
        if MEASURES || exponent != 0 || mantissa.len() > 10_000 {
            let mantissa = &self.body[mantissa];
            let number = Number { negative, mantissa, integer_digits, fraction_digits, exponent };
            if !number.fits() {
                self.refuse(Refusal::Number);
            } else if MEASURES || exponent != 0 {
                self.dropped += self.at - start;
                self.added = self.added.saturating_add(number.text_len());
            }
        }
        Ok(())
    }

    /// At least one digit; returns their number.
    #[inline]
    fn digits(&mut self) -> Result<usize, Malformed> {
        let rest = &self.body[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        if count == 0 { Err(Malformed) } else { Ok(count) }
    }

    fn exponent(&mut self) -> Result<i64, Malformed> {
        let negative = self.body.get(self.at) == Some(&b'-');
        if let Some(b'+' | b'-') = self.body.get(self.at) {
            self.at += 1;
        }
        let start = self.at;
        self.digits()?;
        let mut size: i64 = 0;
        for &digit in &self.body[start..self.at] {
            size = size.saturating_mul(10).saturating_add(i64::from(digit - b'0')).min(EXPONENT_LIMIT);
        }
        Ok(if negative { -size } else { size })
    }
}

/// The bytes that end a run of plain text in a string: the quote, the backslash and control characters.
static ENDS_PLAIN_TEXT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Array,
    Object,
}

/// The open containers, one bit each (1 is an object). Only levels below the 64th use the heap.
#[derive(Default)]
struct Nesting {
    depth: usize,
    word: u64,
    outer_words: Vec<u64>,
}

impl Nesting {
    #[inline]
    fn push(&mut self, container: Container) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer_words.push(self.word);
        }
        self.depth += 1;
        self.word = self.word << 1 | u64::from(container == Container::Object);
    }

    #[inline]
    fn pop(&mut self) {
        self.depth -= 1;
        self.word >>= 1;
        if self.depth > 0
            && self.depth.is_multiple_of(64)
            && let Some(word) = self.outer_words.pop()
        {
            self.word = word;
        }
    }

    #[inline]
    fn top(&self) -> Option<Container> {
        match (self.depth, self.word & 1) {
            (0, _) => None,
            (_, 1) => Some(Container::Object),
            _ => Some(Container::Array),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> JsonKind {
        classify(text.as_bytes(), 100)
    }

    #[test]
    fn what_serde_json_reads_is_json_and_what_it_refuses_is_not() {
        let texts = [
            "",
            " ",
            "{}",
            "[]",
            " [ ] ",
            "{\"a\":1}",
            "{\"a\" : [1, 2,{\"b\":null}] }",
            "[1,]",
            "[,1]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "-",
            "-0",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1E+5",
            "tru",
            "true",
            "truefalse",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\t\"",
            "1 2",
            "[1 2]",
            "[1}",
            "{\"a\":1]",
            "]",
            "}",
            "[[[[[[]]]]]]",
            "[[]",
            "\"\\",
            "\"\\u00",
            "-1.5e-3",
            "\u{feff}1",
            "\"é😀\"",
            "+1",
            "NaN",
        ];
        for text in texts {
            let json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            assert_eq!(
                !matches!(verdict(text), JsonKind::NotJson(_)),
                json,
                "{text:?} is {:?}",
                verdict(text)
            );
        }
    }

    #[test]
    fn nesting_survives_the_words_borders() {
        for depth in [1, 63, 64, 65, 127, 128, 129, 1000] {
            let text = "[{\"a\":".repeat(depth) + "1" + &"}]".repeat(depth);
            assert_eq!(classify(text.as_bytes(), 2 * depth), JsonKind::Jsonb);
            assert_eq!(classify(text.as_bytes(), 2 * depth - 1), JsonKind::NotJsonb(Refusal::Depth));
            let crossed = "[{\"a\":".repeat(depth) + "1" + &"]}".repeat(depth);
            assert!(matches!(classify(crossed.as_bytes(), 2 * depth), JsonKind::NotJson(_)));
        }
    }

    #[test]
    fn a_document_is_measured_as_it_is_stored() {
        for (text, stored) in [
            ("{}", "{}"),
            (" { \"a b\" : [ 1 , -2.50 ] }\n", "{\"a b\":[1,-2.50]}"),
            ("1e3", "1000"),
            ("[-12.5E+2]", "[-1250]"),
            ("1.25e1", "12.5"),
            ("-1e-3", "-0.001"),
            ("100e-2", "1.00"),
            ("-0e-2", "0.00"),
            ("0e9", "0"),
            ("-0", "0"),
            ("1e0", "1"),
        ] {
            assert_eq!(measure(text.as_bytes(), 100), (JsonKind::Jsonb, stored.len()), "{text}");
        }
        assert_eq!(measure(b"[1e131000,1e131000]", 100), (JsonKind::Jsonb, 2 * 131_001 + 3));
    }

    #[test]
    fn an_event_whose_numbers_expand_beyond_the_limit_is_not_for_jsonb() {
        let verdict = |text: &str| classify_event(text.as_bytes(), JsonLimits { depth: 10, bytes: 1000 });
        let spaces = format!("[1e500{}]", " ".repeat(900));
        for text in
            [&spaces, "1e999", "[1e400,1e400]", "{\"a\":1e-990}", "[1]", "[0e999999,-0E5]", "12.5e2", "1e+0"]
        {
            assert_eq!(verdict(text), JsonKind::Jsonb, "{text}");
        }
        for text in
            ["1e1000", "[1e600,1e600]", "{\"a\":1e-1000}", "[1e-300,1e300,1E+300,1e-300]", "-1.5e1000"]
        {
            assert_eq!(verdict(text), JsonKind::NotJsonb(Refusal::Size), "{text}");
        }
        assert_eq!(verdict("1e999999"), JsonKind::NotJsonb(Refusal::Number));
        assert_eq!(verdict("[1e1000,"), JsonKind::NotJson(8));
    }

    #[test]
    fn invalid_utf8_is_not_json_at_its_offset() {
        assert_eq!(classify(b"\"ab\xff\"", 100), JsonKind::NotJson(3));
    }
}
