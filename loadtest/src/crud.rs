//! Load of single records: creates over some connections for a while, then gets of these records, in a closed loop.
//!
//! The path is an argument, so that any service with JSON records under one path can be measured the same way.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use serde::Deserialize;

use crate::cli::CrudArgs;
use crate::client::{Body, ConnectError, Connection, bearer};
use crate::protocol::Token;
use crate::tally::Times;

/// Ids kept by each connection for the gets.
const MAX_IDS: usize = 20_000;
/// The time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    #[error("the URL, the path or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error("no answer")]
    Unanswered,
    #[error("answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("an answer names no id")]
    NoId,
    #[error("cannot start")]
    Runtime(#[from] std::io::Error),
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

/// The properties common to all requests.
struct Plan {
    path: String,
    host: HeaderValue,
    token: Option<HeaderValue>,
}

impl Plan {
    fn request(&self, method: Method, path: &str, body: String) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body.into())).map_err(|_| Error::Unsendable)
    }
}

/// A connection, with its records and measurements.
struct Client {
    number: usize,
    connection: Connection,
    ids: Vec<String>,
    times: Times,
}

/// Measures creates, then gets.
pub(crate) fn run(args: &CrudArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(measure(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &CrudArgs) -> Result<(), Error> {
    let token = Token::shown(args.token.as_deref());
    let token = token.map(|token| bearer(&token.0).ok_or(Error::Unsendable)).transpose()?;
    let plan = Arc::new(Plan {
        path: args.url.path(&args.path),
        host: HeaderValue::from_str(&args.url.host_header()).map_err(|_| Error::Unsendable)?,
        token,
    });
    let mut clients = Vec::new();
    for number in 0..usize::from(args.connections) {
        let connection = Connection::open(&args.url).await?;
        clients.push(Client { number, connection, ids: Vec::new(), times: Times::empty() });
    }
    let duration = Duration::from_secs_f64(args.seconds);
    let started = Instant::now();
    let made =
        join_all(clients.into_iter().map(|client| create(Arc::clone(&plan), client, started + duration)));
    let mut clients = made.await.into_iter().collect::<Result<Vec<_>, _>>()?;
    report("create", &mut clients, started.elapsed());

    // Each connection gets its neighbour's records.
    let mut ids: Vec<Vec<String>> =
        clients.iter_mut().map(|client| std::mem::take(&mut client.ids)).collect();
    ids.rotate_left(1);
    let started = Instant::now();
    let found = join_all(
        clients
            .into_iter()
            .zip(ids)
            .map(|(client, ids)| look_up(Arc::clone(&plan), client, ids, started + duration)),
    );
    let mut clients = found.await.into_iter().collect::<Result<Vec<_>, _>>()?;
    report("get", &mut clients, started.elapsed());
    Ok(())
}

async fn create(plan: Arc<Plan>, mut client: Client, deadline: Instant) -> Result<Client, Error> {
    let mut n = 0;
    while Instant::now() < deadline {
        let name = client.number;
        let body = format!(
            "{{\"name\":\"item {name}-{n}\",\"n\":{n},\"active\":{},\"note\":\"a record as a client may send it\"}}",
            n % 2 == 0
        );
        let answer = client.exchange(plan.request(Method::POST, &plan.path, body)?).await?;
        if client.ids.len() < MAX_IDS {
            let created: Created = serde_json::from_slice(&answer).map_err(|_| Error::NoId)?;
            client.ids.push(created.id);
        }
        n += 1;
    }
    Ok(client)
}

async fn look_up(
    plan: Arc<Plan>,
    mut client: Client,
    ids: Vec<String>,
    deadline: Instant,
) -> Result<Client, Error> {
    for id in ids.iter().cycle() {
        if Instant::now() >= deadline {
            break;
        }
        let path = format!("{}/{id}", plan.path);
        client.exchange(plan.request(Method::GET, &path, String::new())?).await?;
    }
    Ok(client)
}

impl Client {
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, Error> {
        let started = Instant::now();
        let answer =
            self.connection.exchange(request, Body::Keep, TIMEOUT).await.map_err(|_| Error::Unanswered)?;
        self.times.record(started.elapsed());
        if !matches!(answer.status, 200 | 201) {
            let body = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
            return Err(Error::Refused { status: answer.status, body });
        }
        Ok(answer.body)
    }
}

fn report(what: &str, clients: &mut [Client], elapsed: Duration) {
    let mut times = Times::empty();
    for client in clients {
        times.add(&client.times);
        client.times = Times::empty();
    }
    let rate = times.len() as f64 / elapsed.as_secs_f64();
    let ms = |percentile| times.at(percentile).as_secs_f64() * 1e3;
    println!(
        "{what}: {rate:.0}/s, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        ms(50.0),
        ms(99.0),
        times.max().as_secs_f64() * 1e3
    );
}
