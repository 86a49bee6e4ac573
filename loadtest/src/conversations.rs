//! Load of conversations: many clients, each with a connection of its own, that behave like a chat.
//!
//! A round of a client: a conversation, a user's message, the answer in pieces, a list, a page. At the end all acknowledged
//! messages are read: each has to be there once, in order, and nothing else.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use serde::Deserialize;

use crate::cli::ConversationsArgs;
use crate::client::{Body, ConnectError, Connection, Target, bearer};
use crate::environment::variable;
use crate::tally::Times;

const PATH: &str = "/api/conversations";
/// Rounds of messages in each conversation.
const ROUNDS: usize = 4;
/// Pieces of each answer.
const PIECES: usize = 3;
/// Conversations of each client that are audited.
const MAX_AUDITED: usize = 200;
/// Requests of the audit do not count as load.
const AUDIT: &str = "audit";
/// The time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    #[error("the URL or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error("{0}: no answer")]
    Unanswered(&'static str),
    #[error("{what} was answered {status}: {body}")]
    Refused { what: &'static str, status: u16, body: String },
    #[error("an answer is not what it should be")]
    Unreadable,
    #[error("cannot start")]
    Runtime(#[from] std::io::Error),
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

#[derive(Deserialize)]
struct Message {
    id: String,
    content: String,
}

/// The properties common to all requests.
struct Plan {
    target: Target,
    host: HeaderValue,
    token: Option<HeaderValue>,
    pause: Duration,
    deadline: Instant,
}

/// A conversation, and its acknowledged messages: ids and contents.
struct AckedConversation {
    path: String,
    messages: Vec<(String, String)>,
}

/// A client, with its conversations and measurements.
struct Client {
    number: usize,
    connection: Connection,
    kept: Vec<AckedConversation>,
    times: BTreeMap<&'static str, Times>,
}

/// Runs the load, then the audit.
pub(crate) fn run(args: &ConversationsArgs) -> ExitCode {
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

async fn measure(args: &ConversationsArgs) -> Result<bool, Error> {
    let token = args.token.clone().or_else(|| variable("LOADTEST_TOKEN"));
    let mut clients = Vec::new();
    for number in 0..usize::from(args.clients) {
        let connection = Connection::open(&args.url).await?;
        clients.push(Client { number, connection, kept: Vec::new(), times: BTreeMap::new() });
    }
    let started = Instant::now();
    let plan = Arc::new(Plan {
        target: args.url.clone(),
        host: HeaderValue::from_str(&args.url.host_header()).map_err(|_| Error::Unsendable)?,
        token: token.map(|token| bearer(&token).ok_or(Error::Unsendable)).transpose()?,
        pause: Duration::from_secs_f64(args.pause_ms / 1e3),
        deadline: started + Duration::from_secs_f64(args.seconds),
    });
    let chatted = join_all(clients.into_iter().map(|client| chat(Arc::clone(&plan), client)));
    let clients = chatted.await.into_iter().collect::<Result<Vec<_>, _>>()?;
    report(&clients, started.elapsed());
    let audited = join_all(clients.into_iter().map(|client| audit(Arc::clone(&plan), client)));
    let (mut messages, mut wrong) = (0, 0);
    for outcome in audited.await {
        let (seen, differing) = outcome?;
        messages += seen;
        wrong += differing;
    }
    println!("audit: {messages} acknowledged messages read again, {wrong} conversations differ");
    Ok(wrong == 0)
}

async fn chat(plan: Arc<Plan>, mut client: Client) -> Result<Client, Error> {
    let mut n = 0;
    // Spreads the clients' beginnings.
    client.pause(&plan).await;
    while Instant::now() < plan.deadline {
        let title = format!("{{\"title\":\"load {} {n}\"}}", client.number);
        let made = client.exchange(&plan, "create", Method::POST, PATH, title).await?;
        let made: Created = serde_json::from_slice(&made).map_err(|_| Error::Unreadable)?;
        let mut kept = AckedConversation { path: format!("{PATH}/{}", made.id), messages: Vec::new() };
        for round in 0..ROUNDS {
            if Instant::now() >= plan.deadline {
                break;
            }
            client.round(&plan, &mut kept, n, round).await?;
        }
        if client.kept.len() < MAX_AUDITED {
            client.kept.push(kept);
        }
        n += 1;
    }
    Ok(client)
}

impl Client {
    async fn round(
        &mut self,
        plan: &Plan,
        kept: &mut AckedConversation,
        n: usize,
        round: usize,
    ) -> Result<(), Error> {
        let path = format!("{}/messages", kept.path);
        let asked = format!("question {round} of {} in {n}: when does the next ferry leave?", self.number);
        let body = format!("{{\"role\":\"user\",\"content\":\"{asked}\"}}");
        let answer = self.exchange(plan, "message", Method::POST, &path, body).await?;
        kept.messages.push((id(&answer)?, asked));

        let begun = "{\"role\":\"assistant\",\"content\":\"\",\"done\":false}".to_owned();
        let answer = self.exchange(plan, "message", Method::POST, &path, begun).await?;
        let message = id(&answer)?;
        let append = format!("{path}/{message}/append");
        let mut whole = String::new();
        for piece in 0..PIECES {
            let text = format!("piece {piece} of an answer as a model writes it, ");
            let (at, done) = (whole.len(), piece + 1 == PIECES);
            let body = format!("{{\"at\":{at},\"content\":\"{text}\",\"done\":{done}}}");
            self.exchange(plan, "append", Method::POST, &append, body).await?;
            whole.push_str(&text);
        }
        kept.messages.push((message, whole));
        let list = format!("{PATH}?limit=20");
        self.exchange(plan, "list", Method::GET, &list, String::new()).await?;
        self.exchange(plan, "page", Method::GET, &format!("{path}?limit=50"), String::new()).await?;
        Ok(())
    }

    async fn exchange(
        &mut self,
        plan: &Plan,
        what: &'static str,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Bytes, Error> {
        let request = plan.request(method, path, body)?;
        let started = Instant::now();
        let answer = self.connection.exchange(request, Body::Keep, TIMEOUT).await;
        let answer = answer.map_err(|_| Error::Unanswered(what))?;
        self.times.entry(what).or_default().record(started.elapsed());
        if !matches!(answer.status, 200 | 201) {
            let body = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
            return Err(Error::Refused { what, status: answer.status, body });
        }
        if what != AUDIT {
            self.pause(plan).await;
        }
        Ok(answer.body)
    }

    /// Waits for the plan's pause on average.
    async fn pause(&mut self, plan: &Plan) {
        // Not shortened at the end: all clients would send at that moment.
        let pause = plan.pause.mul_f64(fastrand::f64() * 2.0);
        if !pause.is_zero() {
            self.connection.idle(tokio::time::sleep(pause)).await;
        }
    }
}

impl Plan {
    fn request(&self, method: Method, path: &str, body: String) -> Result<Request<Full<Bytes>>, Error> {
        let mut request =
            Request::builder().method(method).uri(self.target.path(path)).header(HOST, &self.host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body.into())).map_err(|_| Error::Unsendable)
    }
}

fn id(answer: &Bytes) -> Result<String, Error> {
    let made: Created = serde_json::from_slice(answer).map_err(|_| Error::Unreadable)?;
    Ok(made.id)
}

/// The number of a client's acknowledged messages, and of its conversations with other contents.
async fn audit(plan: Arc<Plan>, mut client: Client) -> Result<(usize, usize), Error> {
    let (mut seen, mut wrong) = (0, 0);
    for kept in std::mem::take(&mut client.kept) {
        let path = format!("{}/messages?limit=200", kept.path);
        let answer = client.exchange(&plan, AUDIT, Method::GET, &path, String::new()).await?;
        let found: Vec<Message> = serde_json::from_slice(&answer).map_err(|_| Error::Unreadable)?;
        let found = found.into_iter().map(|message| (message.id, message.content));
        seen += kept.messages.len();
        wrong += usize::from(!found.eq(kept.messages));
    }
    Ok((seen, wrong))
}

fn report(clients: &[Client], elapsed: Duration) {
    let mut all: BTreeMap<&'static str, Times> = BTreeMap::new();
    for (what, times) in clients.iter().flat_map(|client| &client.times) {
        all.entry(what).or_default().add(times);
        all.entry("total").or_default().add(times);
    }
    for (what, times) in all {
        let rate = times.len() as f64 / elapsed.as_secs_f64();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{what}: {rate:.0}/s, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            ms(times.at(50.0)),
            ms(times.at(99.0)),
            ms(times.max())
        );
    }
}
