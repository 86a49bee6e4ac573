//! `realtime`: live subscribers. Writers create and update records, subscribers follow them by `/api/events/stream`, or by the API of
//! [`pocketbase`], and each delivery is audited.
//!
//! ```text
//! pace ─▶ writers ══ create, update ══▶ the service ══ events ══▶ subscribers ─▶ audit
//!            └── numbers and fates of the changes ─────────────────────────────────┘
//! ```
//!
//! Everything runs on one thread, so that a change's sending and its delivery are on one clock, and the audit needs no locks.

mod audit;
mod pocketbase;
mod stream;
mod subscriber;
mod writer;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hyper::header::HeaderValue;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Context, Error};
use crate::cli::{non_negative, share};
use crate::client::Target;
use crate::descriptors;
use crate::document::Outcome;
use crate::findings::Findings;
use crate::live::Live;
use crate::pace::Pace;
use crate::report::{grouped, per_second, time};
use crate::resident::{Usage, usage};
use crate::schedule::{Lane, Phase, Schedule};
use crate::tally::Times;
use audit::{Delivered, TopicLog};
pub(crate) use pocketbase::ApiArgs;
pub(super) use pocketbase::PocketBaseError;
use pocketbase::{Api, PocketBase};
use stream::Marker;
use subscriber::{Observations, Subscriber};
use writer::{Tickets, Writes};

/// Unless `--duration` is given.
const DURATION_S: f64 = 20.0;
/// Streams opened at once, unless they are to come all at once.
const OPENING: usize = 100;
/// Descriptors beside those of the subscribers.
const OTHER_DESCRIPTORS: u64 = 200;
/// The time after which streams that are not ready, or changes that are not delivered, are given up without any progress.
const PATIENCE: Duration = Duration::from_secs(20);
/// The interval of checks for progress.
const CHECK: Duration = Duration::from_millis(5);
/// The wait before memory is measured.
const SETTLED: Duration = Duration::from_secs(2);
/// Bytes of an event beside its payload, about.
const EVENT_BYTES: f64 = 350.0;

/// The arguments of `realtime`.
#[derive(Debug, Args)]
pub(crate) struct RealtimeArgs {
    #[command(flatten)]
    pub(crate) of_api: ApiArgs,
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
}

/// The properties common to all, and the measurements.
struct Plan {
    run: String,
    marker: Marker,
    address: SocketAddr,
    target: Target,
    live: Arc<Live>,
    /// Whether deliveries are the operations that are shown; otherwise writes are.
    has_subscribers: bool,
    host: String,
    token: Option<HeaderValue>,
    base: String,
    /// `None`: the API is ours.
    pocketbase: Option<PocketBase>,
    logs: Vec<RefCell<TopicLog>>,
    padding: String,
    updates: f64,
    /// Bytes a second of a slow reader: half of what comes.
    slow_bytes_s: Option<usize>,
    origin: Instant,
    /// One for all subscribers.
    buffer: RefCell<Vec<u8>>,
    /// The load is over: slow readers catch up.
    is_settling: Cell<bool>,
    observations: RefCell<Observations>,
    writes: RefCell<Writes>,
}

impl Plan {
    fn new(context: &Context, args: &RealtimeArgs, address: SocketAddr) -> Result<Self, Error> {
        let target = context.target();
        let random = std::iter::repeat_with(|| fastrand::alphanumeric().to_ascii_lowercase()).take(10);
        let run = format!("rt-{}", random.collect::<String>());
        let each_s = args.rate / f64::from(args.topics) * (f64::from(args.payload) + EVENT_BYTES);
        Ok(Self {
            marker: Marker::new(&run),
            run,
            address,
            host: target.host_header(),
            target: target.clone(),
            live: Arc::clone(&context.live),
            token: match args.of_api.api {
                Api::Tidegate => context.authorization().cloned(),
                // Guests are under the rules.
                Api::Pocketbase => None,
            },
            base: target.path(""),
            pocketbase: PocketBase::new(target, &args.of_api, args.behind)?,
            logs: (0..args.topics).map(|_| RefCell::default()).collect(),
            has_subscribers: args.subscribers > 0,
            padding: "x".repeat(args.payload as usize),
            updates: args.updates / 100.0,
            slow_bytes_s: (args.slow > 0.0).then_some((each_s / 2.0) as usize),
            origin: Instant::now(),
            buffer: subscriber::common_buffer(),
            is_settling: Cell::new(false),
            observations: RefCell::default(),
            writes: RefCell::default(),
        })
    }

