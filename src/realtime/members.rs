//! The members of a JSON object as `jsonb` writes it, found without a tree: their texts are slices of the object's.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The most members that an index has: its bytes are not counted in `SUBSCRIBERS_BYTES`. Larger objects are scanned each time.
const MAX_INDEXED: usize = 1_024;

/// Where the members of an object are in its text.
#[derive(Debug, Clone)]
pub struct Members {
    /// Names and values, in the text's order. `None`: too many.
    index: Option<Vec<(Slice, Slice)>>,
}

/// A range of a text.
#[derive(Debug, Clone, Copy)]
struct Slice {
    start: usize,
    end: usize,
}

impl Slice {
    /// The range of `part`, which is a slice of `text`.
    fn of(part: &str, text: &str) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        Self { start, end: start + part.len() }
    }

    fn in_text(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

impl Members {
    /// The index of an object; that of anything else is empty.
    pub fn of(json: &str) -> Self {
        let mut index = Vec::new();
        let read = each_member(json, |name, value| {
            index.push((Slice::of(name, json), Slice::of(value, json)));
            index.len() <= MAX_INDEXED
        });
        match read {
            _ if index.len() > MAX_INDEXED => Self { index: None },
            Ok(()) => Self { index: Some(index) },
            Err(_) => Self { index: Some(Vec::new()) },
        }
    }

    /// A member's value in the text that was indexed.
    pub fn get<'a>(&self, json: &'a str, name: &str) -> Option<&'a str> {
        let Some(index) = &self.index else { return find(json, name) };
        let found = index.iter().find(|(known, _)| is_name(known.in_text(json), name))?;
        Some(found.1.in_text(json))
    }
}

/// The value at a path below a JSON value: members of objects, elements of lists by their number.
pub fn value_at<'a>(json: &'a str, path: &[String]) -> Option<&'a str> {
    path.iter().try_fold(json, |json, part| match json.as_bytes().first() {
        Some(b'{') => find(json, part),
        Some(b'[') => {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = part.parse::<i32>().ok().filter(|_| is_number)?;
            let mut elements =
                Elements { wanted: Some(usize::try_from(number).ok()?), found: None, each: |_| true };
            // It ends with an error where it stops before the list's end.
            let _end = read(json).deserialize_seq(&mut elements);
            elements.found
        }
        _ => None,
    })
}

/// Calls `each` for every element of a list, until it returns false.
pub fn each_element<'a>(json: &'a str, each: impl FnMut(&'a str) -> bool) {
    // A list as `jsonb` writes it has no error.
    let _end = read(json).deserialize_seq(&mut Elements { wanted: None, found: None, each });
}

/// The names of the members that differ between two objects, in an order that depends on them alone.
pub fn changed_members(old: &str, new: &str) -> Result<Vec<String>, serde_json::Error> {
    let collect = |json| {
        let mut members = std::collections::BTreeMap::new();
        each_member(json, |name, value| {
            members.insert(name, value);
            true
        })?;
        Ok::<_, serde_json::Error>(members)
    };
    let (old, new) = (collect(old)?, collect(new)?);
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(value)).map(|(name, _)| name);
    let mut names: Vec<&&str> = gone.chain(changed).collect();
    names.sort_unstable();
    names.into_iter().map(|name| serde_json::from_str(name)).collect()
}

/// Whether a name in a text, with its quotes, is this one.
fn is_name(quoted: &str, name: &str) -> bool {
    match quoted.get(1..quoted.len().saturating_sub(1)) {
        Some(inner) if !inner.contains('\\') => inner == name,
        _ => serde_json::from_str::<String>(quoted).is_ok_and(|quoted| quoted == name),
    }
}

fn find<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    // It ends with an error where it stops before the object's end.
    let _end = each_member(json, |known, value| {
        found = is_name(known, name).then_some(value);
        found.is_none()
    });
    found
}

fn read(json: &str) -> serde_json::Deserializer<serde_json::de::StrRead<'_>> {
    serde_json::Deserializer::from_str(json)
}

/// Calls `each` with the name, in quotes, and the value of every member. Where that returns false it stops, which is an error unless the
/// object has ended.
fn each_member<'a>(
    json: &'a str,
    each: impl FnMut(&'a str, &'a str) -> bool,
) -> Result<(), serde_json::Error> {
    read(json).deserialize_map(Each(each))
}

struct Each<F>(F);

impl<'de, F: FnMut(&'de str, &'de str) -> bool> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some((name, value)) = members.next_entry::<&RawValue, &RawValue>()? {
            if !(self.0)(name.get(), value.get()) {
                break;
            }
        }
        Ok(())
    }
}

struct Elements<'a, F> {
    /// The number of the element to find. `None`: `each` gets them all.
    wanted: Option<usize>,
    found: Option<&'a str>,
    each: F,
}

impl<'de, F: FnMut(&'de str) -> bool> Visitor<'de> for &mut Elements<'de, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        match self.wanted {
            Some(wanted) => {
                for _ in 0..wanted {
                    if elements.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(());
                    }
                }
                self.found = elements.next_element::<&RawValue>()?.map(RawValue::get);
            }
            None => {
                while let Some(element) = elements.next_element::<&RawValue>()? {
                    if !(self.each)(element.get()) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#"{"a": 1, "b": {"c": [10, {"d": "x\"y"}]}, "é\"": null}"#;

    #[test]
    fn members_are_found_by_name_and_path() {
        let members = Members::of(OBJECT);
        assert_eq!(members.get(OBJECT, "a"), Some("1"));
        assert_eq!(members.get(OBJECT, "é\""), Some("null"));
        assert_eq!(members.get(OBJECT, "c"), None);
        let path = |path: &[&str]| {
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            value_at(OBJECT, &path)
        };
        assert_eq!(path(&["b", "c", "0"]), Some("10"));
        assert_eq!(path(&["b", "c", "01", "d"]), Some(r#""x\"y""#));
        for none in [&["b", "c", "2"][..], &["b", "c", "-1"], &["b", "c", "99999999999"], &["a", "b"]] {
            assert_eq!(path(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_large_object_is_scanned_and_anything_else_has_no_members() {
        let large: Vec<String> = (0..MAX_INDEXED * 2).map(|n| format!("\"m{n}\": {n}")).collect();
        let large = format!("{{{}}}", large.join(", "));
        let members = Members::of(&large);
        assert!(members.index.is_none());
        assert_eq!((members.get(&large, "m2000"), members.get(&large, "x")), (Some("2000"), None));
        for other in ["[1]", "1", "", "{"] {
            assert_eq!(Members::of(other).get(other, "a"), None, "{other}");
        }
    }

    #[test]
    fn elements_are_visited_in_order_until_it_is_enough() {
        let mut seen = Vec::new();
        each_element(r#"[1, "a", [2], {}]"#, |element| {
            seen.push(element);
            seen.len() < 3
        });
        assert_eq!(seen, ["1", "\"a\"", "[2]"]);
    }

    #[test]
    fn changed_members_are_those_that_were_added_removed_or_differ() {
        let changed = changed_members(r#"{"a": 1, "b": [1], "c": 2}"#, r#"{"d": 0, "b": [2], "a": 1}"#);
        assert_eq!(changed.unwrap(), ["b", "c", "d"]);
        assert!(changed_members("[", "{}").is_err());
    }
}
