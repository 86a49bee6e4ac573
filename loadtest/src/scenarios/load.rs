//! Loads of events: plans a run, starts the workers, adds up their results, and counts the run's rows in the database.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use tokio::time::sleep;

use super::{Context, Error};
use crate::audit::{self, Audit, Expected};
use crate::cli::{batch_size, non_negative, percent};
use crate::client::Target;
use crate::collect::{self, Collected};
use crate::database::{self, Given, Location, RunRows};
use crate::document::Outcome;
use crate::findings::Findings;
use crate::health::Health;
use crate::payload::{DEFAULT_TEMPLATE, Payloads, Source};
use crate::protocol::{Plan, Token};
use crate::report::{Report, Setup};
use crate::schedule::Phase;
use crate::tally::Tally;

/// The interval between two queries of pending events.
const LOOK: Duration = Duration::from_millis(100);

/// The form of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// One event per request
    Single,
    /// Many events per request, as NDJSON
    Batch,
}

/// The events, and who sends them.
#[derive(Debug, Clone, Args)]
pub(crate) struct SendingArgs {
    /// Connections of each worker [default: 64, in batch mode 4]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: Option<u16>,
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
}

/// Where the rows are counted.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// The service's database [default: DATABASE_URL, else that of a service with this environment and this .env, as the program
    /// `tidegate` beside this one or in PATH reports it]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// The service's schema [default: DB_SCHEMA, else as the database]
    #[arg(long, value_name = "NAME")]
    pub(crate) schema: Option<String>,
    /// Time without progress after which the audit stops waiting for accepted events, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = non_negative)]
    pub(crate) settle_timeout: f64,
}

impl DatabaseArgs {
    /// The database. Within a runtime.
    pub(crate) fn location(&self) -> Result<Location, Error> {
        let given =
            Given { url: self.database_url.as_deref(), schema: self.schema.as_deref(), program: None };
        Ok(Location::find(given)?)
    }
}

/// The arguments of every load of events.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Worker processes; each uses one core at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    #[command(flatten)]
    pub(crate) sending: SendingArgs,
    /// Percentage of bad events. A check constraint on requests, loadtest_bad, rejects them during the run, and each becomes a
    /// dead letter. For a scratch database: the constraint applies to all events, and stays until the next such run if the
    /// program is killed
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with_all = ["payload_file", "no_audit"])]
    pub(crate) bad: Option<f64>,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

impl SendingArgs {
    /// The plan of a run of one worker, in a closed loop.
    pub(crate) fn plan(&self, target: Target, token: Option<Token>, mode: Mode, timeout_s: f64) -> Plan {
        let batch = (mode == Mode::Batch).then_some(self.batch_size.get());
        let payload = match (&self.payload_file, &self.payload) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(template)) => Source::Template(template.clone()),
            (None, None) => Source::Template(DEFAULT_TEMPLATE.to_owned()),
        };
        let default_connections = if batch.is_some() { 4 } else { 64 };
        Plan {
            run: run_name(),
            worker: 0,
            workers: 1,
            target,
            token,
            connections: self.connections.map_or(default_connections, usize::from),
            phases: Vec::new(),
            duration_s: 0.0,
            timeout_s,
            batch,
            payload,
            bad_percent: None,
        }
    }
}

/// The phases of one rate, in events a second; 0: a closed loop.
pub(crate) fn steady(rate: f64, duration: Duration) -> Vec<Phase> {
    let phase = Phase { per_second: rate, seconds: duration.as_secs_f64() };
    if rate > 0.0 { vec![phase] } else { Vec::new() }
}

/// A load of events with its results so far.
pub(crate) struct Load<'a> {
    context: &'a Context,
    health: Health,
    location: Option<Location>,
    rejects_bad: bool,
    settle_timeout: Duration,
    plan: Plan,
    rows: RunRows,
    setup: Option<Setup>,
    steps: u32,
    tally: Tally,
    failures: Vec<String>,
    interrupted: bool,
}

impl<'a> Load<'a> {
    /// Checks the arguments and reaches the service and its database, before anything is sent.
    pub(crate) async fn prepare(context: &'a Context, args: &LoadArgs, mode: Mode) -> Result<Self, Error> {
        let sending = &args.sending;
        let plan =
            sending.plan(context.target().clone(), context.token().cloned(), mode, context.common.timeout);
        let plan = Plan { workers: args.workers, bad_percent: args.bad, ..plan };
        Payloads::load(&plan.payload, plan.events(), plan.bad_percent)?;
        let health = context.health();
        health.pending().await?;
        let location = if context.common.no_audit { None } else { Some(args.database.location()?) };
        let rows = RunRows::starting_now(&plan.run);
        if let Some(location) = &location {
            location.connect().await?.count(&rows).await?;
        }
        if let (Some(location), Some(_)) = (&location, args.bad) {
            location.connect().await?.reject_bad().await?;
        }
        Ok(Self {
            context,
            health,
            rejects_bad: location.is_some() && args.bad.is_some(),
            location,
            settle_timeout: Duration::from_secs_f64(args.database.settle_timeout),
            plan,
            rows,
            setup: None,
            steps: 0,
            tally: Tally::default(),
            failures: Vec::new(),
            interrupted: false,
        })
    }