    fn topics(&self) -> usize {
        self.logs.len()
    }

    fn log(&self, topic: usize) -> Ref<'_, TopicLog> {
        self.logs[topic].borrow()
    }

    fn log_mut(&self, topic: usize) -> RefMut<'_, TopicLog> {
        self.logs[topic].borrow_mut()
    }

    fn record_path(&self, topic: usize) -> String {
        match &self.pocketbase {
            None => format!("{}/api/stress/records/loadtest_{topic}", self.base),
            Some(pocketbase) => pocketbase.record_path(topic),
        }
    }

    /// Microseconds since the start of the program.
    fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_micros() as u64
    }

    fn record(&self, topic: usize, change: Delivered, sent_us: u64) -> String {
        let value = Marker::value(&self.run, change, sent_us);
        match &self.pocketbase {
            None => format!("{{\"lt\":\"{value}\",\"padding\":\"{}\"}}", self.padding),
            Some(pocketbase) => pocketbase.record(topic, change.number, &value, &self.padding),
        }
    }

    fn stream_request(&self, subscriber: &Subscriber) -> Vec<u8> {
        let Self { base, host, .. } = self;
        let path = match self.pocketbase {
            None => format!("/api/events/stream?topics=records/loadtest_{}", subscriber.topic),
            Some(_) => "/api/realtime".to_owned(),
        };
        let mut request = format!("GET {base}{path} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
        if let Some(token) = &self.token {
            request.extend_from_slice(b"authorization: ");
            request.extend_from_slice(token.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        let last_id = subscriber.last_id.borrow();
        if self.pocketbase.is_none() && !last_id.is_empty() {
            request.extend_from_slice(b"last-event-id: ");
            request.extend_from_slice(&last_id);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request
    }

    fn refuse(&self, reason: String) {
        let mut writes = self.writes.borrow_mut();
        if writes.refusals.len() < 5 {
            writes.refusals.push(reason);
        }
    }

    /// Whether the subscriber has every acknowledged change of its topic.
    fn has_all(&self, subscriber: &Subscriber) -> bool {
        let log = self.log(subscriber.topic);
        let seen = subscriber.seen.borrow();
        seen.count() >= log.acknowledged() && seen.missed(&log) == 0
    }
}

/// Runs the load, and audits each delivery.
pub(crate) async fn measure(context: &Context, args: &RealtimeArgs) -> Result<Outcome, Error> {
    let duration = context.duration(DURATION_S);
    let seconds = duration.as_secs_f64();
    descriptors::raise(u64::from(args.subscribers) + OTHER_DESCRIPTORS)?;
    let address = context.target().resolve().await?;
    let plan = Rc::new(Plan::new(context, args, address)?);
    if let Some(pocketbase) = &plan.pocketbase {
        pocketbase.make_collections(plan.topics(), context.token()).await?;
    }
    let is_measured = plan.pocketbase.is_none() || !context.common.pid.is_empty();
    let figures = async || match is_measured {
        true => usage(context.target(), context.token(), &context.common.pid).await.map(Some),
        false => Ok(None),
    };
    // The collections exist, and every connection of the pool is warm.
    write_at_once(args, &plan, u64::from(args.topics)).await;
    let start = if args.behind > 0 { behind(args, &plan).await? } else { vec![Vec::new(); plan.topics()] };
    if args.behind == 0 {
        for log in &plan.logs {
            *log.borrow_mut() = TopicLog::default();
        }
    }
    *plan.writes.borrow_mut() = Writes::default();

    let before = figures().await?;
    let subscribers: Vec<Rc<Subscriber>> =
        (0..args.subscribers).map(|n| subscriber(args, n, &start)).collect();
    let opened_at = Instant::now();
    let turns = if args.behind > 0 { Semaphore::MAX_PERMITS } else { OPENING };
    let opening = Rc::new(Semaphore::new(turns));
    let mut following = JoinSet::new();
    for subscriber in &subscribers {
        following.spawn_local(subscriber::follow(
            Rc::clone(&plan),
            Rc::clone(subscriber),
            Rc::clone(&opening),
        ));
    }
    ready(&plan, subscribers.len()).await?;
    let open_s = opened_at.elapsed().as_secs_f64();
    let caught_up = match args.behind {
        0 => None,
        _ => Some(caught_up(&plan, &subscribers, opened_at).await),
    };
    let behind_deliveries = std::mem::take(&mut plan.observations.borrow_mut().deliveries);
    tokio::time::sleep(SETTLED).await;

    let (began, own_began) = (figures().await?, own_cpu_s());
    let started = Instant::now();
    // Each change goes to the subscribers of its topic.
    let operations = match args.subscribers {
        0 => args.rate,
        subscribers => args.rate * f64::from(subscribers) / f64::from(args.topics),
    };
    let is_paced = args.rate > 0.0 && !args.of_api.closed_loop;
    let phases = if is_paced { vec![Phase { per_second: operations, seconds }] } else { Vec::new() };
    context.live.begin(seconds, phases);
    let reconnecting = tokio::task::spawn_local(reconnect(args.reconnects, subscribers.clone()));
    match args.rate > 0.0 || args.of_api.closed_loop {
        true => write_for_a_while(args, &plan, duration).await?,
        false => tokio::time::sleep(duration).await,
    }
    let written_s = started.elapsed().as_secs_f64();
    reconnecting.abort();
    plan.is_settling.set(true);
    let is_complete = settled(&plan, &subscribers).await;
    let last = plan.observations.borrow().last_delivery.filter(|last| *last > started);
    let elapsed_s = last.map_or(seconds, |last| (last - started).as_secs_f64().max(seconds));
    context.live.end("the last figures");
    let (ended, own_s) = (figures().await?, own_cpu_s() - own_began);
    drop(following);

    let mut faults = plan.observations.borrow().faults;
    for subscriber in &subscribers {
        faults.missed += subscriber.seen.borrow().missed(&plan.log(subscriber.topic));
    }
    let usage = before.zip(began).zip(ended).map(|((before, began), ended)| [before, began, ended]);
    let figures = Figures { open_s, caught_up, behind_deliveries, elapsed_s, written_s, usage, own_s };
    let mut outcome = report(args, &plan, &figures);
    let (resets, acknowledged) = {
        let acknowledged: u64 = plan.logs.iter().map(|log| log.borrow().acknowledged()).sum();
        (plan.observations.borrow().resets, acknowledged)
    };
    let mut findings = Findings {
        lost: faults.missed,
        doubled: faults.doubled,
        out_of_order: faults.swapped,
        unexpected: faults.unsent,
        ..Findings::of("changes for each of their subscribers", acknowledged)
    };
    findings.notes.extend(plan.writes.borrow().refusals.iter().cloned());
    if resets > 0 {
        outcome.failures.push(format!("{} streams were reset: changes may be missing", grouped(resets)));
    }
    if !is_complete && findings.balances() {
        outcome.failures.push("not every subscriber has every change".to_owned());
    }
    outcome.audit = Some(findings);
    Ok(outcome)
}

fn subscriber(args: &RealtimeArgs, number: u32, start: &[Vec<u8>]) -> Rc<Subscriber> {
    let topic = (number % args.topics) as usize;
    // Spread over the topics and over the order in which streams are opened.
    let is_slow = (f64::from(number) * 0.618_034).fract() < args.slow / 100.0;
    let subscriber = Subscriber::new(topic, is_slow);
    subscriber.last_id.replace(start.get(topic).cloned().unwrap_or_default());
    Rc::new(subscriber)
}

/// Writes at the run's rate, or as fast as answers come, for its duration.
async fn write_for_a_while(args: &RealtimeArgs, plan: &Rc<Plan>, duration: Duration) -> Result<(), Error> {
    let schedule = Schedule::new(args.rate, duration, Lane { worker: 0, workers: 1 });
    let schedule = (!args.of_api.closed_loop).then_some(schedule);
    let tickets = Rc::new(Tickets::Paced(Pace::start(schedule, duration)));
    let mut writers = writers(args, plan, &tickets);
    if let Tickets::Paced(pace) = &*tickets {
        tokio::select! {
            paced = pace.run() => paced?,
            () = plan.live.interrupted(0) => pace.stop(),
        }
    }
    while writers.join_next().await.is_some() {}
    Ok(())
}

/// Writes this number of changes as fast as answers come.
async fn write_at_once(args: &RealtimeArgs, plan: &Rc<Plan>, count: u64) {
    let mut writers = writers(args, plan, &Rc::new(Tickets::Counted(Cell::new(0), count)));
    while writers.join_next().await.is_some() {}
}

fn writers(args: &RealtimeArgs, plan: &Rc<Plan>, tickets: &Rc<Tickets>) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for _ in 0..args.writers {
        writers.spawn_local(writer::write(Rc::clone(plan), plan.target.clone(), Rc::clone(tickets)));
    }
    writers
}

/// Positions of the topics, behind which `--behind` changes of each topic follow.
async fn behind(args: &RealtimeArgs, plan: &Rc<Plan>) -> Result<Vec<Vec<u8>>, Error> {
    let scouts: Vec<Rc<Subscriber>> =
        (0..plan.topics()).map(|topic| Rc::new(Subscriber::new(topic, false))).collect();
    let opening = Rc::new(Semaphore::new(OPENING));
    let mut following = JoinSet::new();
    for scout in &scouts {
        following.spawn_local(subscriber::follow(Rc::clone(plan), Rc::clone(scout), Rc::clone(&opening)));
    }
    ready(plan, scouts.len()).await?;
    drop(following);
    for log in &plan.logs {
        *log.borrow_mut() = TopicLog::default();
    }
    let start = scouts.iter().map(|scout| scout.last_id.borrow().clone()).collect();
    write_at_once(args, plan, u64::from(args.topics) * u64::from(args.behind)).await;
    *plan.observations.borrow_mut() = Observations::default();
    Ok(start)
}

/// Waits until all streams are ready.
async fn ready(plan: &Plan, all: usize) -> Result<(), Error> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let (ready, refused) = {
            let seen = plan.observations.borrow();
            (seen.ready, refusals(&seen.refused))
        };
        if ready as usize == all {
            return Ok(());
        }
        if ready != last {
            (last, since) = (ready, Instant::now());
        } else if since.elapsed() > PATIENCE {
            return Err(Error::NotReady { ready, all, refused });
        }
        tokio::time::sleep(CHECK).await;
    }
}

