//! The command line: `tidegate [serve]` and `tidegate url`.
//!
//! Exit codes: 0 fine, 1 a failure, 2 a usage or configuration that cannot be used.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{self, AppError};
use crate::config::{self, Config, ConfigError};
use crate::db::local;
use crate::observe::logging;

/// Takes events at line rate and lands them in Postgres by COPY.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service (the default).
    #[command(after_long_help = config::help(), after_help = config::help())]
    Serve,
    /// Prints the connection URL that the same environment would use.
    Url,
}

/// A run's end that is not success.
enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Run(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => serve(),
        Command::Url => url(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("tidegate: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Run(message)) => {
            eprintln!("tidegate: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Failure> {
    let config = Config::from_env()?;
    logging::init(&config.logging).map_err(|error| Failure::Usage(error.to_string()))?;
    // The database side of the service; requests are served by threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("no runtime: {error}")))?;
    runtime.block_on(app::run(&config)).map_err(|error| match error {
        AppError::Config(error) => error.into(),
        error => Failure::Run(error.with_sources()),
    })
}

fn url() -> Result<(), Failure> {
    let config = Config::from_env()?;
    let url = match config.database.database_url {
        Some(url) => url,
        None => {
            local::running_url(&config.database.data_dir).map_err(|error| Failure::Run(error.to_string()))?
        }
    };
    println!("{url}");
    Ok(())
}
