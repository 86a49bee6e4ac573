//! What conversations and messages are made of.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use super::chat::{self, Extra};

/// A time in microseconds of Unix time: as fine as Postgres keeps it, and messages are ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Micros {
    /// The end of the year 9999: later than whatever is stored.
    pub const LATEST: Self = Self(253_402_300_799_999_999);
    /// The beginning of Unix time: before whatever is stored.
    pub const EARLIEST: Self = Self(0);
}

impl From<SystemTime> for Micros {
    fn from(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_micros() as i64,
            Err(before) => -(before.duration().as_micros() as i64),
        })
    }
}

impl From<Micros> for SystemTime {
    fn from(time: Micros) -> Self {
        let size = Duration::from_micros(time.0.unsigned_abs());
        if time.0 < 0 { UNIX_EPOCH - size } else { UNIX_EPOCH + size }
    }
}

/// RFC 3339 in UTC, to the microsecond.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        let micro = time.microsecond();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z")
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text of a JSON object that `jsonb` takes.
#[derive(Debug, Clone)]
pub struct Metadata(pub(super) Box<RawValue>);

impl Metadata {
    /// What is known to be the text of a JSON object that `jsonb` takes.
    pub fn new(object: Box<RawValue>) -> Self {
        Self(object)
    }

    /// An object without members.
    pub fn empty() -> Self {
        Self(RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A conversation.
#[derive(Debug, Clone, Serialize)]
pub struct Conversation {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// Its title.
    pub title: String,
    /// When it was made.
    pub created_at: Micros,
    /// When something was done to it last: a message came or was ended, or it was changed.
    pub updated_at: Micros,
    /// What its owner keeps with it.
    pub metadata: Metadata,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever wrote the instructions.
    System,
    /// The same, as newer models call it.
    Developer,
    /// A person.
    User,
    /// A model.
    Assistant,
    /// A tool that a model called.
    Tool,
    /// The same, as older models call it.
    Function,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool, Self::Function];
    /// What a role takes, for refusals.
    pub const TAKES: &str = "takes system, developer, user, assistant, tool or function";

    /// The role that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == word)
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Function => "function",
        }
    }
}

/// A message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// Its conversation.
    pub conversation_id: Uuid,
    /// Who says it.
    pub role: Role,
    /// The text of what is said, so far if it is being written.
    pub content: String,
    /// What is said beside text.
    pub extra: Option<Extra>,
    /// When it was added; messages are ordered by it, then by their ids.
    pub timestamp: Micros,
    /// Tokens, as the client counted them.
    pub token_count: Option<i32>,
    /// What its owner keeps with it.
    pub metadata: Metadata,
    /// Whether nothing more is added to it.
    pub done: bool,
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("conversation_id", &self.conversation_id)?;
        map.serialize_entry("role", &self.role)?;
        chat::write(&mut map, &self.content, self.extra.as_ref())?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("token_count", &self.token_count)?;
        map.serialize_entry("metadata", &self.metadata)?;
        map.serialize_entry("done", &self.done)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_kept_to_the_microsecond(us in 0..Micros::LATEST.0) {
            let time = Micros(us);
            prop_assert_eq!(Micros::from(SystemTime::from(time)), time);
            let read = OffsetDateTime::parse(&time.to_string(), &Rfc3339).unwrap();
            prop_assert_eq!(read.unix_timestamp_nanos(), i128::from(us) * 1000);
        }
    }

    #[test]
    fn every_role_reads_back_what_it_is_called() {
        for word in ["system", "developer", "user", "assistant", "tool", "function"] {
            assert_eq!(Role::parse(word).unwrap().name(), word);
        }
        for word in ["", "User", "bot", "user "] {
            assert_eq!(Role::parse(word), None, "{word}");
        }
    }
}
