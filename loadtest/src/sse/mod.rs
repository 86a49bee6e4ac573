//! Load of event streams: opens many, and checks that each message arrives, in order and in time.

mod reader;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::cli::SseArgs;
use crate::client::{Connection, bearer};
use crate::descriptors::{self, NoDescriptors};
use crate::protocol::Token;
use crate::report::{grouped, per_second, time};
use crate::resident::{ResidentError, resident_bytes};
use crate::tally::Times;
use reader::Reader;

/// The time limit of an answer's head, and of `/metrics`.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Streams opened at once, so that the service's backlog of connections is not the limit.
const OPENING: usize = 100;
/// Descriptors beside those of the streams.
const OTHER_DESCRIPTORS: u64 = 100;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Resident(#[from] ResidentError),
    #[error("the URL or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error(transparent)]
    Descriptors(#[from] NoDescriptors),
    #[error("cannot start")]
    Runtime(#[from] std::io::Error),
}

/// The observations on all streams.
#[derive(Default)]
struct Observations {
    messages: u64,
    bytes: u64,
    /// Messages that were missing, doubled or out of order.
    gaps: u64,
    lateness: Times,
    /// Streams that did not open or ended early, by the first few reasons.
    broken: u64,
    reasons: Vec<String>,
}

/// Opens the streams and reads them; the exit code is 0 if nothing is missing.
pub(crate) fn run(args: &SseArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(measure(args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &SseArgs) -> Result<bool, Error> {
    descriptors::raise(args.clients as u64 + OTHER_DESCRIPTORS)?;
    let token = Token::shown(args.token.as_deref());
    let before = resident_bytes(&args.url, token.as_ref()).await?;
    let seen = Arc::new(Mutex::new(Observations::default()));
    let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
    let started = Instant::now();
    let mut streams = JoinSet::new();
    for _ in 0..args.clients {
        let (args, seen, opening) = (args.clone(), Arc::clone(&seen), Arc::clone(&opening));
        streams.spawn(async move {
            if let Err(reason) = follow(&args, &seen, &opening).await {
                let mut seen = seen.lock();
                seen.broken += 1;
                if seen.reasons.len() < 5 {
                    seen.reasons.push(reason);
                }
            }
        });
    }
    // At half time every stream is open and at its rate.
    let half = Duration::from_secs_f64(args.seconds / 2.0);
    let (midway, ()) = tokio::join!(
        async {
            tokio::time::sleep(half).await;
            resident_bytes(&args.url, token.as_ref()).await
        },
        async { while streams.join_next().await.is_some() {} }
    );
    let elapsed = started.elapsed().as_secs_f64();
    let (midway, after) = (midway?, resident_bytes(&args.url, token.as_ref()).await?);
    let seen = seen.lock();
    let wanted = (args.rate * args.seconds * f64::from(args.clients)) as u64;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    println!(
        "{} streams of {} messages/s for {} s",
        grouped(u64::from(args.clients)),
        args.rate,
        args.seconds
    );
    println!(
        "messages   {} of {} due, {} a second, {:.1} MiB",
        grouped(seen.messages),
        grouped(wanted),
        grouped(per_second(seen.messages, elapsed) as u64),
        mib(seen.bytes)
    );
    println!("gaps       {}", seen.gaps);
    let at = |percentile| time(seen.lateness.at(percentile).as_micros() as u64);
    println!("lateness   p50 {}, p99 {}, max {}", at(50.0), at(99.0), at(100.0));
    println!(
        "resident   {:.1} MiB before, {:.1} half way, {:.1} after",
        mib(before),
        mib(midway),
        mib(after)
    );
    println!("broken     {}", seen.broken);
    for reason in &seen.reasons {
        println!("           {reason}");
    }
    // The last message of a stream may be under way at its end.
    let is_whole = seen.messages + u64::from(args.clients) * (1 + (args.rate / 20.0) as u64) >= wanted;
    Ok(seen.gaps == 0 && seen.broken == 0 && is_whole)
}

/// Reads one stream for its duration, from its first message on.
async fn follow(
    args: &SseArgs,
    seen: &Mutex<Observations>,
    opening: &tokio::sync::Semaphore,
) -> Result<(), String> {
    let turn = opening.acquire().await;
    let mut connection = Connection::open(&args.url).await.map_err(|error| crate::describe(&error))?;
    let path = format!("/api/stress/sse-stream?rate={}&size={}", args.rate, args.size);
    let request = request(args, &path).map_err(|error| error.to_string())?;
    let mut turn = Some(turn);
    let mut reader = Reader::new(args.rate);
    let mut until = None;
    let pieces = |piece: &[u8]| {
        turn.take();
        let now = Instant::now();
        let mut seen = seen.lock();
        seen.bytes += piece.len() as u64;
        let read = reader.read(piece, now, |lateness| seen.lateness.record(lateness));
        seen.messages += read.messages;
        seen.gaps += read.gaps;
        let until = *until.get_or_insert_with(|| now + Duration::from_secs_f64(args.seconds));
        now < until
    };
    match connection.follow(request, TIMEOUT, pieces).await {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("answered {status}, or the stream ended")),
        Err(_) => Err("the stream broke off".into()),
    }
}

fn request(args: &SseArgs, path: &str) -> Result<Request<Full<Bytes>>, Error> {
    let mut request = Request::get(args.url.path(path)).header(HOST, args.url.host_header());
    if let Some(token) = Token::shown(args.token.as_deref()) {
        request = request.header(AUTHORIZATION, bearer(&token.0).ok_or(Error::Unsendable)?);
    }
    request.body(Full::default()).map_err(|_| Error::Unsendable)
}
