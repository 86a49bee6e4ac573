//! Passwords of records, hashed within the limits of all accounts.

use futures_util::future::BoxFuture;

use crate::auth::users::Users;
use crate::auth::{AuthError, Secret};
use crate::records::typed::{HashError, PasswordHasher};

/// Hashes passwords of records as those of users.
#[derive(Debug)]
pub struct RecordPasswords(pub Users);

fn failed(error: &AuthError) -> HashError {
    match error {
        AuthError::Overloaded => HashError::Overloaded,
        _ => HashError::Failed,
    }
}

impl PasswordHasher for RecordPasswords {
    fn hash(&self, password: String) -> BoxFuture<'_, Result<String, HashError>> {
        Box::pin(async move { self.0.hash(Secret::new(password)).await.map_err(|error| failed(&error)) })
    }

    fn is_right(&self, password: String, hash: Option<String>) -> BoxFuture<'_, Result<bool, HashError>> {
        Box::pin(
            async move { self.0.is_right(Secret::new(password), hash).await.map_err(|error| failed(&error)) },
        )
    }
}
