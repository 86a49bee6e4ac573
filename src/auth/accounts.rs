//! Users, sessions and keys behind one handle, and the task that follows what other nodes take back.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::keys::{KeyHash, Keys};
use super::principal::{Principal, Who};
use super::revocations::Subscriber;
use super::sessions::Sessions;
use super::users::Users;
use super::{AuthError, Verifier};
use crate::config::AuthConfig;
use crate::db::Database;
use crate::supervisor::Supervisor;

/// Users, sessions and keys; cheap to clone.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// Users.
    pub users: Users,
    /// Their sessions.
    pub sessions: Sessions,
    /// Keys.
    pub keys: Keys,
}

impl Accounts {
    /// Those of `database`, without the task: for a command that ends soon.
    pub fn new(config: &AuthConfig, verifier: &Arc<Verifier>, database: &Database) -> Self {
        Self {
            users: Users::new(config, database),
            sessions: Sessions::new(config, verifier, database),
            keys: Keys::new(config, verifier, database),
        }
    }

    /// Starts the task that follows revocations, over a share of the pool.
    pub fn start(
        config: &AuthConfig,
        verifier: &Arc<Verifier>,
        share: &Database,
        supervisor: &Supervisor,
    ) -> Self {
        let accounts = Self::new(config, verifier, share);
        let timeout = Duration::from_millis(config.auth_timeout_ms);
        Subscriber::new(share, timeout, verifier, accounts.keys.clone()).start(supervisor);
        accounts
    }

    /// Whose a key is that this node does not know.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] if it is nobody's, [`AuthError::Database`].
    pub async fn look_up(&self, hash: KeyHash) -> Result<Principal, AuthError> {
        self.keys.look_up(hash).await
    }

    /// The user that somebody is, or acts for: what he makes belongs to that user. Nobody where he is none.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn user_of(&self, principal: &Principal) -> Result<Option<Uuid>, AuthError> {
        Ok(match &principal.who {
            Who::Anonymous | Who::Operator | Who::WriteOnlyKey { .. } => None,
            Who::User { id, .. } => Some(*id),
            Who::Key { owner, .. } => *owner,
            Who::External { issuer, subject } => Some(self.users.of_subject(issuer, subject).await?),
        })
    }
}
