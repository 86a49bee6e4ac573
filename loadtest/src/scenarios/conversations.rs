//! `conversations`: many clients, each with a connection of its own, that behave like a chat.
//!
//! A round of a client: a conversation, a user's message, the answer in pieces, a list, a page. At the end all acknowledged
//! messages are read: each has to be there once, in order, and nothing else.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use hyper::Method;
use serde::Deserialize;

use super::{Context, Error, succeeded};
use crate::cli::non_negative;
use crate::client::{Body, Connection};
use crate::document::Outcome;
use crate::findings::Findings;
use crate::tally::Times;

const PATH: &str = "/api/conversations";
/// Unless `--duration` is given.
const DURATION_S: f64 = 20.0;
/// Rounds of messages in each conversation.
const ROUNDS: usize = 4;
/// Pieces of each answer.
const PIECES: usize = 3;
/// Conversations of each client that are audited.
const MAX_AUDITED: usize = 200;
/// Requests of the audit do not count as load.
const AUDIT: &str = "audit";

/// The arguments of `conversations`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConversationsArgs {
    /// Clients at once, each with a connection
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub(crate) clients: u16,
    /// Average wait of each client between an answer and its next request, in milliseconds
    #[arg(long, default_value = "1000", value_parser = non_negative)]
    pub(crate) pause_ms: f64,
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

/// A conversation, and its acknowledged messages: ids and contents.
struct AckedConversation {
    path: String,
    messages: Vec<(String, String)>,
}

/// A client, with its conversations and measurements.
struct Client<'a> {
    context: &'a Context,
    pause: Duration,
    number: usize,
    connection: Connection,
    kept: Vec<AckedConversation>,
    times: BTreeMap<&'static str, Times>,
}

/// Runs the load, then the audit.
pub(crate) async fn measure(context: &Context, args: &ConversationsArgs) -> Result<Outcome, Error> {
    let pause = Duration::from_secs_f64(args.pause_ms / 1e3);
    let mut clients = Vec::new();
    for number in 0..usize::from(args.clients) {
        let connection = Connection::open(context.target()).await?;
        clients.push(Client { context, pause, number, connection, kept: Vec::new(), times: BTreeMap::new() });
    }
    let duration = context.duration(DURATION_S);
    context.live.begin(duration.as_secs_f64(), Vec::new());
    let started = Instant::now();
    let chatted = join_all(clients.iter_mut().map(|client| client.chat(started + duration))).await;
    let elapsed = started.elapsed();
    context.live.end("reading every message");
    chatted.into_iter().collect::<Result<Vec<()>, _>>()?;
    let mut outcome = report(&clients, elapsed);
    if !context.common.no_audit {
        let mut findings = Findings::of("messages", 0);
        for audited in join_all(clients.iter_mut().map(Client::audit)).await {
            findings.add(&audited?);
        }
        outcome.audit = Some(findings);
    }
    Ok(outcome)
}

