//! `chaos`: events at a steady rate while faults strike, Postgres crashes, restarts and stalls, and the service is killed. The run starts the service
//! and its private Postgres itself, in a folder of its own, so nothing else is at risk. The audit is that of every load of events: what was
//! acknowledged is stored, once.

mod processes;
mod service;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::load::{self, DatabaseArgs, LoadArgs, Mode, SendingArgs, steady};
use super::{Context, Error, succeeded};
use crate::cli::{Common, positive};
use crate::client::{Body, Connection};
use crate::document::Outcome;
use crate::findings::USAGE;
use crate::program::Program;
use service::Service;

/// Unless `--duration` is given.
const DURATION_S: f64 = 60.0;
/// The time for which faults strike and Postgres stalls.
const STRIKES: Duration = Duration::from_secs(2);
/// The path that faults strike.
const EVENTS: &str = "/api/v1/events";
/// Recovery may take longer than ordinary storing.
const SETTLE_TIMEOUT_S: f64 = 60.0;

/// What is done to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Action {
    /// Half of the requests are answered 503, for 2 s
    Errors,
    /// A fifth of the connections are reset, for 2 s
    Drops,
    /// Answers take up to 500 ms longer, for 2 s
    Delays,
    /// A backend of Postgres is killed: Postgres ends all sessions and recovers
    PostgresCrash,
    /// Postgres is stopped and started
    PostgresRestart,
    /// All processes of Postgres stand still for 2 s
    PostgresStall,
    /// The service is killed and started
    ServiceKill,
}

/// The arguments of `chaos`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChaosArgs {
    /// Events per second, on a fixed schedule
    #[arg(long, default_value = "500", value_parser = positive)]
    pub(crate) rate: f64,
    /// Seconds between the beginnings of two actions
    #[arg(long, default_value = "5", value_parser = positive)]
    pub(crate) every: f64,
    /// The actions, in an order by --seed
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Action::value_variants().to_vec())]
    pub(crate) actions: Vec<Action>,
    /// The order of the actions: the same seed, the same order
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The service's program [default: `tidegate` beside this one, or in PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// The service's port [default: a free one]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// A setting of the service; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Keep the folder of the service, with its log
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) sending: SendingArgs,
}

