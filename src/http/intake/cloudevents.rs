//! CloudEvents 1.0 on the event routes, in the three modes of the HTTP binding.
//!
//! All three are stored alike, in the JSON format of CloudEvents: the attributes are members of `payload`, the data is `data`, or base64 in
//! `data_base64`, and `content_type` is [`MEDIA_TYPE`]. An event in binary mode is written in that form; the others have it already and are
//! stored as they came, with all members. The key is `source` and `id`, whichever mode brought them.
//!
//! The modes are those of the "HTTP Protocol Binding for CloudEvents" 1.0.2, section 3; values of headers are read by its section 3.1.3.2,
//! the handshake is that of "HTTP 1.1 Web Hooks for Event Delivery" 1.0.2, section 4.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::super::events::ack::{self, CE_ID, CE_SOURCE, MAX_KEY};
use super::super::events::{admit, classify, trace_id};
use super::super::wire::body::{self, LimitedBody, WholeBody};
use super::super::wire::encoding::{Encoding, decode_whole};
use super::super::wire::error::ApiError;
use super::super::wire::json::{self, check_start};
use super::super::{AckedResponse, AppState, Services};
use super::members::{self, Ended, ObjectWriter};
use crate::config::Protocol;
use crate::ingest::json::JsonKind;
use crate::ingest::keys::{self, Key, KeyKind};
use crate::ingest::{content, text};

/// The media type of an event in structured mode, and of every stored one.
pub(in crate::http) const MEDIA_TYPE: &str = "application/cloudevents+json";
const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";
const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
/// The prefix of attributes in headers.
const PREFIX: &str = "ce-";
const VERSION: &str = "1.0";

const WEBHOOK_REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const WEBHOOK_ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const WEBHOOK_ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// How a request contains CloudEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Mode {
    /// The attributes are headers, the body is the data.
    Binary,
    /// The body is an event.
    Structured,
    /// The body is an array of events.
    Batched,
}

/// The mode of a request with these headers; `None`: it has no CloudEvents, or the protocol is off.
pub(in crate::http) fn mode(state: &AppState, headers: &HeaderMap) -> Option<Mode> {
    if !state.protocols.has(Protocol::CloudEvents) {
        return None;
    }
    let declared = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let essence = declared.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes()) {
        Some(Mode::Structured)
    } else if essence.eq_ignore_ascii_case(BATCH_MEDIA_TYPE.as_bytes()) {
        Some(Mode::Batched)
    } else {
        // Without it, `ce-source` and `ce-id` are the key of any event.
        headers.contains_key(CE_SPECVERSION).then_some(Mode::Binary)
    }
}

