//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::Target;
use crate::findings::EXIT_CODES;
use crate::protocol::{Plan, Token};
use crate::scenarios::SendingArgs;
use crate::scenarios::chaos::ChaosArgs;
use crate::scenarios::conversations::ConversationsArgs;
use crate::scenarios::crud::CrudArgs;
use crate::scenarios::drain::DrainArgs;
use crate::scenarios::events::{EventsArgs, RunArgs};
use crate::scenarios::get::GetArgs;
use crate::scenarios::large::LargeArgs;
use crate::scenarios::load::{Mode, steady};
use crate::scenarios::mixed::MixedArgs;
use crate::scenarios::ramp::RampArgs;
use crate::scenarios::realtime::RealtimeArgs;
use crate::scenarios::soak::SoakArgs;
use crate::scenarios::spike::SpikeArgs;
use crate::scenarios::sse::SseArgs;
use crate::scenarios::streams::append::StreamsAppendArgs;
use crate::scenarios::streams::read::StreamsReadArgs;
use crate::scenarios::streams::sse::StreamsSseArgs;

/// Loads a Tidegate service and audits that everything acknowledged is there, once and in order
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The command
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A scenario's own arguments, and those that all have.
#[derive(Debug, Args)]
pub(crate) struct With<A: Args> {
    #[command(flatten)]
    pub(crate) own: A,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send events, one a request, at a rate or as fast as answers come; then count them in the database
    #[command(after_help = EXIT_CODES)]
    Events(Box<With<EventsArgs>>),
    /// Send events in batches of NDJSON; then count them in the database
    #[command(after_help = EXIT_CODES)]
    Batch(Box<With<EventsArgs>>),
    /// The same as events, or with --mode batch as batch
    #[command(after_help = EXIT_CODES)]
    Run(Box<With<RunArgs>>),
    /// Find the highest rate of events that keeps p99 under a bound, by bisection. --duration is that of each step (5 s)
    #[command(after_help = EXIT_CODES)]
    Ramp(Box<With<RampArgs>>),
    /// Send events at a rate, with a burst in the middle; report the time until latency is as before
    #[command(after_help = EXIT_CODES)]
    Spike(Box<With<SpikeArgs>>),
    /// Send events at a moderate rate for an hour, or for --duration; report the growth of memory, and latency by quarters
    #[command(after_help = EXIT_CODES)]
    Soak(Box<With<SoakArgs>>),
    /// Send events and records, chat and read streams at the same time, each with its audit
    #[command(after_help = EXIT_CODES)]
    Mixed(Box<With<MixedArgs>>),
    /// Send events while faults strike, Postgres crashes and stalls, and the service is killed; for a service with a private Postgres that the
    /// run starts itself
    #[command(after_help = EXIT_CODES)]
    Chaos(Box<With<ChaosArgs>>),
    /// Collect a backlog in the journal while the table is locked, let it drain, and compare with one plain COPY of the same
    /// rows. For a scratch database: the table is locked, and a table drain_floor is created and dropped
    #[command(after_help = EXIT_CODES)]
    Drain(Box<With<DrainArgs>>),
    /// Read streams of server-sent events: each message has to arrive, once, in order and in time
    #[command(after_help = EXIT_CODES)]
    Sse(With<SseArgs>),
    /// Follow changes of records over many streams while writers make them, and check that each subscriber gets each change once, in order.
    /// Collections are named loadtest_0, loadtest_1 and so on. For any server of PocketBase's API too (--api). Start a service with rate limits
    /// with RATE_WRITES=0
    #[command(after_help = EXIT_CODES)]
    Realtime(With<RealtimeArgs>),
    /// Create single records in a closed loop, then get them; then read and compare each
    #[command(after_help = EXIT_CODES)]
    Crud(With<CrudArgs>),
    /// Get a path in a closed loop, such as a list of records; report the rate. Each answer has to be a success
    #[command(after_help = EXIT_CODES)]
    Get(With<GetArgs>),
    /// Simulate many chat clients, which create conversations, add messages, append to some, list and page; then check that
    /// every acknowledged message is stored once, in order. Start a service with rate limits with RATE_WRITES=0
    #[command(after_help = EXIT_CODES)]
    Conversations(With<ConversationsArgs>),
    /// Send large payloads, several at once, get them again, and report the service's memory
    #[command(after_help = EXIT_CODES)]
    Large(With<LargeArgs>),
    /// Append to Durable Streams in a closed loop, then read them all, and check that every acknowledged message is stored once, in order. For any
    /// server of the protocol
    #[command(after_help = EXIT_CODES)]
    StreamsAppend(With<StreamsAppendArgs>),
    /// Read a Durable Stream in a closed loop, and check that each answer is complete
    #[command(after_help = EXIT_CODES)]
    StreamsRead(With<StreamsReadArgs>),
    /// Follow Durable Streams over SSE while writers append, and check that each subscriber gets each message once, in order
    #[command(after_help = EXIT_CODES)]
    StreamsSse(With<StreamsSseArgs>),
    /// Send events from one worker alone, without an audit: with --url. Otherwise a worker reads its plan as JSON from standard input, and reports in
    /// JSON lines, as one that another command started
    Worker(Box<WorkerArgs>),
    /// Set two reports side by side, each a folder of --report or its report.json: figures with 95 % confidence intervals, and what differs
    Compare(CompareArgs),
}

