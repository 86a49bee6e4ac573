//! `large`: large payloads, several at once, sent and got again, while the service's memory is watched. Their items are numbered: what is missing
//! or repeated of what comes back is found.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::future::try_join_all;
use hyper::Method;
use memchr::memmem;

use super::{Context, Error, succeeded};
use crate::client::{Body, Connection};
use crate::document::Outcome;
use crate::findings::Findings;
use crate::order::Order;
use crate::resident::resident_bytes;
use crate::tally::Times;

/// The least time limit of an answer, or of its next chunk: it takes a while to store so much.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The interval between two readings of the memory.
const LOOK: Duration = Duration::from_millis(50);
const MIB: f64 = 1_048_576.0;
/// The longest number of an item, with its name.
const LONGEST_NUMBER: usize = 32;

/// The arguments of `large`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LargeArgs {
    /// Path of the payloads; their ids follow it
    #[arg(long, default_value = "/api/stress/large-payload/loadtest")]
    pub(crate) path: String,
    /// Size of each payload, in MiB
    #[arg(long, default_value_t = 63, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) mebibytes: u16,
    /// Payloads at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) at_once: u16,
}

/// A payload.
struct Payload {
    id: String,
    body: Bytes,
    items: u64,
}

/// Sends the payloads, gets them, and compares.
pub(crate) async fn measure(context: &Context, args: &LargeArgs) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let before = resident_bytes(context.target(), context.token()).await?;
    outcome.figure("before", format!("{:.0} MiB of memory", before as f64 / MIB));
    let payloads: Vec<Payload> =
        (0..args.at_once).map(|_| Payload::new(usize::from(args.mebibytes) << 20)).collect();
    let bytes: usize = payloads.iter().map(|payload| payload.body.len()).sum();
    context.live.begin(0.0, Vec::new());
    let sending = try_join_all(payloads.iter().map(|payload| send(context, args, payload)));
    watched(context, args, &mut outcome, "in", bytes, sending).await?;
    let getting = try_join_all(payloads.iter().map(|payload| fetch(context, args, payload)));
    let orders = watched(context, args, &mut outcome, "out", bytes, getting).await?;
    context.live.end("comparing");
    let mut findings = Findings::of("items of payloads", payloads.iter().map(|payload| payload.items).sum());
    for (payload, order) in payloads.iter().zip(orders) {
        order.add_to(&mut findings);
        findings.lost += payload.items.saturating_sub(order.next);
        findings.unexpected += order.next.saturating_sub(payload.items);
    }
    outcome.audit = Some(findings);
    Ok(outcome)
}

impl Payload {
    /// An object of about `bytes`, with small members like real ones, and an id unique to the run.
    fn new(bytes: usize) -> Self {
        let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(15).collect();
        let mut text = format!("{{\"id\":\"{id}\",\"items\":[0");
        let mut items = 0;
        while text.len() + 80 < bytes {
            let _infallible =
                write!(text, ",{{\"n\":{items},\"name\":\"item {items}\",\"active\":{}}}", items % 2 == 0);
            items += 1;
        }
        text.push_str("]}");
        Self { id, body: text.into(), items }
    }
}

