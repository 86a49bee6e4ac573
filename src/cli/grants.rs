//! `tidegate grants`: the rights of the service's role, as statements for the database's administrator.

use clap::Args;

use super::output::print_line;
use super::{Failure, offline};
use crate::config::{Config, ConfigError, Module};
use crate::db::{self, ConnectionUrl};

#[derive(Debug, Args)]
pub(super) struct GrantsArgs {
    /// The role that the service connects as; by default the user of DATABASE_URL
    #[arg(long)]
    role: Option<String>,
    /// Instead, the rights of a role that publishes by tidegate_publish
    #[arg(long, value_name = "ROLE", conflicts_with = "role")]
    publisher: Option<String>,
    /// Instead, the rights of a role that watches tables by tidegate_watch
    #[arg(long, value_name = "ROLE", conflicts_with_all = ["role", "publisher"])]
    watcher: Option<String>,
    /// Instead, the rights of a role that appends to streams by tidegate_append, and reads them by streams_messages
    #[arg(long, value_name = "ROLE", conflicts_with_all = ["role", "publisher", "watcher"])]
    appender: Option<String>,
}

pub(super) fn run(args: &GrantsArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let schema = &config.database.db_schema;
    let of_sql = args.publisher.as_ref().map(|role| ("--publisher", db::grants_of_publisher(schema, role)));
    let of_sql = of_sql
        .or_else(|| args.watcher.as_ref().map(|role| ("--watcher", db::grants_of_watcher(schema, role))));
    if let Some(role) = &args.appender {
        if !config.modules().has(Module::Streams) {
            return Err(Failure::Usage("--appender needs streams (MODULES)".into()));
        }
        for statement in db::grants_of_appender(schema, role) {
            print_line!("{statement};");
        }
        return Ok(());
    }
    if let Some((option, statements)) = of_sql {
        if !config.modules().has_feed() {
            return Err(Failure::Usage(format!("{option} needs records or conversations (MODULES)")));
        }
        for statement in statements {
            print_line!("{statement};");
        }
        return Ok(());
    }
    let Some(url) = &config.database.database_url else {
        return Err(Failure::Usage(
            "grants is for DATABASE_URL: a private Postgres has one role, a superuser".into(),
        ));
    };
    let url = ConnectionUrl::parse(url).map_err(|error| ConfigError::database_url(&error))?;
    let Some(role) = args.role.as_deref().or(url.user()) else {
        return Err(Failure::Usage("DATABASE_URL names no user: name one by --role".into()));
    };
    let mut statements = db::grants(&url, &config.database.db_schema, role);
    let of_tables = offline::with_database(&config, async |database| {
        let granted = db::grants_of_tables(&database, role, config.modules()).await;
        granted.map_err(|error| Failure::Run(error.with_sources()))
    });
    match of_tables {
        Ok(more) => statements.extend(more),
        Err(Failure::Run(error) | Failure::Usage(error)) => {
            eprintln!("tidegate: {error}; these are the statements for a database without tidegate's tables");
        }
    }
    for statement in statements {
        print_line!("{statement};");
    }
    Ok(())
}