/// Whether a request with `OPTIONS` is the handshake. A browser's preflight names a method.
pub(in crate::http) fn asks_to_send(state: &AppState, headers: &HeaderMap) -> bool {
    state.protocols.has(Protocol::CloudEvents)
        && headers.contains_key(WEBHOOK_REQUEST_ORIGIN)
        && !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Allows a sender to send. The consent protects others than us: an event still needs a token. `rate` is in requests a minute, as the
/// sender's wish is.
pub(in crate::http) fn answer_handshake(request: &HeaderMap, rate: Option<u32>) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Some(origin) = request.get(WEBHOOK_REQUEST_ORIGIN) {
        headers.insert(WEBHOOK_ALLOWED_ORIGIN, origin.clone());
    }
    let rate = rate.map_or(HeaderValue::from_static("*"), HeaderValue::from);
    headers.insert(WEBHOOK_ALLOWED_RATE, rate);
    headers.insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

/// Admits an event in binary or structured mode.
pub(in crate::http) async fn post(
    services: &Services,
    head: &Parts,
    body: &mut LimitedBody,
    mode: Mode,
) -> Result<AckedResponse, ApiError> {
    let trace_id = trace_id(&head.headers)?;
    let requested = ack::requested(services, head)?;
    let attributes = match mode {
        Mode::Binary => Some(attributes(&head.headers)?),
        _ => {
            json::media_type(&head.headers)?;
            None
        }
    };
    let whole = match Encoding::of(&head.headers)? {
        Encoding::Identity => body::read_whole(body, &services.bodies).await?,
        encoding => decode_whole(body, encoding, &services.bodies).await?,
    };
    let event = match attributes {
        Some(attributes) => {
            let data = move |body: &WholeBody| Ok(structured(&attributes, body));
            let (event, whole) = Box::pin(json::parse(whole, data)).await?;
            drop(whole);
            if event.len() > services.limits.event_bytes {
                return Err(body.limits().too_large());
            }
            WholeBody::gathered_within(event, &services.bodies)?
        }
        None => {
            check_start(&whole)?;
            whole.without_mark()
        }
    };
    let space = ack::key_space(head).map(<[u8]>::to_vec);
    let key = move |event: &WholeBody| key(event, space.as_deref()).map_err(InvalidEvent::into_error);
    let (key, event) = Box::pin(json::parse(event, key)).await?;
    let (verdict, event) = classify(services, event).await?;
    if let JsonKind::NotJson(at) = verdict {
        let message = format!("the body is not JSON from byte {at} on");
        return Err(ApiError::invalid(message).field("body"));
    }
    let content = content(verdict, &event);
    admit(services, requested, trace_id, content, Some(MEDIA_TYPE), Some(key)).await
}

/// An event that lacks what CloudEvents require.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct InvalidEvent {
    field: &'static str,
    /// What is wrong.
    pub(in crate::http) message: &'static str,
}

impl InvalidEvent {
    fn into_error(self) -> ApiError {
        ApiError::invalid(self.message).field(self.field)
    }
}

const NOT_AN_OBJECT: InvalidEvent = InvalidEvent { field: "body", message: "a CloudEvent is a JSON object" };
const NO_VERSION: InvalidEvent = InvalidEvent { field: "specversion", message: "specversion takes 1.0" };
const NO_ID: InvalidEvent = InvalidEvent { field: "id", message: "id takes a text of 1 to 1024 bytes" };
const NO_SOURCE: InvalidEvent =
    InvalidEvent { field: "source", message: "source takes a text of 1 to 1024 bytes" };
const NO_TYPE: InvalidEvent = InvalidEvent { field: "type", message: "type takes a text" };
const TWO_DATA: InvalidEvent =
    InvalidEvent { field: "data_base64", message: "an event has data or data_base64, not both" };
const NOT_BASE64: InvalidEvent = InvalidEvent { field: "data_base64", message: "data_base64 takes base64" };

/// The key of an event in the JSON format, which is checked.
pub(in crate::http) fn key(event: &[u8], space: Option<&[u8]>) -> Result<Key, InvalidEvent> {
    let (mut version, mut id, mut source, mut kind) = (None, None, None, None);
    let (mut data, mut data_base64) = (None, None);
    let read = members::members(event, |name, value| {
        match &*name {
            "specversion" => version = members::text(value),
            "id" => id = members::text(value),
            "source" => source = members::text(value),
            "type" => kind = members::text(value),
            "data" => data = Some(value),
            "data_base64" => data_base64 = Some(value).filter(|value| !members::is_null(value)),
            _ => {}
        }
        Ok::<(), InvalidEvent>(())
    });
    match read {
        Ok(()) => {}
        Err(Ended::NotThis) => return Err(NOT_AN_OBJECT),
        Err(Ended::By(invalid)) => return Err(invalid),
    }
    if version.as_deref() != Some(VERSION) {
        return Err(NO_VERSION);
    }
    let is_key = |text: &Cow<'_, str>| (1..=MAX_KEY).contains(&text.len());
    let id = id.filter(is_key).ok_or(NO_ID)?;
    let source = source.filter(is_key).ok_or(NO_SOURCE)?;
    kind.filter(|kind| !kind.is_empty()).ok_or(NO_TYPE)?;
    if let Some(value) = data_base64 {
        if data.is_some() {
            return Err(TWO_DATA);
        }
        let is_base64 = members::text(value).is_some_and(|text| STANDARD.decode(&*text).is_ok());
        if !is_base64 {
            return Err(NOT_BASE64);
        }
    }
    let parts = [source.as_bytes(), id.as_bytes(), space.unwrap_or_default()];
    let parts = if space.is_some() { &parts[..] } else { &parts[..2] };
    Ok(keys::hash(KeyKind::CloudEvent, parts))
}

