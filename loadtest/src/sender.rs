//! The loop of one connection: take a ticket, send a request, count its outcome.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, InvalidHeaderValue};
use hyper::{HeaderMap, Method, Request, Uri};
use serde::Deserialize;

use crate::client::{Answer, Body, Connection, Failure, Target, bearer};
use crate::pace::{Pace, Ticket};
use crate::payload::Payloads;
use crate::protocol::Plan;
use crate::tally::Tally;

const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// The wait before the first reconnect after a failed one, and the maximum.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// The state shared by all connections of one worker.
pub(crate) struct Shared {
    /// The source of tickets.
    pub(crate) pace: Pace,
    /// The counts.
    pub(crate) tally: RefCell<Tally>,
    requests: RefCell<Requests>,
    target: Target,
    timeout: Duration,
    events: u64,
    answers: Body,
}

/// Sends until the run is over. Every ticket is accounted for before this returns.
pub(crate) async fn send_until_stopped(shared: Rc<Shared>, connection: Connection) {
    let mut connection = Some(connection);
    loop {
        let ticket = match &mut connection {
            Some(open) => open.idle(shared.pace.next()).await,
            None => shared.pace.next().await,
        };
        let Some(ticket) = ticket else { return };
        shared.send(ticket, &mut connection).await;
    }
}

impl Shared {
    /// Prepares the requests of `plan`, with the clock of `pace`.
    pub(crate) fn new(plan: &Plan, pace: Pace, requests: Requests) -> Self {
        Self {
            pace,
            tally: RefCell::default(),
            requests: RefCell::new(requests),
            target: plan.target.clone(),
            timeout: Duration::from_secs_f64(plan.timeout_s),
            events: plan.events() as u64,
            answers: if plan.batch.is_some() { Body::Keep } else { Body::Skip },
        }
    }

    async fn send(&self, ticket: Ticket, connection: &mut Option<Connection>) {
        let mut request = None;
        let mut left = false;
        loop {
            let Some(open) = self.usable(connection).await else {
                self.give_up(ticket, left);
                return;
            };
            let (next, trace_id) = match request.take() {
                Some(again) => again,
                None => self.requests.borrow_mut().make(ticket.n),
            };
            if !left {
                left = true;
                self.count_departure(ticket);
            }
            match open.exchange(next, self.answers, self.timeout).await {
                Ok(answer) => return self.count_answer(ticket, &answer, &trace_id),
                Err(Failure::NotSent(unsent)) => {
                    *connection = None;
                    request = Some((*unsent, trace_id));
                }
                Err(Failure::Unanswered) => {
                    *connection = None;
                    return self.count_unknown(ticket, &trace_id);
                }
            }
        }
    }

