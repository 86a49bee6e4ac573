//! `sse`: event streams, many at once. Each message has to arrive, once, in order and in time.

mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{Context, Error};
use crate::cli::positive;
use crate::client::Connection;
use crate::descriptors;
use crate::document::Outcome;
use crate::findings::Findings;
use crate::live::Live;
use crate::report::{grouped, per_second};
use crate::resident::resident_bytes;
use crate::schedule::Phase;
use crate::tally::Times;
use reader::Reader;

/// Unless `--duration` is given.
const DURATION_S: f64 = 10.0;
/// Streams opened at once, so that the service's backlog of connections is not the limit.
const OPENING: usize = 100;
/// Descriptors beside those of the streams.
const OTHER_DESCRIPTORS: u64 = 100;
/// Reasons of broken streams that are shown.
const REASONS: usize = 5;

/// The arguments of `sse`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SseArgs {
    /// Streams at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Messages per second of each stream
    #[arg(long, default_value = "100", value_parser = positive)]
    pub(crate) rate: f64,
    /// Bytes of each message's data
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
}

/// The observations on all streams.
#[derive(Default)]
struct Observations {
    messages: u64,
    bytes: u64,
    findings: Findings,
    lateness: Times,
    /// Streams that did not open or ended early, by the first few reasons.
    broken: u64,
    reasons: Vec<String>,
}

/// Opens the streams and reads them.
pub(crate) async fn measure(context: &Context, args: &SseArgs) -> Result<Outcome, Error> {
    descriptors::raise(u64::from(args.clients) + OTHER_DESCRIPTORS)?;
    let resident = async || resident_bytes(context.target(), context.token()).await;
    let before = resident().await?;
    let seen = Arc::new(Mutex::new(Observations::default()));
    let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
    let duration = context.duration(DURATION_S);
    let all = args.rate * f64::from(args.clients);
    context
        .live
        .begin(duration.as_secs_f64(), vec![Phase { per_second: all, seconds: duration.as_secs_f64() }]);
    let started = Instant::now();
    let path = format!("/api/stress/sse-stream?rate={}&size={}", args.rate, args.size);
    let mut streams = JoinSet::new();
    for _ in 0..args.clients {
        let request = context.request(context.target(), Method::GET, &path, Bytes::new())?;
        let stream = Stream {
            target: context.target().clone(),
            rate: args.rate,
            duration,
            timeout: context.timeout(),
            live: Arc::clone(&context.live),
            seen: Arc::clone(&seen),
        };
        let opening = Arc::clone(&opening);
        streams.spawn(async move {
            if let Err(reason) = stream.follow(request, &opening).await {
                let mut seen = stream.seen.lock();
                seen.broken += 1;
                if seen.reasons.len() < REASONS {
                    seen.reasons.push(reason);
                }
            }
        });
    }
    // At half time every stream is open and at its rate.
    let (midway, ()) = tokio::join!(
        async {
            tokio::time::sleep(duration / 2).await;
            resident().await
        },
        async { while streams.join_next().await.is_some() {} }
    );
    context.live.end("the last figures");
    let elapsed = started.elapsed().as_secs_f64();
    let (midway, after) = (midway?, resident().await?);
    let seen = std::mem::take(&mut *seen.lock());
    let wanted = (args.rate * duration.as_secs_f64() * f64::from(args.clients)) as u64;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let mut outcome = Outcome::default();
    outcome.figure("streams", format!("{} of {} messages/s", grouped(u64::from(args.clients)), args.rate));
    outcome.figure(
        "messages",
        format!(
            "{} of {} due, {} a second, {:.1} MiB",
            grouped(seen.messages),
            grouped(wanted),
            grouped(per_second(seen.messages, elapsed) as u64),
            mib(seen.bytes)
        ),
    );
    outcome.figure(
        "resident",
        format!("{:.1} MiB before, {:.1} half way, {:.1} after", mib(before), mib(midway), mib(after)),
    );
    if seen.broken > 0 {
        outcome.failures.push(format!("{} streams broke: {}", grouped(seen.broken), seen.reasons.join("; ")));
    }
    let mut findings = Findings { of: "messages".to_owned(), checked: seen.messages, ..seen.findings };
    // The last message of a stream may be under way at its end.
    let under_way = u64::from(args.clients) * (1 + (args.rate / 20.0) as u64);
    if !context.live.is_stopped() && seen.broken == 0 {
        findings.lost += wanted.saturating_sub(seen.messages + findings.lost + under_way);
    }
    outcome.latency("lateness", seen.lateness);
    outcome.audit = Some(findings);
    Ok(outcome)
}

/// One stream.
struct Stream {
    target: crate::client::Target,
    rate: f64,
    duration: Duration,
    timeout: Duration,
    live: Arc<Live>,
    seen: Arc<Mutex<Observations>>,
}

impl Stream {
    /// Reads it for its duration, from its first message on.
    async fn follow(
        &self,
        request: hyper::Request<http_body_util::Full<Bytes>>,
        opening: &tokio::sync::Semaphore,
    ) -> Result<(), String> {
        let turn = opening.acquire().await;
        let mut connection = Connection::open(&self.target).await.map_err(|error| crate::describe(&error))?;
        let mut turn = Some(turn);
        let mut reader = Reader::new(self.rate);
        let mut until = None;
        let pieces = |piece: &[u8]| {
            turn.take();
            let now = Instant::now();
            let mut seen = self.seen.lock();
            seen.bytes += piece.len() as u64;
            seen.messages += reader.read(piece, now, |lateness| {
                seen.lateness.record(lateness);
                self.live.record(lateness);
            });
            let until = *until.get_or_insert_with(|| now + self.duration);
            self.live.goes_on(until)
        };
        let ended = connection.follow(request, self.timeout, pieces).await;
        reader.order.add_to(&mut self.seen.lock().findings);
        match ended {
            Ok(200) => Ok(()),
            Ok(status) => Err(format!("answered {status}, or the stream ended")),
            Err(_) => Err("the stream broke off".into()),
        }
    }
}
