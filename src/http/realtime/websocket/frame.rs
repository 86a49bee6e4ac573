//! The frames of a WebSocket, all of them JSON objects in text messages.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::super::topic::Topics;
use super::super::{MAX_CONNECTION_TOPICS, position};
use crate::auth::Secret;
use crate::http::wire::error::ApiError;
use crate::realtime::{MAX_TOPICS, Position};
use crate::typed;

/// A frame of a client.
pub(super) enum Request {
    /// `{"subscribe": […], "from": …}`
    Subscribe {
        /// Topics.
        topics: Topics,
        /// `None`: from now on.
        from: Option<Position>,
    },
    /// `{"unsubscribe": […]}`
    Unsubscribe(Topics),
    /// `{"auth": …}`
    Auth(Secret),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFrame {
    subscribe: Option<Vec<String>>,
    unsubscribe: Option<Vec<String>>,
    auth: Option<String>,
    from: Option<String>,
}

impl Request {
    /// Reads a text message.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ApiError> {
        let frame: RequestFrame = typed::from_slice(text)?;
        let topics = |list: Vec<String>| Topics::parse(list.into_iter(), MAX_CONNECTION_TOPICS);
        let from = frame.from.map(|text| position(&text, "from")).transpose()?;
        let request = match (frame.subscribe, frame.unsubscribe, frame.auth) {
            (Some(list), None, None) => {
                let topics = topics(list)?;
                topics.check_from(from.as_ref())?;
                return Ok(Self::Subscribe { topics, from });
            }
            (None, Some(list), None) => Self::Unsubscribe(topics(list)?),
            (None, None, Some(token)) => Self::Auth(Secret::new(token)),
            _ => {
                return Err(ApiError::invalid("a frame has one of subscribe, unsubscribe and auth")
                    .field("subscribe"));
            }
        };
        match from {
            Some(_) => Err(ApiError::invalid("from goes with subscribe").field("from")),
            None => Ok(request),
        }
    }

    /// What it costs in the allowance of a connection.
    pub(super) fn cost(&self) -> u32 {
        let count = match self {
            Self::Subscribe { topics, .. } | Self::Unsubscribe(topics) => topics.iter().count(),
            Self::Auth(_) => 1,
        };
        count.clamp(1, MAX_TOPICS) as u32
    }
}

/// Frames for a client, one behind the other.
#[derive(Default)]
pub(super) struct Frames {
    bytes: BytesMut,
    ends: Vec<usize>,
}

#[derive(Serialize)]
struct TopicsData {
    topics: Vec<String>,
}

#[derive(Serialize)]
struct CutData {
    reason: &'static str,
}

impl Frames {
    /// The bytes of all of them.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a change, whose data is JSON.
    pub(super) fn change(&mut self, id: &str, data: &[u8]) {
        self.add("change", Some(id), Some(data));
    }

    /// Adds an answer about topics.
    pub(super) fn topics(&mut self, event: &str, id: Option<&str>, topics: &Topics) {
        let data = TopicsData { topics: topics.iter().map(ToString::to_string).collect() };
        self.add(event, id, Some(&json(&data)));
    }

    /// Adds figures, in JSON.
    pub(super) fn stats(&mut self, data: &[u8]) {
        self.add("stats", None, Some(data));
    }

    /// Adds a position.
    pub(super) fn heartbeat(&mut self, id: &str) {
        self.add("heartbeat", Some(id), None);
    }

    /// Adds an error.
    pub(super) fn error(&mut self, error: &ApiError) {
        self.add("error", None, Some(&error.detail()));
    }

    /// Adds the reason for which the connection ends.
    pub(super) fn cut(&mut self, reason: &'static str) {
        self.add("cut", None, Some(&json(&CutData { reason })));
    }

    fn add(&mut self, event: &str, id: Option<&str>, data: Option<&[u8]>) {
        let out = &mut self.bytes;
        out.put_slice(b"{\"event\":\"");
        out.put_slice(event.as_bytes());
        if let Some(id) = id {
            // A position has no character that JSON escapes.
            out.put_slice(b"\",\"id\":\"");
            out.put_slice(id.as_bytes());
        }
        out.put_u8(b'"');
        if let Some(data) = data {
            out.put_slice(b",\"data\":");
            out.put_slice(data);
        }
        out.put_u8(b'}');
        self.ends.push(out.len());
    }

