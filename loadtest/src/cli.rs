//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Target;

/// Loads a Tidegate service and audits that every accepted event is stored exactly once
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
pub(crate) struct Cli {
    /// The command
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a load test with worker processes, then audit the database
    ///
    /// Exit codes: 0: every accepted event is stored exactly once; 1: the audit found a difference, a worker failed, or a
    /// service could not be reached; 2: usage error.
    Run(Box<RunArgs>),
    /// Collect a backlog in the journal while the table is locked, let it drain, and compare with one plain COPY of the same
    /// rows. For a scratch database: the table is locked, and a table drain_floor is created and dropped
    Drain(DrainArgs),
    /// Read streams of server-sent events, and check that each message arrives, in order and in time. Exit codes as for run
    Sse(SseArgs),
    /// Follow changes of records over many streams while writers make them, and check that each subscriber gets each change once, in order.
    /// Collections are named loadtest_0, loadtest_1 and so on. For any server of PocketBase's API too (--api). Exit codes as for run. Start a service with rate limits with
    /// RATE_WRITES=0
    Realtime(RealtimeArgs),
    /// Create single records in a closed loop, then get them; report both rates
    Crud(CrudArgs),
    /// Get a path in a closed loop; report the rate
    Get(crate::get::GetArgs),
    /// Simulate many chat clients, which create conversations, add messages, append to some, list and page; then check that
    /// every acknowledged message is stored once, in order. Exit codes as for run. Start a service with rate limits with
    /// RATE_WRITES=0
    Conversations(ConversationsArgs),
    /// Send large payloads, several at once, get them again, and report the service's memory
    Large(LargeArgs),
    /// Append to Durable Streams in a closed loop, then read them all, and check that every acknowledged message is stored once, in order. For any
    /// server of the protocol. Exit codes as for run
    StreamsAppend(StreamsAppendArgs),
    /// Read a Durable Stream in a closed loop, and check that each answer is complete. Exit codes as for run
    StreamsRead(StreamsReadArgs),
    /// Follow Durable Streams over SSE while writers append, and check that each subscriber gets each message once, in order. Exit codes as for
    /// run
    StreamsSse(StreamsSseArgs),
    /// Run one worker process, which reads its plan as JSON from standard input and reports in JSON lines. Started by run
    Worker,
}

/// The form of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// One event per request
    Single,
    /// Many events per request, as NDJSON
    Batch,
}

/// The arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Worker processes; each uses one core at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Connections of each worker [default: 64, in batch mode 4]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: Option<u16>,
    /// Events per second over all workers, on a fixed schedule (open loop). 0: every connection sends as soon as it has its
    /// answer (closed loop)
    #[arg(long, default_value = "0", value_parser = non_negative)]
    pub(crate) rate: f64,
    /// Duration of the load, in seconds
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) duration: f64,
    /// Form of the requests
    #[arg(long, value_enum, default_value = "single")]
    pub(crate) mode: Mode,
    /// Lines of a batch
    #[arg(long, default_value = "1000", value_parser = batch_size)]
    pub(crate) batch_size: NonZeroUsize,
    /// Template of the events. {seq} (its number in the run), {uuid} (a UUIDv7), {now_ms} (Unix time) and {rand} (0 to 999,999)
    /// are replaced; other braces are literal [default: a small JSON event]
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) payload: Option<String>,
    /// File whose lines are sent in turn, unchanged
    #[arg(long, value_name = "FILE.ndjson", conflicts_with = "payload")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Bearer token for the service [env: LOADTEST_TOKEN, which other users of the machine cannot see]
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// File for the results, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub(crate) report: Option<PathBuf>,
    /// The service's database [default: that of a service with this environment and this .env: DATABASE_URL, or the private
    /// cluster under DATA_DIR]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Percentage of bad events. A check constraint on requests, loadtest_bad, rejects them during the run, and each becomes a
    /// dead letter. For a scratch database: the constraint applies to all events, and stays until the next such run if the
    /// program is killed
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with_all = ["payload_file", "no_audit"])]
    pub(crate) bad: Option<f64>,
    /// Skip the audit of the database
    #[arg(long)]
    pub(crate) no_audit: bool,
    /// Time without progress after which the audit stops waiting for accepted events, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = non_negative)]
    pub(crate) settle_timeout: f64,
    /// Time limit of an answer, in seconds; its connection is closed then
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive)]
    pub(crate) timeout: f64,
}

