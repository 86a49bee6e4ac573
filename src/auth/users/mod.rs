//! Users: those with an email and a password, and the subjects of a token issuer.

mod password;
mod store;

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use uuid::Uuid;

pub use store::ListedUser;
pub(super) use store::read_user;

use self::password::Passwords;
use self::store::UserStore;
use super::AuthError;
use super::name;
use super::random::Secret;
use super::scope::Scopes;
use crate::config::limits;
use crate::db::Database;

/// RFC 5321, section 4.5.3.1.3.
const MAX_EMAIL_BYTES: usize = 254;
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=256;
/// Bytes of an issuer's name or a subject's.
const MAX_SUBJECT_BYTES: usize = 1024;
/// Cached subjects of issuers.
const KNOWN_SUBJECTS: usize = 10_000;
/// The lifetime of a cached subject: a subject whose user was deleted gets another user after that.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Users in a page of a list.
const PAGE: i64 = 1000;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: Uuid,
    /// The email; empty if unknown. It proves nothing.
    pub email: String,
    /// The permissions.
    pub permissions: Scopes,
    /// RFC 3339.
    pub created: String,
}

/// An email address of a valid form, stored in NFC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    typed: String,
    composed: String,
}

impl Email {
    /// Parses an email address; it need not exist.
    ///
    /// # Errors
    ///
    /// [`AuthError::Field`].
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        let text = text.trim();
        let parts = text.rsplit_once('@').filter(|(name, domain)| !name.is_empty() && !domain.is_empty());
        let is_plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
        let composed = name::composed(text);
        if parts.is_none() || !is_plain || text.len().max(composed.len()) > MAX_EMAIL_BYTES {
            let message = format!("email takes name@domain, at most {MAX_EMAIL_BYTES} bytes");
            return Err(AuthError::Field { field: "email", message });
        }
        Ok(Self { typed: text.to_owned(), composed })
    }

    /// In NFC, as stored.
    pub fn as_str(&self) -> &str {
        &self.composed
    }

    /// The name for rate limits of log-ins: all spellings that can find one account have the same.
    pub fn account(&self) -> String {
        name::folded(&self.typed)
    }

    /// The spellings under which it may be stored, the likeliest first: earlier versions stored it as typed.
    fn spellings(&self) -> [String; 3] {
        [self.typed.clone(), self.composed.clone(), name::decomposed(&self.typed)]
    }
}

/// A user's name on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserName {
    /// The id, whichever issuer the user has.
    Id(Uuid),
    /// The email.
    Email(Email),
}

impl UserName {
    /// Parses a user's id or an email; the user need not exist.
    ///
    /// # Errors
    ///
    /// [`AuthError::Field`].
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        // No email is parsed as an id: it has an `@`.
        match Uuid::try_parse(text.trim()) {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => Email::parse(text).map(Self::Email),
        }
    }
}

/// A password of a valid length.
#[derive(Debug, Clone)]
pub struct Password(Secret);

impl Password {
    /// Parses a password.
    ///
    /// # Errors
    ///
    /// [`AuthError::Field`].
    pub fn parse(text: String) -> Result<Self, AuthError> {
        if !PASSWORD_BYTES.contains(&text.len()) {
            let message = "password takes 8 to 256 bytes".to_owned();
            return Err(AuthError::Field { field: "password", message });
        }
        Ok(Self(Secret::new(text)))
    }

    /// In NFC, as hashed (RFC 8265, section 4.2).
    fn composed(&self) -> Secret {
        Secret::new(name::composed(self.0.reveal()))
    }

    /// The spellings whose hash may be stored: earlier versions hashed a password as typed.
    fn spellings(self) -> Vec<Secret> {
        let composed = self.composed();
        if composed == self.0 { vec![composed] } else { vec![composed, self.0] }
    }
}

/// Users; cheap to clone.
#[derive(Debug, Clone)]
pub struct Users {
    store: UserStore,
    passwords: Passwords,
    subjects: std::sync::Arc<Cache<(String, String), (Uuid, Instant)>>,
}

impl Users {
    /// The users of `database`.
    pub fn new(database: &Database) -> Self {
        Self {
            store: UserStore::new(database, database.statement_timeout()),
            passwords: Passwords::new(limits::PASSWORD_THREADS, limits::PASSWORD_QUEUE),
            subjects: std::sync::Arc::new(Cache::new(KNOWN_SUBJECTS)),
        }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`AuthError::EmailTaken`], or too many passwords, or [`AuthError::Database`].
    pub async fn add(
        &self,
        email: &Email,
        password: Password,
        permissions: Scopes,
    ) -> Result<User, AuthError> {
        let hash = self.passwords.hash(password.composed()).await?;
        self.store.add(email.as_str(), &email.spellings(), &hash, permissions).await
    }