/// Waits until all subscribers have all changes; returns the time of each.
async fn caught_up(plan: &Plan, subscribers: &[Rc<Subscriber>], since: Instant) -> Times {
    let mut times = Times::empty();
    let mut behind: Vec<&Rc<Subscriber>> = subscribers.iter().collect();
    let (mut deliveries, mut progress) = (0, Instant::now());
    while !behind.is_empty() && progress.elapsed() < PATIENCE {
        tokio::time::sleep(CHECK).await;
        let elapsed = since.elapsed();
        behind.retain(|subscriber| {
            let has_all = plan.has_all(subscriber);
            if has_all {
                times.record(elapsed);
            }
            !has_all
        });
        let now = plan.observations.borrow().deliveries;
        if now != deliveries {
            (deliveries, progress) = (now, Instant::now());
        }
    }
    times
}

/// Waits until all subscribers have all changes. False: some are missing, and nothing comes any more.
async fn settled(plan: &Plan, subscribers: &[Rc<Subscriber>]) -> bool {
    caught_up(plan, subscribers, Instant::now()).await.len() as usize == subscribers.len()
}

/// Refused streams by status.
fn refusals(refused: &BTreeMap<u16, u64>) -> String {
    match refused.is_empty() {
        true => "0".to_owned(),
        false => {
            refused.iter().map(|(status, count)| format!("{count} × {status}")).collect::<Vec<_>>().join(", ")
        }
    }
}

