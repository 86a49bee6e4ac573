//! Positions that the service keeps for clients which cannot keep one themselves, each under a name of the client's.
//!
//! ```text
//! connection ─ KeptPosition::sent ─▶ memory ─ the task, a statement for all ─▶ client_positions
//! next connection, on any node ─ take: asks the node of the one before for its last position, then the row ─▶ the position to go on from
//! ```
//!
//! # What a client has
//!
//! A client says nothing about what it has received; the connection knows what its socket has taken, and when. From that:
//!
//! | the connection | the client has |
//! |---|---|
//! | was ended here, and the client closed its side after that | all of it |
//! | was closed by the client, or broke | what was sent [`IN_FLIGHT`] before |
//! | is open, though the client has another one; or was ended, and the client did not close it | what was sent [`VANISHED`] before |
//! | was of a node that does not answer | what that node kept, which follows by [`IN_FLIGHT`] and one statement |
//!
//! So nothing is missed that was on its way, and what was sent that shortly before a break may come again. A client that vanished behind a proxy,
//! which takes everything for it, is the reason for the third line.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::store::{ClientStore, KeptRow};
use super::{ClientId, Clients, RequestError};
use crate::db::DbError;
use crate::realtime::Position;
use crate::supervisor::{Next, Step, StepError};

/// The most positions of an owner: an identity, or a guest's address.
pub const MAX_POSITIONS: usize = 1_000;
/// The time that bytes may take from the socket to the client.
const IN_FLIGHT: Duration = Duration::from_millis(10);
/// The time for which a client may have been gone while its connection seemed open.
const VANISHED: Duration = Duration::from_secs(60);
/// The time for the answer of the node whose connection kept a position.
const RELEASE_LIMIT: Duration = Duration::from_millis(1_500);
/// The time for the end of a connection whose client has another one already.
const END_LIMIT: Duration = Duration::from_millis(300);
/// The shortest and the longest wait between two statements that keep positions.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The share of its time for which the task writes, as a divisor.
const DUTY: u32 = 10;
/// The positions of a statement.
const KEPT_AT_ONCE: usize = 1_000;
/// The time between two deletions of old positions.
const SWEEP: Duration = Duration::from_secs(60);
/// A position is of use for `CHANGES_RETENTION_S`. The row lasts longer, so that a client which comes too late learns it.
const MORE_RETENTION_S: f64 = 86_400.0;
/// The beginning of a request about positions, which no JSON has.
const RELEASE: &[u8] = b"\0release ";

/// A request to the node of a connection, behind [`RELEASE`].
#[derive(Debug, Serialize, Deserialize)]
struct ReleaseRequest {
    identity: String,
    names: Vec<Uuid>,
}

/// The name of a kept position, of one identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PositionName {
    /// The client: no other client gets or moves its positions.
    pub identity: Arc<str>,
    /// The client's name for it.
    pub name: Uuid,
}

/// The positions that connections of this node keep. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Positions(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Mutex<HashMap<(ClientId, PositionName), Arc<Entry>>>,
    /// Those that the table does not have.
    dirty: Mutex<Vec<Arc<Entry>>>,
    woken: Notify,
    /// Held while positions are computed and written: an older one is never written behind a newer one.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    holder: ClientId,
    name: PositionName,
    is_dirty: AtomicBool,
    marks: Mutex<Marks>,
}

/// The positions that a connection has sent, with their times.
#[derive(Debug)]
struct Marks {
    /// The position at the begin.
    start: Position,
    /// The last one of each five seconds or so, for a minute, and then the last ones, for moments.
    old: VecDeque<(Instant, Position)>,
    recent: VecDeque<(Instant, Position)>,
    /// Since when the socket takes nothing.
    blocked: Option<Instant>,
    ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The client has all of it.
    Delivered,
    Broken(Instant),
    Vanished(Instant),
}

/// The distance between two older marks, and two of the last moments.
const OLD_MARKS: Duration = Duration::from_secs(5);
const RECENT_MARKS: Duration = Duration::from_millis(5);
/// From this age on marks are older ones.
const RECENT: Duration = Duration::from_millis(200);

impl Marks {
    fn new(start: Position) -> Self {
        Self { start, old: VecDeque::new(), recent: VecDeque::new(), blocked: None, ended: None }
    }

