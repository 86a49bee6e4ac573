//! Compaction by key of streams of the State Protocol (`Stream-Compaction: key`, an extension): which messages go.
//!
//! A change (`type`, `key`, `headers.operation`) goes once a later one of its key follows it, both older than a time. What is left gives the same state,
//! folded from the start and from every offset to the end:
//!
//! * The last change of a key stays, a deletion too: a reader from an earlier offset may have the key.
//! * Nothing goes across a control message (`headers.control`: `reset`, `snapshot-start`, `snapshot-end`): what a reader makes of it is unknown.
//! * What is no change stays. What is unclear, such as a member that is there twice, counts as a control message.
//!
//! Offsets stay as they are. Where messages were is a gap: an offset in it is a position, from which a read begins with what follows the gap.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The default of `STREAMS_COMPACT_AFTER_S`.
pub const COMPACT_AFTER: Duration = Duration::from_secs(60);
/// Bytes of keys that are remembered; changes of further ones stay.
const MAX_KEY_BYTES: usize = 32 * 1024 * 1024;
/// Memory of a key beside its text, about.
const KEY_BYTES: usize = 96;
/// The operations of the State Protocol, all of which set or remove the whole value.
const OPERATIONS: [&str; 4] = ["insert", "update", "upsert", "delete"];

/// One pass over the messages of a stream, from the last to the first.
#[derive(Debug, Default)]
pub(super) struct CompactionPass {
    /// The types and keys that a later message changes, behind the last control message.
    changed: HashSet<(String, String)>,
    bytes: usize,
}

/// A message as far as a compaction depends on it.
enum Message {
    Change(String, String),
    /// A control message, or something that may be one.
    Barrier,
    Other,
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(rename = "type", borrow)]
    entity_type: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Headers<'a> {
    #[serde(borrow)]
    operation: Option<&'a RawValue>,
    #[serde(borrow)]
    control: Option<&'a RawValue>,
}

impl Message {
    fn of(json: &[u8]) -> Self {
        if json.first() != Some(&b'{') {
            return Self::Other;
        }
        let Ok(members) = serde_json::from_slice::<Members<'_>>(json) else { return Self::Barrier };
        let Some(headers) = members.headers else { return Self::Other };
        let Ok(headers) = serde_json::from_str::<Headers<'_>>(headers.get()) else { return Self::Barrier };
        if headers.control.is_some() {
            return Self::Barrier;
        }
        let (Some(operation), Some(entity_type), Some(key)) =
            (text(headers.operation), text(members.entity_type), text(members.key))
        else {
            return Self::Other;
        };
        let is_change =
            OPERATIONS.contains(&&*operation) && (operation == "delete" || members.value.is_some());
        if is_change { Self::Change(entity_type, key) } else { Self::Other }
    }
}

/// A text that is not empty.
fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str::<String>(value?.get()).ok().filter(|text| !text.is_empty())
}

impl CompactionPass {
    /// Whether the message before those that were looked at goes.
    pub(super) fn removes(&mut self, json: &[u8]) -> bool {
        match Message::of(json) {
            Message::Other => false,
            Message::Barrier => {
                self.changed.clear();
                self.bytes = 0;
                false
            }
            Message::Change(entity_type, key) => {
                let bytes = KEY_BYTES + entity_type.len() + key.len();
                let change = (entity_type, key);
                if self.changed.contains(&change) {
                    return true;
                }
                if self.bytes + bytes <= MAX_KEY_BYTES {
                    self.bytes += bytes;
                    self.changed.insert(change);
                }
                false
            }
        }
    }
}

