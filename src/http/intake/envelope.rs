//! Bodies of SDKs: events, and around them an envelope with a token and members that all of its events share.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::super::events::ack::MAX_KEY;
use super::super::events::builder::{BatchBuilder, RejectReason};
use super::super::wire::error::ApiError;
use super::super::wire::json::check_start;
use super::members::{self, Ended, ObjectWriter};
use crate::auth::is_key;
use crate::ingest::keys::{self, Key, KeyKind};

/// The most members that an envelope shares, and their bytes: each event gets a copy.
const MAX_SHARED: usize = 16;
const MAX_SHARED_BYTES: usize = 64 * 1024;

const NOT_AN_OBJECT: RejectReason = RejectReason::Invalid("an event is a JSON object");

/// The form of a protocol's bodies and events.
#[derive(Debug)]
pub(super) struct EventForm {
    /// The member of an envelope with the events.
    pub(super) events: &'static str,
    /// Members with the token, of an envelope or of an event. They are not stored.
    pub(super) tokens: &'static [&'static str],
    /// A member of an event whose own members may repeat the token.
    pub(super) properties: Option<&'static str>,
    /// The member that is an event's key, and its kind.
    pub(super) key: (&'static str, KeyKind),
    /// The reason to reject an event whose key is no text.
    pub(super) bad_key: RejectReason,
    /// A member that every event has, a text, and the reason to reject one without it.
    pub(super) required: Option<(&'static str, RejectReason)>,
}

/// A body.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// The token.
    pub(super) token: Option<Cow<'a, str>>,
    events: Events<'a>,
    /// Members for every event that does not have them.
    shared: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(Debug, Clone, Copy)]
enum Events<'a> {
    /// The body is an event.
    One(&'a [u8]),
    /// An array of events.
    Array(&'a [u8]),
}

impl<'a> Envelope<'a> {
    /// Reads a body that is an envelope, or an event alone, or an array of events.
    pub(super) fn of_any(body: &'a [u8], form: &EventForm) -> Result<Self, ApiError> {
        check_start(body)?;
        if body.trim_ascii_start().first() == Some(&b'[') {
            let mut token = None;
            let first = |event: &'a RawValue| {
                token = Self::of_event(event.get().as_bytes(), form).ok().and_then(|event| event.token);
                Err(())
            };
            let read = members::elements(body, first);
            return match read {
                Err(Ended::NotThis) => Err(not_json()),
                _ => Ok(Self { token, events: Events::Array(body), shared: Vec::new() }),
            };
        }
        let (envelope, has_events) = Self::read(body, form)?;
        if has_events { Ok(envelope) } else { Self::of_event(body, form) }
    }

    /// Reads an envelope.
    pub(super) fn of_batch(body: &'a [u8], form: &EventForm) -> Result<Self, ApiError> {
        check_start(body)?;
        match Self::read(body, form)? {
            (envelope, true) => Ok(envelope),
            (_, false) => {
                let message = format!("{} is an array of events", form.events);
                Err(ApiError::invalid(message).field(form.events))
            }
        }
    }

    /// Reads an event that is a body of its own.
    pub(super) fn of_event(body: &'a [u8], form: &EventForm) -> Result<Self, ApiError> {
        check_start(body)?;
        let mut token = None;
        let mut of_properties = None;
        let read = members::members(body, |name, value| {
            if form.tokens.contains(&&*name) {
                token = members::text(value);
            } else if form.properties == Some(&*name) {
                // That of an event that has none itself.
                let _other_values_have_none = members::members(value.get().as_bytes(), |name, value| {
                    if form.tokens.contains(&&*name) {
                        of_properties = members::text(value);
                    }
                    Ok::<(), ()>(())
                });
            }
            Ok::<(), ()>(())
        });
        read.map_err(|_| not_json())?;
        Ok(Self { token: token.or(of_properties), events: Events::One(body), shared: Vec::new() })
    }

    /// Reads an envelope, and whether it has an array of events.
    fn read(body: &'a [u8], form: &EventForm) -> Result<(Self, bool), ApiError> {
        let mut envelope = Self { token: None, events: Events::Array(b"[]"), shared: Vec::new() };
        let mut has_events = false;
        let mut bytes = 0;
        let read = members::members(body, |name, value| {
            if name == form.events {
                has_events = value.get().starts_with('[');
                envelope.events = Events::Array(value.get().as_bytes());
            } else if form.tokens.contains(&&*name) {
                envelope.token = members::text(value);
            } else {
                bytes += name.len() + value.get().len();
                // Without events the body is an event, which may have any members.
                if envelope.shared.len() <= MAX_SHARED {
                    envelope.shared.push((name, value));
                }
            }
            Ok::<(), ()>(())
        });
        read.map_err(|_| not_json())?;
        if has_events && (envelope.shared.len() > MAX_SHARED || bytes > MAX_SHARED_BYTES) {
            let message = format!(
                "the members beside {} are at most {MAX_SHARED}, of {MAX_SHARED_BYTES} bytes",
                form.events
            );
            return Err(ApiError::invalid(message).field("body"));
        }
        Ok((envelope, has_events))
    }

    /// Adds all events to a batch. `default` is a member that an event gets unless it has it, and its text.
    pub(super) fn add(
        &self,
        form: &EventForm,
        builder: &mut BatchBuilder,
        default: Option<(&str, &str)>,
        space: Option<&[u8]>,
    ) -> Result<(), ApiError> {
        let mut written = Vec::new();
        let mut add = |event: &[u8]| self.add_one(form, builder, event, default, space, &mut written);
        match self.events {
            Events::One(event) => add(event),
            Events::Array(events) => match members::elements(events, |event| add(event.get().as_bytes())) {
                Ok(()) => Ok(()),
                Err(Ended::NotThis) => Err(not_json()),
                Err(Ended::By(error)) => Err(error),
            },
        }
    }

    fn add_one(
        &self,
        form: &EventForm,
        builder: &mut BatchBuilder,
        event: &[u8],
        default: Option<(&str, &str)>,
        space: Option<&[u8]>,
        written: &mut Vec<u8>,
    ) -> Result<(), ApiError> {
        if event.len() > builder.max_event_bytes() {
            return builder.reject_too_large();
        }
        let (mut key, mut required, mut has_default) = (None, None, default.is_none());
        let mut has_token = false;
        // By their places in `shared`.
        let mut present = [false; MAX_SHARED];
        let read = members::members(event, |name, value| {
            has_token |= form.tokens.contains(&&*name)
                || (form.properties == Some(&*name) && has_token_within(value, form));
            has_default |= default.is_some_and(|(default, _)| default == name);
            if name == form.key.0 {
                key = Some(value);
            }
            if form.required.is_some_and(|(required, _)| required == name) {
                required = Some(value);
            }
            for (place, (shared, _)) in self.shared.iter().enumerate() {
                if *shared == name
                    && let Some(present) = present.get_mut(place)
                {
                    *present = true;
                }
            }
            Ok::<(), ()>(())
        });
        if read.is_err() {
            return builder.reject(NOT_AN_OBJECT);
        }
        if let Some((_, reason)) = form.required
            && required.and_then(members::text).is_none_or(|text| text.is_empty())
        {
            return builder.reject(reason);
        }
        let key = match key_of(key, form, space) {
            Ok(key) => key,
            Err(reason) => return builder.reject(reason),
        };
        let missing = || self.shared.iter().zip(present).filter(|(_, present)| !present).map(|(one, _)| one);
        if !has_token && has_default && missing().next().is_none() {
            return builder.add(event, |_| Ok(key));
        }
        written.clear();
        let mut object = ObjectWriter::new(written);
        let _read_before = members::members(event, |name, value| {
            if form.tokens.contains(&&*name) {
                return Ok::<(), ()>(());
            }
            match form.properties == Some(&*name) && has_token_within(value, form) {
                true => write_without_tokens(object.name(&name), value, form),
                false => object.raw(&name, value.get().as_bytes()),
            }
            Ok(())
        });
        if let Some((name, text)) = default.filter(|_| !has_default) {
            object.text(name, text);
        }
        for (name, value) in missing() {
            object.raw(name, value.get().as_bytes());
        }
        object.end();
        if written.len() > builder.max_event_bytes() {
            return builder.reject_too_large();
        }
        builder.add(written, |_| Ok(key))
    }
}

