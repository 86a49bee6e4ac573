//! One subscriber: a bare connection that is read with a buffer common to all, and opened again where it ended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};

use super::Plan;
use super::audit::{Faults, SeenChanges};
use super::stream::{AnswerReader, Noticed};
use crate::tally::Times;

/// Bytes of the common buffer, so of one read.
const READ_BYTES: usize = 64 * 1024;
/// The kernel's buffer for a slow reader, so that the service notices it.
const SLOW_BUFFER: u32 = 4 * 1024;
/// Reads of a slow reader in a second.
const SLOW_READS: u32 = 5;
/// The wait before a connection is opened again that was refused or that broke.
const RETRY: Duration = Duration::from_millis(200);

/// A subscriber, and what it got.
pub(super) struct Subscriber {
    pub(super) topic: usize,
    pub(super) is_slow: bool,
    /// Asks it to connect again.
    pub(super) reconnect: Notify,
    pub(super) seen: RefCell<SeenChanges>,
    /// The id of the last event.
    pub(super) last_id: RefCell<Vec<u8>>,
    /// Whether it was ready once.
    pub(super) is_ready: Cell<bool>,
    /// What it resumes by, where the id of an event is none.
    resume_key: String,
}

/// The measurements of all subscribers.
#[derive(Default)]
pub(super) struct Observations {
    pub(super) deliveries: u64,
    pub(super) bytes: u64,
    pub(super) faults: Faults,
    /// From a change's sending to its delivery on a connection that was ready before.
    pub(super) live: Times,
    /// The same of changes that came after a reconnect, and of slow readers.
    pub(super) late: Times,
    pub(super) ready: u64,
    pub(super) reconnects: u64,
    /// Connections that the service ended.
    pub(super) cut_off: u64,
    /// Streams that were answered otherwise than with 200, by status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Connections that could not be opened.
    pub(super) unconnected: u64,
    pub(super) resets: u64,
    pub(super) last_delivery: Option<Instant>,
}

/// The end of one connection.
enum End {
    Asked,
    Closed,
    Refused(u16),
    Unconnected,
}

impl Observations {
    fn count(&mut self, end: &End) {
        match end {
            End::Asked => self.reconnects += 1,
            End::Closed => self.cut_off += 1,
            End::Refused(status) => *self.refused.entry(*status).or_default() += 1,
            End::Unconnected => self.unconnected += 1,
        }
    }
}

impl Subscriber {
    pub(super) fn new(topic: usize, is_slow: bool) -> Self {
        Self {
            topic,
            is_slow,
            reconnect: Notify::new(),
            seen: RefCell::default(),
            last_id: RefCell::default(),
            is_ready: Cell::new(false),
            resume_key: uuid::Uuid::new_v4().to_string(),
        }
    }
}

/// The buffer of all subscribers of the thread.
pub(super) fn common_buffer() -> RefCell<Vec<u8>> {
    RefCell::new(vec![0; READ_BYTES])
}

/// Reads the subscriber's stream, again and again.
pub(super) async fn follow(plan: Rc<Plan>, subscriber: Rc<Subscriber>, opening: Rc<Semaphore>) {
    loop {
        let end = connection(&plan, &subscriber, &opening).await;
        plan.observations.borrow_mut().count(&end);
        if matches!(end, End::Asked) {
            continue;
        }
        tokio::time::sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
    }
}

