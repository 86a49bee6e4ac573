//! Database access for commands, with or without a running service.

use std::future::Future;

use super::Failure;
use crate::auth::{Accounts, AuthError, Verifier};
use crate::config::Config;
use crate::conversations::ConversationsError;
use crate::db::private::{self, PrivateCluster};
use crate::db::{self, ConnectionUrl, Database};
use crate::imports::ImportsError;

/// Runs `work` with the configured database. A private Postgres that is not running is started for it, and stopped again.
pub(super) fn with_database<T, F>(config: &Config, work: impl FnOnce(Database) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let settings = &config.database;
        let failed = |error: &dyn std::error::Error| Failure::Run(db::chain(error));
        let mut started = None;
        let url = match &settings.database_url {
            Some(url) => url.clone(),
            None => match private::running_url(&settings.data_dir) {
                Ok(url) => url,
                Err(_not_running) => {
                    let cluster = PrivateCluster::start(&settings.data_dir).await;
                    started.insert(cluster.map_err(|error| failed(&error))?).url().to_owned()
                }
            },
        };
        let url = ConnectionUrl::parse(&url).map_err(|error| failed(&error))?;
        let done = match Database::new(&url, settings) {
            Ok(database) => work(database).await,
            Err(error) => Err(failed(&error)),
        };
        if let Some(cluster) = started {
            cluster.stop().await.map_err(|error| failed(&error))?;
        }
        done
    })
}

/// Runs `work` with the users, sessions and keys of the configured database, which is migrated first: a key may be created
/// before the first start. The database itself is for data beside them.
pub(super) fn with_accounts<F>(
    config: &Config,
    work: impl FnOnce(Accounts, Database) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    with_database(config, async |database| {
        let migrated = db::migrate(&database, config.database.partitioning, config.modules()).await;
        migrated.map_err(|error| Failure::Run(db::chain(&error)))?;
        // Nothing is signed or verified here.
        let verifier = Verifier::new(&config.auth, config.auth_mode(), None);
        let verifier = verifier.map_err(|error| Failure::Run(error.to_string()))?;
        work(Accounts::new(&config.auth, &verifier, &database), database).await
    })
}

impl From<ImportsError> for Failure {
    fn from(error: ImportsError) -> Self {
        match error {
            ImportsError::Database(error) => Self::Run(error.with_sources()),
            error => Self::Run(error.to_string()),
        }
    }
}

impl From<ConversationsError> for Failure {
    fn from(error: ConversationsError) -> Self {
        match error {
            ConversationsError::Database(error) => Self::Run(error.with_sources()),
            error => Self::Run(error.to_string()),
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Database(error) => Self::Run(error.with_sources()),
            AuthError::Field { message, .. } => Self::Usage(message),
            error => Self::Run(error.to_string()),
        }
    }
}
