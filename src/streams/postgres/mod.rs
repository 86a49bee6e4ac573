//! Streams in Postgres: ordinary tables, and any number of nodes that write to them.
//!
//! ```text
//! append ──▶ appends (group commit) ──▶ streams, stream_chunks ──▶ answers, then fan_out ─┬─▶ chunks (cache), watches, listeners
//! tidegate_append ─▶ inbox (a table) ──────────────┤
//! create, delete ──▶ life ──────────────────────────┘                                     └─▶ wakes ─▶ other nodes
//! get, read ──▶ heads (verified, or known here) ──▶ chunks (cache, or the table)
//! ```
//!
//! * No node owns a stream. Whatever decides about a write is read from the stream's row while it is locked.
//! * A verified read asks Postgres for the stream's row, once for all reads that wait at the same time; its bytes come from the cache where they are there.
//!   Bytes at an offset do not change but by a compaction, which begins a new generation of the stream; so a cached chunk of this one is never stale.
//! * A stream ends by Postgres' clock, in the statement that asks.

mod appends;
mod chunks;
mod fan_out;
mod heads;
mod life;
mod upkeep;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::watch::WatchEnded;
use super::{
    Append, Appended, CreateStream, Created, Freshness, Lifetime, ListedStream, Listeners, Offset, ReadFrom,
    RestOfAppend, Slice, StoreFuture, StreamError, StreamHead, StreamId, StreamListener, StreamPath,
    StreamStore, StreamWatch, Watches,
};
use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::realtime::Realtime;
use crate::supervisor::{Backoff, Supervisor};
use appends::{AppendLimits, Appends, InboxTask};
use chunks::{ChunkCache, ChunkStore, Cut};
use fan_out::{Committed, CommittedKind, FanOut, FanOutTask};
use heads::{HeadReads, HeadStore, KnownStream, KnownStreams, Segment, Status};
use life::{ForkPoint, LifeStore};
use upkeep::{CompactionTask, MergeTask, RenewalTask, Renewals, RetentionTask, SweepTask, UpkeepStore};
use wakes::{WakeReader, WakeStore, WakeWriter};

/// The wait of a background task after an error.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// The sizes of the store.
#[derive(Debug, Clone)]
pub struct PostgresStreamsSettings {
    /// Bytes of memory: half of them for recent chunks, the rest for waiting requests and what is known of streams.
    pub memory_bytes: usize,
    /// The stream that lists streams, to which `tidegate_append` appends nothing.
    pub registry: Option<StreamPath>,
    /// The age from which messages are compacted.
    pub compact_after: Duration,
}

/// What the store works with.
#[derive(Debug)]
pub struct PostgresStreamsParts<'a> {
    /// The quota of batches of appends.
    pub commits: &'a Database,
    /// The quota of all other statements.
    pub queries: &'a Database,
    /// The feed, by which nodes wake each other.
    pub realtime: &'a Realtime,
    /// For its tasks.
    pub supervisor: &'a Supervisor,
    /// Counts what its tasks do.
    pub metrics: &'a Arc<Metrics>,
}

/// Streams in Postgres.
#[derive(Debug)]
pub struct PostgresStreams {
    appends: Appends,
    heads: Arc<HeadReads>,
    head_store: HeadStore,
    known: Arc<KnownStreams>,
    cache: Arc<ChunkCache>,
    chunks: ChunkStore,
    life: LifeStore,
    renewals: Arc<Renewals>,
    fan_out: FanOut,
    watches: Watches,
    listeners: Arc<Listeners>,
    ended: Arc<EndedWatches>,
    /// For the merging of small chunks that were read.
    grown: UnboundedSender<StreamId>,
}

/// Renews streams whose last watch has ended.
#[derive(Debug)]
struct EndedWatches {
    known: Arc<KnownStreams>,
    renewals: Arc<Renewals>,
}

impl WatchEnded for EndedWatches {
    fn ended(&self, path: &StreamPath) {
        if let Some(stream) = self.known.get(path) {
            self.renewals.renew(&stream);
        }
    }
}