/// Makes a subscriber reconnect, `per_s` times a second.
async fn reconnect(per_s: f64, subscribers: Vec<Rc<Subscriber>>) {
    if per_s <= 0.0 || subscribers.is_empty() {
        return;
    }
    let start = Instant::now();
    let mut done = 0.0;
    loop {
        tokio::time::sleep(CHECK).await;
        while done < start.elapsed().as_secs_f64() * per_s {
            done += 1.0;
            if let Some(subscriber) = subscribers.get(fastrand::usize(..subscribers.len())) {
                subscriber.reconnect.notify_one();
            }
        }
    }
}

/// CPU time of this process so far.
fn own_cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}

/// The measurements of a run.
struct Figures {
    open_s: f64,
    caught_up: Option<Times>,
    behind_deliveries: u64,
    elapsed_s: f64,
    /// The writes' part of it.
    written_s: f64,
    /// Before the streams, with idle ones, and at the end.
    usage: Option<[Usage; 3]>,
    own_s: f64,
}

fn report(args: &RealtimeArgs, plan: &Plan, figures: &Figures) -> Outcome {
    let mut outcome = Outcome::default();
    let seen = plan.observations.borrow();
    let writes = plan.writes.borrow();
    let Figures { open_s, caught_up, behind_deliveries, elapsed_s, written_s, usage, own_s } = figures;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let rate = match args.of_api.closed_loop {
        true => format!("{} writers", args.writers),
        false => format!("{} changes/s", args.rate),
    };
    outcome.figure(
        "load",
        format!(
            "{} subscribers of {} topics, {rate} of {} bytes",
            grouped(u64::from(args.subscribers)),
            grouped(u64::from(args.topics)),
            args.payload,
        ),
    );
    outcome.figure("ready", format!("all in {open_s:.2} s"));
    if let Some(times) = caught_up {
        outcome.figure(
            "caught up",
            format!(
                "{} of {} in {} ({} deliveries), p50 {}",
                grouped(times.len()),
                grouped(u64::from(args.subscribers)),
                time(times.max().as_micros() as u64),
                grouped(*behind_deliveries),
                time(times.at(50.0).as_micros() as u64)
            ),
        );
    }
    let (mut acknowledged, mut unknown) = (0, 0);
    for log in &plan.logs {
        acknowledged += log.borrow().acknowledged();
        unknown += log.borrow().unknown();
    }
    outcome.figure(
        "changes",
        format!(
            "{} acknowledged, {} a second, {} without an answer",
            grouped(acknowledged),
            grouped(per_second(acknowledged, *written_s) as u64),
            grouped(unknown)
        ),
    );
    outcome.figure(
        "deliveries",
        format!(
            "{}, {} a second, {:.1} MiB received",
            grouped(seen.deliveries),
            grouped(per_second(seen.deliveries, *elapsed_s) as u64),
            mib(seen.bytes)
        ),
    );
    outcome.figure(
        "connections",
        format!(
            "{} reconnects, {} cut off, refused: {}, {} not connected, {} resets",
            grouped(seen.reconnects),
            grouped(seen.cut_off),
            refusals(&seen.refused),
            grouped(seen.unconnected),
            grouped(seen.resets)
        ),
    );
    if let Some([before, began, ended]) = usage {
        let cpu_s = ended.cpu_s - began.cpu_s;
        let each = match seen.deliveries {
            0 => String::new(),
            deliveries => format!(", {:.2} µs a delivery", cpu_s * 1e6 / deliveries as f64),
        };
        outcome.figure(
            "service CPU",
            format!("{cpu_s:.2} s, {:.1} % of a core{each}", cpu_s / elapsed_s * 100.0),
        );
        let growth = began.resident_bytes.saturating_sub(before.resident_bytes) as f64;
        outcome.figure(
            "resident",
            format!(
                "{:.1} MiB before, {:.1} with idle streams ({:.1} KiB each), {:.1} at the end",
                mib(before.resident_bytes),
                mib(began.resident_bytes),
                growth / 1024.0 / f64::from(args.subscribers.max(1)),
                mib(ended.resident_bytes)
            ),
        );
    }
    outcome.figure("own CPU", format!("{own_s:.2} s, {:.1} % of a core", own_s / elapsed_s * 100.0));
    outcome.latency("delivery", seen.live.clone());
    if seen.late.len() > 0 {
        outcome.latency("resumed, slow", seen.late.clone());
    }
    outcome.latency("write", writes.answers.clone());
    outcome.latency("send lag", writes.lag.clone());
    outcome
}
