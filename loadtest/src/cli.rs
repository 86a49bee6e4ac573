//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Target;

/// Puts load on a Tidegate service and audits that it kept every promise.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a load test with worker processes, then audit the database.
    ///
    /// Exit codes: 0, every promise was kept; 1, the audit found a difference, a worker failed or something could not
    /// be reached; 2, the command line is wrong.
    Run(Box<RunArgs>),
    /// Gather a backlog in the journal while the table is locked, let it drain, and compare with one plain COPY of the
    /// same rows. For a scratch database: the table is locked, and a table drain_floor is made and dropped.
    Drain(DrainArgs),
    /// Open streams of server-sent events and look whether each message comes, in order and in time. Exit codes as for
    /// run.
    Sse(SseArgs),
    /// Create single records as fast as answers come, then look them up, and tell both rates.
    Crud(CrudArgs),
    /// Be many clients that make conversations, add messages, write some piece by piece, list and page; then look whether every
    /// message that was acknowledged is there once, in order. Exit codes as for run. Where the service limits how often
    /// somebody may ask, start it with RATE_WRITES=0 and RATE_READS=0 for this.
    Conversations(ConversationsArgs),
    /// Send large payloads, several at once, fetch them again, and tell how much memory the service took.
    Large(LargeArgs),
    /// Be one worker process: takes its plan as JSON on standard input and reports as JSON lines. `run` starts these.
    Worker,
}

/// How the load is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// One event a request.
    Single,
    /// Many events a request, as NDJSON.
    Batch,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Worker processes. Each uses at most one processor.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Connections of each worker [default: 64, in batch mode 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: Option<u16>,
    /// Events a second over all workers, sent on a fixed schedule (open loop). 0 or none: every connection sends as
    /// soon as it has its answer (closed loop).
    #[arg(long, default_value = "0", value_parser = non_negative)]
    pub(crate) rate: f64,
    /// For how long to send, in seconds.
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) duration: f64,
    /// How events are sent.
    #[arg(long, value_enum, default_value = "single")]
    pub(crate) mode: Mode,
    /// Lines of a batch.
    #[arg(long, default_value = "1000", value_parser = batch_size)]
    pub(crate) batch_size: NonZeroUsize,
    /// The event, with any of {seq} (its number in the run), {uuid} (a UUIDv7), {now_ms} (Unix time) and {rand}
    /// (0 to 999,999) filled in; other braces are text [default: a small JSON event].
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) payload: Option<String>,
    /// Send the lines of this file in turn, just as they are.
    #[arg(long, value_name = "FILE.ndjson", conflicts_with = "payload")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Bearer token for the service [env: LOADTEST_TOKEN, which other users of the machine cannot see].
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Write the results to this file, as JSON.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) report: Option<PathBuf>,
    /// The service's database [default: where a service with this environment and this .env has it: DATABASE_URL, or
    /// the private cluster under DATA_DIR].
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Make so many per cent of the events bad: a check constraint on requests, loadtest_bad, rejects them while the run
    /// lasts, and each becomes a dead letter. For a scratch database: the constraint holds for all events, and stays
    /// if the program is killed, until the next such run.
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with_all = ["payload_file", "no_audit"])]
    pub(crate) bad: Option<f64>,
    /// Do not look into the database.
    #[arg(long)]
    pub(crate) no_audit: bool,
    /// How long accepted events may make no progress before the audit stops waiting for them, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = non_negative)]
    pub(crate) settle_timeout: f64,
    /// How long an answer may take, in seconds; then its connection is given up.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive)]
    pub(crate) timeout: f64,
}

/// What `drain` takes.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// How much JSON to gather, in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) mebibytes: u32,
    /// The event, as for run.
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) payload: Option<String>,
    /// Make so many per cent of the events bad, as for run.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) bad: Option<f64>,
    /// The service's database [default: as for run].
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// How long to wait for the backlog to drain, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = positive)]
    pub(crate) settle_timeout: f64,
    /// Bearer token for the service [env: LOADTEST_TOKEN].
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// What `sse` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct SseArgs {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Streams at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Messages a second of each stream.
    #[arg(long, default_value = "100", value_parser = positive)]
    pub(crate) rate: f64,
    /// For how long each stream is read, in seconds.
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Bytes of each message's data.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
    /// Bearer token for the service [env: LOADTEST_TOKEN].
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// What `large` takes.
#[derive(Debug, Args)]
pub(crate) struct LargeArgs {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// The path that payloads are posted to; their ids follow it.
    #[arg(long, default_value = "/api/stress/large-payload/loadtest")]
    pub(crate) path: String,
    /// Size of each, in MiB.
    #[arg(long, default_value_t = 63, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) mebibytes: u16,
    /// How many at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) at_once: u16,
    /// Bearer token for the service [env: LOADTEST_TOKEN].
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// What `crud` takes.
#[derive(Debug, Args)]
pub(crate) struct CrudArgs {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// The path that records are posted to; their ids follow it.
    #[arg(long, default_value = "/api/stress/records/loadtest")]
    pub(crate) path: String,
    /// Connections.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// For how long to create, and then to look up, in seconds.
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Bearer token for the service [env: LOADTEST_TOKEN].
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// What `conversations` takes.
#[derive(Debug, Args)]
pub(crate) struct ConversationsArgs {
    /// The service.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Clients at once, each with a connection.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub(crate) clients: u16,
    /// For how long, in seconds.
    #[arg(long, default_value = "20", value_parser = positive)]
    pub(crate) seconds: f64,
    /// How long each client waits between an answer and its next request, in milliseconds, on average.
    #[arg(long, default_value = "1000", value_parser = non_negative)]
    pub(crate) pause_ms: f64,
    /// Bearer token for the service [env: LOADTEST_TOKEN].
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The longest time, in seconds, and highest rate that arguments may name: far beyond use, safe to calculate with.
const LIMIT: f64 = 1e8;

fn non_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=LIMIT).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from 0 to {LIMIT}")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    non_negative(text)
        .ok()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = positive(text).ok().filter(|percent| *percent <= 100.0);
    percent.ok_or_else(|| "expected a number above 0, up to 100".to_owned())
}

fn batch_size(text: &str) -> Result<NonZeroUsize, String> {
    let size = text.parse().ok().filter(|size: &NonZeroUsize| size.get() <= 1_000_000);
    size.ok_or_else(|| "expected a number from 1 to 1000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_command_means_an_open_loop_with_an_audit() {
        let cli = Cli::parse_from(["loadtest", "run", "--rate", "20000", "--duration", "20"]);
        let Command::Run(args) = cli.command else { panic!("not a run") };
        assert_eq!((args.rate, args.duration, args.workers, args.mode), (20_000.0, 20.0, 1, Mode::Single));
        assert!(!args.no_audit);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for bad in [
            "--rate=-1",
            "--rate=NaN",
            "--duration=0",
            "--duration=inf",
            "--workers=0",
            "--batch-size=0",
            "--connections=0",
            "--bad=0",
            "--bad=101",
            "--url=https://h",
            "--mode=both",
        ] {
            assert!(Cli::try_parse_from(["loadtest", "run", bad]).is_err(), "{bad}");
        }
    }
}