/// Runs `work` for all payloads at once; notes its duration, its latencies and the peak of the memory.
async fn watched<T>(
    context: &Context,
    args: &LargeArgs,
    outcome: &mut Outcome,
    direction: &str,
    bytes: usize,
    work: impl Future<Output = Result<Vec<(Duration, T)>, Error>>,
) -> Result<Vec<T>, Error> {
    let started = Instant::now();
    let mut most = 0;
    let looks = async {
        loop {
            if let Ok(resident) = resident_bytes(context.target(), context.token()).await {
                most = most.max(resident);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let done = tokio::select! {
        done = work => done?,
        () = looks => return Err(Error::Interrupted),
    };
    let elapsed = started.elapsed().as_secs_f64();
    outcome.figure(
        direction,
        format!(
            "{} × {} MiB in {elapsed:.2} s, {:.0} MiB/s; memory at most {:.0} MiB",
            args.at_once,
            args.mebibytes,
            bytes as f64 / MIB / elapsed,
            most as f64 / MIB
        ),
    );
    let mut times = Times::empty();
    done.iter().for_each(|(time, _)| times.record(*time));
    outcome.latency(direction, times);
    Ok(done.into_iter().map(|(_, done)| done).collect())
}

async fn send(context: &Context, args: &LargeArgs, payload: &Payload) -> Result<(Duration, ()), Error> {
    let mut connection = Connection::open(context.target()).await?;
    let request = context.request(context.target(), Method::POST, &args.path, payload.body.clone())?;
    let started = Instant::now();
    let answer = connection.exchange(request, Body::Skip, TIMEOUT.max(context.timeout())).await?;
    succeeded(answer)?;
    context.live.record(started.elapsed());
    Ok((started.elapsed(), ()))
}

async fn fetch(context: &Context, args: &LargeArgs, payload: &Payload) -> Result<(Duration, Order), Error> {
    let mut connection = Connection::open(context.target()).await?;
    let path = format!("{}/{}", args.path, payload.id);
    let request = context.request(context.target(), Method::GET, &path, Bytes::new())?;
    let started = Instant::now();
    let mut items = ItemReader::default();
    let read = |piece: &[u8]| {
        items.read(piece);
        true
    };
    // An answer that was read to its end.
    const ENDED: u16 = 0;
    match connection.follow(request, TIMEOUT.max(context.timeout()), read).await? {
        ENDED => {
            context.live.record(started.elapsed());
            Ok((started.elapsed(), items.order))
        }
        status => Err(Error::Refused { status, body: String::new() }),
    }
}

/// Finds the numbers of the items in a stream of JSON, with or without white space.
#[derive(Default)]
struct ItemReader {
    rest: Vec<u8>,
    order: Order,
}

impl ItemReader {
    fn read(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
        let name = memmem::Finder::new(b"\"n\":");
        let mut done = 0;
        while let Some(at) = name.find(&self.rest[done..]) {
            let number = &self.rest[done + at + 4..];
            let blank = number.iter().take_while(|byte| **byte == b' ').count();
            let digits = number[blank..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            // The number may go on in the next piece.
            if blank + digits == number.len() && number.len() < LONGEST_NUMBER {
                break;
            }
            let text = std::str::from_utf8(&number[blank..blank + digits]).unwrap_or_default();
            if let Ok(number) = text.parse() {
                self.order.take(number);
            }
            done += at + 4 + blank + digits;
        }
        // The name may be cut, and it is found again with its whole number.
        let keep = self.rest.len().saturating_sub(LONGEST_NUMBER).max(done);
        let cut = name.find(&self.rest[done..]).map_or(keep, |at| done + at);
        self.rest.drain(..cut.min(keep));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_however_the_answer_is_cut_and_written() {
        let payload = Payload::new(20_000);
        let compact = String::from_utf8(payload.body.to_vec()).unwrap();
        let spaced = compact.replace("\":", "\": ").replace(",\"", ", \"");
        for text in [&compact, &spaced] {
            for size in [1, 3, 7, 64, 1_000, text.len()] {
                let mut reader = ItemReader::default();
                text.as_bytes().chunks(size).for_each(|piece| reader.read(piece));
                let order = &reader.order;
                assert_eq!(
                    (order.next, order.missed(), order.doubled),
                    (payload.items, 0, 0),
                    "pieces of {size}"
                );
            }
        }
        let missing = compact.replacen(",{\"n\":5,\"name\":\"item 5\",\"active\":false}", "", 1);
        let mut reader = ItemReader::default();
        missing.as_bytes().chunks(100).for_each(|piece| reader.read(piece));
        assert_eq!((reader.order.next, reader.order.missed()), (payload.items, 1));
    }
}
