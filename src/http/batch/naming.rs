//! How the events of a batch get the keys by which their retries are told.

use std::fmt;

use hyper::http::request::Parts;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::super::events::ack;
use super::super::wire::error::ApiError;
use crate::ingest::keys::{self, Key, KeyKind};

/// Where keys come from.
pub(super) struct Naming<'a> {
    source: Source<'a>,
    /// The client sent no trace id, so that of a keyed event is its key.
    pub(super) trace_from_key: bool,
}

enum Source<'a> {
    /// Events have none.
    Nothing,
    /// The batch has one; each event's is made of it and its index.
    Batch(KeyKind, Vec<&'a [u8]>),
    /// A member of each event, and the space that their keys are in.
    Field(String, Option<&'a [u8]>),
}

/// The event has no key, where all should have one.
pub(super) struct NoKey;

impl<'a> Naming<'a> {
    /// As the request asks.
    pub(super) fn of(head: &'a Parts, has_trace_id: bool) -> Result<Self, ApiError> {
        let source = match (ack::id_field(head)?, ack::key(head)?) {
            (Some(name), _) => Source::Field(name, ack::key_space(head)),
            (None, Some((kind, parts))) => Source::Batch(kind, parts),
            (None, None) => Source::Nothing,
        };
        Ok(Self { source, trace_from_key: !has_trace_id })
    }

    /// What the batch is called if its key names it.
    pub(super) fn batch_id(&self) -> Option<Uuid> {
        match &self.source {
            Source::Batch(kind, parts) => Some(Uuid::from_bytes(keys::hash(*kind, parts))),
            _ => None,
        }
    }

    /// The key of an event.
    pub(super) fn key(&self, event: &[u8], index: u64) -> Result<Option<Key>, NoKey> {
        match &self.source {
            Source::Nothing => Ok(None),
            Source::Batch(kind, parts) => Ok(Some(ack::key_in_batch(*kind, parts, index))),
            Source::Field(name, space) => {
                let mut json = serde_json::Deserializer::from_slice(event);
                let value = Member(name).deserialize(&mut json).ok().flatten().ok_or(NoKey)?;
                let text = value.get();
                // Text and numbers, as they are written: 1 and "1" are two keys.
                let is_scalar = text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
                if !is_scalar || text == "\"\"" {
                    return Err(NoKey);
                }
                let parts = [name.as_bytes(), text.as_bytes(), space.unwrap_or_default()];
                let parts = if space.is_some() { &parts[..] } else { &parts[..2] };
                Ok(Some(keys::hash(KeyKind::Field, parts)))
            }
        }
    }
}

/// Reads one member of an object and passes over the others. Of several with its name the last counts, as in jsonb.
struct Member<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