    /// Everything up to here was sent. False: it was so before.
    fn sent(&mut self, now: Instant, position: &Position) -> bool {
        self.blocked = None;
        if self.last() == position {
            return false;
        }
        let is_close = self.recent.len() > 1
            && self.recent.iter().rev().nth(1).is_some_and(|(at, _)| now - *at < RECENT_MARKS);
        if is_close {
            // The last one moves; the one before it stays a mark.
            self.recent.pop_back();
        }
        self.recent.push_back((now, position.clone()));
        while self.recent.len() > 1
            && let Some((at, position)) = self.recent.pop_front_if(|(at, _)| now - *at > RECENT)
        {
            if self.old.back().is_none_or(|(last, _)| at - *last >= OLD_MARKS) {
                self.old.push_back((at, position));
            }
        }
        while self.old.get(1).is_some_and(|(at, _)| now - *at > VANISHED) {
            self.old.pop_front();
        }
        true
    }

    fn last(&self) -> &Position {
        let marks = self.old.iter().chain(&self.recent);
        marks.last().map_or(&self.start, |(_, position)| position)
    }

    /// The position that was sent up to a time.
    fn at(&self, time: Option<Instant>) -> &Position {
        let marks = self.old.iter().chain(&self.recent).rev();
        let mut before = marks.skip_while(|(at, _)| time.is_none_or(|time| *at > time));
        before.next().map_or(&self.start, |(_, position)| position)
    }

    /// The position up to which the client has everything, as far as is known.
    fn received(&self, now: Instant) -> &Position {
        match self.ended {
            Some(Ended::Delivered) => self.last(),
            Some(Ended::Broken(at)) => self.at(at.checked_sub(IN_FLIGHT)),
            Some(Ended::Vanished(at)) => self.at(self.blocked.unwrap_or(at).checked_sub(VANISHED)),
            None => self.at(now.checked_sub(IN_FLIGHT)),
        }
    }
}

/// A position that a connection keeps. Dropped, the connection has ended.
#[derive(Debug)]
pub struct KeptPosition {
    positions: Positions,
    entry: Arc<Entry>,
}

impl KeptPosition {
    /// Its name.
    pub fn name(&self) -> &PositionName {
        &self.entry.name
    }

    /// Everything up to this position was sent.
    pub fn sent(&self, position: &Position) {
        if self.entry.marks.lock().sent(Instant::now(), position) {
            self.positions.mark(&self.entry);
        }
    }

    /// The position is still of use, though nothing was sent.
    pub fn renew(&self) {
        self.positions.mark(&self.entry);
    }

    /// Events are given to the socket, which has not taken them before [`Self::sent`].
    pub fn sends(&self) {
        self.entry.marks.lock().blocked.get_or_insert_with(Instant::now);
    }

    /// The connection was ended by the service. Whether the client closed its side after that: then it has everything.
    pub fn finished(&self, is_delivered: bool) {
        let ended = if is_delivered { Ended::Delivered } else { Ended::Vanished(Instant::now()) };
        self.entry.marks.lock().ended.get_or_insert(ended);
    }
}

impl Drop for KeptPosition {
    fn drop(&mut self) {
        self.entry.marks.lock().ended.get_or_insert_with(|| Ended::Broken(Instant::now()));
        self.positions.mark(&self.entry);
    }
}

impl Positions {
    /// The table is to have it.
    fn mark(&self, entry: &Arc<Entry>) {
        if !entry.is_dirty.swap(true, Relaxed) {
            self.0.dirty.lock().push(Arc::clone(entry));
            self.0.woken.notify_one();
        }
    }

    fn hold(&self, holder: &ClientId, name: &PositionName, start: Position) -> KeptPosition {
        let entry = Arc::new(Entry {
            holder: holder.clone(),
            name: name.clone(),
            is_dirty: AtomicBool::new(false),
            marks: Mutex::new(Marks::new(start)),
        });
        self.0.kept.lock().insert((holder.clone(), name.clone()), Arc::clone(&entry));
        KeptPosition { positions: self.clone(), entry }
    }