    /// The user with this email and password. An unknown email takes as long as a wrong password.
    ///
    /// # Errors
    ///
    /// [`AuthError::WrongPassword`], or too many passwords, or [`AuthError::Database`].
    pub async fn sign_in(&self, email: &Email, password: Password) -> Result<User, AuthError> {
        let found = self.store.find_by_email(&email.spellings()).await?;
        let (user, hash) = found.unzip();
        let is_right = self.passwords.is_right(password.spellings(), hash).await?;
        user.filter(|_| is_right).ok_or(AuthError::WrongPassword)
    }

    /// The hash of a password of another kind of account, within the limits of this work.
    ///
    /// # Errors
    ///
    /// [`AuthError::Overloaded`], [`AuthError::Failed`].
    pub async fn hash(&self, password: Secret) -> Result<String, AuthError> {
        self.passwords.hash(Secret::new(name::composed(password.reveal()))).await
    }

    /// Whether a password of another kind of account matches its hash. Without a hash it does not, after the same time.
    ///
    /// # Errors
    ///
    /// As of [`Self::hash`].
    pub async fn is_right(&self, password: Secret, hash: Option<String>) -> Result<bool, AuthError> {
        let composed = Secret::new(name::composed(password.reveal()));
        self.passwords.is_right(vec![composed], hash).await
    }

    /// A user.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn find(&self, id: Uuid) -> Result<Option<User>, AuthError> {
        Ok(self.store.find(id).await?)
    }

    /// The user of this name.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn named(&self, name: &UserName) -> Result<Option<Uuid>, AuthError> {
        let user = match name {
            UserName::Id(id) => self.store.find(*id).await?,
            UserName::Email(email) => {
                self.store.find_by_email(&email.spellings()).await?.map(|(user, _)| user)
            }
        };
        Ok(user.map(|user| user.id))
    }

    /// The user of an issuer's subject, created at its first request.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for an invalid subject, [`AuthError::Database`].
    pub async fn of_subject(&self, issuer: &str, subject: &str) -> Result<Uuid, AuthError> {
        let is_usable = |text: &str| (1..=MAX_SUBJECT_BYTES).contains(&text.len()) && !text.contains('\0');
        if !is_usable(issuer) || !is_usable(subject) {
            return Err(AuthError::Invalid);
        }
        let key = (issuer.to_owned(), subject.to_owned());
        if let Some((id, since)) = self.subjects.get(&key)
            && since.elapsed() < KNOWN_FOR
        {
            return Ok(id);
        }
        let since = Instant::now();
        let id = self.store.of_subject(issuer, subject).await?;
        self.subjects.insert(key, (id, since));
        Ok(id)
    }

    /// Users in order of creation, up to a thousand, after a given one.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn list(&self, after: Option<Uuid>) -> Result<Vec<ListedUser>, AuthError> {
        Ok(self.store.list(after, PAGE).await?)
    }

    /// Sets a user's password; returns false for a user without one.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn set_password(&self, id: Uuid, password: Password) -> Result<bool, AuthError> {
        let hash = self.passwords.hash(password.composed()).await?;
        Ok(self.store.set_password(id, &hash).await?)
    }

    /// Sets a user's permissions; returns false for a user of an issuer, whose tokens carry the permissions.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn set_permissions(&self, id: Uuid, permissions: Scopes) -> Result<bool, AuthError> {
        Ok(self.store.set_permissions(id, permissions).await?)
    }

    /// Deletes a user with all sessions and keys. Their tokens live up to `token_lifetime_s` longer where the revocation is not
    /// read. Returns false if there is no such user.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn delete(&self, id: Uuid, token_lifetime_s: i64) -> Result<bool, AuthError> {
        Ok(self.store.delete(id, token_lifetime_s).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_has_a_name_and_a_domain() {
        for good in ["a@b", "ada@example.com", "\"a@b\"@c", " ada@example.com "] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        let long = format!("{}@b", "a".repeat(253));
        for bad in ["", "a", "@b", "a@", "a b@c", "a\u{0}@b", "a\n@b", &long] {
            assert!(matches!(Email::parse(bad), Err(AuthError::Field { field: "email", .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_user_is_named_by_his_id_or_an_email() {
        let id = Uuid::from_u128(7);
        assert_eq!(UserName::parse(&format!(" {id} ")).unwrap(), UserName::Id(id));
        let email = Email::parse("ada@example.com").unwrap();
        assert_eq!(UserName::parse("ada@example.com").unwrap(), UserName::Email(email));
        for bad in ["", "ada", "00000000-0000-0000-0000-00000000000g"] {
            assert!(UserName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_has_8_to_256_bytes_and_is_never_shown() {
        for (length, is_taken) in [(0, false), (7, false), (8, true), (256, true), (257, false)] {
            assert_eq!(Password::parse("x".repeat(length)).is_ok(), is_taken, "{length}");
        }
        assert!(!format!("{:?}", Password::parse("hunter22".into()).unwrap()).contains("hunter22"));
    }
}
