//! Producers that record their events and acks, and the count that compares both with the tables.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::service::eventually;

/// The time limit of an answer, unless the service has died.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause of a producer behind a request that was not accepted.
const PAUSE: Duration = Duration::from_millis(5);

/// Running producers. They send single events and batches; some wait for the commit.
pub(crate) struct Load {
    shared: Arc<Shared>,
    producers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    address: Mutex<String>,
    /// The prefix of the load's trace ids.
    prefix: String,
    stopped: AtomicBool,
    /// One event in `evil_in` is rejected by `NO_EVIL`; 0: none.
    evil_in: u64,
    /// Those that wait for the commit do so for a second at the most.
    is_impatient: bool,
    notes: Mutex<Notes>,
    next: AtomicU64,
}

#[derive(Default)]
struct Notes {
    /// By trace id: whether the event was acknowledged.
    sent: HashMap<String, bool>,
    committed: u64,
}

impl Load {
    /// Starts `producers`, which send to `address` until they are stopped.
    pub(crate) fn start(address: &str, producers: usize, evil_in: u64) -> Self {
        Self::begin(address, producers, Shared { evil_in, ..Shared::default() })
    }

    /// As [`Self::start`], without a wait of more than a second.
    pub(crate) fn start_impatient(address: &str, producers: usize) -> Self {
        Self::begin(address, producers, Shared { is_impatient: true, ..Shared::default() })
    }

    fn begin(address: &str, producers: usize, shared: Shared) -> Self {
        let prefix = format!("{:08x}", fastrand::u32(..));
        let address = Mutex::new(address.to_owned());
        let shared = Arc::new(Shared { address, prefix, ..shared });
        let mut tasks = JoinSet::new();
        for number in 0..producers {
            tasks.spawn(produce(Arc::clone(&shared), number));
        }
        Self { shared, producers: tasks }
    }

    /// Changes the service's address.
    pub(crate) fn turn_to(&self, address: &str) {
        address.clone_into(&mut self.shared.address.lock().unwrap());
    }

    /// Events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.notes.lock().unwrap().sent.values().filter(|acknowledged| **acknowledged).count() as u64
    }

    /// Waits for `more` acknowledged events.
    pub(crate) async fn progresses(&self, more: u64) {
        let from = self.acknowledged();
        eventually("events are acknowledged", async || (self.acknowledged() >= from + more).then_some(()))
            .await;
    }

    /// Stops the producers, each after its current answer.
    pub(crate) async fn stop(mut self) -> Sent {
        self.shared.stopped.store(true, Ordering::Relaxed);
        while let Some(ended) = self.producers.join_next().await {
            ended.unwrap();
        }
        let notes = std::mem::take(&mut *self.shared.notes.lock().unwrap());
        Sent { by_trace_id: notes.sent, committed: notes.committed }
    }
}

/// The sent events, and which of them were acknowledged.
pub(crate) struct Sent {
    pub(crate) by_trace_id: HashMap<String, bool>,
    /// Requests answered with 201.
    pub(crate) committed: u64,
}

impl Sent {
    /// Adds an acknowledged event that was sent beside the load.
    pub(crate) fn add(&mut self, trace_id: impl Into<String>) {
        self.by_trace_id.insert(trace_id.into(), true);
    }

    /// The union of both.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.by_trace_id.extend(other.by_trace_id);
        self.committed += other.committed;
        self
    }

    /// The number of acknowledged events.
    pub(crate) fn acknowledged(&self) -> usize {
        self.by_trace_id.values().filter(|acknowledged| **acknowledged).count()
    }
}

