//! A worker process: reads its plan, opens its connections, sends, reports.

use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::client::{ConnectError, Connection};
use crate::pace::Pace;
use crate::payload::{self, Payloads};
use crate::protocol::{GO, Message, Plan};
use crate::schedule::Schedule;
use crate::sender::{RequestError, Requests, Shared, send_until_stopped};
use crate::tally::Tally;

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

/// Runs one worker over standard input and output.
pub(crate) fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let worked = runtime.map_err(Error::Io).and_then(|runtime| LocalSet::new().block_on(&runtime, work()));
    let (message, code) = match worked {
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
    let payloads = Payloads::load(&plan.payload, plan.events(), plan.bad_percent)?;
    let requests = Requests::new(plan.clone(), payloads)?;
    let mut connections = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        connections.push(Connection::open(&plan.target).await?);
    }
    send(&Message::Ready)?;
    if input.recv().await.as_deref() != Some(GO) {
        return Ok(Tally::default());
    }

    let duration = Duration::from_secs_f64(plan.duration_s);
    let schedule = plan.requests_per_second.map(|rate| Schedule::new(rate, duration, plan.lane()));
    let shared = Rc::new(Shared::new(&plan, Pace::start(schedule, duration), requests));
    let mut senders = JoinSet::new();
    for connection in connections {
        senders.spawn_local(send_until_stopped(Rc::clone(&shared), connection));
    }
    let (paced, ()) = tokio::join!(
        async {
            let paced = tokio::select! {
                paced = shared.pace.run() => paced,
                _ = input.recv() => Ok(()),
            };
            shared.pace.stop();
            shared.count_untaken();
            paced
        },
        report_until_joined(&shared, senders),
    );
    paced?;
    let mut tally = shared.tally.take();
    tally.elapsed_s = shared.pace.started().elapsed().as_secs_f64();
    tally.cpu_s = cpu_s();
    Ok(tally)
}

/// Reports progress until every sender has its last answer.
async fn report_until_joined(shared: &Shared, mut senders: JoinSet<()>) {
    let mut every = tokio::time::interval(PROGRESS);
    loop {
        tokio::select! {
            joined = senders.join_next() => if joined.is_none() { return },
            _ = every.tick() => {
                let counts = shared.tally.borrow().counts.clone();
                if send(&Message::Progress(counts)).is_err() {
                    // The coordinator is gone.
                    shared.pace.stop();
                }
            }
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