    /// The connection, or a new one in its place; `None`: the run ends before the service can be reached.
    async fn usable<'a>(&self, connection: &'a mut Option<Connection>) -> Option<&'a mut Connection> {
        let mut pause = BACKOFF.0;
        while connection.as_ref().is_none_or(Connection::is_closed) {
            let opened = tokio::time::timeout(self.timeout, Connection::open(&self.target)).await;
            if let Ok(Ok(opened)) = opened {
                self.tally.borrow_mut().counts.reconnects += 1;
                *connection = Some(opened);
                break;
            }
            *connection = None;
            if self.pace.is_stopped() {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
        connection.as_mut()
    }

    fn count_departure(&self, ticket: Ticket) {
        let mut tally = self.tally.borrow_mut();
        tally.counts.requests += 1;
        tally.counts.sent += self.events;
        tally.lag.record(ticket.due.elapsed());
    }

    fn count_answer(&self, ticket: Ticket, answer: &Answer, trace_id: &HeaderValue) {
        let latency = ticket.due.elapsed();
        let mut tally = self.tally.borrow_mut();
        if answer.status != 202 {
            *tally.counts.refused.entry(answer.status).or_default() += self.events;
            tally.other.record(latency);
            return;
        }
        if self.answers == Body::Skip {
            tally.accept(latency);
            tally.counts.accepted += self.events;
            return;
        }
        let Ok(batch) = serde_json::from_slice::<BatchAnswer>(&answer.body) else {
            drop(tally);
            return self.count_unknown(ticket, trace_id);
        };
        tally.accept(latency);
        tally.counts.accepted += batch.accepted;
        let unaccounted = self.events.saturating_sub(batch.accepted + batch.rejected.len() as u64);
        tally.counts.unknown += unaccounted;
        for line in batch.rejected {
            *tally.counts.rejected.entry(line.code).or_default() += 1;
        }
    }

    fn count_unknown(&self, ticket: Ticket, trace_id: &HeaderValue) {
        let mut tally = self.tally.borrow_mut();
        tally.other.record(ticket.due.elapsed());
        tally.counts.unknown += self.events;
        if tally.unknown.len() < Tally::NAMED_UNKNOWN {
            tally.unknown.push(trace_id.to_str().unwrap_or_default().to_owned());
        }
    }

    /// Counts a ticket whose request could not be sent or answered.
    fn give_up(&self, ticket: Ticket, left: bool) {
        let mut tally = self.tally.borrow_mut();
        if left {
            tally.counts.requests -= 1;
            tally.counts.sent -= self.events;
        }
        tally.counts.unsent += self.events;
        tally.other.record(ticket.due.elapsed());
    }

    /// Counts the due tickets that no connection took, after the run.
    pub(crate) fn count_untaken(&self) {
        let now = Instant::now();
        let mut tally = self.tally.borrow_mut();
        for due in self.pace.untaken() {
            tally.counts.unsent += self.events;
            tally.other.record(now.saturating_duration_since(due));
        }
    }
}

#[derive(Deserialize)]
struct BatchAnswer {
    accepted: u64,
    #[serde(default)]
    rejected: Vec<RejectedLine>,
}

#[derive(Deserialize)]
struct RejectedLine {
    code: String,
}

/// Creates a worker's requests.
pub(crate) struct Requests {
    plan: Plan,
    payloads: Payloads,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    scratch: BytesMut,
}

/// The plan has values that HTTP cannot carry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The path.
    #[error("the URL's path cannot be sent")]
    Path(#[from] hyper::http::uri::InvalidUri),
    /// The host.
    #[error("the URL's host cannot be sent")]
    Host(#[from] InvalidHeaderValue),
    /// The token, whose value is not shown.
    #[error("the token holds characters that a header cannot carry")]
    Token,
}

impl Requests {
    /// Prepares the common parts of all requests of `plan`.
    pub(crate) fn new(plan: Plan, payloads: Payloads) -> Result<Self, RequestError> {
        let (path, content_type) = match plan.batch {
            Some(_) => ("/api/v1/events/batch", "application/x-ndjson"),
            None => ("/api/v1/events", "application/json"),
        };
        let host = HeaderValue::from_str(&plan.target.host_header())?;
        let mut headers = vec![(HOST, host), (CONTENT_TYPE, HeaderValue::from_static(content_type))];
        if let Some(token) = &plan.token {
            headers.push((AUTHORIZATION, bearer(&token.0).ok_or(RequestError::Token)?));
        }
        let uri = plan.target.path(path).parse()?;
        Ok(Self { plan, payloads, uri, headers, scratch: BytesMut::new() })
    }

    /// This worker's request `n`, and its trace id.
    fn make(&mut self, n: u64) -> (Request<Full<Bytes>>, HeaderValue) {
        let trace_id = self.trace_id(n);
        let mut request = Request::new(Full::new(self.payloads.body(self.plan.lane().in_run(n))));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 2);
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        headers.insert(TRACE_ID, trace_id.clone());
        *request.headers_mut() = headers;
        (request, trace_id)
    }

    fn trace_id(&mut self, n: u64) -> HeaderValue {
        // Writing into a growing buffer cannot fail, and a run's name is plain ASCII.
        let _ = write!(self.scratch, "{}-{}-{n}", self.plan.run, self.plan.worker);
        HeaderValue::from_maybe_shared(self.scratch.split().freeze())
            .unwrap_or_else(|_| HeaderValue::from_static("invalid"))
    }
}
