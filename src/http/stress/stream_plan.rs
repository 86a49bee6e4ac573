//! The parameters of a stream of messages.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::BytesMut;
use datastar::DatastarEvent;
use datastar::prelude::{PatchElements, PatchSignals};

use super::message::{Message, Shape};
use super::pace::Pace;
use crate::config::limits;
use crate::http::wire::error::ApiError;
use crate::http::wire::sse::{self, Fields};

/// Names in `events`, and bytes of each.
const MAX_NAMES: usize = 64;
const MAX_NAME: usize = 128;
/// The slowest rate: a message in about 17 minutes.
const MIN_RATE: f64 = 0.001;
const PATCH_SIGNALS: &str = "datastar-patch-signals";
const PATCH_ELEMENTS: &str = "datastar-patch-elements";
/// The header with the position of a reconnecting client (WHATWG HTML, section 9.2.4).
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// The highest position of a client: the largest integer that JavaScript represents exactly.
const MAX_ID: u64 = (1 << 53) - 1;

/// The format of the events around the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Datastar,
}

/// The content and the rate of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StreamPlan {
    pub(super) pace: Pace,
    /// The number of the last message; `None`: no end.
    last: Option<u64>,
    /// The number behind which the stream begins.
    pub(super) seen: u64,
    size: usize,
    shape: Shape,
    format: Format,
    /// The events' names in rotation; empty: events have no names.
    names: Vec<String>,
    retry_ms: u64,
}

impl StreamPlan {
    /// Reads parameters and the `Last-Event-ID`.
    ///
    /// # Errors
    ///
    /// 400 names the first wrong parameter.
    pub(super) fn parse(
        parameters: &[(String, String)],
        last_event_id: Option<&[u8]>,
        default_rate: u64,
    ) -> Result<Self, ApiError> {
        let mut plan = Self {
            pace: Pace::new(default_rate as f64),
            last: None,
            seen: seen(last_event_id)?,
            size: 0,
            shape: Shape::Flat,
            format: Format::Plain,
            names: Vec::new(),
            retry_ms: limits::SSE_RETRY_MS,
        };
        let mut names = None;
        for (index, (name, value)) in parameters.iter().enumerate() {
            if parameters.iter().take(index).any(|(other, _)| other == name) {
                return Err(wrong(name, "is repeated"));
            }
            match name.as_str() {
                "rate" => plan.pace = Pace::new(rate(value)?),
                "count" => {
                    let takes = || wrong(name, "takes a whole number from 1");
                    plan.last = Some(whole(value, 1, u64::MAX).ok_or_else(takes)?);
                }
                "size" => {
                    let most = limits::SSE_MAX_MESSAGE_BYTES as u64;
                    let takes = || wrong(name, &format!("takes a whole number of bytes from 1 to {most}"));
                    plan.size = whole(value, 1, most).ok_or_else(takes)? as usize;
                }
                "shape" => {
                    let takes = || wrong(name, "takes flat, nested, array, multiline or mixed");
                    plan.shape = Shape::parse(value).ok_or_else(takes)?;
                }
                "format" => {
                    plan.format = match value.as_str() {
                        "plain" => Format::Plain,
                        "datastar" => Format::Datastar,
                        _ => return Err(wrong(name, "takes plain or datastar")),
                    };
                }
                "events" => names = Some(value),
                _ => return Err(wrong(name, "is no parameter of this route")),
            }
        }
        plan.names = event_names(names.map(String::as_str), plan.format)?;
        Ok(plan)
    }

    /// Whether nothing is left to be sent behind the first `sent` messages of this stream.
    pub(super) fn is_complete(&self, sent: u64) -> bool {
        self.last.is_some_and(|last| self.seen.saturating_add(sent) >= last)
    }

    /// Messages of this stream that are due behind the first `sent`, of `due` in all.
    pub(super) fn owed(&self, due: u64, sent: u64) -> u64 {
        let all = self.last.map_or(u64::MAX, |last| last.saturating_sub(self.seen));
        due.min(all).saturating_sub(sent)
    }

