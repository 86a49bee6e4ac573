//! Load of large payloads: sends several at once, gets them again, and watches the service's memory.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};

use crate::cli::LargeArgs;
use crate::client::{Body, ConnectError, Connection, bearer};
use crate::protocol::Token;
use crate::resident::{ResidentError, resident_bytes};

/// The time limit of one answer, or of its next chunk.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The interval between two readings of the memory.
const LOOK: Duration = Duration::from_millis(50);
const MIB: f64 = 1_048_576.0;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Resident(#[from] ResidentError),
    #[error("the URL, the path or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error("no answer")]
    Unanswered,
    #[error("answered {0}")]
    Refused(u16),
    #[error("{came} bytes came back of {sent}")]
    Short { sent: usize, came: usize },
    #[error("cannot start")]
    Runtime(#[from] std::io::Error),
}

/// Sends and gets the payloads; the exit code is 0 if all are equal.
pub(crate) fn run(args: &LargeArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(measure(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &LargeArgs) -> Result<(), Error> {
    let token = Token::shown(args.token.as_deref());
    let before = resident_bytes(&args.url, token.as_ref()).await?;
    println!("resident before: {:.0} MiB", before as f64 / MIB);
    let payloads: Vec<(String, Bytes)> = (0..args.at_once)
        .map(|_| {
            let id = id();
            let payload = payload(&id, usize::from(args.mebibytes) << 20);
            (id, payload)
        })
        .collect();
    let bytes: usize = payloads.iter().map(|(_, payload)| payload.len()).sum();
    watched(args, "in", bytes, try_join_all(payloads.iter().map(|(_, payload)| send(args, payload)))).await?;
    let fetches = payloads.iter().map(|(id, payload)| fetch(args, id, payload.len()));
    watched(args, "out", bytes, try_join_all(fetches)).await
}

/// An id unique to the run.
fn id() -> String {
    uuid::Uuid::new_v4().simple().to_string().chars().take(15).collect()
}

/// An object of about `bytes`, with small members like real ones.
fn payload(id: &str, bytes: usize) -> Bytes {
    let mut text = format!("{{\"id\":\"{id}\",\"items\":[0");
    let mut n = 0;
    while text.len() + 80 < bytes {
        let _infallible = write!(text, ",{{\"n\":{n},\"name\":\"item {n}\",\"active\":{}}}", n % 2 == 0);
        n += 1;
    }
    text.push_str("]}");
    text.into()
}

/// Runs `work`; returns its duration and the peak of the memory.
async fn watched<T>(
    args: &LargeArgs,
    direction: &str,
    bytes: usize,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<(), Error> {
    let started = Instant::now();
    let (mut most, token) = (0, Token::shown(args.token.as_deref()));
    let looks = async {
        loop {
            if let Ok(resident) = resident_bytes(&args.url, token.as_ref()).await {
                most = most.max(resident);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        done = work => { done?; }
        () = looks => {}
    }
    let elapsed = started.elapsed().as_secs_f64();
    println!(
        "{direction}: {} × {} MiB in {elapsed:.2} s, {:.0} MiB/s; resident at most {:.0} MiB",
        args.at_once,
        args.mebibytes,
        bytes as f64 / MIB / elapsed,
        most as f64 / MIB
    );
    Ok(())
}

async fn send(args: &LargeArgs, payload: &Bytes) -> Result<(), Error> {
    let mut connection = Connection::open(&args.url).await?;
    let request = request(args, Method::POST, &args.path, payload.clone())?;
    let answer = connection.exchange(request, Body::Skip, TIMEOUT).await.map_err(|_| Error::Unanswered)?;
    if answer.status == 201 { Ok(()) } else { Err(Error::Refused(answer.status)) }
}

async fn fetch(args: &LargeArgs, id: &str, sent: usize) -> Result<(), Error> {
    let mut connection = Connection::open(&args.url).await?;
    let request = request(args, Method::GET, &format!("{}/{id}", args.path), Bytes::new())?;
    let mut came = 0;
    let count = |piece: &[u8]| {
        came += piece.len();
        true
    };
    // An answer that was read to its end.
    const ENDED: u16 = 0;
    match connection.follow(request, TIMEOUT, count).await {
        Ok(ENDED) if came >= sent => Ok(()),
        Ok(ENDED) => Err(Error::Short { sent, came }),
        Ok(status) => Err(Error::Refused(status)),
        Err(_) => Err(Error::Unanswered),
    }
}

fn request(args: &LargeArgs, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Error> {
    let host = HeaderValue::from_str(&args.url.host_header()).map_err(|_| Error::Unsendable)?;
    let mut request = Request::builder().method(method).uri(args.url.path(path)).header(HOST, host);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(token) = Token::shown(args.token.as_deref()) {
        request = request.header(AUTHORIZATION, bearer(&token.0).ok_or(Error::Unsendable)?);
    }
    request.body(Full::new(body)).map_err(|_| Error::Unsendable)
}