impl PostgresStreams {
    /// The store, with its tasks.
    pub fn start(settings: PostgresStreamsSettings, parts: &PostgresStreamsParts<'_>) -> Arc<Self> {
        let PostgresStreamsParts { commits, queries, realtime, supervisor, metrics } = parts;
        let (timeout, wait) = (queries.statement_timeout(), queries.pool_wait());
        let share = settings.memory_bytes / 16;
        let known = Arc::new(KnownStreams::new(2 * share as u64));
        let cache = Arc::new(ChunkCache::new(8 * share));
        let (watches, listeners, renewals) =
            (Watches::default(), Arc::new(Listeners::default()), Arc::new(Renewals::default()));
        let (fan_out, changes) = FanOut::new();
        let (elsewhere, changed) = unbounded_channel();
        let (grown, growing) = unbounded_channel();
        let limits = AppendLimits { queue_bytes: share, wait, timeout };
        let (appends, tasks) = Appends::new(commits, queries, &known, &fan_out, limits);
        for (name, task) in tasks {
            supervisor.spawn(name, task);
        }
        let inbox = appends.inbox(queries, &fan_out, metrics, &watches, settings.registry);
        supervisor.periodic("stream-inbox", InboxTask::INTERVAL, Backoff::fixed(AFTER_ERROR), inbox);
        let head_store = HeadStore::new(queries, timeout);
        let (heads, task) = HeadReads::new(head_store.clone(), share, wait);
        supervisor.spawn("stream-heads", task);
        let heads = Arc::new(heads);
        let node: Arc<str> = uuid::Uuid::new_v4().to_string().into();
        let fan_out_task = FanOutTask {
            changes,
            cache: Arc::clone(&cache),
            known: Arc::clone(&known),
            watches: watches.clone(),
            listeners: Arc::clone(&listeners),
            elsewhere,
            grown: grown.clone(),
        };
        let backoff = || Backoff::fixed(AFTER_ERROR);
        supervisor.periodic("stream-fan-out", Duration::ZERO, backoff(), fan_out_task);
        let upkeep = UpkeepStore::new(queries, timeout);
        let renewal_task = RenewalTask {
            renewals: Arc::clone(&renewals),
            known: Arc::clone(&known),
            watches: watches.clone(),
            store: upkeep.clone(),
        };
        supervisor.periodic("stream-renewals", RenewalTask::INTERVAL, backoff(), renewal_task);
        let life = LifeStore::new(queries, timeout);
        let of_sweeps = fan_out.clone();
        let ended = Box::new(move |deleted| of_sweeps.send(committed_ends(deleted)));
        let sweep_task = SweepTask { store: upkeep.clone(), life: life.clone(), ended };
        supervisor.periodic("stream-sweeps", SweepTask::INTERVAL, backoff(), sweep_task);
        let retention_task = RetentionTask::new(&known, upkeep.clone());
        supervisor.periodic("stream-retention", RetentionTask::INTERVAL, backoff(), retention_task);
        let compaction_task = CompactionTask::new(&known, upkeep.clone(), settings.compact_after);
        supervisor.periodic("stream-compaction", CompactionTask::INTERVAL, backoff(), compaction_task);
        supervisor.periodic("stream-merges", Duration::ZERO, backoff(), MergeTask::new(growing, upkeep));
        let writer = WakeWriter { changed, store: WakeStore::new(queries, timeout, &node) };
        supervisor.periodic("stream-wakes", Duration::ZERO, backoff(), writer);
        let reader = WakeReader {
            realtime: (*realtime).clone(),
            heads: Arc::clone(&heads),
            known: Arc::clone(&known),
            watches: watches.clone(),
            node,
            subscription: None,
            check: Instant::now(),
            checked: None,
        };
        supervisor.periodic("stream-wake-ups", Duration::ZERO, backoff(), reader);
        let ended = EndedWatches { known: Arc::clone(&known), renewals: Arc::clone(&renewals) };
        Arc::new(Self {
            appends,
            heads,
            head_store,
            known,
            cache,
            chunks: ChunkStore::new(queries, timeout),
            life,
            renewals,
            fan_out,
            watches,
            listeners,
            ended: Arc::new(ended),
            grown,
        })
    }

    /// The living stream at a path, and its state.
    async fn state(
        &self,
        path: &StreamPath,
        freshness: Freshness,
    ) -> Result<(Arc<KnownStream>, StreamHead), StreamError> {
        if freshness == Freshness::Known
            && let Some(known) = self.known.get(path)
        {
            let head = known.head();
            return Ok((known, head));
        }
        let Some(stream) = self.heads.get(path).await? else {
            self.known.forget(path, None);
            return Err(StreamError::NotFound);
        };
        match stream.status {
            Status::Living => Ok((self.known.note(&stream), stream.head.clone())),
            Status::Kept => Err(StreamError::Gone),
            Status::Ended => Err(StreamError::NotFound),
        }
        .inspect_err(|_| self.known.forget(path, Some(stream.head.id)))
    }

