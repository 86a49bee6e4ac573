//! `streams-append`: appends in a closed loop: each connection sends a message as soon as the last one is acknowledged. Then every stream is read, and has to hold
//! what was acknowledged, once and in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;

use super::super::{Context, Error};
use super::message::{Cutter, Message};
use super::usage::Usage;
use super::{DURATION_S, Plan, StreamsArgs};
use crate::document::Outcome;
use crate::findings::Findings;
use crate::live::Live;
use crate::order::Order;
use crate::tally::Times;

/// The arguments of `streams-append`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamsAppendArgs {
    #[command(flatten)]
    pub(crate) streams: StreamsArgs,
    /// Streams
    #[arg(long = "streams", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) number: u16,
    /// Connections, each with one append under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

/// A connection's appends.
struct Writer {
    number: usize,
    /// Acknowledged messages of each stream.
    acknowledged: Vec<u64>,
    /// A message without an answer: it may be stored or not.
    in_doubt: Option<usize>,
    times: Times,
    failure: Option<Error>,
}

/// Measures appends, and audits the streams.
pub(crate) async fn measure(context: &Context, args: &StreamsAppendArgs) -> Result<Outcome, Error> {
    let plan = Arc::new(Plan::new(context, &args.streams)?);
    let streams = usize::from(args.number);
    plan.create(streams).await?;
    let before = Usage::of(&context.common.pid)?;
    let duration = context.duration(DURATION_S);
    context.live.begin(duration.as_secs_f64(), Vec::new());
    let started = Instant::now();
    let clock = Clock { started, until: started + duration };
    let writers =
        (0..usize::from(args.connections)).map(|number| write(&plan, &context.live, number, streams, clock));
    let writers = join_all(writers).await;
    let elapsed = started.elapsed().as_secs_f64();
    context.live.end("reading every stream");
    let after = Usage::of(&context.common.pid)?;
    let mut times = Times::empty();
    writers.iter().for_each(|writer| times.add(&writer.times));
    let mut outcome = Outcome::default();
    outcome.figure(
        "appends",
        format!(
            "{:.0}/s to {streams} streams over {} connections, {} bytes each",
            times.len() as f64 / elapsed,
            args.connections,
            plan.size
        ),
    );
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu_since(before);
        outcome.figure("CPU", format!("{:.2} s for 100,000 appends", cpu / times.len() as f64 * 1e5));
    }
    let failures: Vec<&Error> = writers.iter().filter_map(|writer| writer.failure.as_ref()).collect();
    if let Some(first) = failures.first() {
        outcome.failures.push(format!("{} connections broke: {}", failures.len(), crate::describe(*first)));
    }
    if !context.common.no_audit {
        outcome.audit = Some(audit(&plan, &writers, streams).await?);
    }
    outcome.latency("append", times);
    plan.delete(streams).await?;
    Ok(outcome)
}

/// The time of the load.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Instant,
    until: Instant,
}

async fn write(plan: &Plan, live: &Live, number: usize, streams: usize, clock: Clock) -> Writer {
    let mut writer = Writer {
        number,
        acknowledged: vec![0; streams],
        in_doubt: None,
        times: Times::empty(),
        failure: None,
    };
    if let Err(error) = writer.run(plan, live, clock).await {
        live.fail();
        writer.failure = Some(error);
    }
    writer
}

impl Writer {
    async fn run(&mut self, plan: &Plan, live: &Live, Clock { started, until }: Clock) -> Result<(), Error> {
        let mut connection = plan.connect(self.number).await?;
        let target = plan.target(self.number);
        let paths: Vec<String> = (0..self.acknowledged.len()).map(|stream| plan.stream(stream)).collect();
        let mut stream = self.number % paths.len();
        loop {
            if !live.goes_on(until) {
                return Ok(());
            }
            let sent = Instant::now();
            let message = Message {
                writer: self.number as u32,
                number: self.acknowledged[stream],
                sent_us: (sent - started).as_micros() as u64,
            };
            self.in_doubt = Some(stream);
            plan.append(&mut connection, target, &paths[stream], message.encode(plan.size)).await?;
            self.in_doubt = None;
            let elapsed: Duration = sent.elapsed();
            self.times.record(elapsed);
            live.record(elapsed);
            self.acknowledged[stream] += 1;
            stream = (stream + 1) % paths.len();
        }
    }
}

/// Reads all streams, from every server in turn, and compares them with what was acknowledged.
async fn audit(plan: &Plan, writers: &[Writer], streams: usize) -> Result<Findings, Error> {
    let acknowledged = writers.iter().flat_map(|writer| &writer.acknowledged).sum();
    let mut findings = Findings::of("messages", acknowledged);
    for stream in 0..streams {
        let mut connection = plan.connect(stream).await?;
        let mut orders = vec![Order::default(); writers.len()];
        let mut cutter = Cutter::new(plan.size);
        let mut strangers = 0;
        plan.read_all(&mut connection, plan.target(stream), &plan.stream(stream), |bytes| {
            cutter.add(bytes, |message| match orders.get_mut(message.writer as usize) {
                Some(order) => order.take(message.number),
                None => strangers += 1,
            });
        })
        .await?;
        let garbled = cutter.garbled + cutter.left() as u64;
        findings.unexpected += strangers + garbled.div_ceil(plan.size as u64);
        for (writer, order) in writers.iter().zip(orders) {
            let acknowledged = writer.acknowledged[stream];
            let sent = acknowledged + u64::from(writer.in_doubt == Some(stream));
            order.add_to(&mut findings);
            findings.lost += acknowledged.saturating_sub(order.next);
            findings.unexpected += order.next.saturating_sub(sent);
        }
    }
    Ok(findings)
}
