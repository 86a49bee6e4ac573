//! The parser of lines.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::CONVERSATIONS_OFF;
use super::model::{Field, Kind, Limits, Plan};
use crate::conversations::{Role, read_content};
use crate::ingest::json::{self, JsonKind, JsonLimits};

/// The reason why a line is rejected.
pub(super) type Rejection = Cow<'static, str>;

const DEFAULT_TITLE: &str = "New Conversation";
const EMPTY_OBJECT: &str = "{}";
const MAX_TRACE_ID_BYTES: usize = 128;
/// The leeway for the clock of a file's author, in microseconds.
const LEEWAY_US: i64 = 60_000_000;

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedLine<'a> {
    Event(Event<'a>),
    Conversation(Conversation<'a>),
    Message(Message<'a>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) content: &'a [u8],
    /// Whether `jsonb` accepts it.
    pub(super) is_jsonb: bool,
    pub(super) trace_id: Option<Cow<'a, str>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conversation<'a> {
    pub(super) id: Option<Uuid>,
    pub(super) title: Cow<'a, str>,
    /// An object that `jsonb` accepts.
    pub(super) metadata: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) conversation: Uuid,
    pub(super) role: &'static str,
    pub(super) content: String,
    /// An object that `jsonb` accepts; see [`crate::conversations::Extra`].
    pub(super) extra: Option<String>,
    /// Microseconds of Unix time.
    pub(super) timestamp_us: Option<i64>,
    pub(super) token_count: Option<i32>,
    /// An object that `jsonb` accepts.
    pub(super) metadata: &'a str,
}

/// Parses lines.
#[derive(Debug)]
pub(super) struct Parser<'a> {
    plan: &'a Plan,
    limits: Limits,
    /// The beginning of the import, in microseconds of Unix time.
    now_us: i64,
}

impl<'a> Parser<'a> {
    pub(super) fn new(plan: &'a Plan, limits: Limits, now_us: i64) -> Self {
        Self { plan, limits, now_us }
    }

    /// Parses a line.
    pub(super) fn parse<'l>(&self, line: &'l [u8]) -> Result<ParsedLine<'l>, Rejection> {
        if self.plan.kind == Some(Kind::Event) && !self.plan.mapping.maps_payload() {
            self.may_store(Kind::Event)?;
            return self.event(line, None).map(ParsedLine::Event);
        }
        let text = std::str::from_utf8(line).map_err(|error| not_json(error.valid_up_to()))?;
        let members = LineMembers::read(text, self.plan)?;
        let kind = match (self.plan.kind, members.get(Field::Kind)) {
            (Some(kind), _) => kind,
            (None, Some(word)) => string(word)
                .and_then(|word| Kind::parse(&word))
                .ok_or("kind takes event, conversation or message")?,
            (None, None) => return Err("kind is missing".into()),
        };
        self.may_store(kind)?;
        match kind {
            Kind::Event => {
                let payload = members.get(Field::Payload).ok_or("payload is missing")?;
                let trace_id = members.text(Field::TraceId, MAX_TRACE_ID_BYTES)?;
                let is_visible =
                    |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
                if trace_id.as_deref().is_some_and(|text| !is_visible(text)) {
                    return Err("trace_id takes 1 to 128 visible ASCII characters".into());
                }
                self.event(payload.as_bytes(), trace_id).map(ParsedLine::Event)
            }
            Kind::Conversation => self.conversation(&members).map(ParsedLine::Conversation),
            Kind::Message => self.message(&members).map(ParsedLine::Message),
        }
    }

    fn may_store(&self, kind: Kind) -> Result<(), Rejection> {
        match kind {
            Kind::Conversation | Kind::Message if !self.limits.has_conversations => {
                Err(CONVERSATIONS_OFF.into())
            }
            kind if self.plan.allowed.has(kind) => Ok(()),
            Kind::Event => Err("this takes the permission events:write".into()),
            Kind::Conversation | Kind::Message => Err("this takes the permission conversations:write".into()),
        }
    }

    fn event<'l>(&self, content: &'l [u8], trace_id: Option<Cow<'l, str>>) -> Result<Event<'l>, Rejection> {
        let limit = self.limits.event_bytes;
        if content.len() > limit {
            return Err(format!("the event is larger than {limit} bytes (MAX_EVENT_BYTES)").into());
        }
        let limits = JsonLimits { depth: self.limits.json_depth, bytes: limit };
        match json::classify_event(content, limits) {
            JsonKind::Jsonb => Ok(Event { content, is_jsonb: true, trace_id }),
            JsonKind::NotJsonb(_) => Ok(Event { content, is_jsonb: false, trace_id }),
            JsonKind::NotJson(at) => Err(not_json(at)),
        }
    }

    fn conversation<'l>(&self, members: &LineMembers<'l>) -> Result<Conversation<'l>, Rejection> {
        let title = members.text(Field::Title, self.limits.title_bytes)?;
        Ok(Conversation {
            id: members.uuid(Field::Id)?,
            title: title.unwrap_or(Cow::Borrowed(DEFAULT_TITLE)),
            metadata: self.metadata(members)?,
        })
    }

    fn message<'l>(&self, members: &LineMembers<'l>) -> Result<Message<'l>, Rejection> {
        let role = members.text(Field::Role, 16)?.ok_or("role is missing")?;
        let role = Role::parse(&role).ok_or_else(|| format!("role {}", Role::TAKES))?.name();
        let count = |raw: &str| raw.parse().ok().filter(|count| *count >= 0);
        let token_count = match members.get(Field::TokenCount) {
            None => None,
            Some(raw) => Some(count(raw).ok_or("token_count takes a whole number from 0 to 2147483647")?),
        };
        let others: Vec<(&'static str, &str)> = Field::OF_CHAT
            .into_iter()
            .filter_map(|field| Some((field.name(), members.get(field)?)))
            .collect();
        let (bytes, depth) = (self.limits.message_bytes, self.limits.json_depth);
        let content = read_content(members.get(Field::Content), &others, bytes, depth);
        let content = content.map_err(|invalid| format!("{} {}", invalid.member, invalid.why))?;
        Ok(Message {
            conversation: members.uuid(Field::ConversationId)?.ok_or("conversation_id is missing")?,
            role,
            content: content.text,
            extra: content.extra.map(|extra| extra.as_str().to_owned()),
            timestamp_us: self.timestamp(members)?,
            token_count,
            metadata: self.metadata(members)?,
        })
    }

    fn timestamp(&self, members: &LineMembers<'_>) -> Result<Option<i64>, Rejection> {
        let Some(text) = members.text(Field::Timestamp, 64)? else { return Ok(None) };
        let time = OffsetDateTime::parse(&text, &Rfc3339)
            .map_err(|_| "timestamp takes a time such as 2026-01-31T12:00:00Z (RFC 3339)")?;
        let us = time.unix_timestamp_nanos() / 1000;
        match i64::try_from(us) {
            Ok(us) if (0..=self.now_us.saturating_add(LEEWAY_US)).contains(&us) => Ok(Some(us)),
            _ => Err("timestamp takes a time since 1970 that has passed".into()),
        }
    }

    fn metadata<'l>(&self, members: &LineMembers<'l>) -> Result<&'l str, Rejection> {
        let Some(metadata) = members.get(Field::Metadata) else { return Ok(EMPTY_OBJECT) };
        if !metadata.starts_with('{') {
            return Err("metadata takes a JSON object".into());
        }
        let limit = self.limits.metadata_bytes;
        match json::measure(metadata.as_bytes(), self.limits.json_depth) {
            (JsonKind::Jsonb, size) if size <= limit => Ok(metadata),
            (JsonKind::Jsonb, _) => Err(format!("metadata is larger than {limit} bytes").into()),
            (JsonKind::NotJsonb(why), _) => Err(format!("metadata cannot be stored: {why}").into()),
            (JsonKind::NotJson(at), _) => Err(not_json(at)),
        }
    }
}

