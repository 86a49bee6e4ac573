//! Users, sessions and keys behind one handle, and the task that reads revocations of other nodes.

use std::sync::Arc;

use uuid::Uuid;

use super::keys::{KeyHash, Keys};
use super::principal::{Identity, Principal};
use super::revocations::RevocationReader;
use super::sessions::Sessions;
use super::tickets::Tickets;
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
    /// Sessions.
    pub sessions: Sessions,
    /// Keys.
    pub keys: Keys,
    /// Tickets.
    pub tickets: Tickets,
}

impl Accounts {
    /// The accounts of `database`, without the task: for a command that ends soon.
    pub fn new(config: &AuthConfig, verifier: &Arc<Verifier>, database: &Database) -> Self {
        Self {
            users: Users::new(database),
            sessions: Sessions::new(config, verifier, database),
            keys: Keys::new(verifier, database),
            tickets: Tickets::new(database),
        }
    }

    /// Starts the task that reads revocations, within a quota of the pool.
    pub fn start(
        config: &AuthConfig,
        verifier: &Arc<Verifier>,
        share: &Database,
        supervisor: &Supervisor,
    ) -> Self {
        let accounts = Self::new(config, verifier, share);
        RevocationReader::new(share, share.statement_timeout(), verifier, &accounts).start(supervisor);
        accounts
    }

    /// The principal of a key that this node has not cached.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for an unknown key, [`AuthError::Database`].
    pub async fn look_up(&self, hash: KeyHash) -> Result<Principal, AuthError> {
        self.keys.look_up(hash).await
    }

    /// The user that a principal is, or acts for, and that owns what it creates. `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn user_of(&self, principal: &Principal) -> Result<Option<Uuid>, AuthError> {
        Ok(match &principal.identity {
            Identity::Anonymous | Identity::Operator | Identity::WriteOnlyKey { .. } => None,
            Identity::User { id, .. } => Some(*id),
            Identity::Key { owner, .. } => *owner,
            Identity::External { issuer, subject } => Some(self.users.of_subject(issuer, subject).await?),
        })
    }
}