async fn connection(plan: &Plan, subscriber: &Subscriber, opening: &Semaphore) -> End {
    let Ok(turn) = opening.acquire().await else { return End::Unconnected };
    let mut turn = Some(turn);
    let request = plan.stream_request(subscriber);
    let opened = async {
        let mut stream = open(plan, subscriber.is_slow).await?;
        stream.write_all(&request).await?;
        Ok::<_, io::Error>(stream)
    };
    let Ok(stream) = opened.await else { return End::Unconnected };
    let mut answer =
        Answer { reader: AnswerReader::new(), is_connected: false, ready_us: None, refused: None };
    loop {
        tokio::select! {
            readable = stream.readable() => if readable.is_err() { return End::Closed },
            () = subscriber.reconnect.notified() => return End::Asked,
        }
        let slow = plan.slow_bytes_s.filter(|_| subscriber.is_slow && !plan.is_settling.get());
        let limit = slow.map_or(READ_BYTES, |bytes| (bytes / SLOW_READS as usize).clamp(64, READ_BYTES));
        if let Some(end) = answer.read(plan, subscriber, &stream, limit) {
            return end;
        }
        if std::mem::take(&mut answer.is_connected) {
            let Some(pocketbase) = &plan.pocketbase else { continue };
            let client = subscriber.last_id.borrow().clone();
            match pocketbase.subscribe(&client, subscriber.topic, &subscriber.resume_key).await {
                Ok(()) => set_ready(
                    &mut answer.ready_us,
                    subscriber,
                    &mut plan.observations.borrow_mut(),
                    plan.us(Instant::now()),
                ),
                Err(error) => {
                    plan.refuse(crate::describe(&error));
                    return End::Closed;
                }
            }
        }
        if answer.ready_us.is_some() {
            drop(turn.take());
        }
        if slow.is_some() {
            tokio::time::sleep(Duration::from_secs(1) / SLOW_READS).await;
        }
    }
}

/// The answer on one connection.
struct Answer {
    reader: AnswerReader,
    /// The client's id has come, and its topic is not set.
    is_connected: bool,
    /// The time of `ready`.
    ready_us: Option<u64>,
    /// The status, if it is not 200.
    refused: Option<u16>,
}

impl Answer {
    /// Reads up to `limit` bytes of what has come. `Some`: the connection is over.
    fn read(
        &mut self,
        plan: &Plan,
        subscriber: &Subscriber,
        stream: &TcpStream,
        limit: usize,
    ) -> Option<End> {
        let mut buffer = plan.buffer.borrow_mut();
        let read = match stream.try_read(buffer.get_mut(..limit).unwrap_or_default()) {
            Ok(0) => return Some(End::Closed),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(End::Closed),
        };
        let now = Instant::now();
        let now_us = plan.us(now);
        let mut observations = plan.observations.borrow_mut();
        let mut seen = subscriber.seen.borrow_mut();
        let log = plan.log(subscriber.topic);
        observations.bytes += read as u64;
        let Self { reader, is_connected, ready_us, refused } = self;
        let notice = |noticed| match noticed {
            Noticed::Head(status) => *refused = (status != 200).then_some(status),
            Noticed::Connected => *is_connected = true,
            Noticed::Ready => set_ready(ready_us, subscriber, &mut observations, now_us),
            Noticed::Reset => observations.resets += 1,
            Noticed::Change(change, sent_us) => {
                observations.deliveries += 1;
                observations.last_delivery = Some(now);
                observations.faults.add(seen.add(change, &log));
                let latency = Duration::from_micros(now_us.saturating_sub(sent_us));
                plan.live.record(latency);
                match !subscriber.is_slow && ready_us.is_some_and(|ready| ready <= sent_us) {
                    true => observations.live.record(latency),
                    false => observations.late.record(latency),
                }
            }
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        let parsed = reader.read(bytes, &plan.marker, &mut subscriber.last_id.borrow_mut(), notice);
        parsed.err().map(|_| self.refused.map_or(End::Closed, End::Refused))
    }
}

/// From now on nothing is missed.
fn set_ready(ready_us: &mut Option<u64>, subscriber: &Subscriber, observations: &mut Observations, us: u64) {
    *ready_us = Some(us);
    observations.ready += u64::from(!subscriber.is_ready.replace(true));
}

async fn open(plan: &Plan, is_slow: bool) -> io::Result<TcpStream> {
    let socket = if plan.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if is_slow {
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    socket.connect(plan.address).await
}
