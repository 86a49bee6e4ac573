//! Sessions, from log-in to log-out.
//!
//! A session is a family of refresh tokens. Each is used once, for an access token and the next refresh token; the rules are in
//! `rotation`. Access tokens name their session, so that ending it invalidates them all, at once on this node and within a
//! second on others.

mod rotation;
mod store;

use std::sync::Arc;

use uuid::Uuid;

pub use store::{Client, ListedSession};

use self::rotation::{RefreshToken, RotationVerdict};
use self::store::SessionStore;
use super::clock::now_s;
use super::random::{self, Secret};
use super::users::User;
use super::{AuthError, Verifier};
use crate::config::{AuthConfig, limits};
use crate::db::Database;

/// The tokens for a password, or for a refresh token.
#[derive(Debug, Clone)]
pub struct Grant {
    /// For `Authorization`.
    pub access: Secret,
    /// For the next refresh.
    pub refresh: Secret,
    /// The lifetime of the access token in seconds.
    pub expires_in_s: i64,
}

/// Sessions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    store: SessionStore,
    verifier: Arc<Verifier>,
    most: i64,
    lifetime_s: i64,
}

/// Access tokens of an ended session are kept a little longer than they live: clocks differ.
const LONGER_S: i64 = 60;

impl Sessions {
    /// The sessions of `database`.
    pub fn new(config: &AuthConfig, verifier: &Arc<Verifier>, database: &Database) -> Self {
        Self {
            store: SessionStore::new(database, database.statement_timeout()),
            verifier: Arc::clone(verifier),
            most: limits::MAX_USER_SESSIONS,
            lifetime_s: config.refresh_token_s as i64,
        }
    }

    /// Begins a session of a user. Beyond `MAX_USER_SESSIONS` the least recently used one ends.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn begin(&self, user: &User, client: &Client) -> Result<Grant, AuthError> {
        if !self.verifier.tokens.can_sign() {
            return Err(AuthError::SignInOff);
        }
        let token = self.token(Uuid::new_v4(), random::bytes()?)?;
        let surplus = self.store.surplus(user.id, self.most - 1).await?;
        if !surplus.is_empty() {
            self.end(Some(user.id), Some(&surplus)).await?;
        }
        self.store.add(user.id, &token, self.lifetime_s, client).await?;
        self.grant(user, &token)
    }

    /// The next tokens of a session, for a refresh token.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for an invalid token; if its successor was used before, the session ends.
    pub async fn refresh(&self, token: &Secret) -> Result<Grant, AuthError> {
        let token = RefreshToken::parse(token.reveal()).ok_or(AuthError::Invalid)?;
        let tokens = &self.verifier.tokens;
        let next = self.token(token.session, tokens.next_refresh(token.session, &token.secret)?)?;
        let is_tag = |tag| tokens.is_refresh_tag(token.session, &token.secret, tag);
        let was_issued = token.tag.as_ref().is_some_and(is_tag);
        match self.store.rotate(&token, was_issued, &next, self.lifetime_s).await? {
            (RotationVerdict::Rotate | RotationVerdict::Repeat, Some(user)) => self.grant(&user, &next),
            (RotationVerdict::Reused, _) => {
                tracing::warn!(session = %token.session, "a refresh token was used again: its session is ended");
                self.end(None, Some(&[token.session])).await?;
                Err(AuthError::Invalid)
            }
            _ => Err(AuthError::Invalid),
        }
    }

    /// Ends sessions of a user, or all of them without ids; returns their number. Their tokens are invalid on this node when
    /// this returns.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn end(&self, user: Option<Uuid>, sessions: Option<&[Uuid]>) -> Result<usize, AuthError> {
        let remembered_s = self.verifier.tokens.lifetime_s() + LONGER_S;
        let ended = self.store.end(user, sessions, remembered_s).await?;
        let now_s = now_s();
        self.verifier.revocations.end(ended.iter().map(|id| (*id, now_s + remembered_s)), now_s);
        Ok(ended.len())
    }

    /// The current sessions of a user; at most `MAX_USER_SESSIONS`.
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn list(&self, user: Uuid) -> Result<Vec<ListedSession>, AuthError> {
        Ok(self.store.list(user).await?)
    }

    fn token(&self, session: Uuid, secret: [u8; 32]) -> Result<RefreshToken, AuthError> {
        let tag = self.verifier.tokens.refresh_tag(session, &secret)?;
        Ok(RefreshToken { session, secret, tag: Some(tag) })
    }

    fn grant(&self, user: &User, refresh: &RefreshToken) -> Result<Grant, AuthError> {
        let tokens = &self.verifier.tokens;
        let access = tokens.sign(user, refresh.session, now_s())?;
        Ok(Grant { access, refresh: refresh.text(), expires_in_s: tokens.lifetime_s() })
    }
}