    /// Writes the message behind the first `sent` of this stream. `json` is a buffer for its data.
    pub(super) fn write(&self, out: &mut BytesMut, json: &mut BytesMut, sent: u64, time_ms: u64) {
        let sequence = self.seen.saturating_add(sent).saturating_add(1);
        json.clear();
        Message { sequence, time_ms, size: self.size, shape: self.shape }.write(json);
        let retry_ms = (sent == 0).then_some(self.retry_ms);
        let mut digits = itoa::Buffer::new();
        let id = digits.format(sequence);
        let turn = (sequence % self.names.len().max(1) as u64) as usize;
        let event = self.names.get(turn).map(String::as_str);
        match self.format {
            Format::Plain => sse::write_event(out, Fields { id: Some(id), event, retry_ms }, json),
            Format::Datastar => {
                let mut event = datastar_event(event.unwrap_or(PATCH_SIGNALS), json).id(id);
                if let Some(retry_ms) = retry_ms {
                    event = event.retry(Duration::from_millis(retry_ms));
                }
                let _infallible = write!(out, "{event}");
            }
        }
    }
}

/// The message as a patch: of the signal `message`, or of the element with that id. The JSON is our own and holds nothing
/// that HTML would read as markup.
fn datastar_event(name: &str, json: &BytesMut) -> DatastarEvent {
    let json = String::from_utf8_lossy(json);
    if name == PATCH_ELEMENTS {
        PatchElements::new(format!("<pre id=\"message\">{json}</pre>")).into_datastar_event()
    } else {
        PatchSignals::new(format!("{{\"message\":{json}}}")).into_datastar_event()
    }
}

fn wrong(name: &str, takes: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::invalid(format!("{name} {takes}")).field(name)
}

fn whole(text: &str, least: u64, most: u64) -> Option<u64> {
    // Rust also parses a leading plus sign, which a query decodes to a space anyway.
    text.parse()
        .ok()
        .filter(|number| text.starts_with(|c: char| c.is_ascii_digit()) && (least..=most).contains(number))
}

fn rate(text: &str) -> Result<f64, ApiError> {
    let most = limits::SSE_MAX_RATE as f64;
    let number = text.parse().ok().filter(|rate| (MIN_RATE..=most).contains(rate));
    number.ok_or_else(|| wrong("rate", &format!("takes messages a second from {MIN_RATE} to {most}")))
}

