//! Appends in a closed loop: each connection sends a message as soon as the last one is acknowledged. Then every stream is read, and has to hold
//! what was acknowledged, once and in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::message::{Cutter, Message, Order};
use super::usage::Usage;
use super::{Error, Plan, block_on, finish, milliseconds};
use crate::cli::StreamsAppendArgs;
use crate::tally::Times;

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

/// What the audit found.
#[derive(Debug, Default)]
struct Found {
    messages: u64,
    missed: u64,
    doubled: u64,
    unsent: u64,
    garbled: u64,
}

/// Measures appends; the exit code is 0 if the audit found nothing.
pub(crate) fn run(args: &StreamsAppendArgs) -> ExitCode {
    finish(block_on(measure(args)))
}

async fn measure(args: &StreamsAppendArgs) -> Result<bool, Error> {
    let plan = Arc::new(Plan::new(&args.streams)?);
    let streams = usize::from(args.number);
    plan.create(streams).await?;
    let before = Usage::of(&args.streams.pid)?;
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(args.streams.seconds);
    let writers =
        (0..usize::from(args.connections)).map(|number| write(&plan, number, streams, started, until));
    let writers = join_all(writers).await;
    let elapsed = started.elapsed().as_secs_f64();
    let after = Usage::of(&args.streams.pid)?;
    let mut times = Times::empty();
    writers.iter().for_each(|writer| times.add(&writer.times));
    println!(
        "appends    {:.0}/s to {streams} streams over {} connections, {} bytes each; {}",
        times.len() as f64 / elapsed,
        args.connections,
        plan.size,
        milliseconds(&times)
    );
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu_since(before);
        println!("CPU        {:.2} s for 100,000 appends", cpu / times.len() as f64 * 1e5);
    }
    let failures: Vec<&Error> = writers.iter().filter_map(|writer| writer.failure.as_ref()).collect();
    if let Some(first) = failures.first() {
        println!("broken     {} connections: {}", failures.len(), crate::describe(*first));
    }
    let found = audit(&plan, &writers, streams).await?;
    println!(
        "audit      {} messages read of {} acknowledged; {} missed, {} doubled or out of order, {} never sent, {} bytes garbled",
        found.messages,
        times.len(),
        found.missed,
        found.doubled,
        found.unsent,
        found.garbled
    );
    plan.delete(streams).await?;
    Ok(failures.is_empty() && found.missed + found.doubled + found.unsent + found.garbled == 0)
}

async fn write(plan: &Plan, number: usize, streams: usize, started: Instant, until: Instant) -> Writer {
    let mut writer = Writer {
        number,
        acknowledged: vec![0; streams],
        in_doubt: None,
        times: Times::empty(),
        failure: None,
    };
    if let Err(error) = writer.run(plan, started, until).await {
        writer.failure = Some(error);
    }
    writer
}

impl Writer {
    async fn run(&mut self, plan: &Plan, started: Instant, until: Instant) -> Result<(), Error> {
        let mut connection = plan.connect(self.number).await?;
        let target = plan.target(self.number);
        let paths: Vec<String> = (0..self.acknowledged.len()).map(|stream| plan.stream(stream)).collect();
        let mut stream = self.number % paths.len();
        loop {
            let sent = Instant::now();
            if sent >= until {
                return Ok(());
            }
            let message = Message {
                writer: self.number as u32,
                number: self.acknowledged[stream],
                sent_us: (sent - started).as_micros() as u64,
            };
            self.in_doubt = Some(stream);
            plan.append(&mut connection, target, &paths[stream], message.encode(plan.size)).await?;
            self.in_doubt = None;
            self.times.record(sent.elapsed());
            self.acknowledged[stream] += 1;
            stream = (stream + 1) % paths.len();
        }
    }
}

/// Reads all streams, from every server in turn, and compares them with what was acknowledged.
async fn audit(plan: &Plan, writers: &[Writer], streams: usize) -> Result<Found, Error> {
    let mut found = Found::default();
    for stream in 0..streams {
        let mut connection = plan.connect(stream).await?;
        let mut orders = vec![Order::default(); writers.len()];
        let mut cutter = Cutter::new(plan.size);
        let (mut messages, mut strangers) = (0, 0);
        plan.read_all(&mut connection, plan.target(stream), &plan.stream(stream), |bytes| {
            cutter.add(bytes, |message| {
                messages += 1;
                match orders.get_mut(message.writer as usize) {
                    Some(order) => order.take(message.number),
                    None => strangers += 1,
                }
            });
        })
        .await?;
        found.messages += messages;
        found.unsent += strangers;
        found.garbled += cutter.garbled + cutter.left() as u64;
        for (writer, order) in writers.iter().zip(orders) {
            let acknowledged = writer.acknowledged[stream];
            let sent = acknowledged + u64::from(writer.in_doubt == Some(stream));
            found.missed += order.missed + acknowledged.saturating_sub(order.next);
            found.doubled += order.doubled;
            found.unsent += order.next.saturating_sub(sent);
        }
    }
    Ok(found)
}
