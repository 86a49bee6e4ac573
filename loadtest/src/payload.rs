//! The events: a template with placeholders, or the lines of an NDJSON file in turn.
//!
//! Placeholders of a template; every other brace is literal, so JSON needs no escaping:
//!
//! * `{seq}`: the event's number, unique in the run, from 0
//! * `{uuid}`: a new UUIDv7
//! * `{now_ms}`: Unix time in milliseconds
//! * `{rand}`: a random number from 0 to 999,999
//!
//! Bad events have a further member [`BAD_MEMBER`], which a constraint of the run rejects.
//!
//! Bodies that are the same for every event are slices of one buffer: sending them copies nothing.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// The default: an ordinary product event.
pub(crate) const DEFAULT_TEMPLATE: &str = r#"{"event":"signup","userId":"u_{rand}","seq":{seq},"ts":{now_ms},"props":{"plan":"pro","source":"ads","amount":42.5}}"#;

/// The member of bad events that `sql/install_bad.sql` checks.
const BAD_MEMBER: &str = r#""loadtest_bad":true"#;

/// The source of events, on the command line and in the workers' plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A template for every event.
    Template(String),
    /// The non-empty lines of a file, in turn.
    File(PathBuf),
}

/// The reason why events cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read.
    #[error("the payload file {} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The file has no line with content.
    #[error("the payload file {} has no line to send", .0.display())]
    Empty(PathBuf),
    /// Bad events have to be JSON objects.
    #[error("--bad takes a payload that is a JSON object")]
    NoObject,
}

/// Creates request bodies of `events` events.
pub(crate) struct Payloads {
    events: usize,
    content: Content,
}

enum Content {
    Fixed(Lines),
    Rendered(Template, BytesMut),
    Mixed(Mixed, BytesMut),
}

/// Good and bad events.
struct Mixed {
    good: Template,
    bad: Template,
    bad_percent: f64,
}

impl Payloads {
    /// Loads `source` for bodies of `events` lines; 1: one event without a line end. `bad_percent` of the run's events are bad,
    /// evenly distributed.
    pub(crate) fn load(source: &Source, events: usize, bad_percent: Option<f64>) -> Result<Self, Error> {
        let content = match source {
            Source::File(_) if bad_percent.is_some() => return Err(Error::NoObject),
            Source::Template(text) if let Some(bad_percent) = bad_percent => {
                let bad = Template::parse(&with_bad_member(text).ok_or(Error::NoObject)?);
                let mixed = Mixed { good: Template::parse(text), bad, bad_percent };
                Content::Mixed(mixed, BytesMut::new())
            }
            Source::File(path) => Content::Fixed(Lines::read(path, events)?),
            Source::Template(text) => match Template::parse(text) {
                template if template.is_fixed() => Content::Fixed(Lines::repeat(text.as_bytes(), events)),
                template => Content::Rendered(template, BytesMut::new()),
            },
        };
        Ok(Self { events, content })
    }

    /// The body of the run's request `request`.
    pub(crate) fn body(&mut self, request: u64) -> Bytes {
        let first = request * self.events as u64;
        match &mut self.content {
            Content::Fixed(lines) => lines.from(first, self.events),
            Content::Rendered(template, buffer) => {
                render_all(first..first + self.events as u64, buffer, |_| template)
            }
            Content::Mixed(mixed, buffer) => {
                render_all(first..first + self.events as u64, buffer, |seq| mixed.of(seq))
            }
        }
    }
}

fn render_all<'a>(
    seqs: std::ops::Range<u64>,
    buffer: &mut BytesMut,
    template_of: impl Fn(u64) -> &'a Template,
) -> Bytes {
    let now_ms = now_ms();
    let first = seqs.start;
    for seq in seqs {
        if seq > first {
            buffer.extend_from_slice(b"\n");
        }
        template_of(seq).render(seq, now_ms, buffer);
    }
    buffer.split().freeze()
}

impl Mixed {
    fn of(&self, seq: u64) -> &Template {
        let bad_before = |seq: u64| (seq as f64 * self.bad_percent / 100.0).floor();
        if bad_before(seq + 1) > bad_before(seq) { &self.bad } else { &self.good }
    }
}

/// The template with a further member, if it is an object.
fn with_bad_member(template: &str) -> Option<String> {
    let members = template.trim_start().strip_prefix('{').filter(|_| placeholder(template).is_none())?;
    let comma = if members.trim_start().starts_with('}') { "" } else { "," };
    Some(format!("{{{BAD_MEMBER}{comma}{members}"))
}

/// Lines in one buffer, with the first ones repeated at the end: a body of several lines is then one slice, wherever it begins.
struct Lines {
    bytes: Bytes,
    starts: Vec<usize>,
    distinct: u64,
}

impl Lines {
    fn read(path: &Path, events: usize) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| Error::Unreadable(path.into(), error))?;
        let lines: Vec<&[u8]> = bytes
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty())
            .collect();
        if lines.is_empty() {
            return Err(Error::Empty(path.into()));
        }
        Ok(Self::wrap_around(&lines, events))
    }

    fn repeat(line: &[u8], events: usize) -> Self {
        Self::wrap_around(&[line], events)
    }

    fn wrap_around(lines: &[&[u8]], events: usize) -> Self {
        let mut bytes = BytesMut::new();
        let mut starts = vec![0];
        for line in lines.iter().cycle().take(lines.len() + events - 1) {
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\n");
            starts.push(bytes.len());
        }
        Self { bytes: bytes.freeze(), starts, distinct: lines.len() as u64 }
    }

    fn from(&self, first: u64, events: usize) -> Bytes {
        let line = (first % self.distinct) as usize;
        self.bytes.slice(self.starts[line]..self.starts[line + events] - 1)
    }
}