fn event_names(text: Option<&str>, format: Format) -> Result<Vec<String>, ApiError> {
    let names: Vec<&str> = match (text, format) {
        (Some(text), _) => text.split(',').collect(),
        (None, Format::Plain) => Vec::new(),
        (None, Format::Datastar) => vec![PATCH_SIGNALS, PATCH_ELEMENTS],
    };
    let is_name = |name: &&str| (1..=MAX_NAME).contains(&name.len()) && sse::is_one_line(name);
    if names.len() > MAX_NAMES || !names.iter().all(is_name) {
        let takes = format!(
            "takes 1 to {MAX_NAMES} names with commas between, each of 1 to {MAX_NAME} bytes without line ends"
        );
        return Err(wrong("events", &takes));
    }
    if format == Format::Datastar && !names.iter().all(|name| matches!(*name, PATCH_SIGNALS | PATCH_ELEMENTS))
    {
        return Err(wrong(
            "events",
            &format!("takes {PATCH_SIGNALS} and {PATCH_ELEMENTS} with format=datastar"),
        ));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn seen(last_event_id: Option<&[u8]>) -> Result<u64, ApiError> {
    let text = last_event_id.unwrap_or_default();
    if text.is_empty() {
        return Ok(0);
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| whole(text, 0, MAX_ID));
    number.ok_or_else(|| wrong(LAST_EVENT_ID, "takes the id of a message of this stream, a whole number"))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use eventsource_stream::{Event, Eventsource};
    use futures_util::StreamExt;

    use super::*;

    fn parse(parameters: &[(&str, &str)], last_event_id: Option<&[u8]>) -> Result<StreamPlan, ApiError> {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        StreamPlan::parse(&parameters, last_event_id, limits::SSE_RATE)
    }

    fn events(plan: &StreamPlan, messages: u64) -> Vec<Event> {
        let (mut out, mut json) = (BytesMut::new(), BytesMut::new());
        for sent in 0..messages {
            plan.write(&mut out, &mut json, sent, 0);
        }
        let pieces = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(out)]);
        let events = pieces.eventsource().map(Result::unwrap).collect::<Vec<_>>();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(events)
    }

    #[test]
    fn the_parameter_that_is_wrong_is_named() {
        for (name, value) in [
            ("rate", ""),
            ("rate", "0"),
            ("rate", "-1"),
            ("rate", "NaN"),
            ("rate", "inf"),
            ("rate", "10001"),
            ("rate", "1e9"),
            ("count", "0"),
            ("count", "1.5"),
            ("count", "-1"),
            ("count", "99999999999999999999999"),
            ("size", "0"),
            ("size", "65537"),
            ("size", "+1"),
            ("shape", "FLAT"),
            ("shape", "'; drop table requests; --"),
            ("format", "xml"),
            ("events", ""),
            ("events", "a,,b"),
            ("events", "a\nb"),
            ("events", "a\0"),
            ("colour", "red"),
            ("__proto__", "1"),
        ] {
            let response = parse(&[(name, value)], None).unwrap_err().into_response();
            assert_eq!(response.status(), 400, "{name}={value}");
            let body = axum::body::to_bytes(response.into_body(), 10_000);
            let body = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(body);
            let json: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
            assert_eq!(json["error"]["field"], name, "{name}={value}");
        }
        assert!(parse(&[("events", &"a,".repeat(100))], None).is_err());
        assert!(parse(&[("rate", "1"), ("rate", "2")], None).is_err());
        assert!(parse(&[("format", "datastar"), ("events", "tick")], None).is_err());
        for id in [&b"x"[..], b"-1", b"1.5", b"\xff"] {
            assert!(parse(&[], Some(id)).is_err());
        }
    }

    #[test]
    fn a_stream_goes_on_behind_what_its_client_has_seen() {
        let plan = parse(&[("count", "12"), ("events", "a,b,c")], Some(b"7")).unwrap();
        let events = events(&plan, 5);
        let seen: Vec<_> = events.iter().map(|event| (event.id.as_str(), event.event.as_str())).collect();
        assert_eq!(seen, [("8", "c"), ("9", "a"), ("10", "b"), ("11", "c"), ("12", "a")]);
        assert_eq!(events[0].retry, Some(Duration::from_secs(1)));
        assert!(!plan.is_complete(4) && plan.is_complete(5));
        assert_eq!((plan.owed(3, 1), plan.owed(100, 1)), (2, 4));
        assert!(parse(&[("count", "12")], Some(b"12")).unwrap().is_complete(0));
        let last = MAX_ID.to_string();
        assert!(!parse(&[], Some(last.as_bytes())).unwrap().is_complete(u64::MAX));
        assert!(parse(&[], Some((MAX_ID + 1).to_string().as_bytes())).is_err());
    }

    #[test]
    fn datastar_reads_its_own_events() {
        let plan = parse(&[("format", "datastar"), ("shape", "mixed"), ("size", "200")], None).unwrap();
        for event in events(&plan, 8) {
            let lines: Vec<&str> = event.data.lines().collect();
            match event.event.as_str() {
                PATCH_SIGNALS => {
                    let json: String =
                        lines.iter().map(|line| line.strip_prefix("signals ").unwrap()).collect();
                    let signals: serde_json::Value = serde_json::from_str(&json).unwrap();
                    assert!(signals["message"].is_object() || signals["message"].is_array(), "{signals}");
                }
                PATCH_ELEMENTS => {
                    let html: String =
                        lines.iter().map(|line| line.strip_prefix("elements ").unwrap()).collect();
                    assert!(html.starts_with("<pre id=\"message\">") && html.ends_with("</pre>"), "{html}");
                }
                other => panic!("{other}"),
            }
        }
    }
}