impl Client<'_> {
    async fn chat(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut n = 0;
        // Spreads the clients' beginnings.
        self.pause().await;
        while self.context.live.goes_on(deadline) {
            let title = format!("{{\"title\":\"load {} {n}\"}}", self.number);
            let made = self.exchange("create", Method::POST, PATH, title).await?;
            let mut kept = AckedConversation { path: format!("{PATH}/{}", id(&made)?), messages: Vec::new() };
            for round in 0..ROUNDS {
                if !self.context.live.goes_on(deadline) {
                    break;
                }
                self.round(&mut kept, n, round).await?;
            }
            if self.kept.len() < MAX_AUDITED {
                self.kept.push(kept);
            }
            n += 1;
        }
        Ok(())
    }

    async fn round(&mut self, kept: &mut AckedConversation, n: usize, round: usize) -> Result<(), Error> {
        let path = format!("{}/messages", kept.path);
        let asked = format!("question {round} of {} in {n}: when does the next ferry leave?", self.number);
        let body = format!("{{\"role\":\"user\",\"content\":\"{asked}\"}}");
        let answer = self.exchange("message", Method::POST, &path, body).await?;
        kept.messages.push((id(&answer)?, asked));

        let begun = "{\"role\":\"assistant\",\"content\":\"\",\"done\":false}".to_owned();
        let answer = self.exchange("message", Method::POST, &path, begun).await?;
        let message = id(&answer)?;
        let append = format!("{path}/{message}/append");
        let mut whole = String::new();
        for piece in 0..PIECES {
            let text = format!("piece {piece} of an answer as a model writes it, ");
            let (at, done) = (whole.len(), piece + 1 == PIECES);
            let body = format!("{{\"at\":{at},\"content\":\"{text}\",\"done\":{done}}}");
            self.exchange("append", Method::POST, &append, body).await?;
            whole.push_str(&text);
        }
        kept.messages.push((message, whole));
        let list = format!("{PATH}?limit=20");
        self.exchange("list", Method::GET, &list, String::new()).await?;
        self.exchange("page", Method::GET, &format!("{path}?limit=50"), String::new()).await?;
        Ok(())
    }

    async fn exchange(
        &mut self,
        what: &'static str,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Bytes, Error> {
        let request = self.context.request(self.context.target(), method, path, body)?;
        let started = Instant::now();
        let answer = self.connection.exchange(request, Body::Keep, self.context.timeout()).await;
        let answer = answer.map_err(|_| Error::Unanswered(Some(what.to_owned())))?;
        let elapsed = started.elapsed();
        let answer = succeeded(answer).inspect_err(|_| self.context.live.fail())?;
        if what != AUDIT {
            self.times.entry(what).or_default().record(elapsed);
            self.context.live.record(elapsed);
            self.pause().await;
        }
        Ok(answer.body)
    }

    /// Waits for the plan's pause on average.
    async fn pause(&mut self) {
        // Not shortened at the end: all clients would send at that moment.
        let pause = self.pause.mul_f64(fastrand::f64() * 2.0);
        if !pause.is_zero() {
            self.connection.idle(tokio::time::sleep(pause)).await;
        }
    }

    /// Compares the acknowledged messages of the client's conversations with those that are there.
    async fn audit(&mut self) -> Result<Findings, Error> {
        let mut findings = Findings::of("messages", 0);
        for kept in std::mem::take(&mut self.kept) {
            let path = format!("{}/messages?limit=200", kept.path);
            let answer = self.exchange(AUDIT, Method::GET, &path, String::new()).await?;
            let found: Vec<Message> =
                serde_json::from_slice(&answer).map_err(|_| Error::Unreadable("no list of messages"))?;
            let found: Vec<(String, String)> =
                found.into_iter().map(|message| (message.id, message.content)).collect();
            let compared = compare(&kept.messages, &found);
            if !compared.balances() && findings.notes.len() < 5 {
                findings.notes.push(format!("differs: {}", kept.path));
            }
            findings.add(&compared);
        }
        Ok(findings)
    }
}

fn id(answer: &Bytes) -> Result<String, Error> {
    let made: Created = serde_json::from_slice(answer).map_err(|_| Error::Unreadable("no id"))?;
    Ok(made.id)
}

/// Compares the messages that were acknowledged with those that are there, both as ids and contents.
fn compare(acknowledged: &[(String, String)], found: &[(String, String)]) -> Findings {
    let mut findings = Findings::of("messages", acknowledged.len() as u64);
    let places: BTreeMap<&str, usize> =
        acknowledged.iter().zip(0..).map(|((id, _), place)| (id.as_str(), place)).collect();
    let mut seen = HashSet::new();
    let mut furthest = None;
    for (id, content) in found {
        if !seen.insert(id.as_str()) {
            findings.doubled += 1;
            continue;
        }
        let Some(place) = places.get(id.as_str()) else {
            findings.unexpected += 1;
            continue;
        };
        findings.out_of_order += u64::from(furthest.is_some_and(|furthest| *place < furthest));
        findings.unexpected += u64::from(acknowledged.get(*place).is_some_and(|(_, sent)| sent != content));
        furthest = furthest.max(Some(*place));
    }
    findings.lost = acknowledged.iter().filter(|(id, _)| !seen.contains(id.as_str())).count() as u64;
    findings
}

fn report(clients: &[Client<'_>], elapsed: Duration) -> Outcome {
    let mut all: BTreeMap<&'static str, Times> = BTreeMap::new();
    for (what, times) in clients.iter().flat_map(|client| &client.times) {
        all.entry(what).or_default().add(times);
        all.entry("total").or_default().add(times);
    }
    let mut outcome = Outcome::default();
    for (what, times) in all {
        outcome.figure(&format!("{what}/s"), format!("{:.0}", times.len() as f64 / elapsed.as_secs_f64()));
        outcome.latency(what, times);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_of_a_conversation_has_its_name() {
        let all = |ids: &[&str]| -> Vec<(String, String)> {
            ids.iter().map(|id| ((*id).to_owned(), format!("content {id}"))).collect()
        };
        let sent = all(&["a", "b", "c"]);
        assert!(compare(&sent, &sent).balances());
        assert_eq!(compare(&sent, &all(&["a", "c"])).lost, 1);
        assert_eq!(compare(&sent, &all(&["a", "b", "b", "c"])).doubled, 1);
        assert_eq!(compare(&sent, &all(&["a", "c", "b"])).out_of_order, 1);
        assert_eq!(compare(&sent, &all(&["a", "b", "c", "x"])).unexpected, 1);
        let mut changed = sent.clone();
        changed[1].1.push('!');
        assert_eq!(compare(&sent, &changed).unexpected, 1);
    }
}
