//! The keys of a batch's events, which identify their retries.

use std::fmt;

use hyper::http::request::Parts;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::super::events::ack;
use super::super::events::builder::RejectReason;
use super::super::intake::cloudevents;
use super::super::wire::error::ApiError;
use super::BatchFormat;
use crate::ingest::keys::{self, Key, KeyKind};

/// The source of the events' keys.
pub(super) struct KeySource {
    source: Source,
    /// The client sent no trace id, so the trace id of an event with a key is this key.
    pub(super) trace_from_key: bool,
}

enum Source {
    /// Events have no keys.
    None,
    /// The batch has a key; each event's key is made of it and the event's index.
    Batch(KeyKind, Vec<Vec<u8>>),
    /// A member of each event, and the space of their keys.
    Field(String, Option<Vec<u8>>),
    /// The attributes of each CloudEvent, and the space of their keys.
    CloudEvents(Option<Vec<u8>>),
}

impl KeySource {
    /// The source that the request names.
    pub(super) fn of(head: &Parts, has_trace_id: bool, format: BatchFormat) -> Result<Self, ApiError> {
        if format == BatchFormat::CloudEvents {
            let source = Source::CloudEvents(ack::key_space(head).map(<[u8]>::to_vec));
            return Ok(Self { source, trace_from_key: !has_trace_id });
        }
        let source = match (ack::id_field(head)?, ack::key(head)?) {
            (Some(name), _) => Source::Field(name, ack::key_space(head).map(<[u8]>::to_vec)),
            (None, Some((kind, parts))) => {
                Source::Batch(kind, parts.into_iter().map(<[u8]>::to_vec).collect())
            }
            (None, None) => Source::None,
        };
        Ok(Self { source, trace_from_key: !has_trace_id })
    }

    /// The batch's id, if it has a key.
    pub(super) fn batch_id(&self) -> Option<Uuid> {
        match &self.source {
            Source::Batch(kind, parts) => Some(Uuid::from_bytes(keys::hash(*kind, &slices(parts)))),
            _ => None,
        }
    }

    /// The key of an event.
    pub(super) fn key(&self, event: &[u8], index: u64) -> Result<Option<Key>, RejectReason> {
        match &self.source {
            Source::None => Ok(None),
            Source::Batch(kind, parts) => Ok(Some(ack::key_in_batch(*kind, parts, index))),
            Source::Field(name, space) => {
                let mut json = serde_json::Deserializer::from_slice(event);
                let value = Member(name).deserialize(&mut json).ok().flatten().ok_or(RejectReason::NoId)?;
                let text = value.get();
                // Text and numbers, as they are written: 1 and "1" are two keys.
                let is_scalar = text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
                if !is_scalar || text == "\"\"" {
                    return Err(RejectReason::NoId);
                }
                let parts = [name.as_bytes(), text.as_bytes(), space.as_deref().unwrap_or_default()];
                let parts = if space.is_some() { &parts[..] } else { &parts[..2] };
                Ok(Some(keys::hash(KeyKind::Field, parts)))
            }
            Source::CloudEvents(space) => match cloudevents::key(event, space.as_deref()) {
                Ok(key) => Ok(Some(key)),
                Err(invalid) => Err(RejectReason::Invalid(invalid.message)),
            },
        }
    }
}

fn slices(parts: &[Vec<u8>]) -> Vec<&[u8]> {
    parts.iter().map(Vec::as_slice).collect()
}

/// Reads one member of an object and skips the others. The last of several members with its name counts, as in jsonb.
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
