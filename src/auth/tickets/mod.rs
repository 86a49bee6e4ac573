//! Tickets: one-use substitutes for a token where a browser can set no header, such as the URL of an `EventSource` or a WebSocket.
//!
//! A ticket lives half a minute, and the first request that shows it uses it up: a URL in a proxy's log is worth nothing. The database
//! has its SHA-256 and the caller's [`Credential`], so any node takes it, once among all of them, and the access behind it is checked again
//! as that of the caller's token would be.

mod store;

use sha2::{Digest, Sha256};

use super::limits::LimitSubject;
use super::random::{self, Secret};
use super::{AuthError, Credential};
use crate::db::{Database, DbError};
use store::TicketStore;

/// Seconds for which a ticket is valid.
pub const TICKET_S: u32 = 30;
/// Unused tickets of a caller. Requests at the same moment may exceed it by their number.
pub const MAX_CALLER_TICKETS: i64 = 100;
/// Unused tickets of all callers: as many clients can come back at once.
pub const MAX_TICKETS: i64 = 20_000;

const MARK: &str = "tgt_";
/// Characters behind the mark: 5 bits each.
const CHARACTERS: usize = 40;

/// Tickets; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tickets {
    store: TicketStore,
}

/// A ticket that is to be used.
#[derive(Debug, Clone, Copy)]
pub struct TicketHash([u8; 32]);

impl TicketHash {
    /// The hash of a text in the form of a ticket; `None`: another form.
    pub fn of(text: &str) -> Option<Self> {
        let random = text.strip_prefix(MARK)?.as_bytes();
        let is_ticket =
            random.len() == CHARACTERS && random.iter().all(|byte| random::ALPHABET.contains(byte));
        is_ticket.then(|| Self(Sha256::digest(text).into()))
    }
}

impl Tickets {
    /// The tickets of `database`.
    pub(super) fn new(database: &Database) -> Self {
        Self { store: TicketStore::new(database, database.statement_timeout()) }
    }

    /// Makes a ticket for a caller.
    ///
    /// # Errors
    ///
    /// [`AuthError::TooManyTickets`], [`AuthError::Invalid`] for a credential that gives no access to an account, [`AuthError::Database`].
    pub async fn create(&self, credential: &Credential, caller: &LimitSubject) -> Result<Secret, AuthError> {
        let text = format!("{MARK}{}", random::text(CHARACTERS)?);
        let hash = TicketHash::of(&text).ok_or(AuthError::Failed)?;
        let json = credential.to_json().ok_or(AuthError::Invalid)?;
        // Names of callers may be long, and are only compared.
        let caller: [u8; 32] = Sha256::digest(format!("{caller:?}")).into();
        match self.store.add(&hash, &caller, &json).await? {
            true => Ok(Secret::new(text)),
            false => Err(AuthError::TooManyTickets),
        }
    }

    /// Uses a ticket up; returns the credential of its caller.
    ///
    /// # Errors
    ///
    /// [`AuthError::InvalidTicket`] for one that is used, expired or unknown, [`AuthError::Database`].
    pub async fn redeem(&self, hash: &TicketHash) -> Result<Credential, AuthError> {
        let found = self.store.take(hash).await?;
        found.and_then(Credential::from_json).ok_or(AuthError::InvalidTicket)
    }

    /// Deletes expired tickets.
    pub(super) async fn forget(&self) -> Result<(), DbError> {
        self.store.forget().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_has_a_form_of_its_own() {
        let random = "0123456789abcdefghjkmnpqrstvwxyz01234567";
        assert!(TicketHash::of(&format!("tgt_{random}")).is_some());
        for bad in [
            "",
            "tgt_",
            random,
            &format!("tgt_{random}0"),
            &format!("tgt_{}i", &random[1..]),
            &format!("tg_{random}"),
        ] {
            assert!(TicketHash::of(bad).is_none(), "{bad}");
        }
    }
}
