//! Who may use what.
//!
//! A request shows a bearer token of one of four kinds, and [`Verifier`] says whose it is out of memory, without waiting:
//!
//! | token | good if |
//! |---|---|
//! | the operator's (`STRESS_TOKEN`) | it is that, compared in constant time |
//! | a JWT of our own | signed with `JWT_SECRET`, in its time, and its session is not over (`revocations`) |
//! | a JWT of an issuer | verified by a public key that an operator named |
//! | an API key, a write-only one too | its SHA-256 is known (`keys::cache`), or the database knows it ([`Accounts::look_up`]) |
//!
//! What anybody may do is a set of [`Scopes`]; which route needs which is a table of the HTTP face. Users, sessions and keys
//! are in Postgres, and [`Accounts`] is the handle of whatever reads or changes them. What one node takes back the others read
//! within a second.

mod accounts;
mod clock;
mod issuer;
mod jwt;
pub mod keys;
pub mod limits;
mod name;
mod principal;
mod random;
mod revocations;
mod scope;
mod secret;
pub mod sessions;
pub mod users;
mod verifier;

pub use accounts::Accounts;
pub use issuer::IssuerError;
pub use keys::{KeyHash, is_key, is_write_only_key};
pub use principal::{Decision, Principal, Who};
pub use random::{NoRandomness, Secret};
pub use scope::{ALL as ALL_SCOPES, Scope, Scopes};
pub use secret::{SecretError, SigningSecret, signing_secret};
pub use verifier::{Shown, Verifier};

use crate::db::DbError;

/// Why somebody is not let in, or what he asked for is not done.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A token that is not good. Why is not told: it would help whoever made it up.
    #[error("the token is not valid")]
    Invalid,
    /// It cannot be told yet whether a token is good.
    #[error("sessions are not known yet; try again later")]
    NotReady,
    /// An unknown email, or a wrong password: which of them is not told.
    #[error("the email or the password is wrong")]
    WrongPassword,
    /// A user has the email.
    #[error("the email is taken")]
    EmailTaken,
    /// A value that cannot be taken.
    #[error("{message}")]
    Field {
        /// Its member.
        field: &'static str,
        /// What it takes.
        message: String,
    },
    /// More passwords wait to be checked than may.
    #[error("too many passwords are being checked; try again later")]
    Overloaded,
    /// `REGISTRATION` is off.
    #[error("nobody can register here")]
    RegistrationOff,
    /// There is no `JWT_SECRET` to sign tokens with.
    #[error("users sign in elsewhere: there is no JWT_SECRET")]
    SignInOff,
    /// What was asked for is not there, or is another's: which of them is not told.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A key may not be given more than its maker may.
    #[error("a key may do no more than whoever makes it")]
    BeyondRights,
    /// The user has as many keys as he may.
    #[error("there are {0} keys already (MAX_USER_KEYS)")]
    TooManyKeys(i64),
    /// Who asks is none of our users.
    #[error("this takes a user's token")]
    NotAUser,
    /// The database.
    #[error("the database")]
    Database(#[source] Box<DbError>),
    /// Something that never fails did.
    #[error("a token or a hash cannot be made")]
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
