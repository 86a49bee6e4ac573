//! Sessions that are over though tokens of theirs have not expired, as this node knows them.
//!
//! Logging out writes a row that every node reads (`follow`), and tells this one at once. A session is remembered until the
//! last of its access tokens has expired. There is room for [`MAX_ENDED`]; beyond it all are forgotten, and so is every token
//! that was issued before: whoever has a session gets another one by its refresh token, which the database knows.

mod follow;
mod fresh;
mod store;

use std::collections::HashMap;

use parking_lot::RwLock;
use uuid::Uuid;

pub(super) use follow::Subscriber;
pub(super) use fresh::Freshness;

/// Sessions that are remembered at once.
const MAX_ENDED: usize = 200_000;

/// What is known of sessions that are over.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when each of them is remembered, in seconds of Unix time.
    ended: HashMap<Uuid, i64>,
    /// Tokens that were issued at this second or before are not good.
    floor_s: i64,
    /// Whether what former runs and other nodes ended is known.
    is_loaded: bool,
}

/// What is known of a token's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is not known to be over.
    Good,
    /// It is over.
    Ended,
    /// Nobody can tell yet: the database has not been read.
    Unknown,
}

impl Revocations {
    /// The standing of a session whose token was issued at `issued_s`.
    pub(super) fn standing(&self, session: Uuid, issued_s: i64) -> Standing {
        let state = self.state.read();
        if state.ended.contains_key(&session) || issued_s <= state.floor_s {
            Standing::Ended
        } else if state.is_loaded {
            Standing::Good
        } else {
            Standing::Unknown
        }
    }

    /// These sessions are over, and are remembered until the second with each of them.
    pub(super) fn end(&self, sessions: impl IntoIterator<Item = (Uuid, i64)>, now_s: i64) {
        let mut state = self.state.write();
        for (session, until_s) in sessions {
            if state.ended.len() >= MAX_ENDED {
                state.ended.retain(|_, until_s| *until_s > now_s);
            }
            if state.ended.len() >= MAX_ENDED {
                tracing::warn!(
                    MAX_ENDED,
                    "too many sessions were ended; every access token has to be renewed"
                );
                state.ended.clear();
                state.floor_s = now_s;
            }
            state.ended.insert(session, until_s);
        }
    }

    /// The database has been read.
    pub(super) fn loaded(&self) {
        self.state.write().is_loaded = true;
    }

    /// Forgets those whose tokens have all expired.
    pub(super) fn expire(&self, now_s: i64) {
        self.state.write().ended.retain(|_, until_s| *until_s > now_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_over_until_its_last_token_has_expired() {
        let (revocations, session) = (Revocations::default(), Uuid::from_u128(1));
        assert_eq!(revocations.standing(session, 5), Standing::Unknown);
        revocations.end([(session, 20)], 10);
        assert_eq!(revocations.standing(session, 5), Standing::Ended);
        revocations.loaded();
        assert_eq!(revocations.standing(Uuid::from_u128(2), 5), Standing::Good);
        revocations.expire(19);
        assert_eq!(revocations.standing(session, 5), Standing::Ended);
        revocations.expire(20);
        assert_eq!(revocations.standing(session, 5), Standing::Good);
    }

    #[test]
    fn more_than_there_is_room_for_end_every_token_that_was_issued_before() {
        let revocations = Revocations::default();
        revocations.loaded();
        revocations.end((0..MAX_ENDED as u128).map(|n| (Uuid::from_u128(n), 1000)), 10);
        let other = Uuid::from_u128(u128::MAX);
        assert_eq!(revocations.standing(other, 10), Standing::Good);
        revocations.end([(Uuid::from_u128(u128::MAX - 1), 1000)], 10);
        assert_eq!(revocations.standing(other, 10), Standing::Ended);
        assert_eq!(revocations.standing(other, 11), Standing::Good);
        assert!(revocations.state.read().ended.len() <= MAX_ENDED);
    }
}