    /// Writes positions that the table does not have. Those that ended are forgotten once it has them.
    async fn flush(&self, store: &ClientStore) -> Result<(), DbError> {
        let _writing = self.0.writing.lock().await;
        loop {
            let entries: Vec<Arc<Entry>> = {
                let mut dirty = self.0.dirty.lock();
                let count = dirty.len().min(KEPT_AT_ONCE);
                dirty.drain(..count).collect()
            };
            if entries.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            let mut later = Vec::new();
            let mut ended = Vec::new();
            let mut rows = Vec::with_capacity(entries.len());
            for entry in &entries {
                entry.is_dirty.store(false, Relaxed);
                let marks = entry.marks.lock();
                let received = marks.received(now);
                if marks.ended.is_some() {
                    ended.push(Arc::clone(entry));
                } else if received != marks.last() {
                    later.push(Arc::clone(entry));
                }
                rows.push(KeptRow {
                    name: &entry.name,
                    holder: &entry.holder,
                    position: received.to_string(),
                    is_open: marks.ended.is_none(),
                });
            }
            let written = store.keep_positions(&rows).await;
            drop(rows);
            // A newer position than the one that is written.
            for entry in if written.is_ok() { &later } else { &entries } {
                self.mark(entry);
            }
            written?;
            let mut kept = self.0.kept.lock();
            for entry in ended {
                let key = (entry.holder.clone(), entry.name.clone());
                if kept.get(&key).is_some_and(|known| Arc::ptr_eq(known, &entry)) {
                    kept.remove(&key);
                }
            }
            drop(kept);
            if later.len() == entries.len() {
                return Ok(());
            }
        }
    }

    /// Ends the keeping of positions by a connection of this node, whose client has another one now, and writes what the client has.
    async fn release(
        &self,
        store: &ClientStore,
        holder: &ClientId,
        identity: &Arc<str>,
        names: &[Uuid],
    ) -> Result<(), DbError> {
        let key =
            |name: &Uuid| (holder.clone(), PositionName { identity: Arc::clone(identity), name: *name });
        let entries: Vec<Arc<Entry>> = {
            let kept = self.0.kept.lock();
            names.iter().filter_map(|name| kept.get(&key(name)).cloned()).collect()
        };
        let until = Instant::now() + END_LIMIT;
        while entries.iter().any(|entry| entry.marks.lock().ended.is_none()) && Instant::now() < until {
            // As a rule it has ended, or its end is on its way.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _writing = self.0.writing.lock().await;
        let now = Instant::now();
        let row = |entry: &Arc<Entry>| {
            let mut marks = entry.marks.lock();
            marks.ended.get_or_insert(Ended::Vanished(now));
            marks.received(now).to_string()
        };
        let positions: Vec<String> = entries.iter().map(row).collect();
        let rows = entries.iter().zip(positions).map(|(entry, position)| KeptRow {
            name: &entry.name,
            holder,
            position,
            is_open: false,
        });
        let rows: Vec<KeptRow<'_>> = rows.collect();
        if !rows.is_empty() {
            store.keep_positions(&rows).await?;
        }
        let mut kept = self.0.kept.lock();
        for name in names {
            kept.remove(&key(name));
        }
        Ok(())
    }
}

impl Clients {
    /// Takes positions over for a connection of this node: from those that kept them before, on whichever nodes. Returns those that the identity has.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn take_positions(
        &self,
        identity: &Arc<str>,
        names: &[Uuid],
        holder: &ClientId,
    ) -> Result<Vec<(Position, KeptPosition)>, DbError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.0.store.position_holders(identity, names).await?;
        let mut releases = Vec::new();
        for before in before.iter().filter_map(|before| ClientId::parse(before)) {
            if before == *holder {
                // It had the topic before.
                self.flush_positions().await?;
            } else {
                releases.push(async move {
                    let release = self.release_positions(&before, identity, names);
                    match tokio::time::timeout(RELEASE_LIMIT, release).await {
                        Ok(Err(RequestError::Database(error))) => Err(error),
                        // A node that is gone has kept it.
                        Ok(_) | Err(_) => Ok(()),
                    }
                });
            }
        }
        for released in join_all(releases).await {
            released?;
        }
        let taken = self.0.store.take_positions(identity, names, holder).await?;
        let taken = taken.into_iter().map(|(name, text)| {
            let position = Position::parse(&text).unwrap_or_else(Position::unknown);
            let name = PositionName { identity: Arc::clone(identity), name };
            (position.clone(), self.0.positions.hold(holder, &name, position))
        });
        Ok(taken.collect())
    }

    /// A new position for a connection of this node. `None`: the owner has [`MAX_POSITIONS`], and all are in use.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn add_position(
        &self,
        name: &PositionName,
        owner: &str,
        holder: &ClientId,
        position: &Position,
    ) -> Result<Option<KeptPosition>, DbError> {
        let is_added = self.0.store.add_position(name, owner, holder, &position.to_string()).await?;
        Ok(is_added.then(|| self.0.positions.hold(holder, name, position.clone())))
    }

    async fn release_positions(
        &self,
        holder: &ClientId,
        identity: &Arc<str>,
        names: &[Uuid],
    ) -> Result<(), RequestError> {
        if holder.node() == self.node() {
            return Ok(self.0.positions.release(&self.0.store, holder, identity, names).await?);
        }
        let body = ReleaseRequest { identity: identity.to_string(), names: names.to_vec() };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        self.request_elsewhere(holder, [RELEASE, &body].concat().into()).await.map(|_released| ())
    }

    /// Serves the request of another node to release positions. `None`: the request is another one.
    pub(super) async fn serve_release(&self, holder: &str, body: &[u8]) -> Option<Result<Bytes, DbError>> {
        let holder = &ClientId::parse(holder)?;
        let ReleaseRequest { identity, names } = serde_json::from_slice(body.strip_prefix(RELEASE)?).ok()?;
        let released = self.0.positions.release(&self.0.store, holder, &identity.into(), &names).await;
        Some(released.map(|()| Bytes::new()))
    }

    /// Writes all positions of connections that have ended.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn flush_positions(&self) -> Result<(), DbError> {
        self.0.positions.flush(&self.0.store).await
    }
}

