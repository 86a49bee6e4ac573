//! `crud`: single records, created over some connections for a while, then got, in a closed loop. Then each record that was acknowledged is read and
//! compared.
//!
//! The path is an argument, so that any service with JSON records under one path can be measured the same way.

use std::collections::HashSet;
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::{Method, Request};
use serde::Deserialize;

use super::{Context, Error, succeeded};
use crate::client::{Body, Connection};
use crate::document::Outcome;
use crate::findings::Findings;
use crate::tally::Times;

/// The creates, and again the gets, unless `--duration` is given.
const DURATION_S: f64 = 10.0;
/// Records of each connection that are read again.
const MAX_RECORDS: usize = 20_000;
/// Records that differ, by the first few.
const NAMED: usize = 5;

/// The arguments of `crud`. `--duration` is that of the creates, and again of the gets.
#[derive(Debug, Clone, Args)]
pub(crate) struct CrudArgs {
    /// Path of the records; their ids follow it
    #[arg(long, default_value = "/api/stress/records/loadtest")]
    pub(crate) path: String,
    /// Connections
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

/// The members that are compared.
#[derive(Deserialize)]
struct Stored {
    name: String,
    n: u64,
}

/// A record that was acknowledged.
struct Record {
    id: String,
    name: String,
    n: u64,
    is_read: bool,
}

/// A connection, with its records and measurements.
struct Client<'a> {
    context: &'a Context,
    args: &'a CrudArgs,
    number: usize,
    connection: Connection,
    records: Vec<Record>,
    times: Times,
}

/// Measures creates, then gets, then audits.
pub(crate) async fn measure(context: &Context, args: &CrudArgs) -> Result<Outcome, Error> {
    let mut clients = Vec::new();
    for number in 0..usize::from(args.connections) {
        let connection = Connection::open(context.target()).await?;
        clients.push(Client {
            context,
            args,
            number,
            connection,
            records: Vec::new(),
            times: Times::empty(),
        });
    }
    let mut outcome = Outcome::default();
    let mut findings = Findings::of("records", 0);
    let duration = context.duration(DURATION_S);

    context.live.begin(duration.as_secs_f64(), Vec::new());
    let started = Instant::now();
    let created = join_all(clients.iter_mut().map(|client| client.create(started + duration))).await;
    created.into_iter().collect::<Result<Vec<()>, _>>()?;
    report(&mut outcome, "create", &mut clients, started);
    context.live.end("between creates and gets");

    let mut ids = HashSet::new();
    let all = clients.iter().flat_map(|client| &client.records);
    findings.doubled += all.filter(|record| !ids.insert(record.id.as_str())).count() as u64;
    drop(ids);

    // Each connection gets its neighbour's records.
    let mut records: Vec<Vec<Record>> =
        clients.iter_mut().map(|client| std::mem::take(&mut client.records)).collect();
    records.rotate_left(1);
    for (client, records) in clients.iter_mut().zip(records) {
        client.records = records;
    }
    context.live.begin(duration.as_secs_f64(), Vec::new());
    let started = Instant::now();
    let got = join_all(clients.iter_mut().map(|client| client.get(started + duration))).await;
    for found in got {
        findings.add(&found?);
    }
    report(&mut outcome, "get", &mut clients, started);
    context.live.end("reading every record");

    if !context.common.no_audit {
        let audited = join_all(clients.iter_mut().map(Client::read_rest)).await;
        for found in audited {
            findings.add(&found?);
        }
        findings.checked = clients.iter().map(|client| client.records.len() as u64).sum();
        findings.notes.truncate(NAMED);
        outcome.audit = Some(findings);
    }
    Ok(outcome)
}

fn report(outcome: &mut Outcome, what: &str, clients: &mut [Client<'_>], started: Instant) {
    let mut times = Times::empty();
    for client in clients {
        times.add(&client.times);
        client.times.clear();
    }
    outcome.figure(
        &format!("{what}s"),
        format!("{:.0}/s", times.len() as f64 / started.elapsed().as_secs_f64()),
    );
    outcome.latency(what, times);
}

impl Client<'_> {
    async fn create(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut n = 0;
        while self.context.live.goes_on(deadline) {
            let name = format!("item {}-{n}", self.number);
            let body = format!(
                "{{\"name\":\"{name}\",\"n\":{n},\"active\":{},\"note\":\"a record as a client may send it\"}}",
                n % 2 == 0
            );
            let request = self.context.request(self.context.target(), Method::POST, &self.args.path, body)?;
            let answer = self.exchange(request).await?;
            if self.records.len() < MAX_RECORDS {
                let created: Created =
                    serde_json::from_slice(&answer).map_err(|_| Error::Unreadable("no id"))?;
                self.records.push(Record { id: created.id, name, n, is_read: false });
            }
            n += 1;
        }
        Ok(())
    }

    async fn get(&mut self, deadline: Instant) -> Result<Findings, Error> {
        let mut findings = Findings::default();
        let mut index = 0;
        while !self.records.is_empty() && self.context.live.goes_on(deadline) {
            findings.add(&self.compare(index).await?);
            index = (index + 1) % self.records.len();
        }
        Ok(findings)
    }

    /// Reads the records that were not read yet.
    async fn read_rest(&mut self) -> Result<Findings, Error> {
        let mut findings = Findings::default();
        for index in 0..self.records.len() {
            if !self.records.get(index).is_some_and(|record| record.is_read) {
                findings.add(&self.compare(index).await?);
            }
        }
        Ok(findings)
    }

    /// Gets a record. What is wrong with it is counted once, however often it is got.
    async fn compare(&mut self, index: usize) -> Result<Findings, Error> {
        let Some(record) = self.records.get(index) else { return Ok(Findings::default()) };
        let path = format!("{}/{}", self.args.path, record.id);
        let request = self.context.request(self.context.target(), Method::GET, &path, Bytes::new())?;
        let answer = self.exchange(request).await;
        let Some(record) = self.records.get_mut(index) else { return Ok(Findings::default()) };
        let is_first = !std::mem::replace(&mut record.is_read, true);
        let mut findings = Findings::default();
        match answer {
            Err(Error::Refused { status: 404, .. }) => {
                findings.lost = u64::from(is_first);
                findings.notes = vec![format!("lost: {}", record.id)];
            }
            Err(error) => return Err(error),
            Ok(body) => {
                let stored: Option<Stored> = serde_json::from_slice(&body).ok();
                let is_equal =
                    stored.is_some_and(|stored| stored.name == record.name && stored.n == record.n);
                if !is_equal {
                    findings.unexpected = u64::from(is_first);
                    findings.notes = vec![format!("differs: {}", record.id)];
                }
            }
        }
        if !is_first {
            findings.notes.clear();
        }
        Ok(findings)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, Error> {
        let started = Instant::now();
        let answer = self.connection.exchange(request, Body::Keep, self.context.timeout()).await?;
        let elapsed = started.elapsed();
        let answer = succeeded(answer).inspect_err(|_| self.context.live.fail())?;
        self.times.record(elapsed);
        self.context.live.record(elapsed);
        Ok(answer.body)
    }
}
