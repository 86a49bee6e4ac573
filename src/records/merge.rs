//! Merging a patch into a record: RFC 7396.
//!
//! Values are copied as text, so no digit of a number is lost, and only the objects on the patch's path are parsed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Data, RecordsError};

/// The depth of a patch's objects: each level scans the levels below it once more.
pub const MAX_PATCH_DEPTH: usize = 64;

type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// The merge of `patch` into `target`: members of the patch that are objects are merged recursively, `null` removes a member, and all others
/// replace the target's.
///
/// # Errors
///
/// [`RecordsError::Invalid`] if the patch is nested deeper than a patch may be.
pub fn merge(target: &str, patch: &Data) -> Result<Data, RecordsError> {
    let unreadable = || RecordsError::invalid("body", "the body cannot be merged");
    let patch = std::str::from_utf8(patch.as_bytes()).map_err(|_| unreadable())?;
    let mut merged = Vec::with_capacity(target.len() + patch.len());
    merge_object(Some(target), patch, MAX_PATCH_DEPTH, &mut merged)?;
    Ok(Data::merged(merged))
}

fn merge_object(
    target: Option<&str>,
    patch: &str,
    levels: usize,
    out: &mut Vec<u8>,
) -> Result<(), RecordsError> {
    if levels == 0 {
        let message = format!("a patch's objects are nested {MAX_PATCH_DEPTH} deep at the most");
        return Err(RecordsError::invalid("body", message));
    }
    let patch = members(patch)?;
    // A target that is no object counts as an empty one (RFC 7396, section 2).
    let target = match target {
        Some(text) if is_object(text) => members(text)?,
        _ => Members::new(),
    };
    out.push(b'{');
    let mut first = true;
    let mut begin = |out: &mut Vec<u8>, name: &str| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name)
            .map_err(|_| RecordsError::invalid("body", "a name cannot be written"))?;
        out.push(b':');
        Ok::<(), RecordsError>(())
    };
    for (name, value) in &target {
        if !patch.contains_key(name) {
            begin(out, name)?;
            out.extend_from_slice(value.get().as_bytes());
        }
    }
    for (name, value) in &patch {
        let text = value.get();
        if text == "null" {
            continue;
        }
        begin(out, name)?;
        if is_object(text) {
            merge_object(target.get(name).map(|value| value.get()), text, levels - 1, out)?;
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.push(b'}');
    Ok(())
}

fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

fn members(text: &str) -> Result<Members<'_>, RecordsError> {
    serde_json::from_str(text)
        .map_err(|error| RecordsError::invalid("body", format!("the body cannot be merged: {error}")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::super::Draft;
    use super::*;

    fn data(value: &str) -> Data {
        Draft::parse(&Bytes::from(value.to_owned()), 1000).unwrap().data
    }

    fn merged(target: &str, patch: &str) -> String {
        String::from_utf8(merge(target, &data(patch)).unwrap().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_examples_of_rfc_7396_hold() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({"a": "foo"}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
        ];
        for (target, patch, expected) in cases {
            let merged = merged(&target.to_string(), &patch.to_string());
            assert_eq!(serde_json::from_str::<Value>(&merged).unwrap(), expected, "{target} {patch}");
        }
    }

    #[test]
    fn numbers_keep_their_text() {
        let target = r#"{"a": 12345678901234567890.123456789, "b": 1e3000}"#;
        assert_eq!(
            merged(target, r#"{"c":0.10}"#),
            r#"{"a":12345678901234567890.123456789,"b":1e3000,"c":0.10}"#
        );
    }

    #[test]
    fn a_patch_that_is_nested_too_deep_is_refused() {
        let deep = |levels: usize| data(&(r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels)));
        assert!(merge("{}", &deep(MAX_PATCH_DEPTH)).is_ok());
        assert!(merge("{}", &deep(MAX_PATCH_DEPTH + 1)).is_err());
    }

    /// RFC 7396, section 2, word for word.
    fn reference(target: Option<&Value>, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut merged = target.and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, value) in patch {
            if value.is_null() {
                merged.remove(name);
            } else {
                let value = reference(merged.get(name), value);
                merged.insert(name.clone(), value);
            }
        }
        Value::Object(merged)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\"\\\\é]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                object(inner).prop_map(Value::Object),
            ]
        })
    }

    fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[abc\"\n]{1,2}", value, 0..4)
            .prop_map(|members| members.into_iter().collect())
    }

    proptest! {
        #[test]
        fn merging_is_what_the_rfc_says(target in object(value()), patch in object(value())) {
            let (target, patch) = (Value::Object(target), Value::Object(patch));
            let merged = merged(&target.to_string(), &patch.to_string());
            prop_assert_eq!(serde_json::from_str::<Value>(&merged).unwrap(), reference(Some(&target), &patch));
        }
    }
}