    /// Runs the workers; returns the results of this step alone. `phases` are in events a second; without any it is a closed
    /// loop.
    pub(crate) async fn send(&mut self, phases: &[Phase], duration: Duration) -> Result<Collected, Error> {
        let events = self.plan.events() as f64;
        let requests = |phase: &Phase| Phase { per_second: phase.per_second / events, ..*phase };
        // Each step has trace ids of its own, all with the run's prefix.
        let run = if self.steps == 0 {
            self.plan.run.clone()
        } else {
            format!("{}-s{}", self.plan.run, self.steps)
        };
        self.steps += 1;
        let plan = Plan {
            run,
            phases: phases.iter().map(requests).collect(),
            duration_s: duration.as_secs_f64(),
            ..self.plan.clone()
        };
        self.setup.get_or_insert_with(|| Setup::of(&plan));
        let collected = collect::collect(&plan, &self.context.live).await?;
        self.interrupted |= collected.interrupted;
        self.failures.extend(collected.failures.iter().cloned());
        self.tally.add_after(&collected.tally);
        Ok(collected)
    }

    /// Waits until nothing is pending, up to a time. False: something still is.
    pub(crate) async fn settle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.context.live.goes_on(deadline) {
            match self.health.pending().await {
                Ok(Some(0) | None) => return true,
                _ => sleep(LOOK).await,
            }
        }
        false
    }

    /// Everything after the load: the audit, and the constraint of bad events is dropped.
    pub(crate) async fn finish(mut self) -> Outcome {
        let audit = self.audit().await;
        if self.rejects_bad
            && let Some(location) = &self.location
            && let Err(error) = take_bad(location).await
        {
            self.failures.push(format!(
                "the constraint loadtest_bad is still on requests: {}",
                crate::describe(&error)
            ));
        }
        let Self { setup, plan, tally, failures, interrupted, .. } = self;
        let report =
            Report::new(setup.unwrap_or_else(|| Setup::of(&plan)), &tally, audit, failures, interrupted);
        outcome(report, tally)
    }

    /// Drops the constraint of bad events after a failure.
    pub(crate) async fn abandon(self, error: Error) -> Error {
        if self.rejects_bad
            && let Some(location) = &self.location
            && let Err(error) = take_bad(location).await
        {
            eprintln!(
                "loadtest: the constraint loadtest_bad is still on requests: {}",
                crate::describe(&error)
            );
        }
        error
    }

    async fn audit(&mut self) -> Option<Audit> {
        let location = self.location.clone()?;
        let expected = self.expected();
        let seen = self.context.live.interrupts();
        let audited = tokio::select! {
            audited = audit::audit(&location, &self.health, &self.rows, expected, self.settle_timeout) => {
                audited.map_err(|error| crate::describe(&error))
            }
            () = self.context.live.interrupted(seen) => Err("interrupted".to_owned()),
        };
        audited.map_err(|why| self.failures.push(format!("no audit: {why}"))).ok()
    }

    /// The expectations from the answers; adds the trace ids of events without an answer to the rows.
    fn expected(&mut self) -> Expected {
        let counts = &self.tally.counts;
        let requests = &self.tally.unknown;
        let named = match self.plan.batch {
            None => requests.clone(),
            Some(lines) => {
                requests.iter().flat_map(|id| (0..lines).map(move |line| format!("{id}-{line}"))).collect()
            }
        };
        // The work of a worker between its last report and its death is unknown.
        let died = !self.failures.is_empty();
        let unnamed = if died { u64::MAX } else { counts.unknown.saturating_sub(named.len() as u64) };
        self.rows.set_unanswered(named);
        Expected { accepted: counts.accepted, unnamed }
    }
}

/// A load of events from its preparation to its audit, with `work` in between.
pub(crate) async fn conduct<'a, T>(
    context: &'a Context,
    args: &LoadArgs,
    mode: Mode,
    work: impl AsyncFnOnce(&mut Load<'a>) -> Result<T, Error>,
) -> Result<(Outcome, T), Error> {
    let mut load = Load::prepare(context, args, mode).await?;
    match work(&mut load).await {
        Ok(done) => Ok((load.finish().await, done)),
        Err(error) => Err(load.abandon(error).await),
    }
}

async fn take_bad(location: &Location) -> Result<(), database::Error> {
    location.connect().await?.take_bad().await
}

fn run_name() -> String {
    let random: String =
        std::iter::repeat_with(|| fastrand::alphanumeric().to_ascii_lowercase()).take(10).collect();
    format!("lt-{random}")
}

fn outcome(report: Report, tally: Tally) -> Outcome {
    let audit = report.audit.as_ref().map(|audit| {
        let mut findings = Findings {
            lost: audit.lost,
            doubled: audit.doubled,
            pending: audit.unsettled,
            unexpected: audit.surplus,
            ..Findings::of("accepted events", report.counts.accepted)
        };
        if !audit.doubled_trace_ids.is_empty() {
            findings.notes.push(format!("doubled: {} …", audit.doubled_trace_ids.join(", ")));
        }
        if audit.unsettled > 0 && audit.pending.is_none() {
            findings.notes.push("the service does not report what is pending".to_owned());
        }
        findings
    });
    let own = serde_json::to_value(&report).unwrap_or_default();
    let mut outcome = Outcome {
        audit,
        tables: Some(report.tables()),
        tabled: report.figures(),
        failures: report.failures,
        interrupted: report.interrupted,
        details: own,
        ..Outcome::default()
    };
    outcome.latency("accepted", tally.accepted);
    if tally.other.len() > 0 {
        outcome.latency("others", tally.other);
    }
    outcome.latency("send lag", tally.lag);
    outcome
}