    /// The parts that a stream's bytes are in.
    async fn segments(&self, stream: &KnownStream) -> Result<Arc<[Segment]>, StreamError> {
        if let Some(segments) = stream.segments.get() {
            return Ok(Arc::clone(segments));
        }
        let segments = match stream.shared {
            None => [Segment { id: stream.id(), end: Offset(u64::MAX), generation: 0 }].into(),
            Some(_) => self.head_store.segments(stream.id()).await?,
        };
        Ok(Arc::clone(stream.segments.get_or_init(|| segments)))
    }

    /// Reads a stream. A compaction in between makes it begin anew: an answer has bytes of the generation that its tag names.
    async fn read_stream(
        &self,
        path: &StreamPath,
        from: ReadFrom,
        max_bytes: usize,
        mut freshness: Freshness,
    ) -> Result<Slice, StreamError> {
        for _ in 0..READS {
            let (stream, head) = self.state(path, freshness).await?;
            if let Some(slice) = self.read_from(&stream, head, from, max_bytes).await? {
                return Ok(slice);
            }
            freshness = Freshness::Verified;
        }
        Err(StreamError::Overloaded)
    }

    /// Reads from a position of a stream whose state is `head`. `None`: it has been compacted since.
    async fn read_from(
        &self,
        stream: &KnownStream,
        head: StreamHead,
        from: ReadFrom,
        max_bytes: usize,
    ) -> Result<Option<Slice>, StreamError> {
        let start = match from {
            ReadFrom::Start => head.kept_from,
            ReadFrom::Now => head.tail,
            ReadFrom::At(offset) => offset,
        };
        if start > head.tail {
            return Err(StreamError::Offset);
        }
        if start < head.kept_from {
            return Err(StreamError::NotKept { first: head.kept_from });
        }
        let mut cut = Cut::at(start);
        if start < head.tail {
            let segments = self.segments(stream).await?;
            if !self.fill(&mut cut, &segments, &head, max_bytes).await? {
                return Ok(None);
            }
        }
        let is_tail = cut.next == head.tail;
        Ok(Some(Slice { head, start, bytes: cut.bytes, next: cut.next, is_tail }))
    }