/// The arguments of `drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Size of the backlog, in MiB of JSON
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) mebibytes: u32,
    /// Template of the events, as for run
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) payload: Option<String>,
    /// Percentage of bad events, as for run
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) bad: Option<f64>,
    /// The service's database [default: as for run]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Time limit for draining the backlog, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = positive)]
    pub(crate) settle_timeout: f64,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments of `sse`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SseArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Streams at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Messages per second of each stream
    #[arg(long, default_value = "100", value_parser = positive)]
    pub(crate) rate: f64,
    /// Duration of each stream, in seconds
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Bytes of each message's data
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments of `realtime`.
#[derive(Debug, Args)]
pub(crate) struct RealtimeArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    #[command(flatten)]
    pub(crate) of_api: crate::realtime::ApiArgs,
    /// Subscribers, each with a connection and one topic. 0: writes alone are measured
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) subscribers: u32,
    /// Topics, which are collections; the service has up to 1,000
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) topics: u32,
    /// Changes per second over all topics, on a fixed schedule. 0: none, which measures idle streams
    #[arg(long, default_value = "50", value_parser = non_negative)]
    pub(crate) rate: f64,
    /// Bytes of padding in each record
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub(crate) payload: u32,
    /// Percentage of changes that update a record; the others create one
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = share)]
    pub(crate) updates: f64,
    /// Connections of the writers
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) writers: u16,
    /// Percentage of subscribers that read half as fast as changes come, until the load is over
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = share)]
    pub(crate) slow: f64,
    /// Reconnects per second, each of a random subscriber, with the id of its last event
    #[arg(long, default_value = "0", value_parser = non_negative)]
    pub(crate) reconnects: f64,
    /// Before the load, all subscribers connect at once, each this number of changes behind
    #[arg(long, value_name = "CHANGES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) behind: u32,
    /// Duration of the load, in seconds
    #[arg(long, default_value = "20", value_parser = positive)]
    pub(crate) seconds: f64,
    /// The service's process on this machine, for its CPU time to 10 ms instead of a second
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments of `large`.
#[derive(Debug, Args)]
pub(crate) struct LargeArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Path of the payloads; their ids follow it
    #[arg(long, default_value = "/api/stress/large-payload/loadtest")]
    pub(crate) path: String,
    /// Size of each payload, in MiB
    #[arg(long, default_value_t = 63, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) mebibytes: u16,
    /// Payloads at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) at_once: u16,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments of `crud`.
#[derive(Debug, Args)]
pub(crate) struct CrudArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Path of the records; their ids follow it
    #[arg(long, default_value = "/api/stress/records/loadtest")]
    pub(crate) path: String,
    /// Connections
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// Duration of the creates, and of the gets, in seconds
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments of `conversations`.
#[derive(Debug, Args)]
pub(crate) struct ConversationsArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Clients at once, each with a connection
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub(crate) clients: u16,
    /// Duration, in seconds
    #[arg(long, default_value = "20", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Average wait of each client between an answer and its next request, in milliseconds
    #[arg(long, default_value = "1000", value_parser = non_negative)]
    pub(crate) pause_ms: f64,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments that all loads of Durable Streams have.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamsArgs {
    /// URL of the server; several take turns
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Vec<Target>,
    /// The beginning of the streams' paths; the run and a number follow it
    #[arg(long, default_value = "/v1/stream/loadtest")]
    pub(crate) path: String,
    /// Bytes of each message
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(48..=1_048_576))]
    pub(crate) size: u32,
    /// Duration of the load, in seconds
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) seconds: f64,
    /// A process of the server on this machine, for its CPU time and memory; may be repeated
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Bearer token for the server [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// The arguments of `streams-append`.
#[derive(Debug, Args)]
pub(crate) struct StreamsAppendArgs {
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// Streams
    #[arg(long = "streams", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) number: u16,
    /// Connections, each with one append under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamsReadMode {
    /// The last message
    Tail,
    /// The whole stream
    CatchUp,
}

/// The arguments of `streams-read`.
#[derive(Debug, Args)]
pub(crate) struct StreamsReadArgs {
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// What is read
    #[arg(long, value_enum, default_value = "tail")]
    pub(crate) mode: StreamsReadMode,
    /// Messages of the stream
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    pub(crate) messages: u32,
    /// Fill the stream with one append for each message
    #[arg(long)]
    pub(crate) single: bool,
    /// Connections, each with one read under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

/// The arguments of `streams-sse`.
#[derive(Debug, Args)]
pub(crate) struct StreamsSseArgs {
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// Streams; subscribers are spread over them
    #[arg(long = "streams", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) number: u16,
    /// Subscribers, each with a connection
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) subscribers: u32,
    /// Messages per second of each stream, on a fixed schedule. 0: none, which measures idle subscribers
    #[arg(long, default_value = "10", value_parser = non_negative)]
    pub(crate) rate: f64,
    /// Messages that each stream has before
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub(crate) history: u32,
}

/// The maximum of times, in seconds, and of rates: far beyond use, and safe to calculate with.
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

fn share(text: &str) -> Result<f64, String> {
    let share = non_negative(text).ok().filter(|share| *share <= 100.0);
    share.ok_or_else(|| "expected a number from 0 to 100".to_owned())
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
