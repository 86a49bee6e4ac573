//! Where a page ended: an opaque token that carries the keys of its last record.
//!
//! It is JSON in base64 (RFC 4648, section 5): the order that it belongs to, then a value for each key. A client may make
//! one up, so all of it is checked; it can only ever name a place.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::sort::{COMPARED_CHARACTERS, COMPARED_DIGITS, KeyKind, KeyValue, Sort};
use super::{Millis, RecordsError};
use crate::ingest::json::{self, Verdict};

/// The longest token, in bytes: eight names and eight texts, all of them characters that JSON escapes.
const MAX_TOKEN_BYTES: usize = 32 * 1024;
/// The longest number that records are ordered by, in bytes: a sign, the digits (10⁵⁰⁰ has one more), and the point.
const MAX_NUMBER_BYTES: usize = 2 * COMPARED_DIGITS + 3;
/// The end of the year 9999.
const LATEST: i64 = 253_402_300_799_999;

/// A place in an order of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(super) values: Vec<KeyValue>,
}

impl Cursor {
    /// Reads a token of this order.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] names `after`.
    pub fn parse(token: &str, sort: &Sort) -> Result<Self, RecordsError> {
        Self::read(token, sort).ok_or_else(|| {
            RecordsError::invalid("after", "after takes what a Link header gave, with the same sortBy")
        })
    }

    fn read(token: &str, sort: &Sort) -> Option<Self> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (order, texts): (String, Vec<String>) = serde_json::from_slice(&bytes).ok()?;
        let kinds = sort.kinds();
        if order != sort.text() || texts.len() != kinds.len() || texts.iter().any(|text| text.contains('\0'))
        {
            return None;
        }
        let values = kinds.into_iter().zip(texts).map(|(kind, text)| match kind {
            KeyKind::Json => is_scalar(&text).then_some(KeyValue::Json(text)),
            KeyKind::Created | KeyKind::Updated => {
                let ms = text.parse().ok().filter(|ms: &i64| ms.unsigned_abs() <= LATEST.unsigned_abs());
                ms.map(|ms| KeyValue::Time(Millis(ms)))
            }
            KeyKind::Id => (text.len() <= 15).then_some(KeyValue::Text(text)),
            KeyKind::Text => (text.chars().count() <= COMPARED_CHARACTERS).then_some(KeyValue::Text(text)),
        });
        Some(Self { values: values.collect::<Option<_>>()? })
    }

    /// The token.
    pub fn token(&self, sort: &Sort) -> String {
        let texts: Vec<String> = self
            .values
            .iter()
            .map(|value| match value {
                KeyValue::Text(text) | KeyValue::Json(text) => text.clone(),
                KeyValue::Time(time) => time.0.to_string(),
            })
            .collect();
        // Texts can always be written.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(sort.text(), texts)).unwrap_or_default())
    }
}

/// Whether this may be the value of a key: what stands for texts, lists and objects is one, too.
fn is_scalar(text: &str) -> bool {
    let stands_for_all = matches!(text, "\"\"" | "[0]" | "{}");
    let is_scalar = !text.starts_with(['"', '[', '{', ' ']) && text.len() <= MAX_NUMBER_BYTES;
    stands_for_all || (is_scalar && json::classify(text.as_bytes(), 0) == Verdict::Jsonb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_written_and_by_its_own_order_only(
            ms in 0..LATEST, text in "[^\0]{0,200}", number in any::<i64>(), id in "[a-z0-9]{15}"
        ) {
            let sort = Sort::parse("-created,name").unwrap();
            let cursor = Cursor { values: vec![
                KeyValue::Time(Millis(ms)),
                KeyValue::Json(number.to_string()),
                KeyValue::Text(text),
                KeyValue::Text(id),
            ] };
            let token = cursor.token(&sort);
            prop_assert_eq!(Cursor::parse(&token, &sort).unwrap(), cursor);
            prop_assert!(Cursor::parse(&token, &Sort::parse("-created,other").unwrap()).is_err());
            prop_assert!(Cursor::parse(&token, &Sort::default()).is_err());
        }

        #[test]
        fn no_token_makes_reading_panic(token in ".{0,100}", json in ".{0,100}") {
            let sort = Sort::parse("a").unwrap();
            prop_assert!(Cursor::parse(&token, &sort).is_err());
            let _ = Cursor::parse(&URL_SAFE_NO_PAD.encode(json), &sort);
        }
    }

    #[test]
    fn the_longest_token_can_be_read() {
        let name = "\u{1}".repeat(255);
        let sort = Sort::parse(&vec![format!("-{name}"); 8].join(" , ")).unwrap();
        let mut values = Vec::new();
        for _ in 0..8 {
            values.push(KeyValue::Json("\"\"".into()));
            values.push(KeyValue::Text("\u{1}".repeat(COMPARED_CHARACTERS)));
        }
        values.push(KeyValue::Text("abcdefghij01234".into()));
        let texts = Cursor { values };
        assert_eq!(Cursor::parse(&texts.token(&sort), &sort).unwrap(), texts);
        let number = format!("-{}.{}", "9".repeat(COMPARED_DIGITS), "9".repeat(COMPARED_DIGITS));
        let mut numbers = texts;
        for pair in numbers.values[..16].chunks_mut(2) {
            pair.clone_from_slice(&[KeyValue::Json(number.clone()), KeyValue::Text(String::new())]);
        }
        assert_eq!(Cursor::parse(&numbers.token(&sort), &sort).unwrap(), numbers);
    }

    #[test]
    fn made_up_values_are_refused() {
        let sort = Sort::parse("a").unwrap();
        let token = |json: &str| URL_SAFE_NO_PAD.encode(json);
        assert!(Cursor::parse(&token(r#"["a",["1","","x"]]"#), &sort).is_ok());
        for bad in [
            r#"["a",["1",""]]"#,
            r#"["a",["1; drop","","x"]]"#,
            r#"["a",["1","\u0000","x"]]"#,
            r#"["a",["1e400000","","x"]]"#,
            r#"["a",["\"x\"","","x"]]"#,
            r#"["b",["1","","x"]]"#,
            "[]",
            "",
        ] {
            assert!(Cursor::parse(&token(bad), &sort).is_err(), "{bad}");
        }
    }
}
