//! The cursor of a live subscription: the id of each event, which a client that comes back sends as `Last-Event-ID`.
//!
//! It is a position in the feed, and the snapshots of pages that may have seen more:
//!
//! | part | |
//! |---|---|
//! | a [`Position`] | the changes up to here were delivered |
//! | `/i…` | of the import behind the position, the messages up to this id were delivered |
//! | `/s…` | the snapshot of the pages up to the `/p…` behind it; once for all pages with the same |
//! | `/p…` | up to this message |
//! | `/m` | there may be more messages behind the last page |

use std::fmt;

use uuid::Uuid;

use super::seen::{self, SeenSnapshots};
use crate::conversations::list::MESSAGES;
use crate::paging::SortKey;
use crate::realtime::{Position, Snapshot};

/// The longest cursor that is read, in bytes. Those that are written are shorter.
const MAX_BYTES: usize = 16 * 1024;
const _: () = assert!(seen::MAX_BYTES + 1024 <= MAX_BYTES);

/// The position of a live subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveCursor {
    /// The changes up to here were delivered.
    pub(super) position: Position,
    /// The last message that was delivered of the import behind the position.
    pub(super) within: Option<Uuid>,
    /// The snapshots of pages that may have seen changes behind the position.
    pub(super) seen: SeenSnapshots,
    /// Whether more pages follow.
    pub(super) is_paging: bool,
}

impl LiveCursor {
    /// The changes up to here were delivered.
    pub(in crate::conversations) fn position(&self) -> &Position {
        &self.position
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut parts = text.split('/');
        let position = parts.next()?;
        if is_of_before(position) {
            return Some(Self {
                position: Position::unknown(),
                within: None,
                seen: SeenSnapshots::default(),
                is_paging: false,
            });
        }
        let position = Position::parse(position)?;
        let (mut within, mut snapshot, mut is_paging) = (None, None, false);
        let mut seen = SeenSnapshots::default();
        for part in parts {
            match part.split_at_checked(1)? {
                ("i", id) if within.is_none() => within = Some(Uuid::try_parse(id).ok()?),
                ("s", text) if snapshot.is_none() => snapshot = Some(Snapshot::parse(text)?),
                ("p", text) => seen.add(SortKey::parse(text, MESSAGES)?, snapshot.take()?),
                ("m", "") if !is_paging => is_paging = true,
                _ => return None,
            }
        }
        let is_whole = snapshot.is_none() && (seen.end().is_some() || !is_paging);
        is_whole.then_some(Self { position, within, seen, is_paging })
    }
}

/// Whether it is a position of releases before positions were snapshots, `xid.number`: too old, so the stream is reset.
fn is_of_before(position: &str) -> bool {
    position.split_once('.').is_some_and(|(xid, number)| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number(xid) && is_number(number.strip_prefix('-').unwrap_or(number))
    })
}

impl fmt::Display for LiveCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        if let Some(id) = self.within {
            write!(f, "/i{id}")?;
        }
        for (key, snapshot) in self.seen.pages() {
            write!(f, "/s{snapshot}/p{}", key.cursor(MESSAGES))?;
        }
        if self.is_paging { f.write_str("/m") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use super::*;
    use crate::db::ServerIdentity;
    use crate::realtime::{Place, Poll};
    use crate::time::Micros;

    fn position(xmax: u64, number: Option<i64>) -> Position {
        let snapshot = |xmax: u64| Arc::new(Snapshot::parse(&format!("{xmax}:{xmax}:")).unwrap());
        let poll = Poll { origin: ServerIdentity::default(), base: snapshot(xmax / 2), end: snapshot(xmax) };
        number.map_or(Position::of(poll.origin, snapshot(xmax)), |number| {
            Position::within(&poll, Place { last: number, number })
        })
    }

    #[test]
    fn a_cursor_of_an_earlier_release_is_too_old_and_no_error() {
        for text in ["7.-1", "123.45/i00000000-0000-0000-0000-000000000001", "5.1/s5:5:/p0_x/m"] {
            assert_eq!(LiveCursor::parse(text).unwrap().position, Position::unknown(), "{text}");
        }
        for text in [".", "1.", ".1", "1.-", "a.1", "1.1.1"] {
            assert_eq!(LiveCursor::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_is_written(
            xid: u64, number in 0..i64::MAX, id: u128, within: bool, pages in 0..4_u64, is_paging: bool, us in 0..Micros::LATEST.0
        ) {
            let id = Uuid::from_u128(id);
            let mut seen = SeenSnapshots::default();
            for page in 0..pages {
                let snapshot = Snapshot::parse(&format!("{0}:{0}:", xid / 2 + page)).unwrap();
                seen.add(SortKey { at: Micros(us), id }, snapshot);
            }
            let cursor = LiveCursor {
                position: position(xid, Some(number)),
                within: within.then_some(id),
                seen,
                is_paging: pages > 0 && is_paging,
            };
            prop_assert_eq!(LiveCursor::parse(&cursor.to_string()), Some(cursor));
        }

        #[test]
        fn a_cursor_is_read_however_many_transactions_its_pages_saw_running(
            all in prop::collection::vec(0..2_000_usize, 0..40), few: bool
        ) {
            let mut seen = SeenSnapshots::default();
            for (page, running) in all.into_iter().enumerate() {
                let page = page as u64;
                let xids = (0..running as u64).rev().map(|n| (u64::MAX - n).to_string());
                let running: Vec<String> = xids.take(if few { 40 } else { running }).collect();
                let text = format!("{}:{}:{}", u64::MAX - 5_000 + page, u64::MAX, running.join(","));
                seen.add(SortKey { at: Micros(page as i64), id: Uuid::max() }, Snapshot::parse(&text).unwrap());
            }
            let is_paging = seen.end().is_some();
            let position = position(u64::MAX, Some(i64::MAX));
            let cursor = LiveCursor { position, within: Some(Uuid::max()), seen, is_paging };
            prop_assert!(cursor.to_string().len() <= seen::MAX_BYTES + 256);
            prop_assert_eq!(LiveCursor::parse(&cursor.to_string()), Some(cursor));
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,40}", parts in "[0-9./ispm:é-]{0,30}") {
            let _ = (LiveCursor::parse(&text), LiveCursor::parse(&parts));
        }
    }
}