/// The attributes of an event in binary mode, by their names.
type Attributes = Vec<(String, String)>;

/// Reads the attributes from headers.
fn attributes(headers: &HeaderMap) -> Result<Attributes, ApiError> {
    let mut attributes = Vec::new();
    let names = headers.keys().filter_map(|name| Some((name, name.as_str().strip_prefix(PREFIX)?)));
    for (name, attribute) in names {
        let mut values = headers.get_all(name).iter();
        let value = values.next();
        if values.next().is_some() {
            return Err(ApiError::invalid("an attribute is there twice").field(name.as_str().to_owned()));
        }
        match attribute {
            "" | "data" | "data_base64" => {
                let message = "the data of an event in binary mode is the body";
                return Err(ApiError::invalid(message).field(name.as_str().to_owned()));
            }
            // It is the content-type.
            "datacontenttype" => continue,
            _ => {}
        }
        let value = value.map_or(&b""[..], HeaderValue::as_bytes);
        attributes.push((attribute.to_owned(), attribute_value(value)));
    }
    for (header, missing) in
        [(&CE_ID, "ce-id takes 1 to 1024 bytes"), (&CE_SOURCE, "ce-source takes 1 to 1024 bytes")]
    {
        if headers.get(header).is_none_or(HeaderValue::is_empty) {
            return Err(ApiError::invalid(missing).field(header.as_str().to_owned()));
        }
    }
    if let Some(value) = headers.get(CONTENT_TYPE) {
        attributes.push(("datacontenttype".to_owned(), latin_1_or_utf_8(value.as_bytes())));
    }
    Ok(attributes)
}

/// The value of an attribute: without the quotes of a quoted string, then percent-decoded where that makes UTF-8. Clients that do not
/// encode send a `%` as it is.
fn attribute_value(header: &[u8]) -> String {
    let value = latin_1_or_utf_8(header);
    let value = match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        None => value,
        Some(quoted) => {
            let mut plain = String::with_capacity(quoted.len());
            let mut characters = quoted.chars();
            while let Some(character) = characters.next() {
                plain.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
            }
            plain
        }
    };
    match percent_decode_str(&value).decode_utf8() {
        Ok(Cow::Owned(decoded)) => decoded,
        Ok(Cow::Borrowed(_)) | Err(_) => value,
    }
}

