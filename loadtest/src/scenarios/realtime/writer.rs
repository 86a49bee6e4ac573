//! One writer: a connection that creates and updates records of all topics in turn, at the run's rate.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use serde::Deserialize;

use super::Plan;
use super::audit::Delivered;
use crate::client::{Body, Connection, Target};
use crate::pace::{Pace, Ticket};
use crate::tally::Times;

/// The time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The wait before a connection is opened again.
const RETRY: Duration = Duration::from_millis(200);

/// The measurements of all writers.
#[derive(Default)]
pub(super) struct Writes {
    /// From the sending to the answer.
    pub(super) answers: Times,
    /// From the due time to the sending.
    pub(super) lag: Times,
    /// Answers that are no success, by the first few.
    pub(super) refusals: Vec<String>,
}

/// A record that a writer goes on with.
struct Current {
    id: String,
    /// The number of its last change.
    number: u64,
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

/// The times of the changes of all writers.
pub(super) enum Tickets {
    /// At a rate.
    Paced(Pace),
    /// As fast as answers come: the next one, and their number.
    Counted(Cell<u64>, u64),
}

impl Tickets {
    async fn next(&self) -> Option<Ticket> {
        match self {
            Self::Paced(pace) => pace.next().await,
            Self::Counted(next, count) => {
                let n = next.replace(next.get() + 1);
                (n < *count).then(|| Ticket { n, due: Instant::now() })
            }
        }
    }
}

/// Sends a change for each ticket.
pub(super) async fn write(plan: Rc<Plan>, target: Target, tickets: Rc<Tickets>) {
    let mut records: Vec<Option<Current>> = Vec::new();
    records.resize_with(plan.topics(), || None);
    let mut connection = None;
    while let Some(ticket) = tickets.next().await {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(&target).await {
                Ok(open) => open,
                Err(error) => {
                    plan.refuse(crate::describe(&error));
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            },
        };
        if change(&plan, &mut open, &mut records, ticket).await {
            connection = Some(open);
        }
    }
}

/// One change. False: the connection is of no use any more.
async fn change(
    plan: &Plan,
    connection: &mut Connection,
    records: &mut [Option<Current>],
    ticket: Ticket,
) -> bool {
    let topic = (ticket.n % plan.topics() as u64) as usize;
    let Some(current) = records.get_mut(topic) else { return true };
    // A record whose change failed is left: the change may be made later.
    let record = current.take().filter(|_| fastrand::f64() < plan.updates);
    let (number, floor) = plan.log_mut(topic).begin();
    let change = Delivered { number, previous: record.as_ref().map(|record| record.number), floor };
    let sent = Instant::now();
    let body = plan.record(topic, change, plan.us(sent));
    let (method, path) = match &record {
        Some(record) => (Method::PATCH, format!("{}/{}", plan.record_path(topic), record.id)),
        None => (Method::POST, plan.record_path(topic)),
    };
    let Some(request) = request(plan, method, &path, body) else { return true };
    let answer = connection.exchange(request, Body::Keep, TIMEOUT).await;
    let id = match &answer {
        Ok(answer) if matches!(answer.status, 200 | 201) => {
            serde_json::from_slice::<Created>(&answer.body).ok().map(|created| created.id)
        }
        Ok(answer) => {
            let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            plan.refuse(format!("{}: {body}", answer.status));
            None
        }
        Err(_) => {
            plan.refuse("no answer".to_owned());
            None
        }
    };
    let is_made = id.is_some();
    plan.log_mut(topic).settle(number, is_made);
    *current = id.map(|id| Current { id, number });
    let elapsed = sent.elapsed();
    if !is_made {
        plan.live.fail();
    } else if !plan.has_subscribers {
        plan.live.record(elapsed);
    }
    let mut writes = plan.writes.borrow_mut();
    writes.answers.record(elapsed);
    writes.lag.record(sent.saturating_duration_since(ticket.due));
    answer.is_ok()
}

fn request(plan: &Plan, method: Method, path: &str, body: String) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, &plan.host);
    if let Some(token) = &plan.token {
        request = request.header(AUTHORIZATION, token);
    }
    request.header(CONTENT_TYPE, "application/json").body(Full::new(body.into())).ok()
}
