//! `streams-sse`: live readers over SSE: each gets every message once, in order. Latency is measured from the time at which a message is due, so a late writer counts
//! against the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::super::{Context, Error, succeeded};
use super::message::{Cutter, Message};
use super::read::fill_stream;
use super::usage::Usage;
use super::{DURATION_S, NEXT_OFFSET, NO_OFFSET, Plan, StreamsArgs, header};
use crate::cli::non_negative;
use crate::client::{Body, Connection};
use crate::descriptors;
use crate::document::Outcome;
use crate::findings::Findings;
use crate::live::Live;
use crate::order::Order;
use crate::schedule::Phase;
use crate::tally::Times;

/// The arguments of `streams-sse`.
#[derive(Debug, Clone, Args)]
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

/// Descriptors beside those of subscribers.
const OTHER_DESCRIPTORS: u64 = 64;
/// Subscribers that connect at the same time.
const OPENING: usize = 64;
/// The time for the last messages to arrive.
const LAST_ARRIVALS: Duration = Duration::from_secs(5);
/// The time in which all subscribers have to be connected.
const CONNECTED: Duration = Duration::from_secs(60);

/// What all subscribers saw.
#[derive(Debug, Default)]
struct Seen {
    connected: u32,
    latency: Times,
    deliveries: u64,
    /// Of each subscriber.
    orders: Vec<Order>,
    garbled: u64,
    reconnects: u64,
    reasons: Vec<String>,
}

/// What all of them share.
struct Shared {
    plan: Plan,
    live: Arc<Live>,
    started: Instant,
    /// The time at which reading ends.
    until: Mutex<Option<Instant>>,
    seen: Mutex<Seen>,
    /// The end of each stream before the load.
    offsets: Vec<String>,
}

/// Measures live reads. Every subscriber has to get every acknowledged message once, in order.
pub(crate) async fn measure(context: &Context, args: &StreamsSseArgs) -> Result<Outcome, Error> {
    descriptors::raise(u64::from(args.subscribers) + OTHER_DESCRIPTORS)?;
    let plan = Plan::new(context, &args.streams)?;
    let streams = usize::from(args.number);
    plan.create(streams).await?;
    let mut offsets = Vec::new();
    for stream in 0..streams {
        if args.history > 0 {
            fill_stream(&plan, stream, u64::from(args.history), false).await?;
        }
        offsets.push(end(&plan, stream).await?);
    }
    let started = Instant::now();
    let live = Arc::clone(&context.live);
    let shared =
        Arc::new(Shared { plan, live, started, until: Mutex::new(None), seen: Mutex::default(), offsets });
    shared.seen.lock().orders = vec![Order::default(); args.subscribers as usize];
    let before = Usage::of(&context.common.pid)?;
    let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
    let mut subscribers = JoinSet::new();
    for number in 0..args.subscribers as usize {
        let (shared, opening) = (Arc::clone(&shared), Arc::clone(&opening));
        subscribers.spawn(async move { Subscriber::new(&shared, number, streams).run(&opening).await });
    }
    let deadline = Instant::now() + CONNECTED;
    while shared.seen.lock().connected < args.subscribers && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    let idle = Usage::of(&context.common.pid)?;
    let duration = context.duration(DURATION_S);
    let deliveries = args.rate * f64::from(args.subscribers);
    let phases =
        (deliveries > 0.0).then_some(Phase { per_second: deliveries, seconds: duration.as_secs_f64() });
    context.live.begin(duration.as_secs_f64(), phases.into_iter().collect());
    let begun = Instant::now();
    let (sent, late) = write(&shared, args.rate, streams, begun + duration).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    let after = Usage::of(&context.common.pid)?;
    *shared.until.lock() = Some(Instant::now() + LAST_ARRIVALS);
    // A subscriber ends when it has everything.
    wait(&shared, &sent, args.subscribers).await;
    context.live.end("the last figures");
    subscribers.abort_all();
    while subscribers.join_next().await.is_some() {}
    let seen = std::mem::take(&mut *shared.seen.lock());
    let wanted: u64 = (0..args.subscribers as usize).map(|number| sent[number % streams]).sum();
    let mut outcome = Outcome::default();
    outcome.figure(
        "subscribers",
        format!(
            "{} of {} connected, {streams} streams, {} messages/s each, {} bytes, history {}",
            seen.connected, args.subscribers, args.rate, shared.plan.size, args.history
        ),
    );
    outcome.figure(
        "deliveries",
        format!("{} of {wanted}, {:.0}/s", seen.deliveries, seen.deliveries as f64 / elapsed),
    );
    outcome.figure("writer", format!("{late} messages sent over 5 ms late"));
    if let (Some(before), Some(idle), Some(after)) = (before, idle, after) {
        let subscribers = f64::from(args.subscribers);
        outcome.figure(
            "memory",
            format!("{:.1} KiB an idle subscriber", idle.growth_since(before) / subscribers / 1_024.0),
        );
        if seen.deliveries > 0 {
            let each = after.cpu_since(idle) / seen.deliveries as f64 * 1e6;
            outcome.figure("CPU", format!("{each:.2} µs a delivery"));
        }
    }
    outcome.figure("reconnects", seen.reconnects.to_string());
    if seen.connected < args.subscribers {
        outcome.failures.push(format!(
            "only {} subscribers connected: {}",
            seen.connected,
            seen.reasons.join("; ")
        ));
    }
    let mut findings = Findings::of("deliveries", wanted);
    for (number, order) in seen.orders.iter().enumerate() {
        order.add_to(&mut findings);
        findings.lost += sent[number % streams].saturating_sub(order.next);
    }
    findings.unexpected = seen.garbled.div_ceil(shared.plan.size as u64);
    findings.notes.extend(seen.reasons);
    outcome.latency("delivery", seen.latency);
    outcome.audit = Some(findings);
    shared.plan.delete(streams).await?;
    Ok(outcome)
}

