//! The data of a `change`, made once for all subscribers of a topic.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

use super::options::Shape;
use super::topic::{SelectedTopic, Topic};
use crate::conversations::{self, EventError};
use crate::http::event_stream::Close;
use crate::realtime::{Action, Change, MatchError, Verdict, changed_members};
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
    /// The filter of its subscription.
    #[error(transparent)]
    Filter(#[from] MatchError),
    /// It is not valid JSON.
    #[error("the change's JSON")]
    Json(#[from] serde_json::Error),
}

impl DataError {
    /// The end of a stream with this change, which is logged.
    pub(super) fn close(&self, change: &Change) -> Close {
        let topic = &*change.topic;
        match self {
            Self::Filter(error) => {
                tracing::warn!(error = %error, topic, "a filter failed; its subscription ends");
                Close::Ended("filter")
            }
            error => {
                let error = crate::db::chain(error);
                tracing::error!(error, topic, "a change cannot be sent; its subscribers are cut off");
                Close::Ended("failed")
            }
        }
    }
}

/// The data of an event for subscribers of a collection, of a conversation, of a table or of a published topic, without options.
struct OfTopic(Bytes);
/// The data of an event for subscribers of one record, without options.
struct OfRecord(Bytes);

/// The data of events with options, by their form.
#[derive(Default)]
struct Shaped(Mutex<HashMap<Form, Bytes>>);

/// The most forms of a change that are kept, as `SUBSCRIBERS_BYTES` counts one. Others are made for each subscriber.
const MAX_FORMS: usize = 8;

/// What the data of an event depends on, beside the change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Form {
    is_of_record: bool,
    is_leave: bool,
    shape: Arc<Shape>,
}

/// The data of a change for subscribers of `selected`. `None`: its filter does not match.
///
/// It is made once for all subscribers with the same topic and options.
pub(super) fn data(selected: &SelectedTopic, change: &Change) -> Result<Option<Bytes>, DataError> {
    let SelectedTopic { topic, options, filter, .. } = selected;
    let is_leave = match filter.verdict(change)? {
        Verdict::Skip => return Ok(None),
        Verdict::Deliver => false,
        Verdict::Leave => true,
    };
    let form = Form {
        is_of_record: matches!(topic, Topic::Record(..)),
        is_leave,
        shape: Arc::clone(options.shape()),
    };
    let encode = || encode(topic, change, &form);
    Ok(Some(match (form.is_leave || *form.shape != Shape::default(), form.is_of_record) {
        (false, true) => change.parsed(|| encode().map(OfRecord))?.0.clone(),
        (false, false) => change.parsed(|| encode().map(OfTopic))?.0.clone(),
        (true, _) => {
            let shaped = change.parsed(|| Ok::<_, DataError>(Shaped::default()))?;
            if let Some(data) = shaped.0.lock().get(&form) {
                return Ok(Some(data.clone()));
            }
            let data = encode()?;
            let mut shaped = shaped.0.lock();
            if shaped.len() < MAX_FORMS {
                shaped.insert(form, data.clone());
            }
            data
        }
    }))
}

#[derive(Serialize)]
struct Data<'a> {
    topic: &'a str,
    action: &'static str,
    key: Option<Key<'a>>,
    record: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<String>>,
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

fn encode(topic: &Topic, change: &Change, form: &Form) -> Result<Bytes, DataError> {
    let shape = &*form.shape;
    let is_of_one = !matches!(change.action, Action::Import | Action::Truncate | Action::Many);
    let select = |json: String| match &shape.fields {
        Some(fields) if is_of_one => fields.select(&json),
        _ => Ok(json),
    };
    let record = match topic {
        Topic::Collection(_) | Topic::Record(..) => record(change)?,
        Topic::Conversation(id) => conversations::change_json(*id, change)?,
        Topic::Table(_) | Topic::Published(_) | Topic::Stats => change.data.clone(),
    };
    let old = match &change.old {
        Some(old) if shape.old => Some(match topic {
            Topic::Collection(_) | Topic::Record(..) => old_record(change, old)?,
            _ => old.clone(),
        }),
        _ => None,
    };
    let changed = match &change.old {
        // A row that is too large is fed without its columns.
        Some(old) if shape.changed && change.data != "null" => Some(changed(topic, old, &change.data)?),
        _ => None,
    };
    let record = RawValue::from_string(select(record)?)?;
    let old = old.map(select).transpose()?.map(RawValue::from_string).transpose()?;
    let data = Data {
        topic: &topic.to_string(),
        action: if form.is_leave { "leave" } else { change.action.name() },
        key: Key::of(change),
        record: &record,
        old: old.as_deref(),
        changed,
        number: change.place.number,
        at: Micros(change.at_us),
    };
    Ok(serde_json::to_vec(&data)?.into())
}

/// A record as its own route shows it.
fn record(change: &Change) -> Result<String, DataError> {
    let record = Record {
        id: RecordId::parse(&change.record).ok_or(DataError::Record)?,
        version: Version(change.place.number),
        created: Millis(change.created_us / 1000),
        updated: Millis(change.updated_us / 1000),
        data: change.data.clone(),
    };
    let mut json = Vec::with_capacity(record.json_len());
    record.write_json(&mut json);
    String::from_utf8(json).map_err(|_| DataError::Record)
}

/// A record as it was before an update. The time of the update before that is among the members of `old`.
fn old_record(change: &Change, old: &str) -> Result<String, DataError> {
    let id = RecordId::parse(&change.record).ok_or(DataError::Record)?;
    let created = Millis(change.created_us / 1000);
    let rest = old.strip_prefix('{').unwrap_or("}");
    Ok(format!("{{\"id\":\"{}\",\"created\":\"{created}\",{rest}", id.as_str()))
}

/// The names of the members that an update changed; not those that the service makes.
fn changed(topic: &Topic, old: &str, new: &str) -> Result<Vec<String>, DataError> {
    let mut names = changed_members(old, new)?;
    if matches!(topic, Topic::Collection(_) | Topic::Record(..)) {
        names.retain(|name| name != "updated");
    }
    Ok(names)
}
