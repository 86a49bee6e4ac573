//! Passwords, by argon2id (RFC 9106).
//!
//! A hash takes about 50 ms of a core and 19 MiB, on purpose. So few are made at once (`PASSWORD_THREADS`), on threads that no
//! request needs, few wait (`PASSWORD_QUEUE`), and who comes beyond that is told so: a flood of log-ins costs the events
//! no more than those threads. A client that goes away takes its turn with it only when its hash is done.

use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::auth::AuthError;
use crate::auth::random::{self, Secret};

/// KiB of memory, passes over it, and lanes. OWASP's cheat sheet on password storage names two passes over as much as the
/// least; more passes than that cost an attacker as much as they cost us, and no more memory for each that is under way.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 6;
const LANES: u32 = 1;

/// Checked in place of an unknown user's, with the same costs; it is no password's.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=6,p=1$bm9ib2R5bm9ib2R5bm9ibw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Makes and checks hashes; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    /// Those that are at work or wait.
    room: Arc<Semaphore>,
    /// Those that are at work.
    turns: Arc<Semaphore>,
}

impl Passwords {
    /// So many at once, and so many that wait.
    pub(super) fn new(threads: usize, queue: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(threads + queue)), turns: Arc::new(Semaphore::new(threads)) }
    }

    /// The hash of a new password, as text with its salt and costs.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, AuthError> {
        let salt = random::bytes::<16>()?;
        self.work(move || {
            let salt = SaltString::encode_b64(&salt).map_err(|_| AuthError::Failed)?;
            let hash = hasher()?.hash_password(password.reveal().as_bytes(), &salt);
            Ok(hash.map_err(|_| AuthError::Failed)?.to_string())
        })
        .await
    }

    /// Whether one of these spellings of a password is that of this hash; without a hash none is, after the same time.
    pub(super) async fn is_right(
        &self,
        spellings: Vec<Secret>,
        hash: Option<String>,
    ) -> Result<bool, AuthError> {
        self.work(move || {
            let parsed = PasswordHash::new(hash.as_deref().unwrap_or(NOBODYS));
            let parsed = parsed.map_err(|_| AuthError::Failed)?;
            let hasher = hasher()?;
            let is = |text: &Secret| hasher.verify_password(text.reveal().as_bytes(), &parsed).is_ok();
            Ok(spellings.iter().any(is) && hash.is_some())
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, AuthError> + Send + 'static,
    ) -> Result<T, AuthError> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| AuthError::Overloaded)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| AuthError::Failed)?;
        let working = tokio::task::spawn_blocking(move || {
            let _held = (room, turn);
            work()
        });
        working.await.map_err(|_| AuthError::Failed)?
    }
}

fn hasher() -> Result<Argon2<'static>, AuthError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| AuthError::Failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn spellings(text: &str) -> Vec<Secret> {
        vec![secret(text)]
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_own_hash_only() {
        let passwords = Passwords::new(2, 10);
        let hash = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=6,p=1$"), "{hash}");
        assert!(passwords.is_right(spellings("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.is_right(spellings("correct horsf"), Some(hash.clone())).await.unwrap());
        let second = vec![secret("correct horsf"), secret("correct horse")];
        assert!(passwords.is_right(second, Some(hash)).await.unwrap());
        assert!(!passwords.is_right(spellings("correct horse"), None).await.unwrap());
    }

    #[test]
    fn what_an_unknown_user_costs_is_what_a_known_one_costs() {
        let nobodys = PasswordHash::new(NOBODYS).unwrap();
        let (ours, known) = (hasher().unwrap(), Params::try_from(&nobodys).unwrap());
        assert_eq!(
            (known.m_cost(), known.t_cost(), known.p_cost()),
            (ours.params().m_cost(), ours.params().t_cost(), ours.params().p_cost())
        );
        assert_eq!((nobodys.hash.unwrap().len(), nobodys.salt.unwrap().as_str().len()), (32, 22));
    }

    #[tokio::test]
    async fn beyond_the_queue_passwords_are_refused_at_once() {
        let passwords = Passwords::new(1, 2);
        let checks = (0..10).map(|_| passwords.is_right(spellings("x"), None));
        let done = futures_util::future::join_all(checks).await;
        let refused = done.iter().filter(|done| matches!(done, Err(AuthError::Overloaded))).count();
        assert_eq!(refused, 7, "{done:?}");
        assert!(passwords.is_right(spellings("x"), None).await.is_ok(), "there is room again");
    }
}
