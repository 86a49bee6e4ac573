//! The data of a `change`, made once for all subscribers of a topic.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::topic::Topic;
use crate::conversations::{self, EventError};
use crate::realtime::Change;
use crate::records::{Record, RecordId, Version};
use crate::time::{Micros, Millis};

/// A change that cannot be sent: it was not written by this program, or it cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    /// Its record is no record's id.
    #[error("the change's record is no id")]
    Record,
    /// A conversation's change.
    #[error(transparent)]
    Conversation(#[from] EventError),
    /// It is not valid JSON.
    #[error("the change's JSON")]
    Json(#[from] serde_json::Error),
}

/// The data of an event for subscribers of a collection, of a conversation or of a published topic.
struct OfTopic(Bytes);
/// The data of an event for subscribers of one record.
struct OfRecord(Bytes);

/// The data of a change for subscribers of `topic`.
pub(super) fn data(topic: &Topic, change: &Change) -> Result<Bytes, DataError> {
    Ok(match topic {
        Topic::Record(..) => change.parsed(|| encode(topic, change).map(OfRecord))?.0.clone(),
        _ => change.parsed(|| encode(topic, change).map(OfTopic))?.0.clone(),
    })
}

#[derive(Serialize)]
struct Data<'a> {
    topic: &'a str,
    action: &'static str,
    key: Option<Key<'a>>,
    record: &'a RawValue,
    /// Recognises a repetition.
    number: i64,
    at: Micros,
}

/// The key of what changed.
#[derive(Serialize)]
#[serde(untagged)]
enum Key<'a> {
    Text(&'a str),
    /// Of several columns.
    Parts(&'a [String]),
}

impl<'a> Key<'a> {
    /// `None`: what was published, and rows of a table without a primary key, have none.
    fn of(change: &'a Change) -> Option<Self> {
        match change.keys.as_deref() {
            // A text that is empty.
            Some([key]) => Some(Self::Text(key)),
            Some(keys) => Some(Self::Parts(keys)),
            None => (!change.record.is_empty()).then_some(Self::Text(&change.record)),
        }
    }
}

fn encode(topic: &Topic, change: &Change) -> Result<Bytes, DataError> {
    let record = match topic {
        Topic::Collection(_) | Topic::Record(..) => record(change)?,
        Topic::Conversation(id) => RawValue::from_string(conversations::change_json(*id, change)?)?,
        Topic::Table(_) | Topic::Published(_) => RawValue::from_string(change.data.clone())?,
    };
    let data = Data {
        topic: &topic.to_string(),
        action: change.action.name(),
        key: Key::of(change),
        record: &record,
        number: change.place.number,
        at: Micros(change.at_us),
    };
    Ok(serde_json::to_vec(&data)?.into())
}

/// A record as its own route shows it.
fn record(change: &Change) -> Result<Box<RawValue>, DataError> {
    let record = Record {
        id: RecordId::parse(&change.record).ok_or(DataError::Record)?,
        version: Version(change.place.number),
        created: Millis(change.created_us / 1000),
        updated: Millis(change.updated_us / 1000),
        data: change.data.clone(),
    };
    let mut json = Vec::with_capacity(record.json_len());
    record.write_json(&mut json);
    Ok(serde_json::from_slice(&json)?)
}