/// The service's own default.
const DEFAULT_URL: &str = "http://127.0.0.1:3000";

/// The arguments that all scenarios have.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// URL of the service. The loads of Durable Streams take several, in turns
    #[arg(long, default_value = DEFAULT_URL)]
    pub(crate) url: Vec<Target>,
    /// Duration of the load, in seconds [default: the scenario's; 10 or 20 for most]
    #[arg(long, visible_alias = "seconds", value_name = "SECONDS", value_parser = positive)]
    pub(crate) duration: Option<f64>,
    /// Bearer token for the service [env: LOADTEST_TOKEN, which other users of the machine cannot see]
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Folder for report.html and report.json. A name that ends in .json is a file for the results as JSON
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Skip the audit, where it takes reads of its own
    #[arg(long)]
    pub(crate) no_audit: bool,
    /// A process of the service on this machine, for its CPU time to 10 ms and its memory; may be repeated
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Time limit of an answer, in seconds; its connection is closed then
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive)]
    pub(crate) timeout: f64,
}

impl Common {
    /// Whether no other URL is given.
    pub(crate) fn has_default_url(&self) -> bool {
        DEFAULT_URL.parse().is_ok_and(|default: Target| self.url == [default])
    }

    /// The service, or the first of several. There is a default, so there is one.
    #[expect(clippy::expect_used, reason = "clap requires a value, and there is a default")]
    pub(crate) fn target(&self) -> &Target {
        self.url.first().expect("a URL")
    }
}

/// The arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The first report
    pub(crate) a: PathBuf,
    /// The second report
    pub(crate) b: PathBuf,
}

/// The arguments of `worker`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// URL of the service
    #[arg(long)]
    pub(crate) url: Option<Target>,
    /// Events per second, on a fixed schedule. 0: a closed loop
    #[arg(long, default_value = "0", value_parser = non_negative, requires = "url")]
    pub(crate) rate: f64,
    /// Duration of the load, in seconds
    #[arg(long, visible_alias = "seconds", value_name = "SECONDS", default_value = "10", value_parser = positive)]
    pub(crate) duration: f64,
    /// Form of the requests
    #[arg(long, value_enum, default_value = "single")]
    pub(crate) mode: Mode,
    #[command(flatten)]
    pub(crate) sending: SendingArgs,
    /// The run's name, the beginning of every trace id [default: a random one]
    #[arg(long, value_name = "NAME", value_parser = run_name)]
    pub(crate) run: Option<String>,
    /// This worker's number among --of, from 0: several, on several machines, share one schedule
    #[arg(long, default_value_t = 0)]
    pub(crate) number: u32,
    /// The number of workers that share --rate
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) of: u32,
    /// Print progress and results as JSON lines, the latencies as histograms
    #[arg(long)]
    pub(crate) json: bool,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Time limit of an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive)]
    pub(crate) timeout: f64,
}