/// The text of a header: UTF-8, or else Latin-1, in which Node sends it.
fn latin_1_or_utf_8(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// An event in the JSON format (section 3.1 of it): data that is declared as JSON, or not declared, and is JSON becomes `data`; other text
/// that is declared as such becomes a string; everything else is base64.
fn structured(attributes: &Attributes, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 256);
    let mut event = ObjectWriter::new(&mut out);
    let mut declared = None;
    for (name, value) in attributes {
        if name == "datacontenttype" {
            declared = Some(value);
        }
        event.text(name, value);
    }
    let essence = declared.and_then(|declared| declared.split(';').next());
    let essence = essence.unwrap_or("application/json").trim().to_ascii_lowercase();
    let is_json = essence.ends_with("/json") || essence.ends_with("+json");
    let data = text::without_mark(body);
    if body.is_empty() {
        // No data.
    } else if is_json && members::is_json(data) {
        event.raw("data", data.trim_ascii());
    } else if essence.starts_with("text/")
        && let Ok(text) = std::str::from_utf8(body)
    {
        event.text("data", text);
    } else {
        event.text("data_base64", &STANDARD.encode(body));
    }
    event.end();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pairs: &[(&'static str, &[u8])], body: &[u8]) -> Result<String, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        attributes(&headers).map(|attributes| String::from_utf8(structured(&attributes, body)).unwrap())
    }

    const NEEDED: [(&str, &[u8]); 4] =
        [("ce-specversion", b"1.0"), ("ce-id", b"1"), ("ce-source", b"/s"), ("ce-type", b"t")];
    const HEAD: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t""#;

    #[test]
    fn binary_events_are_written_in_the_json_format() {
        for (kind, body, rest) in [
            ("application/json", &br#" {"a":1.0} "#[..], r#""data":{"a":1.0}"#),
            ("application/vnd.a+json; charset=utf-8", b"null", r#""data":null"#),
            ("application/json", b"{", r#""data_base64":"ew==""#),
            ("application/json", b"{} {}", r#""data_base64":"e30ge30=""#),
            ("text/plain", b"a\"\n", r#""data":"a\"\n""#),
            ("text/plain", b"\xff", r#""data_base64":"/w==""#),
            ("application/octet-stream", b"1", r#""data_base64":"MQ==""#),
        ] {
            let written = event(&[&NEEDED[..], &[("content-type", kind.as_bytes())]].concat(), body).unwrap();
            assert_eq!(written, format!("{HEAD},\"datacontenttype\":\"{kind}\",{rest}}}"));
            assert!(key(written.as_bytes(), None).is_ok());
        }
        assert_eq!(event(&NEEDED, b"[1]").unwrap(), format!("{HEAD},\"data\":[1]}}"));
        assert_eq!(event(&NEEDED, b"").unwrap(), format!("{HEAD}}}"));
    }

    #[test]
    fn values_of_headers_are_decoded_where_they_are_encoded() {
        for (header, value) in [
            (&b"a b%"[..], "a b%"),
            (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u{20ac} \u{1f600}"),
            (b"%e9", "%e9"),
            (b"caf\xe9", "caf\u{e9}"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (br#""a \"b\" %20""#, "a \"b\"  "),
            (b"\"", "\""),
            (b"100%25", "100%"),
        ] {
            assert_eq!(attribute_value(header), value);
        }
    }

    #[test]
    fn events_without_what_the_standard_requires_are_rejected() {
        let refused = |pairs: &[_]| event(pairs, b"").is_err();
        assert!(refused(&NEEDED[..1]) && refused(&NEEDED[..2]));
        assert!(refused(&[&NEEDED[..], &[("ce-id", b"2")]].concat()), "two ids");
        assert!(refused(&[&NEEDED[..], &[("ce-data", b"2")]].concat()));
        let good = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;
        let both = key(format!("{{{good}}}").as_bytes(), None);
        assert_eq!(both, Ok(keys::hash(KeyKind::CloudEvent, &[b"/s", b"1"])));
        for (json, invalid) in [
            ("[]".to_owned(), NOT_AN_OBJECT),
            ("{".to_owned(), NOT_AN_OBJECT),
            (format!("{{{good},\"specversion\":\"0.3\"}}"), NO_VERSION),
            (format!("{{{good},\"specversion\":1.0}}"), NO_VERSION),
            (format!("{{{good},\"id\":\"\"}}"), NO_ID),
            (format!("{{{good},\"id\":7}}"), NO_ID),
            (format!("{{{good},\"id\":\"{}\"}}", "x".repeat(1025)), NO_ID),
            (format!("{{{good},\"source\":null}}"), NO_SOURCE),
            (format!("{{{good},\"type\":\"\"}}"), NO_TYPE),
            (format!("{{{good},\"data\":1,\"data_base64\":\"MQ==\"}}"), TWO_DATA),
            (format!("{{{good},\"data_base64\":\"M\"}}"), NOT_BASE64),
            (format!("{{{good},\"data_base64\":1}}"), NOT_BASE64),
        ] {
            assert_eq!(key(json.as_bytes(), None), Err(invalid), "{json}");
        }
    }
}
