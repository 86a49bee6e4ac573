//! Ended sessions with unexpired tokens, in the memory of this node.
//!
//! A log-out writes a row that every node reads (`reader`), and is applied to this node at once. An ended session is kept until
//! the last of its access tokens has expired. At most [`MAX_ENDED`] are kept; beyond them all are dropped, and every earlier
//! token becomes invalid: clients get a new one by their refresh token, which the database verifies.

mod freshness;
mod reader;
mod store;

use std::collections::HashMap;

use parking_lot::RwLock;
use uuid::Uuid;

pub(super) use freshness::Freshness;
pub(super) use reader::RevocationReader;

/// Ended sessions kept at once.
const MAX_ENDED: usize = 200_000;

/// The ended sessions.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time until which each is kept, in seconds of Unix time.
    ended: HashMap<Uuid, i64>,
    /// Tokens issued at this second or before are invalid.
    floor_s: i64,
    /// Whether the revocations of former runs and other nodes are loaded.
    is_loaded: bool,
}

/// The status of a token's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionStatus {
    /// Not known to have ended.
    Active,
    /// Ended.
    Ended,
    /// Not known yet: the database has not been read.
    Unknown,
}

impl Revocations {
    /// The status of a session with a token issued at `issued_s`.
    pub(super) fn status(&self, session: Uuid, issued_s: i64) -> SessionStatus {
        let state = self.state.read();
        if state.ended.contains_key(&session) || issued_s <= state.floor_s {
            SessionStatus::Ended
        } else if state.is_loaded {
            SessionStatus::Active
        } else {
            SessionStatus::Unknown
        }
    }

    /// Ends sessions, each kept until the given second.
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

    /// Drops the sessions whose tokens have all expired.
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
        assert_eq!(revocations.status(session, 5), SessionStatus::Unknown);
        revocations.end([(session, 20)], 10);
        assert_eq!(revocations.status(session, 5), SessionStatus::Ended);
        revocations.loaded();
        assert_eq!(revocations.status(Uuid::from_u128(2), 5), SessionStatus::Active);
        revocations.expire(19);
        assert_eq!(revocations.status(session, 5), SessionStatus::Ended);
        revocations.expire(20);
        assert_eq!(revocations.status(session, 5), SessionStatus::Active);
    }

    #[test]
    fn more_than_there_is_room_for_end_every_token_that_was_issued_before() {
        let revocations = Revocations::default();
        revocations.loaded();
        revocations.end((0..MAX_ENDED as u128).map(|n| (Uuid::from_u128(n), 1000)), 10);
        let other = Uuid::from_u128(u128::MAX);
        assert_eq!(revocations.status(other, 10), SessionStatus::Active);
        revocations.end([(Uuid::from_u128(u128::MAX - 1), 1000)], 10);
        assert_eq!(revocations.status(other, 10), SessionStatus::Ended);
        assert_eq!(revocations.status(other, 11), SessionStatus::Active);
        assert!(revocations.state.read().ended.len() <= MAX_ENDED);
    }
}
