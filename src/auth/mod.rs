//! Authentication and authorization.
//!
//! A request has a bearer token of one of four kinds, which [`Verifier`] verifies from memory, without waiting:
//!
//! | token | valid if |
//! |---|---|
//! | the operator's (`STRESS_TOKEN`) | equal, compared in constant time |
//! | a JWT of the service | signed with `JWT_SECRET`, not expired, and its session has not ended (`revocations`) |
//! | a JWT of an issuer | verified by a public key that an operator configured |
//! | an API key, also write-only | its SHA-256 is cached (`keys::cache`), or in the database ([`Accounts::look_up`]) |
//!
//! Permissions are a set of [`Scopes`]; the HTTP face has the table of required scopes per route. Users, sessions and keys are
//! in Postgres, behind the handle [`Accounts`]. Other nodes read a revocation within a second.

mod accounts;
mod clock;
mod credential;
mod id_tokens;
mod issuer;
mod jwt;
pub mod keys;
pub mod limits;
mod name;
mod principal;
mod random;
mod record_tokens;
mod revocations;
mod scope;
mod secret;
pub mod sessions;
pub mod tickets;
pub mod users;
mod verifier;

pub use accounts::Accounts;
pub use credential::Credential;
pub use id_tokens::id_token_claims;
pub use issuer::IssuerError;
pub use keys::{KeyHash, is_key, is_write_only_key};
pub use principal::{Decision, Identity, Principal};
pub use random::{NoRandomness, Secret};
pub use record_tokens::{RecordClaims, RecordTokenKind};
pub use scope::{ALL as ALL_SCOPES, Scope, Scopes};
pub use secret::{SecretError, SigningSecret, signing_secret};
pub use verifier::{Verification, Verifier};

use crate::db::DbError;

/// The reason why a principal or a request is rejected.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// An invalid token. The cause is not reported: it would help to forge one.
    #[error("the token is not valid")]
    Invalid,
    /// A ticket that is used, expired or unknown.
    #[error("the ticket is used, expired or unknown; ask for another one")]
    InvalidTicket,
    /// The caller, or all callers, have the maximum number of tickets.
    #[error("there are too many unused tickets; they expire within {} seconds", tickets::TICKET_S)]
    TooManyTickets,
    /// Sessions are not loaded yet, so the token cannot be verified.
    #[error("sessions are not known yet; try again later")]
    NotReady,
    /// An unknown email, or a wrong password: the two are not distinguished.
    #[error("the email or the password is wrong")]
    WrongPassword,
    /// Another user has the email.
    #[error("the email is taken")]
    EmailTaken,
    /// An invalid value.
    #[error("{message}")]
    Field {
        /// Its member.
        field: &'static str,
        /// The valid values.
        message: String,
    },
    /// Too many passwords wait to be checked.
    #[error("too many passwords are being checked; try again later")]
    Overloaded,
    /// `REGISTRATION` is off.
    #[error("registration is off")]
    RegistrationOff,
    /// There is no `JWT_SECRET` to sign tokens with.
    #[error("users log in elsewhere: there is no JWT_SECRET")]
    SignInOff,
    /// The object does not exist, or belongs to another user: the two are not distinguished.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A key cannot have more scopes than its creator.
    #[error("a key cannot have more scopes than its creator")]
    BeyondRights,
    /// The user has the maximum number of keys.
    #[error("there are {0} keys already")]
    TooManyKeys(i64),
    /// The principal is none of the service's users.
    #[error("this takes a user's token")]
    NotAUser,
    /// The database's error.
    #[error("the database")]
    Database(#[source] Box<DbError>),
    /// A token or a hash could not be created.
    #[error("a token or a hash could not be created")]
    Failed,
}

impl From<DbError> for AuthError {
    fn from(error: DbError) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<NoRandomness> for AuthError {
    fn from(_: NoRandomness) -> Self {
        Self::Failed
    }
}