    /// Takes all of them: their bytes, and the end of each.
    pub(super) fn take(&mut self) -> (Bytes, Vec<usize>) {
        (self.bytes.split().freeze(), std::mem::take(&mut self.ends))
    }
}

fn json(data: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(data).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn fault(text: &str) -> (&'static str, Value) {
        let Err(error) = Request::parse(text.as_bytes()) else { panic!("{text}") };
        let detail: Value = serde_json::from_slice(&error.detail()).unwrap();
        (error.code(), detail["field"].clone())
    }

    #[test]
    fn a_frame_has_one_request_and_a_fault_is_named() {
        let good =
            Request::parse(br#" {"from": null, "subscribe": ["topic/a", "topic/a", "records/items"]} "#);
        let Ok(Request::Subscribe { topics, from: None }) = good else { panic!() };
        assert_eq!(topics.iter().count(), 2);
        assert!(matches!(Request::parse(br#"{"unsubscribe": ["topic/a"]}"#), Ok(Request::Unsubscribe(_))));
        assert!(matches!(Request::parse(br#"{"auth": "x"}"#), Ok(Request::Auth(_))));
        let many = json!({"subscribe": (0..10_000).map(|n| format!("topic/{n}")).collect::<Vec<_>>()});
        for (text, field) in [
            ("", "body"),
            ("nonsense", "body"),
            ("[]", "body"),
            ("7", "body"),
            ("{\"subscribe\": [\"topic/a\"]} x", "body"),
            ("{}", "subscribe"),
            (r#"{"subscribe": null}"#, "subscribe"),
            (r#"{"subscribe": "topic/a"}"#, "subscribe"),
            (r#"{"subscribe": []}"#, "topics"),
            (r#"{"subscribe": [7]}"#, "subscribe"),
            (r#"{"subscribe": ["nonsense"]}"#, "topics"),
            (r#"{"subscribe": ["topic/a"], "unsubscribe": ["topic/a"]}"#, "subscribe"),
            (r#"{"subscribe": ["topic/a"], "auth": "x"}"#, "subscribe"),
            (r#"{"subscribe": ["topic/a"], "from": 7}"#, "from"),
            (r#"{"subscribe": ["topic/a"], "from": "x"}"#, "from"),
            (r#"{"unsubscribe": ["topic/a"], "from": "x"}"#, "from"),
            (r#"{"subscribe": ["stats?options={\"old\":true}"]}"#, "old"),
            (r#"{"subscribe": ["topic/a"], "topics": 1}"#, "topics"),
            (r#"{"auth": {}}"#, "auth"),
            (&many.to_string(), "topics"),
        ] {
            assert_eq!(fault(text), ("invalid_request", json!(field)), "{text:.60}");
        }
    }

    #[test]
    fn frames_are_json_objects_one_behind_the_other() {
        let mut frames = Frames::default();
        frames.heartbeat("1.2");
        frames.change("1.3", br#"{"a":"\u2028"}"#);
        frames.cut("slow_reader");
        frames.error(&ApiError::invalid("\"no\"").field("x"));
        let (bytes, ends) = frames.take();
        let mut start = 0;
        let read = |end: &usize| {
            let frame: Value = serde_json::from_slice(&bytes[start..*end]).unwrap();
            start = *end;
            frame
        };
        let all: Vec<Value> = ends.iter().map(read).collect();
        let error = json!({"code": "invalid_request", "message": "\"no\"", "field": "x"});
        let expected = [
            json!({"event": "heartbeat", "id": "1.2"}),
            json!({"event": "change", "id": "1.3", "data": {"a": "\u{2028}"}}),
            json!({"event": "cut", "data": {"reason": "slow_reader"}}),
            json!({"event": "error", "data": error}),
        ];
        assert_eq!(all, expected);
        assert_eq!((frames.len(), frames.take().1.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,60}", topic in "(topic|records)/.{0,10}") {
            let _ = Request::parse(text.as_bytes());
            let frame = json!({"subscribe": [topic], "from": text});
            let _ = Request::parse(frame.to_string().as_bytes());
        }
    }
}
