//! `tidegate keys superuser`: the superusers of typed collections, with or without a running service.

use std::sync::Arc;

use clap::Args;

use super::output::print_line;
use super::users::read_line;
use super::{Failure, offline};
use crate::auth::Accounts;
use crate::config::{AuthMode, Config, Module};
use crate::db::Database;
use crate::http::RecordPasswords;
use crate::observe::Metrics;
use crate::realtime::Hub;
use crate::records::typed::{AccountSettings, TypedError, TypedRecords};
use crate::records::{Records, RecordsError, RecordsSettings};
use crate::supervisor::Supervisor;

#[derive(Debug, Args)]
pub(super) struct SuperuserArgs {
    /// The email by which they sign in
    #[arg(long)]
    email: String,
    /// The password, which other users of the machine may see here; by default it is read from standard input
    #[arg(long)]
    password: Option<String>,
}

pub(super) fn run(args: SuperuserArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    if !config.modules().has(Module::PocketBase) {
        return Err(Failure::Usage("superusers are of the module pocketbase, which is off (MODULES)".into()));
    }
    // Read before anything is started.
    let password = match args.password {
        Some(password) => password,
        None => read_line("password (visible): ")?,
    };
    offline::with_accounts(&config, async |accounts, database| {
        let (typed, supervisor) = typed(&config, &accounts, &database)?;
        let made = typed.set_superuser(&args.email, &password).await;
        supervisor.shutdown().await;
        print_line!("{}", made.map_err(failure)?);
        Ok(())
    })
}

/// Typed collections without the service's tasks but those that write.
fn typed(
    config: &Config,
    accounts: &Accounts,
    database: &Database,
) -> Result<(TypedRecords, Supervisor), Failure> {
    let metrics = Metrics::new().map_err(|error| Failure::Run(error.to_string()))?;
    let supervisor = Supervisor::new(&metrics);
    let hub = Hub::new(&config.subscriber_limits(), &metrics);
    let settings = RecordsSettings {
        max_record_bytes: config.ingest.max_event_bytes,
        max_body_bytes: config.ingest.max_record_body_bytes(),
        queue_bytes: config.memory().records as usize,
        writers: 1,
        makes_collections: false,
    };
    let records = Records::start(&settings, database, database, &hub, &supervisor);
    let accounts = AccountSettings {
        hasher: Arc::new(RecordPasswords(accounts.users.clone())),
        users_are_open: config.auth_mode() == AuthMode::Open,
    };
    Ok((TypedRecords::new(&records, database, accounts), supervisor))
}

fn failure(error: TypedError) -> Failure {
    match error {
        TypedError::Refused(violations) => Failure::Usage(violations.to_string()),
        TypedError::Records(RecordsError::Database(error)) => Failure::Run(error.with_sources()),
        error => Failure::Run(error.to_string()),
    }
}
