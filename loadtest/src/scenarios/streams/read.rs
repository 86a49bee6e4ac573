//! `streams-read`: reads in a closed loop: of the last message of a stream, or of a whole stream. Each answer has to be complete.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use hyper::Method;

use super::super::{Context, Error, succeeded};
use super::message::{Cutter, Message};
use super::usage::Usage;
use super::{DURATION_S, Plan, StreamsArgs};
use crate::client::Body;
use crate::document::Outcome;
use crate::findings::Findings;
use crate::live::Live;
use crate::order::Order;
use crate::tally::Times;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamsReadMode {
    /// The last message
    Tail,
    /// The whole stream
    CatchUp,
}

/// The arguments of `streams-read`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamsReadArgs {
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// What is read
    #[arg(long, value_enum, default_value = "tail")]
    pub(crate) mode: StreamsReadMode,
    /// Messages of the stream
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    pub(crate) messages: u32,
    /// Fill the stream with one append for each message
    #[arg(long)]
    pub(crate) single: bool,
    /// Connections, each with one read under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

/// Messages of one append, while a stream is filled.
const FILL: usize = 500;

/// The reads of a connection.
#[derive(Default)]
struct Reads {
    times: Times,
    answers: u64,
    findings: Findings,
}

/// The stream that is read.
struct Filled {
    messages: u64,
    /// The offset before the last message.
    last: String,
}

/// Measures reads. Each is its own audit.
pub(crate) async fn measure(context: &Context, args: &StreamsReadArgs) -> Result<Outcome, Error> {
    let plan = Arc::new(Plan::new(context, &args.streams)?);
    plan.create(1).await?;
    let filled = fill(&plan, 0, u64::from(args.messages), args.single).await?;
    let before = Usage::of(&context.common.pid)?;
    let duration = context.duration(DURATION_S);
    context.live.begin(duration.as_secs_f64(), Vec::new());
    let started = Instant::now();
    let readers = (0..usize::from(args.connections))
        .map(|number| read(&plan, &context.live, number, args.mode, &filled, started + duration));
    let reads = join_all(readers).await;
    context.live.end("the last figures");
    let reads = reads.into_iter().collect::<Result<Vec<_>, _>>()?;
    let elapsed = started.elapsed().as_secs_f64();
    let after = Usage::of(&context.common.pid)?;
    let (mut times, mut answers, mut findings) = (Times::empty(), 0, Findings::of("reads", 0));
    for one in &reads {
        times.add(&one.times);
        answers += one.answers;
        findings.add(&one.findings);
    }
    findings.checked = times.len();
    let what = match args.mode {
        StreamsReadMode::Tail => "of the last message".to_owned(),
        StreamsReadMode::CatchUp => format!("of {} messages", filled.messages),
    };
    let mut outcome = Outcome::default();
    outcome.figure(
        "reads",
        format!(
            "{:.0}/s {what}, {:.1} answers each, over {} connections",
            times.len() as f64 / elapsed,
            answers as f64 / times.len() as f64,
            args.connections
        ),
    );
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu_since(before);
        outcome.figure("CPU", format!("{:.2} s for 100,000 reads", cpu / times.len() as f64 * 1e5));
    }
    outcome.latency("read", times);
    outcome.audit = Some(findings);
    plan.delete(1).await?;
    Ok(outcome)
}

/// Appends messages to a stream of the run, in large appends or one by one.
pub(super) async fn fill_stream(
    plan: &Plan,
    stream: usize,
    messages: u64,
    is_single: bool,
) -> Result<String, Error> {
    Ok(fill(plan, stream, messages, is_single).await?.last)
}

async fn fill(plan: &Plan, stream: usize, messages: u64, is_single: bool) -> Result<Filled, Error> {
    let mut connection = plan.connect(0).await?;
    let (target, path) = (plan.target(0), plan.stream(stream));
    let message = |number| Message { writer: 0, number, sent_us: 0 }.encode(plan.size);
    let (mut last, mut number) = ("-1".to_owned(), 0);
    // The last one alone: an offset before it is needed.
    let before_last = messages.saturating_sub(1);
    while number < before_last {
        let count = if is_single { 1 } else { (before_last - number).min(FILL as u64) };
        let body: Vec<u8> = (number..number + count).flat_map(message).collect();
        last = plan.append(&mut connection, target, &path, body.into()).await?;
        number += count;
    }
    plan.append(&mut connection, target, &path, message(before_last)).await?;
    Ok(Filled { messages, last })
}

async fn read(
    plan: &Plan,
    live: &Live,
    number: usize,
    mode: StreamsReadMode,
    filled: &Filled,
    until: Instant,
) -> Result<Reads, Error> {
    let mut connection = plan.connect(number).await?;
    let (target, stream) = (plan.target(number), plan.stream(0));
    let tail = format!("{stream}?offset={}", filled.last);
    let mut reads = Reads::default();
    while live.goes_on(until) {
        let started = Instant::now();
        match mode {
            StreamsReadMode::Tail => {
                let request = plan.request(target, &Method::GET, &tail, Bytes::new())?;
                let answer = succeeded(connection.exchange(request, Body::Keep, plan.timeout).await?)?;
                reads.answers += 1;
                match Message::decode(&answer.body) {
                    Some(message) if message.number + 1 == filled.messages => {}
                    None if answer.body.is_empty() => reads.findings.lost += 1,
                    _ => reads.findings.unexpected += 1,
                }
            }
            StreamsReadMode::CatchUp => {
                let mut bytes = 0;
                // Decoded only once, so that this process does not limit the rate.
                let is_first = reads.times.len() == 0;
                let (mut cutter, mut order) = (Cutter::new(plan.size), Order::default());
                reads.answers += plan
                    .read_all(&mut connection, target, &stream, |piece| {
                        bytes += piece.len() as u64;
                        if is_first {
                            cutter.add(piece, |message| order.take(message.number));
                        }
                    })
                    .await?;
                let wanted = filled.messages * plan.size as u64;
                if is_first {
                    order.add_to(&mut reads.findings);
                    reads.findings.lost += filled.messages.saturating_sub(order.next);
                    reads.findings.unexpected += cutter.garbled.div_ceil(plan.size as u64);
                } else {
                    reads.findings.lost += wanted.saturating_sub(bytes).div_ceil(plan.size as u64);
                    reads.findings.unexpected += bytes.saturating_sub(wanted).div_ceil(plan.size as u64);
                }
            }
        }
        let elapsed = started.elapsed();
        reads.times.record(elapsed);
        live.record(elapsed);
    }
    Ok(reads)
}