/// Keeps the positions of this node's connections in the table.
pub(super) struct PositionTask {
    pub(super) clients: Clients,
    pub(super) retention_s: f64,
    pub(super) swept: Option<Instant>,
}

/// The positions that a sweep deletes at once.
const SWEPT_AT_ONCE: i64 = 1_000;

impl Step for PositionTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let (positions, store) = (&self.clients.0.positions, &self.clients.0.store);
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            let (deleted, left) =
                store.forget_positions(self.retention_s + MORE_RETENTION_S, SWEPT_AT_ONCE).await?;
            self.clients.0.hub.metrics().gauges.client_positions.set(left);
            if deleted < SWEPT_AT_ONCE {
                self.swept = Some(Instant::now());
            }
        }
        let _idle = tokio::time::timeout(SWEEP, positions.0.woken.notified()).await;
        let begun = Instant::now();
        positions.flush(store).await?;
        // Others need the database too.
        Ok(Next::After((begun.elapsed() * (DUTY - 1)).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)))
    }

    /// A flush that was dropped had taken positions to write.
    fn recover(&mut self) {
        let positions = &self.clients.0.positions;
        for entry in positions.0.kept.lock().values() {
            entry.is_dirty.store(false, Relaxed);
            positions.mark(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::ServerIdentity;
    use crate::realtime::Snapshot;

    fn position(xmax: u64) -> Position {
        let snapshot = Snapshot::parse(&format!("{xmax}:{xmax}:")).unwrap();
        Position::of(ServerIdentity { system: 1, timeline: 1 }, Arc::new(snapshot))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_has_depends_on_the_end_of_its_connection() {
        let mut marks = Marks::new(position(1));
        // A change each 10 ms, for two minutes.
        for n in 2..12_002 {
            tokio::time::advance(Duration::from_millis(10)).await;
            assert!(marks.sent(Instant::now(), &position(n)));
        }
        assert!(!marks.sent(Instant::now(), &position(12_001)), "nothing new");
        assert!(marks.old.len() + marks.recent.len() < 64, "{} {}", marks.old.len(), marks.recent.len());
        let now = Instant::now();
        let with = |marks: &mut Marks, ended| {
            marks.ended = ended;
            marks.received(now).newest().xmax
        };
        assert_eq!(with(&mut marks, Some(Ended::Delivered)), 12_001);
        assert_eq!(with(&mut marks, Some(Ended::Broken(now))), 12_000, "the last one may be on its way");
        assert_eq!(with(&mut marks, Some(Ended::Broken(now + IN_FLIGHT))), 12_001, "or has arrived");
        assert_eq!(with(&mut marks, None), 12_000);
        let vanished = with(&mut marks, Some(Ended::Vanished(now)));
        assert!((5_400..=6_001).contains(&vanished), "{vanished}: of a minute ago, and not much before");
        marks.blocked = Some(now);
        let later = with(&mut marks, Some(Ended::Vanished(now + Duration::from_secs(30))));
        assert_eq!(later, vanished, "the socket took nothing meanwhile");
        let mut marks = Marks::new(position(1));
        marks.sent(now, &position(2));
        assert_eq!(with(&mut marks, Some(Ended::Vanished(now))), 1);
    }
}
