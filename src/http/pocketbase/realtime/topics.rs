//! Topics of a client.

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::http::wire::{query, sse};
use crate::realtime::{Change, Position};
use crate::records::RequestValues;
use crate::records::schema::Projection;
use crate::records::typed::{Caller, Expand, TypedRecords};

/// A topic of a client.
pub(super) struct Topic {
    /// As the client wrote it: the name of its events.
    pub(super) text: String,
    /// The id of the collection.
    pub(super) collection: String,
    /// The topic of the feed.
    pub(super) feed: String,
    /// `None`: all records.
    pub(super) record: Option<String>,
    /// The caller as a guest, with the values of their options.
    pub(super) guest: Caller,
    pub(super) filter: String,
    pub(super) expand: Expand,
    pub(super) fields: Option<Projection>,
    /// The name of its kept position, if it has one.
    pub(super) cursor: Option<Uuid>,
    /// While changes are read from the table: those up to here are not for it.
    pub(super) floor: Option<Position>,
    /// Whether it misses changes if the table does not have them any more.
    pub(super) returns: bool,
    /// Whether it has joined: changes of its collection that come before are for others.
    pub(super) is_joined: bool,
}

/// The options of a topic.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Options {
    query: Map<String, Value>,
    headers: Map<String, Value>,
}

impl Options {
    /// Broken options are none.
    pub(super) fn of_topic(topic: &str) -> Self {
        let (_, query) = topic.split_once('?').unwrap_or_default();
        let options = query::pairs(query).find(|(name, _)| name == "options");
        options.and_then(|(_, json)| serde_json::from_str(&json).ok()).unwrap_or_default()
    }

    /// The client's name for a kept position.
    pub(super) fn resume(&self) -> Result<Option<Uuid>, uuid::Error> {
        match self.query.get("resume") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Uuid::try_parse(text).map(Some),
            Some(_) => Uuid::try_parse("").map(Some),
        }
    }
}

impl Topic {
    /// Reads a topic. `None`: there is no such collection, and nothing is ever sent.
    pub(super) async fn parse(text: String, typed: &TypedRecords) -> Option<Self> {
        let options = Options::of_topic(&text);
        let path = text.split_once('?').map_or(&*text, |(path, _)| path);
        let (name, record) = match path.split_once('/') {
            None | Some((_, "*")) => (path.split('/').next().unwrap_or_default(), None),
            Some((name, record)) => (name, Some(record.to_owned())),
        };
        if name.is_empty() || !sse::is_one_line(&text) {
            return None;
        }
        let found = typed.collection(name).await.ok().flatten()?;
        // Another spelling of the name is silent.
        if found.name().as_str() != name && found.definition().id != name {
            return None;
        }
        // One name serves several topics: each has a position of its own.
        let of_topic = format!("{}/{}", found.definition().id, record.as_deref().unwrap_or("*"));
        let cursor = options.resume().ok().flatten().map(|resume| Uuid::new_v5(&resume, of_topic.as_bytes()));
        let texts = |members: Map<String, Value>, is_header: bool| -> Map<String, Value> {
            let text = |(name, value): (String, Value)| {
                let name = if is_header { name.to_lowercase().replace('-', "_") } else { name };
                let value = if value.is_string() { value } else { value.to_string().into() };
                (name, value)
            };
            members.into_iter().map(text).collect()
        };
        let request = RequestValues {
            context: "realtime",
            method: "GET".into(),
            query: texts(options.query, false),
            headers: texts(options.headers, true),
            body: Map::new(),
            before: None,
            auth: None,
        };
        let option = |name: &str| request.query.get(name).and_then(Value::as_str).unwrap_or_default();
        let (filter, expand) = (option("filter").to_owned(), Expand::parse(option("expand")));
        let fields = Projection::parse(option("fields")).flatten();
        let (collection, feed) = (found.definition().id.clone(), found.topic().to_owned());
        let (floor, returns, is_joined) = (None, false, false);
        Some(Self {
            collection,
            feed,
            record,
            filter,
            expand,
            fields,
            guest: Caller { is_superuser: false, request },
            text,
            cursor,
            floor,
            returns,
            is_joined,
        })
    }

    pub(super) fn matches(&self, change: &Change) -> bool {
        *self.feed == *change.topic && self.record.as_ref().is_none_or(|record| **record == *change.record)
    }
}
