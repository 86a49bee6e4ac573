//! The coordinator: plans the run, starts the workers, adds up their results, audits, reports.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::audit::{self, Expected};
use crate::cli::{Mode, RunArgs};
use crate::collect::{self, Collected};
use crate::database::{self, Given, Location, RunRows};
use crate::health::{self, Health};
use crate::interrupts::Interrupts;
use crate::payload::{self, DEFAULT_TEMPLATE, Payloads, Source, now_ms};
use crate::protocol::{Plan, Token};
use crate::report::{Report, Setup};

/// The reason why there is no result.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Payload(#[from] payload::Error),
    #[error("the token holds characters that a header cannot carry")]
    Token,
    #[error(transparent)]
    Service(#[from] health::Error),
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error(transparent)]
    Workers(#[from] collect::Error),
    #[error("the coordinator cannot start")]
    Runtime(#[from] std::io::Error),
    #[error("the report {0} cannot be written")]
    Report(String, #[source] std::io::Error),
}

impl Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Payload(_) | Self::Token | Self::Database(database::Error::BadUrl(_)) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Runs a load test; the exit code is its result.
pub(crate) fn run(args: RunArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let passed = runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(conduct(args)));
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            error.exit_code()
        }
    }
}

async fn conduct(args: RunArgs) -> Result<bool, Error> {
    let plan = plan(&args)?;
    // Invalid arguments are reported before anything is started.
    Payloads::load(&plan.payload, plan.events(), plan.bad_percent)?;
    let health = Health::new(plan.target.clone(), plan.token.clone());
    health.pending().await?;
    let location = if args.no_audit {
        None
    } else {
        Some(Location::find(Given { url: args.database_url.as_deref(), ..Given::default() })?)
    };
    let rows = RunRows::starting_now(&plan.run);
    if let Some(location) = &location {
        location.connect().await?.count(&rows).await?;
    }
    let bad = location.as_ref().filter(|_| args.bad.is_some());
    if let Some(location) = bad {
        location.connect().await?.reject_bad().await?;
    }
    let conducted = conduct_planned(&args, &plan, &health, location.as_ref(), rows).await;
    let taken = match bad {
        Some(location) => take_bad(location).await,
        None => Ok(()),
    };
    let mut report = conducted?;
    if let Err(error) = taken {
        report.fail(format!("the constraint loadtest_bad is still on requests: {}", crate::describe(&error)));
    }
    println!("{}", report.render());
    if let Some(path) = &args.report {
        write_report(&report, path)?;
    }
    Ok(report.passed)
}

async fn take_bad(location: &Location) -> Result<(), database::Error> {
    location.connect().await?.take_bad().await
}

/// The run and its audit.
async fn conduct_planned(
    args: &RunArgs,
    plan: &Plan,
    health: &Health,
    location: Option<&Location>,
    mut rows: RunRows,
) -> Result<Report, Error> {
    let setup = Setup {
        run: plan.run.clone(),
        started_at_ms: now_ms(),
        url: plan.target.url(""),
        mode: if plan.batch.is_some() { "batch" } else { "single" },
        batch_size: plan.batch,
        workers: plan.workers,
        connections: plan.connections,
        rate: (args.rate > 0.0).then_some(args.rate),
        duration_s: plan.duration_s,
        bad_percent: plan.bad_percent,
    };

    let mut interrupts = Interrupts::listen()?;
    let mut collected = collect::collect(plan, &mut interrupts).await?;
    let audit = match location {
        Some(location) => {
            eprintln!("waiting until the accepted events are stored …");
            let expected = expected(plan, &mut rows, &collected);
            let patience = Duration::from_secs_f64(args.settle_timeout);
            let audited = tokio::select! {
                audited = audit::audit(location, health, &rows, expected, patience) => {
                    audited.map_err(|error| crate::describe(&error))
                }
                () = interrupts.next() => Err("interrupted".to_owned()),
            };
            audited.map_err(|why| collected.failures.push(format!("no audit: {why}"))).ok()
        }
        None => None,
    };
    let Collected { tally, failures, interrupted } = collected;
    Ok(Report::new(setup, &tally, audit, failures, interrupted))
}

fn plan(args: &RunArgs) -> Result<Plan, Error> {
    let batch = (args.mode == Mode::Batch).then_some(args.batch_size.get());
    let token = Token::shown(args.token.as_deref());
    if token.as_ref().is_some_and(|token| crate::client::bearer(&token.0).is_none()) {
        return Err(Error::Token);
    }
    let payload = match (&args.payload_file, &args.payload) {
        (Some(file), _) => Source::File(file.clone()),
        (None, Some(template)) => Source::Template(template.clone()),
        (None, None) => Source::Template(DEFAULT_TEMPLATE.to_owned()),
    };
    let default_connections = if batch.is_some() { 4 } else { 64 };
    Ok(Plan {
        run: run_name(),
        worker: 0,
        workers: args.workers,
        target: args.url.clone(),
        token,
        connections: args.connections.map_or(default_connections, usize::from),
        requests_per_second: (args.rate > 0.0).then(|| args.rate / batch.unwrap_or(1) as f64),
        duration_s: args.duration,
        timeout_s: args.timeout,
        batch,
        payload,
        bad_percent: args.bad,
    })
}

fn run_name() -> String {
    let random: String =
        std::iter::repeat_with(|| fastrand::alphanumeric().to_ascii_lowercase()).take(10).collect();
    format!("lt-{random}")
}

/// The expectations from the answers; adds the trace ids of events without an answer to `rows`.
fn expected(plan: &Plan, rows: &mut RunRows, collected: &Collected) -> Expected {
    let counts = &collected.tally.counts;
    let requests = &collected.tally.unknown;
    let named = match plan.batch {
        None => requests.clone(),
        Some(lines) => {
            requests.iter().flat_map(|id| (0..lines).map(move |line| format!("{id}-{line}"))).collect()
        }
    };
    // The work of a worker between its last report and its death is unknown.
    let died = !collected.failures.is_empty();
    let unnamed = if died { u64::MAX } else { counts.unknown.saturating_sub(named.len() as u64) };
    rows.set_unanswered(named);
    Expected { accepted: counts.accepted, unnamed }
}

fn write_report(report: &Report, path: &Path) -> Result<(), Error> {
    let json = serde_json::to_vec_pretty(report).map_err(std::io::Error::from);
    json.and_then(|json| std::fs::write(path, json))
        .map_err(|error| Error::Report(path.display().to_string(), error))
}