/// Whether a pass is worth its reads: what came since the last one is at least half of what that one left.
pub(super) fn is_worth(new_bytes: u64, left_bytes: u64) -> bool {
    new_bytes > 0 && new_bytes.saturating_mul(2) >= left_bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn kept(messages: &[Value]) -> Vec<usize> {
        let mut pass = CompactionPass::default();
        let mut kept: Vec<usize> = (0..messages.len())
            .rev()
            .filter(|place| !pass.removes(messages[*place].to_string().as_bytes()))
            .collect();
        kept.reverse();
        kept
    }

    fn change(key: &str, operation: &str) -> Value {
        json!({"type": "t", "key": key, "value": 1, "headers": {"operation": operation}})
    }

    fn control(name: &str) -> Value {
        json!({"headers": {"control": name}})
    }

    /// The state that messages make of a state: the key's value for each type and key.
    fn fold<'a>(
        mut state: BTreeMap<(String, String), Value>,
        messages: impl Iterator<Item = &'a Value>,
    ) -> BTreeMap<(String, String), Value> {
        for message in messages {
            if message["headers"]["control"] == "reset" {
                state.clear();
            }
            let (Some(entity_type), Some(key)) = (message["type"].as_str(), message["key"].as_str()) else {
                continue;
            };
            let entity = (entity_type.to_owned(), key.to_owned());
            match message["headers"]["operation"].as_str() {
                Some("delete") => drop(state.remove(&entity)),
                Some("insert" | "update" | "upsert") => drop(state.insert(entity, message["value"].clone())),
                _ => {}
            }
        }
        state
    }

    #[test]
    fn the_last_change_of_a_key_stays_and_nothing_goes_across_a_control_message() {
        let (insert, update, delete) = (change("a", "insert"), change("a", "update"), change("a", "delete"));
        assert_eq!(kept(&[insert.clone(), update.clone(), change("b", "insert"), delete]), [2, 3]);
        for name in ["reset", "snapshot-start", "snapshot-end", "later"] {
            assert_eq!(
                kept(&[insert.clone(), update.clone(), control(name), update.clone()]),
                [1, 2, 3],
                "{name}"
            );
        }
        let other_type = json!({"type": "u", "key": "a", "value": 1, "headers": {"operation": "insert"}});
        assert_eq!(
            kept(&[insert.clone(), other_type, json!("x"), json!({"key": "a"}), update.clone()]),
            [1, 2, 3, 4]
        );
        // No changes: without a value, with another operation, with a key that is no text.
        let no_value = json!({"type": "t", "key": "a", "headers": {"operation": "update"}});
        let number = json!({"type": "t", "key": 1, "value": 1, "headers": {"operation": "update"}});
        let strange = json!({"type": "t", "key": "a", "value": 1, "headers": {"operation": "merge"}});
        assert_eq!(kept(&[insert.clone(), no_value, number.clone(), strange, number]), [0, 1, 2, 3, 4]);
        // Unclear: a reader may take the last one of two members.
        let mut pass = CompactionPass::default();
        assert!(!pass.removes(update.to_string().as_bytes()));
        assert!(!pass.removes(br#"{"headers":{"control":"reset"},"headers":{}}"#));
        assert!(!pass.removes(insert.to_string().as_bytes()));
        // Two spellings of one key.
        assert!(
            pass.removes(br#"{"type":"\u0074","key":"\u0061","value":2,"headers":{"operation":"insert"}}"#)
        );
    }

    #[test]
    fn keys_beyond_the_memory_for_them_stay() {
        let mut pass = CompactionPass::default();
        let long = "x".repeat(MAX_KEY_BYTES / 2);
        for key in [format!("1{long}"), format!("2{long}")] {
            let message = change(&key, "update").to_string();
            assert!(!pass.removes(message.as_bytes()));
            assert_eq!(pass.removes(message.as_bytes()), key.starts_with('1'));
        }
        assert!(is_worth(1, 0) && is_worth(5, 10) && !is_worth(4, 10) && !is_worth(0, 0));
    }

    proptest! {
        #[test]
        fn the_fold_is_the_same_from_every_place(
            kinds in proptest::collection::vec((0..14_u8, 0..3_u8, 0..2_u8), 0..40)
        ) {
            let messages: Vec<Value> = kinds.iter().enumerate().map(|(number, (kind, key, entity_type))| {
                let headers = match kind {
                    0 => return control("reset"),
                    1 => return control("snapshot-start"),
                    2 => return json!(number),
                    3 => json!({"operation": "delete"}),
                    4..=6 => json!({"operation": "update"}),
                    _ => json!({"operation": "insert", "txid": number.to_string()}),
                };
                json!({"type": entity_type.to_string(), "key": key.to_string(), "value": number, "headers": headers})
            }).collect();
            let kept = kept(&messages);
            for start in 0..=messages.len() {
                // A reader that came this far before the compaction, and one that begins here.
                for state in [fold(BTreeMap::new(), messages[..start].iter()), BTreeMap::new()] {
                    let all = fold(state.clone(), messages[start..].iter());
                    let rest = kept.iter().filter(|place| **place >= start).map(|place| &messages[*place]);
                    prop_assert_eq!(&fold(state, rest), &all, "from {}", start);
                }
            }
            let fewer = kept.iter().filter(|place| messages[**place]["type"].is_string()).count();
            prop_assert!(fewer <= 6 * (1 + kinds.iter().filter(|(kind, ..)| *kind < 2).count()));
        }
    }
}
