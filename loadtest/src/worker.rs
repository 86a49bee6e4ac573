//! A worker process: opens the connections of its plan, sends, reports. `run` starts it with a plan on its standard input; alone it makes its
//! plan from its arguments.

use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::cli::WorkerArgs;
use crate::client::{ConnectError, Connection, Target};
use crate::findings::USAGE;
use crate::interrupts::Interrupts;
use crate::pace::Pace;
use crate::payload::{self, Payloads, now_ms};
use crate::protocol::{GO, Message, Plan, Progress};
use crate::report::{Report, Setup, print};
use crate::schedule::Schedule;
use crate::sender::{RequestError, Requests, Shared, send_until_stopped};
use crate::tally::{Counts, Tally};
use crate::view::{Glance, View};

/// The interval of progress reports.
const PROGRESS: Duration = Duration::from_millis(200);

/// The reason why a worker fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Standard input ended or has no plan.
    #[error("a worker expects its plan as the first line of its input; `loadtest run` starts workers itself")]
    NoPlan,
    /// The service cannot be reached.
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    /// The events.
    #[error(transparent)]
    Payload(#[from] payload::Error),
    /// The requests.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The runtime, the timer or standard output.
    #[error("a worker's input or output failed")]
    Io(#[from] io::Error),
}

/// Runs one worker: alone with these arguments, or over standard input and output with a coordinator's plan.
pub(crate) fn run(args: &WorkerArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loadtest: {error}");
            return ExitCode::FAILURE;
        }
    };
    let set = LocalSet::new();
    match &args.url {
        Some(url) => set.block_on(&runtime, alone(args, url.clone())),
        None => set.block_on(&runtime, commanded()),
    }
}

/// As a part of a run.
async fn commanded() -> ExitCode {
    let (message, code) = match work().await {
        Ok(tally) => (Message::Done(Box::new(tally)), ExitCode::SUCCESS),
        Err(error) => (Message::Failed(crate::describe(&error)), ExitCode::FAILURE),
    };
    match send(&message) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn work() -> Result<Tally, Error> {
    let mut input = read_input();
    let plan = input.recv().await.ok_or(Error::NoPlan)?;
    let plan: Plan = serde_json::from_str(&plan).map_err(|_| Error::NoPlan)?;
    let prepared = Prepared::new(plan).await?;
    send(&Message::Ready)?;
    if input.recv().await.as_deref() != Some(GO) {
        return Ok(Tally::default());
    }
    let stop = async {
        input.recv().await;
    };
    prepared.send_all(stop, send).await
}

/// Without a coordinator, and so without an audit: prints a table, or the messages that a coordinator would get.
async fn alone(args: &WorkerArgs, url: Target) -> ExitCode {
    let plan = match args.plan(url) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            return ExitCode::from(USAGE);
        }
    };
    let setup = Setup::of(&plan);
    let view = (!args.json).then(|| View::start("worker", Some(plan.duration_s)));
    let mut before = Counts::default();
    let tell = |message: &Message| match (&view, message) {
        (None, message) => send(message),
        (Some(view), Message::Progress(progress)) => {
            let accepted =
                progress.counts.accepted - std::mem::replace(&mut before, progress.counts.clone()).accepted;
            view.show(&Glance {
                elapsed_s: setup_elapsed(&setup),
                asked: setup.rate,
                reached: accepted as f64 / PROGRESS.as_secs_f64(),
                p50: progress.latest.at(50.0),
                p99: progress.latest.at(99.0),
                errors: progress.counts.errors(),
                ..Glance::default()
            });
            Ok(())
        }
        (Some(_), _) => Ok(()),
    };
    let stop = async {
        match Interrupts::listen() {
            Ok(mut interrupts) => interrupts.next().await,
            Err(_) => std::future::pending().await,
        }
    };
    let worked = async { Prepared::new(plan).await?.send_all(stop, tell).await }.await;
    if let Some(view) = view {
        view.finish();
    }
    match worked {
        Ok(tally) if args.json => match send(&Message::Done(Box::new(tally))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(tally) => {
            print(&Report::new(setup, &tally, None, Vec::new(), false).tables());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn setup_elapsed(setup: &Setup) -> f64 {
    now_ms().saturating_sub(setup.started_at_ms) as f64 / 1e3
}

/// A worker with open connections.
struct Prepared {
    plan: Plan,
    requests: Requests,
    connections: Vec<Connection>,
}

impl Prepared {
    async fn new(plan: Plan) -> Result<Self, Error> {
        let payloads = Payloads::load(&plan.payload, plan.events(), plan.bad_percent)?;
        let requests = Requests::new(plan.clone(), payloads)?;
        let mut connections = Vec::with_capacity(plan.connections);
        for _ in 0..plan.connections {
            connections.push(Connection::open(&plan.target).await?);
        }
        Ok(Self { plan, requests, connections })
    }

    /// Sends until the time is up or `stop` ends, and waits for the last answers.
    async fn send_all(
        self,
        stop: impl Future<Output = ()>,
        tell: impl FnMut(&Message) -> io::Result<()>,
    ) -> Result<Tally, Error> {
        let Self { plan, requests, connections } = self;
        let duration = Duration::from_secs_f64(plan.duration_s);
        let schedule = (!plan.phases.is_empty()).then(|| Schedule::of(plan.phases.clone(), plan.lane()));
        let shared = Rc::new(Shared::new(&plan, Pace::start(schedule, duration), requests));
        let mut senders = JoinSet::new();
        for connection in connections {
            senders.spawn_local(send_until_stopped(Rc::clone(&shared), connection));
        }
        let (paced, ()) = tokio::join!(
            async {
                let paced = tokio::select! {
                    paced = shared.pace.run() => paced,
                    () = stop => Ok(()),
                };
                shared.pace.stop();
                shared.count_untaken();
                paced
            },
            report_until_joined(&shared, senders, tell),
        );
        paced?;
        let mut tally = shared.tally.take();
        tally.elapsed_s = shared.pace.started().elapsed().as_secs_f64();
        tally.cpu_s = cpu_s();
        Ok(tally)
    }
}

/// Reports progress until every sender has its last answer, and then once more.
async fn report_until_joined(
    shared: &Shared,
    mut senders: JoinSet<()>,
    mut tell: impl FnMut(&Message) -> io::Result<()>,
) {
    let mut every = tokio::time::interval(PROGRESS);
    loop {
        let is_over = tokio::select! {
            joined = senders.join_next() => match joined {
                Some(_) => continue,
                None => true,
            },
            _ = every.tick() => false,
        };
        let progress = {
            let mut tally = shared.tally.borrow_mut();
            let latest = tally.latest.clone();
            tally.latest.clear();
            Progress { counts: tally.counts.clone(), latest }
        };
        if tell(&Message::Progress(Box::new(progress))).is_err() {
            // The coordinator is gone.
            shared.pace.stop();
        }
        if is_over {
            return;
        }
    }
}

/// The lines of standard input. They are read on a thread of their own, which the process does not wait for at its end: tokio's
/// would block until the coordinator closes the pipe.
fn read_input() -> mpsc::Receiver<String> {
    let (lines, input) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    input
}

fn send(message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// CPU time of this process so far.
fn cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}