/// The offset of a stream's end.
async fn end(plan: &Plan, stream: usize) -> Result<String, Error> {
    let mut connection = plan.connect(0).await?;
    let request = plan.request(plan.target(0), &Method::HEAD, &plan.stream(stream), Bytes::new())?;
    let answer = succeeded(connection.exchange(request, Body::Skip, plan.timeout).await?)?;
    header(&answer, NEXT_OFFSET).ok_or(NO_OFFSET)
}

/// Appends to each stream on a fixed schedule; returns the messages of each, and the number of late ones.
async fn write(
    shared: &Arc<Shared>,
    rate: f64,
    streams: usize,
    until: Instant,
) -> Result<(Vec<u64>, u64), Error> {
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for stream in 0..streams {
        let shared = Arc::clone(shared);
        // Streams take turns within a period.
        let phase = if rate > 0.0 { stream as f64 / streams as f64 / rate } else { 0.0 };
        writers.spawn(async move {
            write_one(&shared, stream, rate, begun + Duration::from_secs_f64(phase), until).await
        });
    }
    let mut sent = vec![0; streams];
    let mut late = 0;
    while let Some(joined) = writers.join_next().await {
        let (stream, messages, late_ones) = joined.map_err(std::io::Error::other)??;
        sent[stream] = messages;
        late += late_ones;
    }
    Ok((sent, late))
}

async fn write_one(
    shared: &Shared,
    stream: usize,
    rate: f64,
    begun: Instant,
    until: Instant,
) -> Result<(usize, u64, u64), Error> {
    if rate <= 0.0 {
        sleep_until(until.into()).await;
        return Ok((stream, 0, 0));
    }
    let mut connection = shared.plan.connect(stream).await?;
    let (target, path) = (shared.plan.target(stream), shared.plan.stream(stream));
    let (mut number, mut late) = (0, 0);
    loop {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        if due >= until || shared.live.is_stopped() {
            return Ok((stream, number, late));
        }
        connection.idle(sleep_until(due.into())).await;
        late += u64::from(due.elapsed() > Duration::from_millis(5));
        let message = Message { writer: 1, number, sent_us: (due - shared.started).as_micros() as u64 };
        shared.plan.append(&mut connection, target, &path, message.encode(shared.plan.size)).await?;
        number += 1;
    }
}

/// Waits until everything has arrived, or for some time.
async fn wait(shared: &Shared, sent: &[u64], subscribers: u32) {
    let wanted: u64 = (0..subscribers as usize).map(|number| sent[number % sent.len()]).sum();
    let deadline = Instant::now() + LAST_ARRIVALS;
    while shared.seen.lock().deliveries < wanted && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
}

/// A subscriber of one stream.
struct Subscriber<'a> {
    shared: &'a Shared,
    number: usize,
    stream: usize,
    offset: String,
    lines: LineReader,
    cutter: Cutter,
}