fn not_json(at: usize) -> Rejection {
    format!("not JSON from byte {at} on").into()
}

/// The text of a JSON string, if Postgres can store it.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if memchr::memchr(b'\\', plain.as_bytes()).is_none() => Cow::Borrowed(plain),
        _ => Cow::Owned(serde_json::from_str::<String>(raw).ok()?),
    };
    (memchr::memchr(0, text.as_bytes()).is_none()).then_some(text)
}

/// The mapped members of a line, as raw JSON; the last one of a duplicate name counts.
#[derive(Debug, Default)]
struct LineMembers<'l>([Option<&'l str>; Field::ALL.len()]);

impl<'l> LineMembers<'l> {
    fn read(text: &'l str, plan: &Plan) -> Result<Self, Rejection> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let members =
            reader.deserialize_map(MembersVisitor(plan)).and_then(|members| reader.end().map(|()| members));
        members.map_err(|error| match error.is_data() {
            true => "it is not a JSON object".into(),
            false => not_json(error.column().saturating_sub(1)),
        })
    }

    /// A member, unless it is missing or null.
    fn get(&self, field: Field) -> Option<&'l str> {
        self.0.get(field as usize).copied().flatten().filter(|raw| *raw != "null")
    }

    fn text(&self, field: Field, max_bytes: usize) -> Result<Option<Cow<'l, str>>, Rejection> {
        let Some(raw) = self.get(field) else { return Ok(None) };
        let name = field.name();
        let text = string(raw).ok_or_else(|| format!("{name} takes text without U+0000"))?;
        if text.len() > max_bytes {
            return Err(format!("{name} is longer than {max_bytes} bytes").into());
        }
        Ok(Some(text))
    }

    fn uuid(&self, field: Field) -> Result<Option<Uuid>, Rejection> {
        let Some(raw) = self.get(field) else { return Ok(None) };
        let id = string(raw).and_then(|text| Uuid::try_parse(&text).ok());
        id.map(Some).ok_or_else(|| format!("{} takes a UUID", field.name()).into())
    }
}

