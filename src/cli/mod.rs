//! The command line, with a file for each larger command.
//!
//! Exit codes: 0 success, 1 a failure, 2 a usage or configuration error.

mod config;
mod doctor;
mod documents;
mod grants;
mod ingest;
mod journal;
mod keys;
mod offline;
mod output;
mod redrive;
mod routes;
mod superuser;
mod users;
mod verify;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use self::output::print_line;
use crate::app::{self, AppError, StartOptions};
use crate::config::{Config, ConfigError, help};
use crate::db::{self, private};
use crate::observe::logging;

/// The version, with the commit and its date (`build.rs`).
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TIDEGATE_BUILD"), ")");

/// Takes events at line rate and stores them in Postgres by COPY
#[derive(Debug, Parser)]
#[command(name = "tidegate", version = VERSION, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (the default)
    #[command(after_long_help = help(), after_help = help())]
    Serve {
        /// Store the whole journal in a database that does not know it: another one, or one restored to an earlier point
        #[arg(long)]
        adopt_database: bool,
    },
    /// Print the connection URL for this environment
    Url,
    /// Recount tables and journal; exit 1 if an accepted event is missing or doubled
    Verify(verify::VerifyArgs),
    /// Store dead letters as events, each exactly once
    Redrive(redrive::RedriveArgs),
    /// Show the contents of the journal's files
    Journal(journal::JournalArgs),
    /// Measure this host and its database, run drills, and report the ack level that they can keep
    Doctor(doctor::DoctorArgs),
    /// Print the rights of the service's role, as statements for the database's administrator
    Grants(grants::GrantsArgs),
    /// Create, list and revoke API keys
    Keys(keys::KeysArgs),
    /// Create, list and delete users; set passwords and permissions
    Users(users::UsersArgs),
    /// Send lines of files, folders or standard input to a service, each once
    Ingest(ingest::IngestArgs),
    /// The settings of this environment
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Routes: tables of yours that events land in
    Routes(routes::RoutesArgs),
    /// Check that a running service is alive; for health checks of containers
    Health {
        /// Check that it accepts events; a full queue is not ready, and no reason for a restart
        #[arg(long)]
        ready: bool,
    },
}

/// A failed run.
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
        Command::Serve { adopt_database } => serve(StartOptions { adopt_database }),
        Command::Url => url(),
        Command::Verify(args) => verify::run(&args),
        Command::Redrive(args) => redrive::run(args),
        Command::Journal(args) => journal::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Grants(args) => grants::run(&args),
        Command::Keys(args) => keys::run(args),
        Command::Users(args) => users::run(args),
        Command::Ingest(args) => ingest::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { folder } => documents::man(&folder),
        Command::Routes(args) => routes::run(args),
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

fn serve(options: StartOptions) -> Result<(), Failure> {
    let config = Config::from_env()?;
    logging::init(&config.logging).map_err(|error| Failure::Usage(error.to_string()))?;
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    // The runtime of the database side; requests are served by threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("no runtime: {error}")))?;
    runtime.block_on(app::run(&config, options)).map_err(|error| match error {
        AppError::Config(error) => error.into(),
        error => Failure::Run(error.with_sources()),
    })
}

fn url() -> Result<(), Failure> {
    let config = Config::from_env()?;
    let url = match config.database.database_url {
        Some(url) => url,
        None => private::running_url(&config.database.data_dir)
            .map_err(|error| Failure::Run(db::chain(&error)))?,
    };
    print_line!("{url}");
    Ok(())
}

/// The time limit of each step of `health`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

fn health(ready: bool) -> Result<(), Failure> {
    let server = Config::from_env()?.server;
    // A service that listens on all addresses is reached on the loopback address.
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