    /// Adds bytes until there are `max_bytes`, or the end is reached. False: the stream is of another generation.
    async fn fill(
        &self,
        cut: &mut Cut,
        segments: &[Segment],
        head: &StreamHead,
        max_bytes: usize,
    ) -> Result<bool, StreamError> {
        let is_json = head.content_type.is_json();
        while cut.next < head.tail {
            let part = segments.iter().find(|segment| cut.next < segment.end);
            let part = part.ok_or(DbError::Unexpected("a stream without a part for an offset"))?;
            let (end, room) = (part.end.min(head.tail), max_bytes.saturating_sub(cut.len()));
            let generations = match part.id == head.id {
                true => head.generation..=head.generation,
                // Compactions since are not of what the fork shares.
                false => part.generation..=u64::MAX,
            };
            let mut chunks = self.cache.get(part.id, &generations, cut.next, end, room);
            if chunks.is_empty() {
                let generation;
                (chunks, generation) = self.chunks.read(part.id, cut.next, end, room).await?;
                if !chunks.is_empty() && !generations.contains(&generation) {
                    return Ok(false);
                }
                self.cache.add(part.id, generation, &chunks);
                if chunks.len() > SMALL_CHUNKS {
                    for _ in &chunks {
                        let _upkeep_is_gone = self.grown.send(part.id);
                    }
                }
            }
            let before = cut.next;
            for chunk in chunks {
                if chunk.first > cut.next {
                    break;
                }
                if !cut.add(&chunk.before(end), max_bytes, is_json)? {
                    return Ok(true);
                }
            }
            if cut.next == before {
                // It was deleted meanwhile.
                return Err(StreamError::NotFound);
            }
            if cut.len() >= max_bytes {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// The place that a fork names in its source, if it names one.
    async fn fork_point(&self, request: &CreateStream) -> Result<Option<ForkPoint>, StreamError> {
        let Some(fork) = &request.fork else { return Ok(None) };
        let Some(offset) = fork.offset else { return Ok(None) };
        let (source, head) = match self.state(&fork.source, Freshness::Verified).await {
            Ok(state) => state,
            // Decided where the source is locked.
            Err(StreamError::NotFound | StreamError::Gone) => return Ok(None),
            Err(error) => return Err(error),
        };
        let source_id = source.id();
        if offset >= head.tail || offset < head.kept_from {
            return Ok(Some(ForkPoint { source: source_id, append: None }));
        }
        let is_json = head.content_type.is_json();
        let segments = self.segments(&source).await?;
        let Some(part) = segments.iter().find(|segment| offset < segment.end) else {
            return Ok(Some(ForkPoint { source: source_id, append: None }));
        };
        let end = part.end.min(head.tail);
        let (chunks, _) = self.chunks.read(part.id, offset, end, 0).await?;
        let Some(chunk) = chunks.into_iter().next() else { return Err(StreamError::ForkSource) };
        let chunk = chunk.before(end);
        Cut::at(offset).add(&chunk, 1, is_json).map_err(|_| StreamError::ForkOffset)?;
        let (end, messages) = chunk.rest_of_append(offset);
        let append = RestOfAppend { end, message_ends: is_json.then_some(messages) };
        Ok(Some(ForkPoint { source: source_id, append: Some(append) }))
    }

    async fn create_stream(&self, path: &StreamPath, request: CreateStream) -> Result<Created, StreamError> {
        let mut attempts = 0;
        let begun = loop {
            let fork = self.fork_point(&request).await?;
            match self.life.create(path, &request, fork.as_ref()).await {
                // The source was replaced meanwhile.
                Err(StreamError::Overloaded) if fork.is_some() && attempts < 2 => attempts += 1,
                begun => break begun?,
            }
        };
        let head = begun.stream.head.clone();
        self.known.note(&begun.stream);
        if !begun.is_new {
            return Ok(Created::Existing(head));
        }
        let start = begun.stream.shared.map_or(Offset::START, |shared| shared.end);
        let (content_type, at, chunk) = (head.content_type.clone(), head.created_at, begun.chunk);
        let kind = CommittedKind::Created { content_type, at, start, chunk };
        let mut committed = committed_ends(begun.deleted);
        committed.push(Committed { path: path.clone(), id: head.id, tail: head.tail, generation: 0, kind });
        self.fan_out.send(committed);
        Ok(Created::New(head))
    }
}

/// Attempts to read a stream that is compacted meanwhile.
const READS: usize = 5;
/// Chunks of one read that are worth a merge.
const SMALL_CHUNKS: usize = 64;

fn committed_ends(deleted: Vec<life::Deleted>) -> Vec<Committed> {
    let kind = || CommittedKind::Deleted;
    let committed =
        |life::Deleted { path, id, tail }| Committed { path, id, tail, generation: 0, kind: kind() };
    deleted.into_iter().map(committed).collect()
}

impl StreamStore for PostgresStreams {
    fn create<'a>(&'a self, path: &'a StreamPath, request: CreateStream) -> StoreFuture<'a, Created> {
        Box::pin(self.create_stream(path, request))
    }

    fn get<'a>(&'a self, path: &'a StreamPath, freshness: Freshness) -> StoreFuture<'a, StreamHead> {
        Box::pin(async move { Ok(self.state(path, freshness).await?.1) })
    }

    fn append<'a>(&'a self, path: &'a StreamPath, append: Append) -> StoreFuture<'a, Appended> {
        Box::pin(self.appends.append(path, append))
    }

    fn delete<'a>(&'a self, path: &'a StreamPath) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let deleted = self.life.delete(path).await?;
            for life::Deleted { path, id, .. } in &deleted {
                self.known.forget(path, Some(*id));
            }
            self.fan_out.send(committed_ends(deleted));
            Ok(())
        })
    }

    fn read<'a>(
        &'a self,
        path: &'a StreamPath,
        from: ReadFrom,
        max_bytes: usize,
        freshness: Freshness,
    ) -> StoreFuture<'a, Slice> {
        Box::pin(self.read_stream(path, from, max_bytes, freshness))
    }

    fn renew(&self, path: &StreamPath, stream: &StreamHead) {
        if let Some(Lifetime::Ttl(_)) = stream.lifetime
            && let Some(known) = self.known.get(path).filter(|known| known.id() == stream.id)
        {
            self.renewals.renew(&known);
        }
    }

    fn watch(&self, path: &StreamPath) -> StreamWatch {
        let ended: Arc<dyn WatchEnded> = Arc::<EndedWatches>::clone(&self.ended);
        self.watches.watch(path, Some(ended))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StreamPath>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedStream>> {
        Box::pin(async move { Ok(self.head_store.list(prefix, after, limit).await?) })
    }

    fn listen(&self, listener: Arc<dyn StreamListener>) {
        self.listeners.add(listener);
    }

    fn has_retention(&self) -> bool {
        true
    }

    fn has_compaction(&self) -> bool {
        true
    }
}
