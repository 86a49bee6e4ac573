//! Live readers over SSE: each gets every message once, in order. Latency is measured from the time at which a message is due, so a late writer counts
//! against the server.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::message::{Cutter, Message, Order};
use super::read::fill_stream;
use super::usage::Usage;
use super::{Error, NEXT_OFFSET, Plan, TIMEOUT, block_on, finish, header, milliseconds, succeeded};
use crate::cli::StreamsSseArgs;
use crate::client::{Body, Connection};
use crate::descriptors;
use crate::tally::Times;

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
    missed: u64,
    doubled: u64,
    garbled: u64,
    reconnects: u64,
    reasons: Vec<String>,
}

/// What all of them share.
struct Shared {
    plan: Plan,
    started: Instant,
    /// The time at which reading ends.
    until: Mutex<Option<Instant>>,
    seen: Mutex<Seen>,
    /// The end of each stream before the load.
    offsets: Vec<String>,
}

/// Measures live reads; the exit code is 0 if every subscriber got every acknowledged message once, in order.
pub(crate) fn run(args: &StreamsSseArgs) -> ExitCode {
    finish(block_on(measure(args)))
}

async fn measure(args: &StreamsSseArgs) -> Result<bool, Error> {
    descriptors::raise(u64::from(args.subscribers) + OTHER_DESCRIPTORS)?;
    let plan = Plan::new(&args.streams)?;
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
    let shared = Arc::new(Shared { plan, started, until: Mutex::new(None), seen: Mutex::default(), offsets });
    let before = Usage::of(&args.streams.pid)?;
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
    let idle = Usage::of(&args.streams.pid)?;
    let begun = Instant::now();
    let (sent, late) = write(&shared, args, streams).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    let after = Usage::of(&args.streams.pid)?;
    *shared.until.lock() = Some(Instant::now() + LAST_ARRIVALS);
    // A subscriber ends when it has everything.
    wait(&shared, &sent, args.subscribers).await;
    subscribers.abort_all();
    while subscribers.join_next().await.is_some() {}
    let seen = std::mem::take(&mut *shared.seen.lock());
    let wanted: u64 = (0..args.subscribers as usize).map(|number| sent[number % streams]).sum();
    println!(
        "subscribers {} of {} connected, {streams} streams, {} messages/s each for {:.0} s, {} bytes, history {}",
        seen.connected, args.subscribers, args.rate, args.streams.seconds, shared.plan.size, args.history
    );
    println!(
        "deliveries {} of {wanted} ({:.2} %), {:.0}/s; {}",
        seen.deliveries,
        if wanted == 0 { 100.0 } else { seen.deliveries as f64 / wanted as f64 * 100.0 },
        seen.deliveries as f64 / elapsed,
        milliseconds(&seen.latency)
    );
    println!("writer     {late} messages sent over 5 ms late");
    if let (Some(before), Some(idle), Some(after)) = (before, idle, after) {
        let subscribers = f64::from(args.subscribers);
        println!(
            "memory     {:.1} KiB an idle subscriber",
            idle.growth_since(before) / subscribers / 1_024.0
        );
        if seen.deliveries > 0 {
            println!("CPU        {:.2} µs a delivery", after.cpu_since(idle) / seen.deliveries as f64 * 1e6);
        }
    }
    println!(
        "audit      {} missed, {} doubled or out of order, {} bytes garbled, {} reconnects",
        seen.missed, seen.doubled, seen.garbled, seen.reconnects
    );
    for reason in &seen.reasons {
        println!("           {reason}");
    }
    let is_whole = seen.deliveries == wanted && seen.connected == args.subscribers;
    let is_right = is_whole && seen.missed + seen.doubled + seen.garbled == 0;
    shared.plan.delete(streams).await?;
    Ok(is_right)
}

/// The offset of a stream's end.
async fn end(plan: &Plan, stream: usize) -> Result<String, Error> {
    let mut connection = plan.connect(0).await?;
    let request = plan.request(plan.target(0), &Method::HEAD, &plan.stream(stream), Bytes::new())?;
    let answer = succeeded(connection.exchange(request, Body::Skip, TIMEOUT).await?)?;
    header(&answer, NEXT_OFFSET).ok_or(Error::NoOffset)
}

/// Appends to each stream on a fixed schedule; returns the messages of each, and the number of late ones.
async fn write(
    shared: &Arc<Shared>,
    args: &StreamsSseArgs,
    streams: usize,
) -> Result<(Vec<u64>, u64), Error> {
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(args.streams.seconds);
    let mut writers = JoinSet::new();
    for stream in 0..streams {
        let (shared, rate) = (Arc::clone(shared), args.rate);
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
        if due >= until {
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
    order: Order,
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
            order: Order::default(),
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
            let (before, garbled) = (self.order, self.cutter.garbled);
            let (cutter, order, offset, started) =
                (&mut self.cutter, &mut self.order, &mut self.offset, self.shared.started);
            self.lines.read(piece, |event, data| match event {
                "data" => cutter.add(data.as_bytes(), |message| {
                    if message.writer != 1 {
                        return;
                    }
                    order.take(message.number);
                    let sent = started + Duration::from_micros(message.sent_us);
                    seen.latency.record(now.saturating_duration_since(sent));
                    seen.deliveries += 1;
                }),
                "control" => {
                    if let Some(next) = next_offset(data) {
                        *offset = next;
                    }
                }
                _ => {}
            });
            seen.missed += self.order.missed - before.missed;
            seen.doubled += self.order.doubled - before.doubled;
            seen.garbled += self.cutter.garbled - garbled;
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
