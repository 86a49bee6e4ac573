//! The sort key of a record, which is the content of a cursor: JSON, with the order that it belongs to and a value for each key.

use super::RecordsError;
use super::model::RecordId;
use super::sort::{COMPARED_CHARACTERS, COMPARED_DIGITS, KeyKind, KeyValue, Sort};
use crate::ingest::json::{self, JsonKind};
use crate::paging::Cursor;
use crate::time::Millis;

/// The longest cursor, in bytes: eight names and eight texts, all of them characters that JSON escapes.
const MAX_CURSOR_BYTES: usize = 32 * 1024;
/// The longest number that records are ordered by, in bytes: a sign, the digits (10⁵⁰⁰ has one more), and the point.
const MAX_NUMBER_BYTES: usize = 2 * COMPARED_DIGITS + 3;
/// The end of the year 9999.
const LATEST: i64 = 253_402_300_799_999;

/// A position in an order of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSortKey {
    pub(super) values: Vec<KeyValue>,
}

impl RecordSortKey {
    /// Reads a cursor of this order.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] names `after`.
    pub fn parse(cursor: &str, sort: &Sort) -> Result<Self, RecordsError> {
        Self::read(cursor, sort).ok_or_else(|| {
            RecordsError::invalid("after", "after takes what a Link header gave, with the same sortBy")
        })
    }

    fn read(cursor: &str, sort: &Sort) -> Option<Self> {
        let bytes = Cursor::decode(cursor, MAX_CURSOR_BYTES)?;
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
            KeyKind::Id => (text.len() <= RecordId::MAX_BYTES).then_some(KeyValue::Text(text)),
            KeyKind::Text => (text.chars().count() <= COMPARED_CHARACTERS).then_some(KeyValue::Text(text)),
        });
        Some(Self { values: values.collect::<Option<_>>()? })
    }

    /// The cursor of a record with this key.
    pub fn cursor(&self, sort: &Sort) -> Cursor {
        let texts: Vec<String> = self
            .values
            .iter()
            .map(|value| match value {
                KeyValue::Text(text) | KeyValue::Json(text) => text.clone(),
                KeyValue::Time(time) => time.0.to_string(),
            })
            .collect();
        // Texts can always be written.
        Cursor::encode(serde_json::to_vec(&(sort.text(), texts)).unwrap_or_default())
    }
}

/// Whether this may be the value of a key: a scalar, or a substitute for texts, lists or objects.
fn is_scalar(text: &str) -> bool {
    let stands_for_all = matches!(text, "\"\"" | "[0]" | "{}");
    let is_scalar = !text.starts_with(['"', '[', '{', ' ']) && text.len() <= MAX_NUMBER_BYTES;
    stands_for_all || (is_scalar && json::classify(text.as_bytes(), 0) == JsonKind::Jsonb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sort_key_round_trips_in_its_own_order_only(
            ms in 0..LATEST, text in "[^\0]{0,200}", number in any::<i64>(), id in "[a-z0-9]{1,100}"
        ) {
            let sort = Sort::parse("-created,name").unwrap();
            let key = RecordSortKey { values: vec![
                KeyValue::Time(Millis(ms)),
                KeyValue::Json(number.to_string()),
                KeyValue::Text(text),
                KeyValue::Text(id),
            ] };
            let cursor = key.cursor(&sort);
            let cursor = cursor.as_str();
            prop_assert_eq!(RecordSortKey::parse(cursor, &sort).unwrap(), key);
            prop_assert!(RecordSortKey::parse(cursor, &Sort::parse("-created,other").unwrap()).is_err());
            prop_assert!(RecordSortKey::parse(cursor, &Sort::default()).is_err());
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,100}", json in ".{0,100}") {
            let sort = Sort::parse("a").unwrap();
            prop_assert!(RecordSortKey::parse(&text, &sort).is_err());
            let _ = RecordSortKey::parse(Cursor::encode(json).as_str(), &sort);
        }
    }

    #[test]
    fn the_longest_cursor_can_be_read() {
        let name = "\u{1}".repeat(255);
        let sort = Sort::parse(&vec![format!("-{name}"); 8].join(" , ")).unwrap();
        let mut values = Vec::new();
        for _ in 0..8 {
            values.push(KeyValue::Json("\"\"".into()));
            values.push(KeyValue::Text("\u{1}".repeat(COMPARED_CHARACTERS)));
        }
        values.push(KeyValue::Text("abcdefghij01234".into()));
        let texts = RecordSortKey { values };
        assert_eq!(RecordSortKey::parse(texts.cursor(&sort).as_str(), &sort).unwrap(), texts);
        let number = format!("-{}.{}", "9".repeat(COMPARED_DIGITS), "9".repeat(COMPARED_DIGITS));
        let mut numbers = texts;
        for pair in numbers.values[..16].chunks_mut(2) {
            pair.clone_from_slice(&[KeyValue::Json(number.clone()), KeyValue::Text(String::new())]);
        }
        assert_eq!(RecordSortKey::parse(numbers.cursor(&sort).as_str(), &sort).unwrap(), numbers);
    }

    #[test]
    fn made_up_values_are_refused() {
        let sort = Sort::parse("a").unwrap();
        let parse = |json: &str| RecordSortKey::parse(Cursor::encode(json).as_str(), &sort);
        assert!(parse(r#"["a",["1","","x"]]"#).is_ok());
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
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