/// Starts a service and runs the scenario against it.
pub(crate) fn run(args: &ChaosArgs, mut common: Common) -> ExitCode {
    let usage = |message: &str| {
        eprintln!("loadtest: {message}");
        ExitCode::from(USAGE)
    };
    if !common.has_default_url() {
        return usage("chaos starts a service of its own, so it takes no --url");
    }
    let port = match args.port.map_or_else(free_port, Ok) {
        Ok(port) => port,
        Err(error) => return usage(&format!("no free port: {error}")),
    };
    match format!("http://127.0.0.1:{port}").parse() {
        Ok(url) => common.url = vec![url],
        Err(error) => return usage(&crate::describe(&error)),
    }
    super::run("chaos", common, async |context| measure(context, args, port).await)
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

async fn measure(context: &Context, args: &ChaosArgs, port: u16) -> Result<Outcome, Error> {
    let program = Program::find(args.program.as_deref())?;
    let mut service = Service::new(program, port, args.set.clone(), args.keep)?;
    service.start(&context.health()).await?;
    let measured = measure_started(context, args, &mut service).await;
    let stopped = service.stop().await;
    let mut outcome = measured?;
    if let Err(error) = stopped {
        outcome.failures.push(crate::describe(&error));
    }
    Ok(outcome)
}

async fn measure_started(
    context: &Context,
    args: &ChaosArgs,
    service: &mut Service,
) -> Result<Outcome, Error> {
    let load_args = LoadArgs {
        workers: 1,
        sending: args.sending.clone(),
        bad: None,
        database: DatabaseArgs {
            database_url: Some(service.database_url()?),
            schema: Some("public".to_owned()),
            settle_timeout: SETTLE_TIMEOUT_S,
        },
    };
    let duration = context.duration(DURATION_S);
    let phases = steady(args.rate, duration);
    let done = load::conduct(context, &load_args, Mode::Single, async |load| {
        let over = Over::default();
        let (sent, acted) = tokio::join!(
            async {
                let sent = load.send(&phases, duration).await;
                over.set();
                sent
            },
            act(context, args, service, &over),
        );
        sent?;
        acted
    });
    let (mut outcome, counts) = done.await?;
    for (action, count) in &counts {
        outcome.figure(action, format!("{count} ×"));
    }
    let windows = context.live.windows();
    let loaded = || windows.iter().filter(|window| window.loaded);
    let down = loaded().filter(|window| window.done == 0).count();
    outcome
        .figure("unavailable", format!("{down} of {} windows without an accepted event", loaded().count()));
    if loaded().all(|window| window.done == 0) {
        outcome.failures.push("no event was accepted".to_owned());
    }
    let details = std::mem::take(&mut outcome.details);
    outcome.details = json!({ "actions": counts, "seed": args.seed, "load": details });
    Ok(outcome)
}

/// The end of the load.
#[derive(Default)]
struct Over {
    is_set: Cell<bool>,
    notify: Notify,
}

impl Over {
    fn set(&self) {
        self.is_set.set(true);
        self.notify.notify_one();
    }

    /// Waits for it, up to a time. True: the load is over.
    async fn within(&self, time: Duration) -> bool {
        if !self.is_set.get() {
            let _ended_or_not = tokio::time::timeout(time, self.notify.notified()).await;
        }
        self.is_set.get()
    }
}

/// Does one action after the other until the load is over; returns the number of each. All is as before at its end.
async fn act(
    context: &Context,
    args: &ChaosArgs,
    service: &mut Service,
    over: &Over,
) -> Result<BTreeMap<String, u64>, Error> {
    let mut rng = fastrand::Rng::with_seed(args.seed);
    let mut counts = BTreeMap::new();
    let mut round: Vec<Action> = Vec::new();
    let every = Duration::from_secs_f64(args.every);
    let mut due = Instant::now();
    loop {
        // After an action that took longer the next one begins at once.
        due += every;
        if over.within(due.saturating_duration_since(Instant::now())).await || args.actions.is_empty() {
            return Ok(counts);
        }
        if round.is_empty() {
            round.clone_from(&args.actions);
            rng.shuffle(&mut round);
        }
        let Some(action) = round.pop() else { continue };
        let name = action.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        context.live.note(&name);
        perform(context, service, action).await?;
        *counts.entry(name).or_default() += 1;
    }
}

async fn perform(context: &Context, service: &mut Service, action: Action) -> Result<(), Error> {
    match action {
        Action::Errors => {
            strike(context, json!({ "status": 503, "retryAfter": 1, "probability": 0.5 })).await
        }
        Action::Drops => strike(context, json!({ "dropConnection": true, "probability": 0.2 })).await,
        Action::Delays => strike(context, json!({ "delayMs": 100, "jitterMs": 400 })).await,
        Action::PostgresCrash => service.postgres()?.crash(),
        Action::PostgresRestart => service.restart_postgres().await,
        Action::PostgresStall => {
            let stalled = service.postgres()?.stall();
            sleep(STRIKES).await;
            drop(stalled);
            Ok(())
        }
        Action::ServiceKill => {
            service.kill().await?;
            service.start(&context.health()).await
        }
    }
}

/// Makes a fault strike events for some time.
async fn strike(context: &Context, mut fault: serde_json::Value) -> Result<(), Error> {
    if let Some(members) = fault.as_object_mut() {
        members.extend([
            ("path".to_owned(), EVENTS.into()),
            ("method".to_owned(), "POST".into()),
            ("count".to_owned(), 1_000_000.into()),
        ]);
    }
    let target = context.target();
    let mut connection = Connection::open(target).await?;
    let set = context.request(target, Method::POST, "/_test/inject-error", fault.to_string())?;
    succeeded(connection.exchange(set, Body::Keep, context.timeout()).await?)?;
    sleep(STRIKES).await;
    let clear = context.request(target, Method::DELETE, "/_test/inject-error", Bytes::new())?;
    succeeded(connection.exchange(clear, Body::Keep, context.timeout()).await?)?;
    Ok(())
}
