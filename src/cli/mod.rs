//! The command line. Each command has a file of its own, but for the smallest.
//!
//! Exit codes: 0 fine, 1 a failure, 2 a usage or configuration that cannot be used.

mod doctor;
mod grants;
mod journal;
mod keys;
mod offline;
mod redrive;
mod users;
mod verify;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::app::{self, AppError, Start};
use crate::config::{self, Config, ConfigError};
use crate::db::{self, local};
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
    Serve {
        /// Stores all that the journal holds in a database that does not know it: another one, or one that was restored
        /// to an older point.
        #[arg(long)]
        adopt_database: bool,
    },
    /// Prints the connection URL that the same environment would use.
    Url,
    /// Recounts tables and journal, and exits 1 if an accepted event is not where it should be.
    Verify(verify::VerifyArgs),
    /// Stores dead letters after all, each exactly once.
    Redrive(redrive::RedriveArgs),
    /// Shows what the journal's files hold.
    Journal(journal::JournalArgs),
    /// Measures this host and its database, runs drills, and says which promise they can keep.
    Doctor(doctor::DoctorArgs),
    /// Prints what the service's role needs, as statements for the database's administrator.
    Grants(grants::GrantsArgs),
    /// Makes, lists and revokes API keys.
    Keys(keys::KeysArgs),
    /// Makes, lists and deletes users, and gives them passwords and permissions.
    Users(users::UsersArgs),
    /// Asks a running service whether it is alive; for containers' health checks.
    Health {
        /// Asks whether it takes events instead: a full queue is not ready, and no reason for a restart.
        #[arg(long)]
        ready: bool,
    },
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
    let done = match Cli::parse().command.unwrap_or(Command::Serve { adopt_database: false }) {
        Command::Serve { adopt_database } => serve(Start { adopt_database }),
        Command::Url => url(),
        Command::Verify(args) => verify::run(&args),
        Command::Redrive(args) => redrive::run(args),
        Command::Journal(args) => journal::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Grants(args) => grants::run(&args),
        Command::Keys(args) => keys::run(args),
        Command::Users(args) => users::run(args),
        Command::Health { ready } => health(ready),
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

fn serve(asked: Start) -> Result<(), Failure> {
    let config = Config::from_env()?;
    logging::init(&config.logging).map_err(|error| Failure::Usage(error.to_string()))?;
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    // The database side of the service; requests are served by threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("no runtime: {error}")))?;
    runtime.block_on(app::run(&config, asked)).map_err(|error| match error {
        AppError::Config(error) => error.into(),
        error => Failure::Run(error.with_sources()),
    })
}

fn url() -> Result<(), Failure> {
    let config = Config::from_env()?;
    let url = match config.database.database_url {
        Some(url) => url,
        None => {
            local::running_url(&config.database.data_dir).map_err(|error| Failure::Run(db::chain(&error)))?
        }
    };
    println!("{url}");
    Ok(())
}

/// The longest that `health` waits for each step.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

fn health(ready: bool) -> Result<(), Failure> {
    let server = Config::from_env()?.server;
    // A service that listens everywhere is asked where we are.
    let host = match server.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let path = if ready { "/health/ready" } else { "/health" };
    let answer = ask(SocketAddr::new(host, server.port), path)
        .map_err(|error| Failure::Run(format!("no answer from {host}:{}: {error}", server.port)))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(Failure::Run(body.trim().to_owned())) }
}

fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
