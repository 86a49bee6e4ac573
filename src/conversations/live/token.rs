//! Where a follower of a conversation is: what he says when he comes back (`Last-Event-ID`).
//!
//! It is the feed's position, then what cannot be told from that alone:
//!
//! | part | |
//! |---|---|
//! | `xid.number` | the feed up to here was told |
//! | `/i…` | of the import at the position, the messages up to this id were told |
//! | `/s…` | what a snapshot saw was shown, up to the `/p…` behind it; once for all pages that saw the same |
//! | `/p…` | up to this message |
//! | `/m` | there may be more messages behind the last one which no page has shown |

use std::fmt;

use uuid::Uuid;

use super::shown::{self, Shown};
use crate::conversations::place::{Order, Place};
use crate::realtime::{Position, Snapshot};

/// The longest token that is read, in bytes. Those that are written are shorter.
const MAX_BYTES: usize = 16 * 1024;
const _: () = assert!(shown::MAX_BYTES + 1024 <= MAX_BYTES);

/// Where a follower is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The feed up to here was told.
    pub(super) position: Position,
    /// Of the import behind the position, the messages up to this one were told.
    pub(super) within: Option<Uuid>,
    /// What was shown by pages that may have seen more than the position says.
    pub(super) shown: Shown,
    /// Whether pages go on behind the last of them.
    pub(super) is_paging: bool,
}

impl Token {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut parts = text.split('/');
        let position = Position::parse(parts.next()?)?;
        let (mut within, mut snapshot, mut is_paging) = (None, None, false);
        let mut shown = Shown::default();
        for part in parts {
            match part.split_at_checked(1)? {
                ("i", id) if within.is_none() => within = Some(Uuid::try_parse(id).ok()?),
                ("s", text) if snapshot.is_none() => snapshot = Some(Snapshot::parse(text)?),
                ("p", text) => shown.add(Place::parse(text, Order::Messages)?, snapshot.take()?),
                ("m", "") if !is_paging => is_paging = true,
                _ => return None,
            }
        }
        let is_whole = snapshot.is_none() && (shown.end().is_some() || !is_paging);
        is_whole.then_some(Self { position, within, shown, is_paging })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        if let Some(id) = self.within {
            write!(f, "/i{id}")?;
        }
        for (place, snapshot) in self.shown.pages() {
            write!(f, "/s{snapshot}/p{}", place.token(Order::Messages))?;
        }
        if self.is_paging { f.write_str("/m") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::Micros;
    use super::*;

    proptest! {
        #[test]
        fn a_token_is_read_as_it_is_written(
            xid: u64, number in -1..i64::MAX, id: u128, within: bool, pages in 0..4_u64, is_paging: bool, us in 0..Micros::LATEST.0
        ) {
            let id = Uuid::from_u128(id);
            let mut shown = Shown::default();
            for page in 0..pages {
                let snapshot = Snapshot::parse(&format!("{0}:{0}:", xid / 2 + page)).unwrap();
                shown.add(Place { at: Micros(us), id }, snapshot);
            }
            let token = Token {
                position: Position { xid, number },
                within: within.then_some(id),
                shown,
                is_paging: pages > 0 && is_paging,
            };
            prop_assert_eq!(Token::parse(&token.to_string()), Some(token));
        }

        #[test]
        fn a_token_is_read_however_many_transactions_its_pages_saw_running(
            all in prop::collection::vec(0..2_000_usize, 0..40), few: bool
        ) {
            let mut shown = Shown::default();
            for (page, running) in all.into_iter().enumerate() {
                let page = page as u64;
                let xids = (0..running as u64).rev().map(|n| (u64::MAX - n).to_string());
                let running: Vec<String> = xids.take(if few { 40 } else { running }).collect();
                let text = format!("{}:{}:{}", u64::MAX - 5_000 + page, u64::MAX, running.join(","));
                shown.add(Place { at: Micros(page as i64), id: Uuid::max() }, Snapshot::parse(&text).unwrap());
            }
            let is_paging = shown.end().is_some();
            let position = Position { xid: u64::MAX, number: i64::MAX };
            let token = Token { position, within: Some(Uuid::max()), shown, is_paging };
            prop_assert!(token.to_string().len() <= shown::MAX_BYTES + 256);
            prop_assert_eq!(Token::parse(&token.to_string()), Some(token));
        }

        #[test]
        fn no_token_makes_reading_panic(text in ".{0,40}", parts in "[0-9./ispm:é-]{0,30}") {
            let _ = (Token::parse(&text), Token::parse(&parts));
        }
    }
}