/// A worker's arguments contradict each other.
#[derive(Debug, thiserror::Error)]
#[error("--number is below --of")]
pub(crate) struct BadNumber;

impl WorkerArgs {
    /// The plan of a worker alone.
    pub(crate) fn plan(&self, url: Target) -> Result<Plan, BadNumber> {
        if self.number >= self.of {
            return Err(BadNumber);
        }
        let plan = self.sending.plan(url, Token::shown(self.token.as_deref()), self.mode, self.timeout);
        let events = plan.events() as f64;
        let phases = steady(self.rate / events, std::time::Duration::from_secs_f64(self.duration));
        Ok(Plan {
            run: self.run.clone().unwrap_or_else(|| plan.run.clone()),
            worker: self.number,
            workers: self.of,
            phases,
            duration_s: self.duration,
            ..plan
        })
    }
}

/// The maximum of times, in seconds, and of rates: far beyond use, and safe to calculate with.
const LIMIT: f64 = 1e8;

pub(crate) fn non_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=LIMIT).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from 0 to {LIMIT}")),
    }
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    non_negative(text)
        .ok()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = non_negative(text).ok().filter(|share| *share <= 100.0);
    share.ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let percent = positive(text).ok().filter(|percent| *percent <= 100.0);
    percent.ok_or_else(|| "expected a number above 0, up to 100".to_owned())
}

pub(crate) fn batch_size(text: &str) -> Result<NonZeroUsize, String> {
    let size = text.parse().ok().filter(|size: &NonZeroUsize| size.get() <= 1_000_000);
    size.ok_or_else(|| "expected a number from 1 to 1000000".to_owned())
}

/// A name that a header and a `like` can carry.
fn run_name(text: &str) -> Result<String, String> {
    let is_plain = (1..=40).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_plain { Ok(text.to_owned()) } else { Err("expected up to 40 letters, digits and -".to_owned()) }
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
        let With { own, common } = *args;
        assert_eq!((own.events.rate, common.duration, own.mode), (20_000.0, Some(20.0), Mode::Single));
        assert!(own.events.load.workers == 1 && !common.no_audit);
    }

    #[test]
    fn every_scenario_has_the_common_options_and_tells_its_exit_codes() {
        use clap::CommandFactory as _;
        let mut cli = Cli::command();
        let others = ["worker", "compare", "help"];
        cli.build();
        for scenario in cli.get_subcommands_mut().filter(|command| !others.contains(&command.get_name())) {
            let name = scenario.get_name().to_owned();
            for option in ["url", "duration", "token", "report", "no_audit", "pid", "timeout"] {
                assert!(
                    scenario.get_arguments().any(|argument| argument.get_id() == option),
                    "{name} {option}"
                );
            }
            assert!(scenario.render_long_help().to_string().contains("still pending: accepted"), "{name}");
        }
    }

    #[test]
    fn a_worker_alone_takes_its_share_of_a_schedule() {
        let parse = |words: &[&str]| {
            let words = ["loadtest", "worker", "--url", "http://h"].iter().chain(words).copied();
            match Cli::parse_from(words).command {
                Command::Worker(args) => args.plan("http://h".parse().unwrap()),
                _ => panic!("not a worker"),
            }
        };
        let plan = parse(&["--rate", "1000", "--mode", "batch", "--number", "1", "--of", "2", "--run", "x"])
            .unwrap();
        assert_eq!(
            (plan.run.as_str(), plan.worker, plan.workers, plan.phases[0].per_second),
            ("x", 1, 2, 1.0)
        );
        assert!(parse(&["--number", "2", "--of", "2"]).is_err());
        assert!(Cli::try_parse_from(["loadtest", "worker", "--url", "http://h", "--run", "a b"]).is_err());
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
