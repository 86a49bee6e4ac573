//! `drain`: the drain rate of a backlog in the journal. Collects one while the table is locked, releases it, and compares with one plain COPY of the
//! same rows into a table of the same shape.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::load::DatabaseArgs;
use super::{Context, Error, succeeded};
use crate::cli::percent;
use crate::client::{Body, Connection};
use crate::database::Database;
use crate::document::Outcome;
use crate::findings::Findings;
use crate::health::Health;
use crate::payload::{DEFAULT_TEMPLATE, Payloads, Source};
use crate::tally::Times;

/// Events per request.
const BATCH: usize = 1000;
/// The interval between two queries of pending events.
const LOOK: Duration = Duration::from_millis(20);

/// The arguments of `drain`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrainArgs {
    /// Size of the backlog, in MiB of JSON
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) mebibytes: u32,
    /// Template of the events, as for run
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) payload: Option<String>,
    /// Percentage of bad events, as for run
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) bad: Option<f64>,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

/// Collects a backlog and measures its drain.
pub(crate) async fn measure(context: &Context, args: &DrainArgs) -> Result<Outcome, Error> {
    let location = args.database.location()?;
    let holder = location.connect().await?;
    let mut database = location.connect().await?;
    let health = context.health();
    health.pending().await?.ok_or(Error::NoPending)?;

    match args.bad {
        None => drain(context, args, &holder, &mut database, &health).await,
        Some(_) => {
            database.reject_bad().await?;
            let measured = drain(context, args, &holder, &mut database, &health).await;
            location.connect().await?.take_bad().await?;
            measured
        }
    }
}

async fn drain(
    context: &Context,
    args: &DrainArgs,
    holder: &Database,
    database: &mut Database,
    health: &Health,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let rows = database.rows_from_now();
    holder.hold_requests().await?;
    let started = Instant::now();
    let gathered = gather(context, args).await;
    let gathering_s = started.elapsed().as_secs_f64();
    context.live.end("draining");
    context.live.note("the table is released");
    let started = Instant::now();
    // Also after a failure: the service would wait for the lock.
    holder.let_go().await?;
    let (events, bytes, times) = gathered?;
    outcome.latency("batch", times);
    outcome
        .figure("gathered", format!("{events} events, {} MiB of JSON, in {gathering_s:.1} s", bytes >> 20));
    // As for other audits, it is progress that counts: a backlog may take its time.
    let patience = Duration::from_secs_f64(args.database.settle_timeout);
    let (mut fewest, mut progress) = (u64::MAX, Instant::now());
    let pending = loop {
        let pending = health.pending().await?.ok_or(Error::NoPending)?;
        if pending < fewest {
            (fewest, progress) = (pending, Instant::now());
        }
        if pending == 0 || progress.elapsed() > patience || context.live.is_stopped() {
            break pending;
        }
        tokio::time::sleep(LOOK).await;
    };
    let drained = (events - pending.min(events)) as f64 / started.elapsed().as_secs_f64();
    outcome.figure("drained", format!("{drained:.0} events/s"));
    let (copied, elapsed) = database.copy_floor(&rows).await?;
    let floor = copied as f64 / elapsed.as_secs_f64();
    outcome.figure("plain COPY", format!("{floor:.0} rows/s, of the same {copied} rows"));
    outcome.figure("ratio", format!("{:.2}", drained / floor));
    let dead = database.dead_from(&rows).await?;
    if args.bad.is_some() {
        outcome.figure("dead letters", dead.to_string());
    }
    let missing = events.saturating_sub(copied + dead);
    let open = missing.min(pending);
    outcome.audit = Some(Findings {
        lost: missing - open,
        pending: open,
        // Of other producers of the same service too.
        unexpected: (copied + dead).saturating_sub(events),
        ..Findings::of("accepted events", events)
    });
    Ok(outcome)
}

/// Posts batches up to the size; returns their events, bytes and latencies.
async fn gather(context: &Context, args: &DrainArgs) -> Result<(u64, u64, Times), Error> {
    let template = args.payload.clone().unwrap_or_else(|| DEFAULT_TEMPLATE.into());
    let mut payloads = Payloads::load(&Source::Template(template), BATCH, args.bad)?;
    let mut connection = Connection::open(context.target()).await?;
    let wanted = u64::from(args.mebibytes) << 20;
    let (mut requests, mut bytes, mut all) = (0, 0, Times::empty());
    context.live.begin(0.0, Vec::new());
    while bytes < wanted && !context.live.is_stopped() {
        let body: Bytes = payloads.body(requests);
        let length = body.len() as u64;
        let mut request = context.request(context.target(), Method::POST, "/api/v1/events/batch", body)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        let sent = Instant::now();
        succeeded(connection.exchange(request, Body::Keep, context.timeout()).await?)?;
        let mut times = Times::empty();
        times.record(sent.elapsed());
        all.add(&times);
        context.live.add(BATCH as u64, 0, &times);
        requests += 1;
        bytes += length;
    }
    Ok((requests * BATCH as u64, bytes, all))
}