fn not_json() -> ApiError {
    ApiError::invalid("the body is a JSON object, as the protocol has it").field("body")
}

/// The key of an event; an event may have none.
fn key_of(
    value: Option<&RawValue>,
    form: &EventForm,
    space: Option<&[u8]>,
) -> Result<Option<Key>, RejectReason> {
    let Some(value) = value.filter(|value| !members::is_null(value)) else { return Ok(None) };
    let text = members::text(value).filter(|text| text.len() <= MAX_KEY).ok_or(form.bad_key)?;
    if text.is_empty() {
        return Ok(None);
    }
    let parts = [text.as_bytes(), space.unwrap_or_default()];
    let parts = if space.is_some() { &parts[..] } else { &parts[..1] };
    Ok(Some(keys::hash(form.key.1, parts)))
}

/// Whether an object has a member that is an API key and is named as tokens are.
fn has_token_within(value: &RawValue, form: &EventForm) -> bool {
    let found = members::members(value.get().as_bytes(), |name, value| match is_token(&name, value, form) {
        true => Err(()),
        false => Ok(()),
    });
    matches!(found, Err(Ended::By(())))
}

fn is_token(name: &str, value: &RawValue, form: &EventForm) -> bool {
    form.tokens.contains(&name) && members::text(value).is_some_and(|text| is_key(&text))
}

fn write_without_tokens(out: &mut Vec<u8>, value: &RawValue, form: &EventForm) {
    let mut object = ObjectWriter::new(out);
    let _read_before = members::members(value.get().as_bytes(), |name, value| {
        if !is_token(&name, value, form) {
            object.raw(&name, value.get().as_bytes());
        }
        Ok::<(), ()>(())
    });
    object.end();
}