async fn produce(shared: Arc<Shared>, number: usize) {
    let mut connection: Option<(String, SendRequest<Full<Bytes>>)> = None;
    while !shared.stopped.load(Ordering::Relaxed) {
        let address = shared.address.lock().unwrap().clone();
        connection = connection.filter(|(to, sender)| *to == address && !sender.is_closed());
        if connection.is_none() {
            connection = connect(&address).await.map(|sender| (address, sender));
        }
        let outcome = match &mut connection {
            Some((_, sender)) => tokio::time::timeout(PATIENCE, send_one(&shared, number, sender))
                .await
                .unwrap_or(Outcome::Broken),
            None => Outcome::Broken,
        };
        if outcome == Outcome::Broken {
            connection = None;
        }
        if outcome != Outcome::Accepted {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn connect(address: &str) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Overloaded,
    /// The connection is unusable.
    Broken,
}

/// Sends one request.
async fn send_one(shared: &Shared, number: usize, sender: &mut SendRequest<Full<Bytes>>) -> Outcome {
    let n = shared.next.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}p{number}.{n}", shared.prefix);
    let event = |n: u64| match shared.evil_in > 0 && n.is_multiple_of(shared.evil_in) {
        true => format!("{{\"evil\":{n}}}"),
        false => format!("{{\"n\":{n}}}"),
    };
    let is_batch = fastrand::u8(0..4) == 0;
    let (path, body, trace_ids) = if is_batch {
        let size = fastrand::u64(1..200);
        let body: String = (0..size).map(|index| event(n + index) + "\n").collect();
        ("/api/v1/events/batch", body, (0..size).map(|index| format!("{name}-{index}")).collect())
    } else {
        ("/api/v1/events", event(n), vec![name.clone()])
    };
    let waits = fastrand::u8(0..3) == 0;
    let ack = if waits && !shared.is_impatient { "?ack=committed" } else { "" };
    let request = Request::post(format!("{path}{ack}"))
        .header("host", "localhost")
        .header("x-trace-id", &name)
        .header("content-type", if is_batch { "application/x-ndjson" } else { "application/json" });
    let request = match waits && shared.is_impatient {
        true => request.header("prefer", "wait=1"),
        false => request,
    };
    // A key that is not repeated changes nothing.
    let request = match fastrand::u8(0..4) {
        0 => request.header("idempotency-key", &name),
        _ => request,
    };
    shared.notes.lock().unwrap().sent.extend(trace_ids.iter().map(|id| (id.clone(), false)));
    let Ok(response) = sender.send_request(request.body(Full::new(body.into())).unwrap()).await else {
        return Outcome::Broken;
    };
    let status = response.status();
    // The head of an answer is the ack, whether or not its body arrives.
    let is_accepted =
        matches!(status, StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::UNPROCESSABLE_ENTITY);
    if is_accepted {
        let mut notes = shared.notes.lock().unwrap();
        notes.sent.extend(trace_ids.into_iter().map(|id| (id, true)));
        notes.committed += u64::from(status == StatusCode::CREATED);
    } else {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    if response.into_body().collect().await.is_err() || sender.ready().await.is_err() {
        return Outcome::Broken;
    }
    if is_accepted { Outcome::Accepted } else { Outcome::Overloaded }
}

/// Asserts that every acknowledged event is exactly once in `requests` or `dead_letters`, that no other event is there, and
/// that the receipts agree.
pub(crate) async fn assert_exactly_once(client: &Client, sent: &Sent) {
    let stored = client
        .query(
            "select trace_id from requests union all select trace_id from dead_letters where reason <> 'overload'",
            &[],
        )
        .await
        .unwrap();
    let mut seen = HashSet::with_capacity(stored.len());
    let mut doubled = Vec::new();
    for row in &stored {
        let trace_id: &str = row.get(0);
        if !seen.insert(trace_id) {
            doubled.push(trace_id);
        }
    }
    let strange: Vec<_> = seen.iter().filter(|id| !sent.by_trace_id.contains_key(**id)).collect();
    let acknowledged = sent.by_trace_id.iter().filter(|(_, acknowledged)| **acknowledged);
    let lost: Vec<_> = acknowledged.map(|(id, _)| id).filter(|id| !seen.contains(id.as_str())).collect();
    assert!(
        doubled.is_empty() && strange.is_empty() && lost.is_empty(),
        "of {} sent and {} stored: {} doubled ({:?}), {} never sent ({:?}), {} lost ({:?})",
        sent.by_trace_id.len(),
        stored.len(),
        doubled.len(),
        &doubled[..doubled.len().min(5)],
        strange.len(),
        &strange[..strange.len().min(5)],
        lost.len(),
        &lost[..lost.len().min(5)],
    );
    assert_receipts_add_up(client).await;
}

/// Asserts for each journal that its receipts do not overlap, leave no gap from 0 on, and agree with the tables.
pub(crate) async fn assert_receipts_add_up(client: &Client) {
    let off = client
        .query(
            "with receipts as (
                select journal, sum(last - first + 1)::bigint as covered, max(last) + 1 as accepted,
                    sum(committed)::bigint as committed, sum(dead)::bigint as dead
                from ingest_receipts group by journal
             ), rows as (
                select ingest_tag(id) as tag, count(*) as committed from requests group by 1
             ), letters as (
                select ingest_tag(id) as tag, count(*) as dead
                from dead_letters where reason <> 'overload' group by 1
             )
             select format('%s: accepted %s, covered %s, receipts: %s committed and %s dead, tables %s and %s',
                journal, accepted, covered, receipts.committed, receipts.dead, rows.committed, letters.dead)
             from ingest_journals
             full join receipts using (journal)
             full join rows using (tag)
             full join letters using (tag)
             where coalesce(covered, 0) <> coalesce(accepted, 0)
                or coalesce(receipts.committed, 0) <> coalesce(rows.committed, 0)
                or coalesce(receipts.dead, 0) <> coalesce(letters.dead, 0)",
            &[],
        )
        .await
        .unwrap();
    let off: Vec<String> = off.iter().map(|row| row.get(0)).collect();
    assert!(off.is_empty(), "{off:#?}");
    let overlaps = client
        .query(
            "select one.journal::text, one.first, one.last, other.first
             from ingest_receipts one
             join ingest_receipts other on other.journal = one.journal and other.first > one.first and other.first <= one.last",
            &[],
        )
        .await
        .unwrap();
    assert!(overlaps.is_empty(), "{overlaps:?}");
}
