//! Sessions: what a user has from logging in until he logs out.
//!
//! A session is a family of refresh tokens. Each is used once, for an access token and the refresh token that follows; the
//! rules are in `rotation`. Access tokens name their session, so that ending it ends them all, at once on this node and
//! within a second on others.

mod rotation;
mod store;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

pub use store::{Client, ListedSession};

use self::rotation::{Judgement, RefreshToken};
use self::store::Store;
use super::clock::now_s;
use super::random::{self, Secret};
use super::users::User;
use super::{AuthError, Verifier};
use crate::config::AuthConfig;
use crate::db::Database;

/// What a user gets for his password, or for a refresh token.
#[derive(Debug, Clone)]
pub struct Grant {
    /// For `Authorization`.
    pub access: Secret,
    /// For the next grant.
    pub refresh: Secret,
    /// Seconds that the access token is good.
    pub expires_in_s: i64,
}

/// Sessions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    store: Store,
    verifier: Arc<Verifier>,
    most: i64,
    lifetime_s: i64,
}

/// Access tokens of a session that is over are remembered for a little longer than they live: clocks differ.
const LONGER_S: i64 = 60;

impl Sessions {
    /// The sessions of `database`.
    pub fn new(config: &AuthConfig, verifier: &Arc<Verifier>, database: &Database) -> Self {
        Self {
            store: Store::new(database, Duration::from_millis(config.auth_timeout_ms)),
            verifier: Arc::clone(verifier),
            most: config.max_user_sessions,
            lifetime_s: config.refresh_token_s as i64,
        }
    }

    /// Begins a session of a user. Beyond `MAX_USER_SESSIONS` the one that was used least recently ends.
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
    /// [`AuthError::Invalid`] for one that is not good; if its successor was used before, the session is over then.
    pub async fn refresh(&self, token: &Secret) -> Result<Grant, AuthError> {
        let token = RefreshToken::parse(token.reveal()).ok_or(AuthError::Invalid)?;
        let tokens = &self.verifier.tokens;
        let next = self.token(token.session, tokens.next_refresh(token.session, &token.secret)?)?;
        let is_tag = |tag| tokens.is_refresh_tag(token.session, &token.secret, tag);
        let was_issued = token.tag.as_ref().is_some_and(is_tag);
        match self.store.rotate(&token, was_issued, &next, self.lifetime_s).await? {
            (Judgement::Rotate | Judgement::Repeat, Some(user)) => self.grant(&user, &next),
            (Judgement::Reused, _) => {
                tracing::warn!(session = %token.session, "a refresh token was used again: its session is ended");
                self.end(None, Some(&[token.session])).await?;
                Err(AuthError::Invalid)
            }
            _ => Err(AuthError::Invalid),
        }
    }

    /// Ends sessions of a user, or without ids all of them; how many. When this returns none of their tokens is good here.
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

    /// The sessions of a user that are not over; at most `MAX_USER_SESSIONS`.
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
