//! Reads in a closed loop: of the last message of a stream, or of a whole stream. Each answer has to be complete.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;

use super::message::{Cutter, Message, Order};
use super::usage::Usage;
use super::{Error, Plan, TIMEOUT, block_on, finish, milliseconds, succeeded};
use crate::cli::{StreamsReadArgs, StreamsReadMode};
use crate::client::Body;
use crate::tally::Times;

/// Messages of one append, while a stream is filled.
const FILL: usize = 500;

/// The reads of a connection.
#[derive(Default)]
struct Reads {
    times: Times,
    answers: u64,
    wrong: u64,
}

/// The stream that is read.
struct Filled {
    messages: u64,
    /// The offset before the last message.
    last: String,
}

/// Measures reads; the exit code is 0 if all were complete.
pub(crate) fn run(args: &StreamsReadArgs) -> ExitCode {
    finish(block_on(measure(args)))
}

async fn measure(args: &StreamsReadArgs) -> Result<bool, Error> {
    let plan = Arc::new(Plan::new(&args.streams)?);
    plan.create(1).await?;
    let filled = fill(&plan, 0, u64::from(args.messages), args.single).await?;
    let before = Usage::of(&args.streams.pid)?;
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(args.streams.seconds);
    let readers =
        (0..usize::from(args.connections)).map(|number| read(&plan, number, args.mode, &filled, until));
    let reads = join_all(readers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let elapsed = started.elapsed().as_secs_f64();
    let after = Usage::of(&args.streams.pid)?;
    let mut all = Reads::default();
    for one in &reads {
        all.times.add(&one.times);
        all.answers += one.answers;
        all.wrong += one.wrong;
    }
    let what = match args.mode {
        StreamsReadMode::Tail => "of the last message".to_owned(),
        StreamsReadMode::CatchUp => format!("of {} messages", filled.messages),
    };
    println!(
        "reads      {:.0}/s {what}, {:.1} answers each, over {} connections; {}",
        all.times.len() as f64 / elapsed,
        all.answers as f64 / all.times.len() as f64,
        args.connections,
        milliseconds(&all.times)
    );
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu_since(before);
        println!("CPU        {:.2} s for 100,000 reads", cpu / all.times.len() as f64 * 1e5);
    }
    println!("audit      {} incomplete", all.wrong);
    plan.delete(1).await?;
    Ok(all.wrong == 0)
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
    number: usize,
    mode: StreamsReadMode,
    filled: &Filled,
    until: Instant,
) -> Result<Reads, Error> {
    let mut connection = plan.connect(number).await?;
    let (target, stream) = (plan.target(number), plan.stream(0));
    let tail = format!("{stream}?offset={}", filled.last);
    let mut reads = Reads::default();
    while Instant::now() < until {
        let started = Instant::now();
        let is_whole = match mode {
            StreamsReadMode::Tail => {
                let request = plan.request(target, &Method::GET, &tail, Bytes::new())?;
                let answer = succeeded(connection.exchange(request, Body::Keep, TIMEOUT).await?)?;
                reads.answers += 1;
                Message::decode(&answer.body).is_some_and(|message| message.number + 1 == filled.messages)
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
                let expected = Order { next: filled.messages, missed: 0, doubled: 0 };
                bytes == filled.messages * plan.size as u64 && (!is_first || order == expected)
            }
        };
        reads.times.record(started.elapsed());
        reads.wrong += u64::from(!is_whole);
    }
    Ok(reads)
}
