//! An event that is not in `requests` as a tuple of `dead_letters`: its own tuple with four more fields behind it.

use super::id::unix_now_us;
use super::row::{self, Tuple};

/// The columns of `dead_letters` that a tuple fills.
pub const COLUMNS: &str =
    "id, trace_id, payload, body, content_type, received_at, error, reason, attempts, failed_at";
const FIELDS: i16 = 10;

/// Why an event is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The queue was full, or the journal accepted nothing; the client received a 503.
    Overload,
    /// Postgres rejected the row.
    Rejected,
    /// A trigger on `requests` returned null for the row.
    DroppedByTrigger,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Overload, Self::Rejected, Self::DroppedByTrigger];

    /// The names of all reasons, for arguments.
    pub fn names() -> [&'static str; 3] {
        Self::ALL.map(Self::name)
    }

    /// The reason's name in the table and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Rejected => "rejected",
            Self::DroppedByTrigger => "dropped_by_trigger",
        }
    }
}

/// The dead letter of a row that Postgres rejected. The payload itself may be at fault, so it is kept byte for byte in
/// `body`.
pub fn encode_rejected(tuple: Tuple<'_>, error: &str, reason: Reason, attempts: u32) -> Vec<u8> {
    let [id, trace_id, payload, body, content_type, received_at] = tuple.fields();
    let payload = match payload {
        Some([_version, payload @ ..]) => Some(payload),
        _ => None,
    };
    let mut letter = begin(tuple, error);
    for field in [id, trace_id, None, payload.or(body), content_type, received_at] {
        match field {
            Some(bytes) => row::put_field(&mut letter, bytes),
            None => row::put_null(&mut letter),
        }
    }
    end(&mut letter, error, reason, attempts);
    letter
}

/// The dead letter of an event that was refused.
pub fn encode_overload(tuple: Tuple<'_>, error: &str) -> Vec<u8> {
    let mut letter = begin(tuple, error);
    letter.extend_from_slice(tuple.bytes().get(2..).unwrap_or_default());
    end(&mut letter, error, Reason::Overload, 0);
    letter
}

fn begin(tuple: Tuple<'_>, error: &str) -> Vec<u8> {
    let mut letter = Vec::with_capacity(tuple.bytes().len() + error.len() + 64);
    letter.extend_from_slice(&FIELDS.to_be_bytes());
    letter
}

fn end(letter: &mut Vec<u8>, error: &str, reason: Reason, attempts: u32) {
    // An error's message may quote a NUL, which a text column rejects.
    row::put_field(letter, error.replace('\0', "\\0").as_bytes());
    row::put_field(letter, reason.name().as_bytes());
    row::put_field(letter, &(attempts as i32).to_be_bytes());
    row::put_field(letter, &row::postgres_timestamp(unix_now_us()));
}