enum Part {
    Text(String),
    Seq,
    Uuid,
    NowMs,
    Rand,
}

struct Template(Vec<Part>);

impl Template {
    fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let (mut text_from, mut at) = (0, 0);
        while let Some(brace) = text[at..].find('{') {
            let open = at + brace;
            at = open + 1;
            let Some((part, name)) = placeholder(&text[open..]) else { continue };
            parts.push(Part::Text(text[text_from..open].to_owned()));
            parts.push(part);
            text_from = open + name.len();
            at = text_from;
        }
        parts.push(Part::Text(text[text_from..].to_owned()));
        Self(parts)
    }

    fn is_fixed(&self) -> bool {
        self.0.len() == 1
    }

    fn render(&self, seq: u64, now_ms: u64, into: &mut BytesMut) {
        for part in &self.0 {
            // Writing into a growing buffer cannot fail.
            let _ = match part {
                Part::Text(text) => into.write_str(text),
                Part::Seq => write!(into, "{seq}"),
                Part::NowMs => write!(into, "{now_ms}"),
                Part::Rand => write!(into, "{}", fastrand::u32(..1_000_000)),
                Part::Uuid => write!(into, "{}", uuid_v7(now_ms)),
            };
        }
    }
}

fn placeholder(text: &str) -> Option<(Part, &'static str)> {
    [(Part::Seq, "{seq}"), (Part::Uuid, "{uuid}"), (Part::NowMs, "{now_ms}"), (Part::Rand, "{rand}")]
        .into_iter()
        .find(|(_, name)| text.starts_with(name))
}

fn uuid_v7(now_ms: u64) -> uuid::Uuid {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid()
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str, events: usize) -> Payloads {
        Payloads::load(&Source::Template(text.to_owned()), events, None).unwrap()
    }

    fn text(body: impl AsRef<[u8]>) -> String {
        String::from_utf8(body.as_ref().to_vec()).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let mut payloads = template(r#"{"n":{seq},"x":{"{other}":{}},"é":"{seq}"}"#, 1);
        assert_eq!(text(payloads.body(7)), r#"{"n":7,"x":{"{other}":{}},"é":"7"}"#);
    }

    #[test]
    fn every_event_of_every_batch_has_its_own_sequence_number() {
        let mut payloads = template("{seq}", 3);
        assert_eq!(text(payloads.body(0)), "0\n1\n2");
        assert_eq!(text(payloads.body(2)), "6\n7\n8");
    }

    #[test]
    fn the_default_template_is_json_with_a_v7_uuid_where_asked() {
        let body = template(DEFAULT_TEMPLATE, 1).body(1);
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(event["seq"], 1);
        let id: uuid::Uuid = text(template("{uuid}", 1).body(0)).parse().unwrap();
        assert_eq!(id.get_version_num(), 7);
    }

    #[test]
    fn bad_events_are_evenly_spread_and_stay_json() {
        let source = |text: &str| Source::Template(text.to_owned());
        let mut payloads = Payloads::load(&source(DEFAULT_TEMPLATE), 1000, Some(2.5)).unwrap();
        let body = text(payloads.body(3));
        let events: Vec<serde_json::Value> =
            body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let bad: Vec<usize> = (0..events.len()).filter(|n| !events[*n]["loadtest_bad"].is_null()).collect();
        assert_eq!((events.len(), bad.len()), (1000, 25));
        assert!(bad.windows(2).all(|pair| pair[1] - pair[0] == 40), "{bad:?}");
        assert_eq!((&events[7]["event"], &events[7]["seq"]), (&"signup".into(), &3007.into()));
        let mut all = Payloads::load(&source("{ }"), 2, Some(100.0)).unwrap();
        assert_eq!(text(all.body(0)), "{\"loadtest_bad\":true }\n{\"loadtest_bad\":true }");
        for text in ["{seq}", "[1]", "text"] {
            assert!(matches!(Payloads::load(&source(text), 1, Some(1.0)), Err(Error::NoObject)), "{text}");
        }
    }

    #[test]
    fn a_template_without_placeholders_is_sent_as_it_is() {
        assert_eq!(text(template("not json {", 1).body(5)), "not json {");
        assert_eq!(text(template("a", 3).body(5)), "a\na\na");
    }

    #[test]
    fn file_lines_go_round_without_gap_at_the_seam() {
        let path = std::env::temp_dir().join(format!("loadtest-payload-{}.ndjson", std::process::id()));
        std::fs::write(&path, "a\n\nb\r\nc").unwrap();
        let source = Source::File(path.clone());
        let mut singles = Payloads::load(&source, 1, None).unwrap();
        let mut batches = Payloads::load(&source, 5, None).unwrap();
        std::fs::write(&path, "\n \n").unwrap();
        let empty = Payloads::load(&source, 1, None);
        std::fs::remove_file(&path).unwrap();

        assert_eq!((0..4).map(|n| text(singles.body(n))).collect::<String>(), "abca");
        assert_eq!(text(batches.body(0)), "a\nb\nc\na\nb");
        assert_eq!(text(batches.body(1)), "c\na\nb\nc\na");
        assert!(matches!(empty, Err(Error::Empty(_))));
    }
}
