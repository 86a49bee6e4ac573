//! Passwords, by argon2id (RFC 9106).
//!
//! A hash takes about 50 ms of a core and 19 MiB, on purpose. Few are computed at once (`PASSWORD_THREADS`), on threads that no
//! request needs, and few wait (`PASSWORD_QUEUE`); further ones are rejected. A flood of log-ins therefore costs the events no
//! more than those threads. The place of a client that left is free only when its hash is done.

use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::auth::AuthError;
use crate::auth::random::{self, Secret};

/// KiB of memory, passes over it, and lanes. OWASP's cheat sheet on password storage has two passes over this much as the
/// minimum; more passes cost an attacker as much as they cost us, and no more memory per hash.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 6;
const LANES: u32 = 1;

/// Verified for an unknown user, at the same cost; it matches no password.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=6,p=1$bm9ib2R5bm9ib2R5bm9ibw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Computes and verifies hashes; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    /// Hashes that run or wait.
    permits: Arc<Semaphore>,
    /// Hashes that run.
    running: Arc<Semaphore>,
}

impl Passwords {
    /// With limits for running and for waiting hashes.
    pub(super) fn new(threads: usize, queue: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(threads + queue)),
            running: Arc::new(Semaphore::new(threads)),
        }
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

    /// Whether one of these spellings of a password matches the hash; without a hash none does, after the same time.
    pub(super) async fn is_right(
        &self,
        spellings: Vec<Secret>,
        hash: Option<String>,
    ) -> Result<bool, AuthError> {
        self.work(move || {
            let parsed = PasswordHash::new(hash.as_deref().unwrap_or(DUMMY_HASH));
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
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| AuthError::Overloaded)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| AuthError::Failed)?;
        let working = tokio::task::spawn_blocking(move || {
            let _held = (permit, running);
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
        let unknown = PasswordHash::new(DUMMY_HASH).unwrap();
        let (own, known) = (hasher().unwrap(), Params::try_from(&unknown).unwrap());
        assert_eq!(
            (known.m_cost(), known.t_cost(), known.p_cost()),
            (own.params().m_cost(), own.params().t_cost(), own.params().p_cost())
        );
        assert_eq!((unknown.hash.unwrap().len(), unknown.salt.unwrap().as_str().len()), (32, 22));
    }

    #[tokio::test]
    async fn beyond_the_queue_passwords_are_refused_at_once() {
        let passwords = Passwords::new(1, 2);
        let checks = (0..10).map(|_| passwords.is_right(spellings("x"), None));
        let done = futures_util::future::join_all(checks).await;
        let refused = done.iter().filter(|done| matches!(done, Err(AuthError::Overloaded))).count();
        assert_eq!(refused, 7, "{done:?}");
        assert!(passwords.is_right(spellings("x"), None).await.is_ok(), "there is a free permit again");
    }
}
