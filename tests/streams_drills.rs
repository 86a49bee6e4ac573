//! Durable Streams while nodes are killed, commits lose their answers, Postgres crashes, and many clients ask at once.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use crate::support::postgres::{PrivateServer, TestDatabase};
use crate::support::proxy::{Cut, Proxy};
use crate::support::service::{Service, eventually, try_request};
use crate::support::streams::{JSON, TEXT, append, get, head, offset, producer, put};

const STREAMS: [(&str, &str); 1] = [("MODULES", "events,streams")];

/// `.ci/long` sets more.
fn rounds() -> u32 {
    std::env::var("TIDEGATE_STREAM_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn each_acknowledged_change_is_durable_though_postgres_would_not_wait() {
    // What is not waited for is lost with this server's crash.
    let settings =
        [("synchronous_commit", "off"), ("wal_writer_delay", "10000"), ("bgwriter_delay", "10000")];
    let mut server = PrivateServer::start(&settings).await;
    let service = Service::start(server.url(), &STREAMS).await;
    for path in ["plain", "producer", "closed", "deleted", "ended"] {
        assert_eq!(put(&service, path, &TEXT, "").await.status, 201);
    }
    let fork = [("stream-forked-from", "/v1/stream/ended")];
    assert_eq!(put(&service, "fork", &fork, "").await.status, 201);
    let is_lost =
        async |answer: crate::support::service::Answer, expected: u16, server: &mut PrivateServer| {
            server.stop_immediate().await;
            assert_eq!(answer.status, expected, "{answer:?}");
            server.start_again().await;
        };
    is_lost(append(&service, "plain", &TEXT, "x").await, 204, &mut server).await;
    is_lost(append(&service, "producer", &producer("p", "0", "0"), "x").await, 200, &mut server).await;
    is_lost(append(&service, "closed", &[("stream-closed", "true")], "").await, 204, &mut server).await;
    is_lost(put(&service, "created", &TEXT, "x").await, 201, &mut server).await;
    for path in ["deleted", "ended"] {
        let deleted = service.request("DELETE", &format!("/v1/stream/{path}"), &[], "").await;
        is_lost(deleted, 204, &mut server).await;
    }
    eventually("Postgres is back", async || (head(&service, "plain").await.status == 200).then_some(()))
        .await;
    for path in ["plain", "producer", "created"] {
        assert_eq!(get(&service, path, &[]).await.body, "x", "{path}");
    }
    let again = append(&service, "producer", &producer("p", "0", "0"), "x").await;
    assert_eq!((again.status.as_u16(), get(&service, "producer", &[]).await.body), (204, "x".into()));
    assert_eq!(append(&service, "closed", &TEXT, "x").await.status, 409);
    assert_eq!(get(&service, "deleted", &[]).await.status, 404);
    assert_eq!(get(&service, "ended", &[]).await.status, 410);
}

#[tokio::test]
async fn a_commit_without_an_answer_is_looked_up_and_answered_as_what_it_was() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(database.url()).await;
    let (service, other) =
        (Service::start(proxy.url(), &STREAMS).await, Service::start(database.url(), &STREAMS).await);
    for path in ["plain", "producer", "seq", "closed", "last", "deleted", "replaced"] {
        assert_eq!(put(&service, path, &TEXT, "").await.status, 201);
    }
    // Known, so that the next one needs no decision.
    append(&service, "plain", &TEXT, "0").await;
    for (path, headers, body, status, content) in [
        ("plain", &TEXT[..], "x", 204, "0x"),
        ("producer", &producer("p", "0", "0"), "x", 200, "x"),
        ("seq", &[TEXT[0], ("stream-seq", "a")], "x", 204, "x"),
        ("closed", &[("stream-closed", "true")], "", 204, ""),
        ("last", &[&producer("p", "0", "0")[..], &[("stream-closed", "true")]].concat(), "x", 200, "x"),
    ] {
        proxy.arm(Cut::AfterStreams, 1);
        let answer = append(&service, path, headers, body).await;
        assert_eq!((proxy.done(), answer.status.as_u16()), (1, status), "{path}: {answer:?}");
        assert_eq!(answer.header("stream-next-offset"), offset(content.len()), "{path}");
        for reader in [&service, &other] {
            assert_eq!(get(reader, path, &[]).await.body, content, "{path}");
        }
    }
    assert_eq!(append(&other, "closed", &TEXT, "x").await.status, 409);
    proxy.arm(Cut::AfterStreams, 1);
    let made = put(&service, "made", &JSON, "[1,2]").await;
    assert_eq!(
        (proxy.done(), made.status.as_u16(), made.header("stream-next-offset")),
        (1, 201, &*offset(4))
    );
    assert_eq!(get(&service, "made", &[]).await.body, "[1,2]");
    proxy.arm(Cut::AfterStreams, 1);
    let deleted = service.request("DELETE", "/v1/stream/deleted", &[], "").await;
    assert_eq!((proxy.done(), deleted.status.as_u16()), (1, 204), "{deleted:?}");
    assert_eq!(get(&other, "deleted", &[]).await.status, 404);
    // A stream that takes the path before the deletion is repeated is another one.
    proxy.arm(Cut::AfterStreams, 1);
    let (deleted, made) = tokio::join!(service.request("DELETE", "/v1/stream/replaced", &[], ""), async {
        loop {
            let made = put(&other, "replaced", &JSON, "7").await;
            if made.status == 201 {
                return made;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert_eq!((proxy.done(), deleted.status.as_u16(), made.status.as_u16()), (1, 204, 201));
    assert_eq!(get(&other, "replaced", &[]).await.body, "[7]");
    assert!(service.stop().await.status.success());
}

/// What the writers of a drill do with its nodes.
struct Drill {
    addresses: [Mutex<String>; 2],
    is_over: AtomicBool,
    acknowledged: AtomicU32,
}

/// What a writer sent.
#[derive(Default)]
struct Sent {
    /// Content, and the offset behind it.
    acknowledged: Vec<(String, usize)>,
    unknown: Vec<String>,
}

impl Drill {
    /// Appends until the drill is over. A producer repeats what had no answer, others do not.
    async fn write(&self, path: &str, writer: usize) -> Sent {
        let (mut sent, id) = (Sent::default(), format!("w{writer}"));
        let has_producer = writer.is_multiple_of(2);
        for number in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let (content, seq) = (format!("<{path}:{writer}:{number}>"), number.to_string());
            let headers = if has_producer { producer(&id, "0", &seq).to_vec() } else { TEXT.to_vec() };
            loop {
                // Either node, in turn.
                let address = self.addresses[(writer / 2 + number) % 2].lock().unwrap().clone();
                let url = format!("/v1/stream/{path}");
                let asked = try_request(&address, "POST", &url, &headers, content.clone());
                let answer = tokio::time::timeout(Duration::from_secs(40), asked).await.expect("no answer");
                match answer {
                    Ok(answer) if answer.status.is_success() => {
                        let next = answer.header("stream-next-offset").split('_').nth(1).unwrap().parse();
                        sent.acknowledged.push((content, next.unwrap()));
                        self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) if answer.status != 503 => panic!("{answer:?}"),
                    _ if has_producer => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    _ => {
                        sent.unknown.push(content);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                break;
            }
        }
        sent
    }

    /// Waits until this many more appends were acknowledged.
    async fn progresses(&self, count: u32) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually("appends are acknowledged", async || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_two_nodes_at_once_lose_no_acknowledged_append_and_double_none() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    eprintln!("seed {seed}");
    let database = TestDatabase::create().await;
    let start = async || Service::start(database.url(), &STREAMS).await;
    let mut nodes = [start().await, start().await];
    let paths = ["k/0", "k/1", "k/2"];
    for path in paths {
        assert_eq!(put(&nodes[0], path, &TEXT, "").await.status, 201);
    }
    let drill = Drill {
        addresses: [Mutex::new(nodes[0].address.clone()), Mutex::new(nodes[1].address.clone())],
        is_over: AtomicBool::new(false),
        acknowledged: AtomicU32::new(0),
    };
    let writers = join_all(paths.iter().flat_map(|path| (0..6).map(|writer| drill.write(path, writer))));
    let kills = async {
        for _ in 0..rounds() {
            drill.progresses(random.u32(50..400)).await;
            for node in &nodes {
                node.signal(Signal::SIGKILL);
            }
            let (one, other) = tokio::join!(start(), start());
            for (address, node) in drill.addresses.iter().zip([&one, &other]) {
                address.lock().unwrap().clone_from(&node.address);
            }
            nodes = [one, other];
        }
        drill.progresses(100).await;
        drill.is_over.store(true, Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(writers, kills);
    let mut doubts = 0;
    for (path, written) in paths.iter().zip(written.chunks(6)) {
        let read = get(&nodes[0], path, &[]).await;
        let text = String::from_utf8(read.body.to_vec()).unwrap();
        assert_eq!(get(&nodes[1], path, &[]).await.body, text, "{path}: both nodes read the same");
        assert_eq!(head(&nodes[1], path).await.header("stream-next-offset"), offset(text.len()));
        let found: Vec<&str> = text.split_inclusive('>').collect();
        let once: HashSet<&str> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "{path}: nothing is there twice");
        let (mut known, mut sent) = (0, BTreeSet::new());
        for Sent { acknowledged, unknown } in written {
            for (content, next) in acknowledged {
                assert!(once.contains(&**content), "{path}: {content} was acknowledged");
                assert!(text[..*next].ends_with('>') && text[..*next].contains(content), "{path}: {content}");
            }
            known += acknowledged.len();
            doubts += unknown.len();
            sent.extend(acknowledged.iter().map(|(content, _)| content).chain(unknown).map(String::as_str));
        }
        assert!(
            known > 20 && found.iter().all(|content| sent.contains(content)),
            "{path}: {known} acknowledged"
        );
    }
    println!(
        "{} appends acknowledged, {doubts} without an answer",
        drill.acknowledged.load(Ordering::Relaxed)
    );
    for node in nodes {
        assert!(node.stop().await.status.success());
    }
}

/// A connection that is kept.
struct Client(http1::SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, method: &str, path: &str, body: &'static str) -> (u16, Bytes) {
        let request = Request::builder().method(method).uri(format!("/v1/stream/{path}"));
        let request = request.header("host", "localhost").header("content-type", "text/plain");
        self.0.ready().await.unwrap();
        let answer = self.0.send_request(request.body(Full::from(body)).unwrap()).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_living_stream_is_missing_for_256_connections_on_256_streams() {
    let database = TestDatabase::create().await;
    let nodes =
        [Service::start(database.url(), &STREAMS).await, Service::start(database.url(), &STREAMS).await];
    let create = async |first: usize| {
        let mut client = Client::connect(&nodes[first % 2].address).await;
        for number in (first..256).step_by(16) {
            assert_eq!(client.ask("PUT", &format!("s/{number}"), "").await.0, 201);
        }
    };
    join_all((0..16).map(create)).await;
    let appended = Arc::new(AtomicU32::new(0));
    let asked = join_all((0..256_usize).map(|connection| {
        let (address, appended) = (nodes[connection % 2].address.clone(), Arc::clone(&appended));
        tokio::spawn(async move {
            let mut client = Client::connect(&address).await;
            let mut random = fastrand::Rng::with_seed(connection as u64);
            for _ in 0..6 {
                let path = format!("s/{}", random.usize(..256));
                let (status, body) = match random.u32(..3) {
                    0 => {
                        appended.fetch_add(1, Ordering::Relaxed);
                        client.ask("POST", &path, "x").await
                    }
                    1 => client.ask("GET", &path, "").await,
                    _ => client.ask("HEAD", &path, "").await,
                };
                assert!(status == 200 || status == 204, "{path}: {status} {body:?}");
            }
            // One that comes and goes beside them.
            let own = format!("own/{connection}");
            for (method, status) in
                [("PUT", 201), ("GET", 200), ("DELETE", 204), ("GET", 404), ("PUT", 201), ("HEAD", 200)]
            {
                assert_eq!(client.ask(method, &own, "").await.0, status, "{method} {own}");
            }
        })
    }))
    .await;
    for one in asked {
        one.unwrap();
    }
    let client = database.connect().await;
    let row =
        client.query_one("select sum(tail)::bigint from streams where path like 's/%'", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), i64::from(appended.load(Ordering::Relaxed)));
}