struct MembersVisitor<'a>(&'a Plan);

impl<'l> Visitor<'l> for MembersVisitor<'_> {
    type Value = LineMembers<'l>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<LineMembers<'l>, A::Error> {
        let mut members = LineMembers::default();
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let mut fields = self.0.mapping.fields_of(&name).peekable();
            if fields.peek().is_none() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: &'l RawValue = map.next_value()?;
            for field in fields {
                if let Some(slot) = members.0.get_mut(field as usize) {
                    *slot = Some(raw.get());
                }
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Allowed, Mapping};
    use super::*;

    const LIMITS: Limits = Limits {
        line_bytes: 1000,
        event_bytes: 40,
        title_bytes: 10,
        message_bytes: 12,
        metadata_bytes: 20,
        json_depth: 10,
        has_conversations: true,
    };
    const ID: &str = "0190a5e4-7b1c-7000-8000-00000000002a";

    fn plan(kind: Option<Kind>) -> Plan {
        Plan { kind, mapping: Mapping::default(), allowed: Allowed::which(|_| true) }
    }

    fn reason(plan: &Plan, line: &str) -> String {
        match Parser::new(plan, LIMITS, 1_800_000_000_000_000).parse(line.as_bytes()) {
            Err(reason) => reason.into_owned(),
            Ok(entry) => panic!("{line}: {entry:?}"),
        }
    }

    #[test]
    fn a_line_of_events_is_an_event_as_a_whole_and_need_not_be_jsonb() {
        let plan = plan(Some(Kind::Event));
        let parser = Parser::new(&plan, LIMITS, 0);
        for (line, is_jsonb) in [("[1]", true), (r#"{"kind":"message"}"#, true), (r#""\u0000""#, false)] {
            let event = Event { content: line.as_bytes(), is_jsonb, trace_id: None };
            assert_eq!(parser.parse(line.as_bytes()), Ok(ParsedLine::Event(event)));
        }
        assert_eq!(reason(&plan, "nope"), "not JSON from byte 0 on");
        assert_eq!(
            reason(&plan, &format!("\"{}\"", "x".repeat(40))),
            "the event is larger than 40 bytes (MAX_EVENT_BYTES)"
        );
    }

    #[test]
    fn each_line_may_say_its_kind_and_a_mapping_where_its_fields_are() {
        let mut plan = plan(None);
        plan.mapping.set("content", "text").unwrap();
        let parser = Parser::new(&plan, LIMITS, 1_800_000_000_000_000);
        let line = format!(
            r#"{{"x":[{{}}],"kind":"message","role":"user","text":"a\"é","conversation_id":"{ID}","token_count":3,
                "timestamp":"1970-01-01T00:00:01Z","metadata":{{"a":1}}}}"#
        );
        let message = Message {
            conversation: ID.parse().unwrap(),
            role: "user",
            content: "a\"é".into(),
            extra: None,
            timestamp_us: Some(1_000_000),
            token_count: Some(3),
            metadata: r#"{"a":1}"#,
        };
        assert_eq!(parser.parse(line.as_bytes()), Ok(ParsedLine::Message(message)));
        let conversation = Conversation { id: None, title: DEFAULT_TITLE.into(), metadata: "{}" };
        let line = br#"{"kind":"conversation","id":null}"#;
        assert_eq!(parser.parse(line), Ok(ParsedLine::Conversation(conversation)));
        let event = Event { content: b"[1, 2]", is_jsonb: true, trace_id: Some("t".into()) };
        let line = br#"{"kind":"event","payload": [1, 2] ,"trace_id":"t"}"#;
        assert_eq!(parser.parse(line), Ok(ParsedLine::Event(event)));
    }

    #[test]
    fn a_stamp_may_be_a_minute_ahead_as_clocks_differ() {
        let plan = plan(None);
        let line = |time: &str| {
            format!(
                r#"{{"kind":"message","conversation_id":"{ID}","role":"user","content":"a","timestamp":"{time}"}}"#
            )
        };
        // The import began at 08:00:00.
        for (time, ahead_s) in [("2027-01-15T08:00:03Z", 3), ("2027-01-15T09:01:00+01:00", 60)] {
            match Parser::new(&plan, LIMITS, 1_800_000_000_000_000).parse(line(time).as_bytes()) {
                Ok(ParsedLine::Message(message)) => {
                    assert_eq!(message.timestamp_us, Some((1_800_000_000 + ahead_s) * 1_000_000), "{time}");
                }
                other => panic!("{time}: {other:?}"),
            }
        }
        let late = reason(&plan, &line("2027-01-15T08:01:00.000001Z"));
        assert_eq!(late, "timestamp takes a time since 1970 that has passed");
    }

    #[test]
    fn what_cannot_be_stored_is_left_out_with_its_reason() {
        let plan = plan(None);
        let message = |rest: &str| {
            format!(r#"{{"kind":"message","conversation_id":"{ID}","role":"user","content":"a"{rest}}}"#)
        };
        for (line, expected) in [
            ("[]".into(), "it is not a JSON object"),
            ("{".into(), "not JSON from byte 0 on"),
            ("{} {}".into(), "not JSON from byte 3 on"),
            (r#"{"a":1}"#.into(), "kind is missing"),
            (r#"{"kind":7}"#.into(), "kind takes event, conversation or message"),
            (r#"{"kind":"event"}"#.into(), "payload is missing"),
            (
                r#"{"kind":"event","payload":1,"trace_id":"a b"}"#.into(),
                "trace_id takes 1 to 128 visible ASCII characters",
            ),
            (r#"{"kind":"message"}"#.into(), "role is missing"),
            (message(r#","role":"bot""#), "role takes system, developer, user, assistant, tool or function"),
            (message(r#","conversation_id":"7""#), "conversation_id takes a UUID"),
            (message(r#","content":null"#), "content has to be there, or tool_calls"),
            (
                message(r#","content":7"#),
                "content takes a text, or a list of parts, each an object with a type",
            ),
            (message(r#","content":"\u0000""#), "content cannot be stored: it holds \\u0000"),
            (message(r#","content":"\ud800""#), "content cannot be stored: it holds half a surrogate pair"),
            (message(r#","content":"aaaaaaaaaaaaa""#), "content takes up to 12 bytes (MAX_MESSAGE_BYTES)"),
            (message(r#","token_count":-1"#), "token_count takes a whole number from 0 to 2147483647"),
            (message(r#","token_count":1.5"#), "token_count takes a whole number from 0 to 2147483647"),
            (
                message(r#","timestamp":"3000-01-01T00:00:00Z""#),
                "timestamp takes a time since 1970 that has passed",
            ),
            (message(r#","timestamp":5"#), "timestamp takes text without U+0000"),
            (message(r#","metadata":[]"#), "metadata takes a JSON object"),
            (message(r#","metadata":{"a":"\u0000"}"#), "metadata cannot be stored: it holds \\u0000"),
            (message(r#","metadata":{"a":1e30}"#), "metadata is larger than 20 bytes"),
            (r#"{"kind":"conversation","title":"aaaaaaaaaaa"}"#.into(), "title is longer than 10 bytes"),
        ] {
            assert_eq!(reason(&plan, &line), expected, "{line}");
        }
        let plan = Plan { allowed: Allowed::which(|kind| kind == Kind::Event), ..plan };
        assert_eq!(reason(&plan, &message("")), "this takes the permission conversations:write");
    }
}