impl<'a> Subscriber<'a> {
    fn new(shared: &'a Shared, number: usize, streams: usize) -> Self {
        let stream = number % streams;
        Self {
            shared,
            number,
            stream,
            offset: shared.offsets[stream].clone(),
            lines: LineReader::default(),
            cutter: Cutter::new(shared.plan.size),
        }
    }

    async fn run(&mut self, opening: &tokio::sync::Semaphore) {
        let mut is_first = true;
        loop {
            let turn = opening.acquire().await;
            match self.follow(turn.ok(), is_first).await {
                Ok(()) => {}
                Err(error) => {
                    let mut seen = self.shared.seen.lock();
                    if seen.reasons.len() < 5 {
                        seen.reasons.push(crate::describe(&error));
                    }
                }
            }
            if self.shared.until.lock().is_some() {
                return;
            }
            is_first = false;
            self.shared.seen.lock().reconnects += 1;
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads until the stream ends.
    async fn follow(
        &mut self,
        turn: Option<tokio::sync::SemaphorePermit<'_>>,
        is_first: bool,
    ) -> Result<(), Error> {
        let plan = &self.shared.plan;
        let mut connection: Connection = plan.connect(self.number).await?;
        let path = format!("{}?offset={}&live=sse", plan.stream(self.stream), self.offset);
        let request = plan.request(plan.target(self.number), &Method::GET, &path, Bytes::new())?;
        self.lines = LineReader::default();
        let mut turn = turn;
        let mut counted = !is_first;
        let piece = |piece: &[u8]| {
            turn.take();
            let now = Instant::now();
            let mut seen = self.shared.seen.lock();
            if !std::mem::replace(&mut counted, true) {
                seen.connected += 1;
            }
            let Seen { orders, latency, deliveries, garbled, .. } = &mut *seen;
            let Some(order) = orders.get_mut(self.number) else { return false };
            let Self { cutter, offset, shared, .. } = self;
            let before = cutter.garbled;
            self.lines.read(piece, |event, data| match event {
                "data" => cutter.add(data.as_bytes(), |message| {
                    if message.writer != 1 {
                        return;
                    }
                    order.take(message.number);
                    let sent = shared.started + Duration::from_micros(message.sent_us);
                    let late = now.saturating_duration_since(sent);
                    latency.record(late);
                    shared.live.record(late);
                    *deliveries += 1;
                }),
                "control" => {
                    if let Some(next) = next_offset(data) {
                        *offset = next;
                    }
                }
                _ => {}
            });
            *garbled += cutter.garbled - before;
            true
        };
        match connection.follow(request, CONNECTED, piece).await? {
            0 => Ok(()),
            status => Err(Error::Refused { status, body: String::new() }),
        }
    }
}

fn next_offset(control: &str) -> Option<String> {
    let control: serde_json::Value = serde_json::from_str(control).ok()?;
    control.get("streamNextOffset")?.as_str().map(str::to_owned)
}

/// Reads server-sent events: their names and data. The messages of a run contain no line ends.
#[derive(Debug, Default)]
struct LineReader {
    rest: Vec<u8>,
    event: String,
    data: String,
}

impl LineReader {
    fn read(&mut self, piece: &[u8], mut each: impl FnMut(&str, &str)) {
        self.rest.extend_from_slice(piece);
        let mut begun = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.rest[begun..]) {
            let line = String::from_utf8_lossy(&self.rest[begun..begun + length]).into_owned();
            let line = line.trim_end_matches('\r');
            begun += length + 1;
            if line.is_empty() {
                if !self.data.is_empty() {
                    each(&self.event, &self.data);
                }
                self.event.clear();
                self.data.clear();
            } else if let Some(value) = line.strip_prefix("event:") {
                value.trim_start().clone_into(&mut self.event);
            } else if let Some(value) = line.strip_prefix("data:") {
                self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
            }
        }
        self.rest.drain(..begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = b": a comment\n\nevent: data\ndata:one\n\nevent:control\r\ndata: {\"streamNextOffset\":\"5\"}\r\n\r\nevent: data\ndata:two\n";
        for size in [1, 3, text.len()] {
            let (mut reader, mut events) = (LineReader::default(), Vec::new());
            for piece in text.chunks(size) {
                reader.read(piece, |event, data| events.push((event.to_owned(), data.to_owned())));
            }
            let control = "{\"streamNextOffset\":\"5\"}";
            assert_eq!(events, [("data".into(), "one".into()), ("control".into(), control.to_owned())]);
            assert_eq!(next_offset(control).as_deref(), Some("5"));
        }
    }
}
