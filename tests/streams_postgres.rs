//! The store of streams in Postgres, without HTTP: several nodes on one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate::config::{Config, Quota, Variables};
use tidegate::db::{ConnectionUrl, Database, migrate};
use tidegate::observe::Metrics;
use tidegate::realtime::{FeedReader, Hub, Realtime};
use tidegate::streams::{
    Append, AppendBody, ContentType, CreateStream, Created, Fork, Freshness, Lifetime, Offset,
    PostgresStreams, PostgresStreamsParts, PostgresStreamsSettings, Producer, ReadFrom, Retention,
    StreamError, StreamPath, StreamStore,
};
use tidegate::supervisor::Supervisor;

use crate::support::postgres::{PrivateServer, TestDatabase};
use crate::support::service::eventually;

/// One node of several on a database.
pub(crate) struct Node {
    pub(crate) store: Arc<PostgresStreams>,
    supervisor: Supervisor,
}

impl Node {
    pub(crate) fn start(url: &str) -> Self {
        let variables = [("DATABASE_URL", url), ("STATEMENT_TIMEOUT_MS", "20000")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_variables(&variables.into_iter().collect::<Variables>()).unwrap();
        let database = Database::new(&ConnectionUrl::parse(url).unwrap(), &config.database).unwrap();
        let metrics = Metrics::new().unwrap();
        let supervisor = Supervisor::new(&metrics);
        let hub = Hub::new(&config.subscriber_limits(), &metrics);
        let quota = |connections| database.quota(Quota { connections, is_long: false });
        let (commits, queries) = (quota(4), quota(6));
        FeedReader::start(&hub, &queries, &supervisor);
        let realtime = Realtime::new(&hub, &queries);
        let parts = PostgresStreamsParts {
            commits: &commits,
            queries: &queries,
            realtime: &realtime,
            supervisor: &supervisor,
            metrics: &metrics,
        };
        let settings = PostgresStreamsSettings {
            memory_bytes: 64 << 20,
            registry: None,
            compact_after: Duration::from_secs(1),
        };
        let store = PostgresStreams::start(settings, &parts);
        Self { store, supervisor }
    }

    pub(crate) async fn create(&self, path: &str, request: CreateStream) -> Result<Created, StreamError> {
        self.store.create(&stream(path), request).await
    }

    pub(crate) async fn append(&self, path: &str, append: Append) -> Result<Offset, StreamError> {
        self.store.append(&stream(path), append).await.map(|appended| appended.next)
    }

    pub(crate) async fn tail(&self, path: &str) -> Offset {
        self.store.get(&stream(path), Freshness::Verified).await.unwrap().tail
    }

    /// A stream from a position to its end, page by page.
    pub(crate) async fn read_from(
        &self,
        path: &str,
        from: ReadFrom,
        max_bytes: usize,
    ) -> Result<String, StreamError> {
        let (mut from, mut read) = (from, Vec::new());
        loop {
            let slice = self.store.read(&stream(path), from, max_bytes, Freshness::Verified).await?;
            read.extend(slice.bytes.concat());
            if slice.is_tail {
                return Ok(String::from_utf8(read).unwrap());
            }
            assert!(slice.next > slice.start, "{slice:?}");
            from = ReadFrom::At(slice.next);
        }
    }

    pub(crate) async fn read(&self, path: &str) -> String {
        self.read_from(path, ReadFrom::Start, 1 << 20).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.supervisor.shutdown().await;
    }
}

pub(crate) fn stream(path: &str) -> StreamPath {
    StreamPath::new(path).unwrap()
}

pub(crate) fn text(content: &str) -> Append {
    let body = AppendBody::of_bytes(Bytes::copy_from_slice(content.as_bytes()));
    Append { content_type: Some(plain()), body, seq: None, producer: None, close: false }
}

pub(crate) fn json(content: &str) -> Append {
    let body = AppendBody::of_json(content.as_bytes()).unwrap();
    let content_type = Some(ContentType::parse("application/json").unwrap());
    Append { content_type, body, seq: None, producer: None, close: false }
}

pub(crate) fn plain() -> ContentType {
    ContentType::parse("text/plain").unwrap()
}

pub(crate) fn of_text() -> CreateStream {
    CreateStream { content_type: Some(plain()), ..CreateStream::default() }
}

pub(crate) fn of_json() -> CreateStream {
    let content_type = Some(ContentType::parse("application/json").unwrap());
    CreateStream { content_type, ..CreateStream::default() }
}

fn by(producer: &str, epoch: u64, seq: u64) -> Option<Producer> {
    Some(Producer { id: producer.into(), epoch, seq })
}

pub(crate) fn fork_of(source: &str, offset: Option<u64>, sub_offset: u64) -> CreateStream {
    let fork = Fork { source: stream(source), offset: offset.map(Offset), sub_offset };
    CreateStream { fork: Some(fork), ..CreateStream::default() }
}

#[tokio::test]
async fn a_stream_is_created_appended_to_read_in_pages_closed_and_deleted() {
    let database = TestDatabase::create().await;
    let (node, other) = (Node::start(database.url()), Node::start(database.url()));
    assert!(matches!(node.create("a/b", of_json()).await, Ok(Created::New(_))));
    assert!(matches!(other.create("a/b", of_json()).await, Ok(Created::Existing(_))));
    assert!(matches!(other.create("a/b", of_text()).await, Err(StreamError::Exists)));
    let next = node.append("a/b", json(r#"[{"a":1.0}, 22 ,"x"]"#)).await.unwrap();
    assert_eq!(next, Offset(17));
    assert_eq!(other.append("a/b", json("[[1]]")).await.unwrap(), Offset(21));
    for reader in [&node, &other] {
        assert_eq!(reader.read("a/b").await, "{\"a\":1.0},22,\"x\",[1],");
        for max_bytes in [1, 5, 11, 17] {
            let pages = reader.read_from("a/b", ReadFrom::Start, max_bytes).await.unwrap();
            assert_eq!(pages, "{\"a\":1.0},22,\"x\",[1],");
        }
        let rest = reader.read_from("a/b", ReadFrom::At(Offset(10)), 100).await.unwrap();
        assert_eq!(rest, "22,\"x\",[1],");
        for bad in [11, 22] {
            let refused = reader.read_from("a/b", ReadFrom::At(Offset(bad)), 100).await;
            assert!(matches!(refused, Err(StreamError::Offset)), "{refused:?}");
        }
    }
    let list = other.store.list("a/", None, 10).await.unwrap();
    assert_eq!((list.len(), list[0].path.as_str(), list[0].tail), (1, "a/b", Offset(21)));
    assert_eq!(other.store.list("a/", Some(&stream("a/b")), 10).await.unwrap().len(), 0);

    let closing = Append { close: true, body: None, ..json("1") };
    assert_eq!(node.append("a/b", closing.clone()).await.unwrap(), Offset(21));
    assert_eq!(other.append("a/b", closing).await.unwrap(), Offset(21));
    for writer in [&node, &other] {
        let refused = writer.append("a/b", json("1")).await;
        assert!(matches!(refused, Err(StreamError::Closed { next: Offset(21) })), "{refused:?}");
    }
    other.store.delete(&stream("a/b")).await.unwrap();
    for user in [&node, &other] {
        let read = user.read_from("a/b", ReadFrom::Start, 10).await;
        assert!(matches!(read, Err(StreamError::NotFound)), "{read:?}");
        assert!(matches!(user.append("a/b", json("1")).await, Err(StreamError::NotFound)));
        assert!(matches!(user.store.delete(&stream("a/b")).await, Err(StreamError::NotFound)));
    }
    let Ok(Created::New(again)) = node.create("a/b", of_text()).await else { panic!("it is new") };
    assert_eq!(again.tail, Offset(0));
    assert!(matches!(other.append("a/b", json("1")).await, Err(StreamError::ContentType)));
    other.append("a/b", text("x")).await.unwrap();
    assert_eq!(node.read("a/b").await, "x");
    // The bytes of the deleted stream are removed.
    let client = database.connect().await;
    eventually("the bytes of the deleted stream are gone", async || {
        let count = "select (select count(*) from stream_chunks), (select count(*) from streams)";
        let row = client.query_one(count, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 1 && row.get::<_, i64>(1) == 1).then_some(())
    })
    .await;
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn producers_and_seq_are_decided_on_rows_whichever_node_writes() {
    let database = TestDatabase::create().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    nodes[0].create("p", of_text()).await.unwrap();
    for seq in 0..10_u64 {
        let node = &nodes[(seq % 2) as usize];
        let append = Append { producer: by("a", 0, seq), ..text("x") };
        let first = node.store.append(&stream("p"), append.clone()).await.unwrap();
        assert!(!first.is_duplicate);
        let again = nodes[((seq + 1) % 2) as usize].store.append(&stream("p"), append).await.unwrap();
        assert!(again.is_duplicate && again.producer.unwrap().seq == seq, "{again:?}");
    }
    let refused = nodes[0].append("p", Append { producer: by("a", 0, 12), ..text("x") }).await;
    assert!(matches!(refused, Err(StreamError::ProducerGap { expected: 10, received: 12 })), "{refused:?}");
    nodes[0].append("p", Append { producer: by("a", 3, 0), ..text("x") }).await.unwrap();
    let refused = nodes[1].append("p", Append { producer: by("a", 2, 0), ..text("x") }).await;
    assert!(matches!(refused, Err(StreamError::StaleEpoch { current: 3 })), "{refused:?}");
    let sequenced = |seq: &'static str| Append { seq: Some(Bytes::from_static(seq.as_bytes())), ..text("s") };
    nodes[0].append("p", sequenced("b")).await.unwrap();
    assert!(matches!(nodes[1].append("p", sequenced("a")).await, Err(StreamError::Seq)));
    nodes[1].append("p", sequenced("b1")).await.unwrap();
    // Two nodes race for each number of one producer: one of them stores it.
    for seq in 1..40 {
        let append = Append { producer: by("a", 3, seq), ..text("y") };
        let raced = join_all(nodes.iter().flat_map(|node| {
            let append = append.clone();
            (0..3).map(move |_| {
                let append = append.clone();
                async move { node.store.append(&stream("p"), append).await.unwrap() }
            })
        }))
        .await;
        assert_eq!(raced.iter().filter(|appended| !appended.is_duplicate).count(), 1, "{raced:?}");
    }
    assert_eq!(nodes[1].read("p").await, "x".repeat(11) + "ss" + &"y".repeat(39));
    let closing = Append { close: true, producer: by("a", 3, 40), ..text("z") };
    assert!(nodes[0].store.append(&stream("p"), closing.clone()).await.unwrap().closed);
    assert!(nodes[1].store.append(&stream("p"), closing).await.unwrap().is_duplicate);
    for node in nodes {
        node.stop().await;
    }
}

/// What an append acknowledged: its content, and the offset behind it.
type Acknowledged = Vec<(String, Offset)>;

/// Appends from several writers on each of two nodes, until the stream is closed.
async fn race(nodes: &[Node; 2], path: &str, writers: usize, appends: usize, is_plain: bool) -> Acknowledged {
    let written = join_all((0..writers).map(|writer| {
        let node = &nodes[writer % 2];
        async move {
            let mut acknowledged = Vec::new();
            for number in 0..appends {
                let content = format!("<{path}:{writer}:{number}>");
                let producer = if is_plain { None } else { by(&format!("w{writer}"), 0, number as u64) };
                match node.append(path, Append { producer, ..text(&content) }).await {
                    Ok(next) => acknowledged.push((content, next)),
                    Err(StreamError::Closed { .. }) => return acknowledged,
                    Err(error) => panic!("{error:?}"),
                }
            }
            acknowledged
        }
    }))
    .await;
    written.concat()
}

fn check(read: &str, mut acknowledged: Acknowledged) {
    acknowledged.sort_by_key(|(_, next)| *next);
    let expected: String = acknowledged.iter().map(|(content, _)| content.as_str()).collect();
    assert_eq!(read, expected, "each acknowledged append is there once, in the order of offsets");
    let mut end = 0;
    for (content, next) in acknowledged {
        end += content.len() as u64;
        assert_eq!(next.0, end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_append_to_the_same_streams_without_a_gap_or_a_double() {
    let database = TestDatabase::create().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    let paths: Vec<String> = (0..12).map(|number| format!("s/{number}")).collect();
    for path in &paths {
        nodes[0].create(path, of_text()).await.unwrap();
        // Both know it.
        nodes[1].tail(path).await;
    }
    let races =
        join_all(paths.iter().enumerate().map(|(number, path)| race(&nodes, path, 8, 40, number % 3 != 0)))
            .await;
    for (path, acknowledged) in paths.iter().zip(races) {
        assert_eq!(acknowledged.len(), 8 * 40);
        for node in &nodes {
            check(&node.read(path).await, acknowledged.clone());
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_close_is_final_under_racing_appends() {
    let database = TestDatabase::create().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    let paths: Vec<String> = (0..30).map(|number| format!("c/{number}")).collect();
    for path in &paths {
        nodes[0].create(path, of_text()).await.unwrap();
        nodes[1].tail(path).await;
    }
    let raced = join_all(paths.iter().enumerate().map(|(number, path)| {
        let closer = &nodes[number % 2];
        let close = async move {
            tokio::time::sleep(Duration::from_millis(20 + 7 * number as u64)).await;
            let closing = Append { close: true, body: None, ..text("x") };
            closer.append(path, closing).await.unwrap()
        };
        let writes = race(&nodes, path, 8, 100_000, true);
        async move { tokio::join!(close, writes) }
    }))
    .await;
    for (path, (closed_at, acknowledged)) in paths.iter().zip(raced) {
        for node in &nodes {
            let head = node.store.get(&stream(path), Freshness::Verified).await.unwrap();
            assert!(head.closed && head.tail == closed_at, "{head:?}");
            check(&node.read(path).await, acknowledged.clone());
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn forks_share_the_beginning_of_their_source_and_outlive_it() {
    let database = TestDatabase::create().await;
    let (node, other) = (Node::start(database.url()), Node::start(database.url()));
    node.create("root", of_json()).await.unwrap();
    node.append("root", json("[1,2,3]")).await.unwrap();
    node.append("root", json("[4,5,6]")).await.unwrap();
    // Two messages of the append behind the first one.
    other.create("fork", fork_of("root", Some(6), 2)).await.unwrap();
    assert_eq!(other.tail("fork").await, Offset(10));
    other.append("fork", json("\"f\"")).await.unwrap();
    node.append("root", json("7")).await.unwrap();
    assert_eq!(node.read("fork").await, "1,2,3,4,5,\"f\",");
    assert_eq!(node.read("root").await, "1,2,3,4,5,6,7,");
    // A fork of the fork, before the place where that begins to differ, and one behind it.
    node.create("early", fork_of("fork", Some(2), 1)).await.unwrap();
    node.append("early", json("\"e\"")).await.unwrap();
    node.create("late", fork_of("fork", None, 0)).await.unwrap();
    node.append("late", json("\"l\"")).await.unwrap();
    assert_eq!(other.read("early").await, "1,2,\"e\",");
    assert_eq!(other.read_from("late", ReadFrom::At(Offset(4)), 3).await.unwrap(), "3,4,5,\"f\",\"l\",");
    for (source, offset, sub_offset) in [("root", Some(6), 4), ("root", Some(16), 0), ("root", Some(14), 1)] {
        let refused = node.create("no", fork_of(source, offset, sub_offset)).await;
        assert!(matches!(refused, Err(StreamError::ForkOffset | StreamError::ForkSubOffset)), "{refused:?}");
    }
    assert!(matches!(node.create("no", fork_of("root", Some(1), 0)).await, Err(StreamError::ForkOffset)));
    assert!(matches!(node.create("no", fork_of("none", None, 0)).await, Err(StreamError::ForkSource)));
    // The source is kept for its forks; their deletion ends it.
    node.store.delete(&stream("root")).await.unwrap();
    for user in [&node, &other] {
        assert!(matches!(user.store.get(&stream("root"), Freshness::Verified).await, Err(StreamError::Gone)));
        assert!(matches!(user.append("root", json("1")).await, Err(StreamError::Gone)));
        assert!(matches!(user.create("root", of_json()).await, Err(StreamError::PathKept)));
        assert!(matches!(user.store.delete(&stream("root")).await, Err(StreamError::Gone)));
        let refused = user.create("no", fork_of("root", None, 0)).await;
        assert!(matches!(refused, Err(StreamError::ForkSourceGone)), "{refused:?}");
        assert_eq!(user.read("late").await, "1,2,3,4,5,\"f\",\"l\",");
    }
    other.store.delete(&stream("fork")).await.unwrap();
    node.store.delete(&stream("late")).await.unwrap();
    assert_eq!(other.read("early").await, "1,2,\"e\",");
    other.store.delete(&stream("early")).await.unwrap();
    for path in ["root", "fork", "late", "early"] {
        let gone = node.store.get(&stream(path), Freshness::Verified).await;
        assert!(matches!(gone, Err(StreamError::NotFound)), "{path}: {gone:?}");
    }
    assert!(matches!(node.create("root", of_text()).await, Ok(Created::New(_))));
    let client = database.connect().await;
    eventually("all but the new stream is removed", async || {
        let count = "select (select count(*) from stream_chunks), (select count(*) from streams)";
        let row = client.query_one(count, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0 && row.get::<_, i64>(1) == 1).then_some(())
    })
    .await;
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_ttl_is_renewed_by_reads_and_watches_and_ends_a_stream_at_once() {
    let database = TestDatabase::create().await;
    let (node, other) = (Node::start(database.url()), Node::start(database.url()));
    let short = || CreateStream { lifetime: Some(Lifetime::Ttl(2)), ..of_text() };
    for path in ["idle", "read", "watched"] {
        node.create(path, short()).await.unwrap();
    }
    let watch = node.store.watch(&stream("watched"));
    node.tail("watched").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let slice = node.store.read(&stream("read"), ReadFrom::Start, 10, Freshness::Verified).await.unwrap();
        node.store.renew(&stream("read"), &slice.head);
    }
    for user in [&node, &other] {
        let idle = user.store.get(&stream("idle"), Freshness::Verified).await;
        assert!(matches!(idle, Err(StreamError::NotFound)), "{idle:?}");
        user.tail("read").await;
        user.tail("watched").await;
    }
    drop(watch);
    assert!(matches!(other.create("idle", of_json()).await, Ok(Created::New(_))));
    node.append("idle", json("1")).await.unwrap();
    eventually("the others end too", async || {
        let read = other.store.get(&stream("read"), Freshness::Verified).await;
        let watched = other.store.get(&stream("watched"), Freshness::Verified).await;
        (read.is_err() && watched.is_err()).then_some(())
    })
    .await;
    assert!(matches!(node.append("read", text("x")).await, Err(StreamError::NotFound)));
    let client = database.connect().await;
    eventually("their rows are removed", async || {
        let row = client.query_one("select count(*) from streams", &[]).await.unwrap();
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_locked_delays_no_other() {
    let database = TestDatabase::create().await;
    let node = Node::start(database.url());
    for path in ["locked", "free"] {
        node.create(path, of_text()).await.unwrap();
    }
    let client = database.connect().await;
    client.batch_execute("begin; select from streams where path = 'locked' for update").await.unwrap();
    let waiting = tokio::spawn({
        let store = Arc::clone(&node.store);
        async move { store.append(&stream("locked"), text("x")).await }
    });
    // It goes the way of streams that are held.
    eventually("the append waits for the lock", async || {
        let waits = "select from pg_locks where not granted";
        (!client.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    let later = tokio::spawn({
        let store = Arc::clone(&node.store);
        async move { store.append(&stream("locked"), text("y")).await }
    });
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        node.append("free", text("x")).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    assert!(!waiting.is_finished() && !later.is_finished());
    client.batch_execute("commit").await.unwrap();
    waiting.await.unwrap().unwrap();
    later.await.unwrap().unwrap();
    assert_eq!(node.read("locked").await.len(), 2);
    node.append("locked", text("z")).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_watch_wakes_for_appends_of_other_nodes() {
    let database = TestDatabase::create().await;
    let (node, other) = (Node::start(database.url()), Node::start(database.url()));
    node.create("w", of_text()).await.unwrap();
    let mut watch = other.store.watch(&stream("w"));
    assert_eq!(other.tail("w").await, Offset(0));
    for number in 1..=20 {
        node.append("w", text("x")).await.unwrap();
        let slice = loop {
            tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
            let from = ReadFrom::At(Offset(number - 1));
            let slice = other.store.read(&stream("w"), from, 10, Freshness::Known).await.unwrap();
            if !slice.bytes.is_empty() {
                break slice;
            }
        };
        assert_eq!(slice.next, Offset(number));
    }
    node.store.delete(&stream("w")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
    let read = other.store.read(&stream("w"), ReadFrom::Now, 10, Freshness::Known).await;
    assert!(matches!(read, Err(StreamError::NotFound)), "{read:?}");
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_a_retention_does_not_keep_is_removed_but_for_what_forks_share() {
    let database = TestDatabase::create().await;
    let (node, other) = (Node::start(database.url()), Node::start(database.url()));
    let retention = Some(Retention { age_s: None, bytes: Some(20) });
    node.create("r", CreateStream { retention, ..of_text() }).await.unwrap();
    // Not more than is kept anyway.
    for number in 0..2 {
        node.append("r", text(&format!("{number:010}"))).await.unwrap();
    }
    other.create("fork", fork_of("r", Some(20), 0)).await.unwrap();
    for number in 2..10 {
        other.append("r", text(&format!("{number:010}"))).await.unwrap();
    }
    eventually("the start of the stream is not kept", async || {
        let head = other.store.get(&stream("r"), Freshness::Verified).await.unwrap();
        (head.kept_from == Offset(80)).then_some(())
    })
    .await;
    for reader in [&node, &other] {
        assert_eq!(reader.read("r").await, "00000000080000000009");
        let refused = reader.read_from("r", ReadFrom::At(Offset(70)), 100).await;
        assert!(matches!(refused, Err(StreamError::NotKept { first: Offset(80) })), "{refused:?}");
        assert_eq!(reader.read("fork").await, "00000000000000000001");
    }
    let client = database.connect().await;
    let chunks =
        async || -> i64 { client.query_one("select count(*) from stream_chunks", &[]).await.unwrap().get(0) };
    eventually("the chunks between are removed", async || (chunks().await == 4).then_some(())).await;
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn small_chunks_are_merged_and_read_as_before() {
    let database = TestDatabase::create().await;
    let node = Node::start(database.url());
    node.create("m", of_json()).await.unwrap();
    let client = database.connect().await;
    let mut expected = String::new();
    for number in 0..80 {
        node.append("m", json(&format!("[{number},\"{number}\"]"))).await.unwrap();
        expected += &format!("{number},\"{number}\",");
    }
    client.batch_execute("update stream_chunks set at = at - interval '1 minute'").await.unwrap();
    eventually("the chunks are merged", async || {
        let row = client.query_one("select count(*), max(cardinality(append_times)) from stream_chunks", &[]);
        let row = row.await.unwrap();
        (row.get::<_, i64>(0) == 1 && row.get::<_, Option<i32>>(1) == Some(80)).then_some(())
    })
    .await;
    let other = Node::start(database.url());
    for reader in [&node, &other] {
        assert_eq!(reader.read("m").await, expected);
        assert_eq!(reader.read_from("m", ReadFrom::Start, 7).await.unwrap(), expected);
    }
    // Appends are counted one by one.
    other.create("fork", fork_of("m", Some(12), 1)).await.unwrap();
    assert_eq!(other.read("fork").await, "0,\"0\",1,\"1\",2,");
    node.append("m", json("\"end\"")).await.unwrap();
    assert_eq!(other.read("m").await, expected + "\"end\",");
    node.stop().await;
    other.stop().await;
}

/// Appends until it is told to stop, and notes what was acknowledged, and what was sent without an answer.
async fn write_through_outages(
    node: &Node,
    path: &str,
    writer: usize,
    stopped: &AtomicBool,
) -> (Acknowledged, Vec<String>) {
    let (mut acknowledged, mut unknown) = (Vec::new(), Vec::new());
    for number in 0.. {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        let content = format!("<{path}:{writer}:{number}>");
        // Producers repeat what had no answer, others do not.
        let is_producer = writer.is_multiple_of(2);
        let producer = if is_producer { by(&format!("w{writer}"), 0, number) } else { None };
        loop {
            let append = Append { producer: producer.clone(), ..text(&content) };
            match node.append(path, append).await {
                // A repeated one is answered with the end of the stream.
                Ok(next) => acknowledged.push((content, next)),
                Err(StreamError::Database(_) | StreamError::Overloaded) if is_producer => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(StreamError::Database(_) | StreamError::Overloaded) => {
                    unknown.push(content);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
            break;
        }
    }
    (acknowledged, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_of_postgres_lose_no_acknowledged_append_and_double_none() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let config = Config::from_variables(&Variables::default()).unwrap();
    let database = Database::new(&ConnectionUrl::parse(&url).unwrap(), &config.database).unwrap();
    migrate(&database, config.database.partitioning, config.modules()).await.unwrap();
    let nodes = [Node::start(&url), Node::start(&url)];
    let paths = ["k/0", "k/1", "k/2"];
    for path in paths {
        nodes[0].create(path, of_text()).await.unwrap();
        nodes[1].tail(path).await;
    }
    let stopped = AtomicBool::new(false);
    let drill = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.stop_immediate().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.start_again().await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        stopped.store(true, Ordering::Relaxed);
    };
    let writers = join_all(paths.iter().flat_map(|path| {
        (0..6).map(|writer| write_through_outages(&nodes[writer / 3], path, writer, &stopped))
    }));
    let ((), written) = tokio::join!(drill, writers);
    let read: Vec<String> = join_all(paths.iter().map(|path| nodes[1].read(path))).await;
    let mut doubts = 0;
    for (path, (read, written)) in paths.iter().zip(read.iter().zip(written.chunks(6))) {
        let found: Vec<String> = read.split_inclusive('>').map(str::to_owned).collect();
        let mut once = found.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), found.len(), "{path}: nothing is there twice");
        let (acknowledged, unknown): (Vec<_>, Vec<_>) = written.iter().cloned().unzip();
        let (acknowledged, unknown) = (acknowledged.concat(), unknown.concat());
        assert!(acknowledged.len() > 50, "{path}: {}", acknowledged.len());
        doubts += unknown.len();
        for (content, next) in &acknowledged {
            assert!(once.binary_search(content).is_ok(), "{path}: {content} was acknowledged");
            let before = &read[..next.0 as usize];
            assert!(before.ends_with('>') && before.contains(content.as_str()), "{path}: {content}");
        }
        let count = |content: &&String| !acknowledged.iter().any(|(known, _)| known == *content);
        for content in once.iter().filter(count) {
            assert!(unknown.contains(content), "{path}: {content} was sent");
        }
        assert!(read.len() as u64 == nodes[0].tail(path).await.0);
    }
    println!("{doubts} appends had no answer");
    for node in nodes {
        node.stop().await;
    }
}
