//! The drain rate of a backlog in the journal: collects one while the table is locked, releases it, and compares with one plain
//! COPY of the same rows into a table of the same shape.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};

use crate::cli::DrainArgs;
use crate::client::{Body, ConnectError, Connection, bearer};
use crate::database::{self, Database, Given, Location};
use crate::health::{self, Health};
use crate::payload::{self, DEFAULT_TEMPLATE, Payloads, Source};
use crate::protocol::Token;

/// Events per request.
const BATCH: usize = 1000;
/// The interval between two queries of pending events.
const LOOK: Duration = Duration::from_millis(20);
/// The time limit of one request: the journal may be busy.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Payload(#[from] payload::Error),
    #[error(transparent)]
    Service(#[from] health::Error),
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    #[error("the service does not take the backlog: {0}")]
    Refused(String),
    #[error("the service does not report pending events")]
    NoPending,
    #[error("the backlog did not drain within {0:?}")]
    NotDrained(Duration),
    #[error("cannot start")]
    Runtime(#[from] std::io::Error),
}

/// Collects a backlog and measures its drain.
pub(crate) fn run(args: &DrainArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(measure(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &DrainArgs) -> Result<(), Error> {
    let location = Location::find(Given { url: args.database_url.as_deref(), ..Given::default() })?;
    let holder = location.connect().await?;
    let mut database = location.connect().await?;
    let health = Health::new(args.url.clone(), Token::shown(args.token.as_deref()));
    health.pending().await?.ok_or(Error::NoPending)?;

    match args.bad {
        None => drain(args, &holder, &mut database, &health).await,
        Some(_) => {
            database.reject_bad().await?;
            let measured = drain(args, &holder, &mut database, &health).await;
            location.connect().await?.take_bad().await?;
            measured
        }
    }
}

async fn drain(
    args: &DrainArgs,
    holder: &Database,
    database: &mut Database,
    health: &Health,
) -> Result<(), Error> {
    let rows = database.rows_from_now();
    holder.hold_requests().await?;
    let started = Instant::now();
    let (events, bytes) = gather(args).await?;
    println!(
        "gathered {events} events, {} MiB of JSON, in {:.1} s; letting go",
        bytes >> 20,
        started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    holder.let_go().await?;
    let deadline = Duration::from_secs_f64(args.settle_timeout);
    while health.pending().await? != Some(0) {
        if started.elapsed() > deadline {
            return Err(Error::NotDrained(deadline));
        }
        tokio::time::sleep(LOOK).await;
    }
    let drained = events as f64 / started.elapsed().as_secs_f64();
    println!("drained {drained:.0} events/s");
    let (copied, elapsed) = database.copy_floor(&rows).await?;
    let floor = copied as f64 / elapsed.as_secs_f64();
    println!("one plain COPY of the same {copied} rows: {floor:.0} rows/s");
    println!("ratio: {:.2}", drained / floor);
    let dead = database.dead_from(&rows).await?;
    if args.bad.is_some() {
        println!("{dead} of the events became dead letters");
    }
    if copied + dead != events {
        let found = format!("{events} events were accepted, {copied} rows stored and {dead} dead letters");
        return Err(Error::Refused(found));
    }
    Ok(())
}

/// Posts batches up to the size; returns their events and bytes.
async fn gather(args: &DrainArgs) -> Result<(u64, u64), Error> {
    let template = args.payload.clone().unwrap_or_else(|| DEFAULT_TEMPLATE.into());
    let mut payloads = Payloads::load(&Source::Template(template), BATCH, args.bad)?;
    let mut connection = Connection::open(&args.url).await?;
    let token = Token::shown(args.token.as_deref());
    let token = token.map(|token| bearer(&token.0).ok_or(health::Error::Unsendable)).transpose()?;
    let wanted = u64::from(args.mebibytes) << 20;
    let (mut requests, mut bytes) = (0, 0);
    while bytes < wanted {
        let body: Bytes = payloads.body(requests);
        let length = body.len() as u64;
        let mut request = Request::post(args.url.path("/api/v1/events/batch"))
            .header(HOST, args.url.host_header())
            .header(CONTENT_TYPE, "application/x-ndjson");
        if let Some(token) = &token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(body)).map_err(|_| health::Error::Unsendable)?;
        let answer = connection.exchange(request, Body::Keep, TIMEOUT).await;
        match answer {
            Ok(answer) if answer.status == 202 => {}
            Ok(answer) => return Err(Error::Refused(String::from_utf8_lossy(&answer.body).into_owned())),
            Err(_) => return Err(Error::Refused("no answer".into())),
        }
        requests += 1;
        bytes += length;
    }
    Ok((requests * BATCH as u64, bytes))
}
