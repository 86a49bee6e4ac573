//! Positions that the service keeps for clients of typed collections: the option `resume` of a topic.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::pocketbase::{basic, good, make, path_of, records, refused, send, start};
use crate::pocketbase_realtime::{REALTIME, connect, next, subscribe, with};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually, narrow};
use crate::support::sse::{EventStream, metric};

const VARIABLES: [(&str, &str); 1] = [("MODULES", "events,records,pocketbase")];

/// Longer than events count as on their way: what came before is the client's.
async fn arrived() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn resumed(topic: &str, name: Uuid) -> String {
    with(topic, &json!({"query": {"resume": name}}))
}

async fn create(service: &Service, numbers: std::ops::Range<u64>) {
    for n in numbers {
        good(service, "POST", &records("posts"), "", &json!({"n": n})).await;
    }
}

async fn numbers(stream: &mut EventStream, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        numbers.push(next(stream, "n").await.2.as_u64().unwrap());
    }
    numbers
}

/// The numbers of all events up to the end of a stream.
async fn rest(stream: &mut EventStream) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(Ok(event)) = stream.next().await {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        numbers.extend(data["record"]["n"].as_u64());
    }
    numbers
}

fn range(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.collect()
}

/// Two nodes with the collection `posts`, and a superuser's token.
async fn nodes(database: &TestDatabase, more: &[(&str, &str)]) -> (Service, Service, String) {
    let (_first, token) = start(database).await;
    make(&_first, &token, "posts", basic(), json!({})).await;
    let variables = [&VARIABLES[..], more].concat();
    let here = Service::start(database.url(), &variables).await;
    let elsewhere = Service::start(database.url(), &variables).await;
    (here, elsewhere, token)
}

#[tokio::test]
async fn a_client_that_comes_back_to_any_node_has_everything_once() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, token) = nodes(&database, &[]).await;
    let topic = resumed("posts/*", Uuid::new_v4());
    let mut written = 0;
    for round in 0..4 {
        let node = if round % 2 == 0 { &here } else { &elsewhere };
        let (mut stream, client) = connect(node).await;
        subscribe(&here, "", &client, &[&topic]).await;
        create(&elsewhere, written..written + 5).await;
        let begin = if round == 0 { 0 } else { written - 5 };
        written += 5;
        let expected = range(begin..written);
        assert_eq!(numbers(&mut stream, expected.len()).await, expected, "round {round}");
        arrived().await;
        drop(stream);
        create(&elsewhere, written..written + 5).await;
        written += 5;
    }
    // Another identity has no such position, and does not move it.
    let (mut other, client) = connect(&here).await;
    subscribe(&here, &token, &client, &[&topic]).await;
    create(&here, written..written + 1).await;
    assert_eq!(numbers(&mut other, 1).await, [written]);
    let (mut stream, client) = connect(&here).await;
    subscribe(&here, "", &client, &[&topic]).await;
    assert_eq!(numbers(&mut stream, 6).await, range(written - 5..written + 1));
}

#[tokio::test]
async fn a_node_that_stops_in_the_middle_of_events_loses_and_repeats_none() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, _token) = nodes(&database, &[]).await;
    let topic = resumed("posts/*", Uuid::new_v4());
    let (mut stream, client) = connect(&here).await;
    subscribe(&here, "", &client, &[&topic]).await;
    let writing = create(&elsewhere, 0..120);
    let reading = async {
        let mut found = numbers(&mut stream, 40).await;
        here.signal(Signal::SIGTERM);
        found.extend(rest(&mut stream).await);
        drop(stream);
        let (mut stream, client) = connect(&elsewhere).await;
        subscribe(&elsewhere, "", &client, &[&topic]).await;
        let missing = 120 - found.len();
        found.extend(numbers(&mut stream, missing).await);
        (found, stream)
    };
    let ((found, mut stream), ()) = tokio::join!(reading, writing);
    assert_eq!(found, range(0..120));
    create(&elsewhere, 120..121).await;
    assert_eq!(numbers(&mut stream, 1).await, [120], "nothing comes again");
}

#[tokio::test]
async fn after_a_killed_node_nothing_is_missing() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, _token) = nodes(&database, &[]).await;
    let topic = resumed("posts/*", Uuid::new_v4());
    let (mut stream, client) = connect(&here).await;
    subscribe(&elsewhere, "", &client, &[&topic]).await;
    create(&elsewhere, 0..10).await;
    assert_eq!(numbers(&mut stream, 10).await, range(0..10));
    let database_client = database.connect().await;
    let mut last = String::new();
    eventually("the position is kept", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let select = "select position from client_positions";
        let position: String = database_client.query_one(select, &[]).await.unwrap().get(0);
        (std::mem::replace(&mut last, position.clone()) == position).then_some(())
    })
    .await;
    here.signal(Signal::SIGKILL);
    create(&elsewhere, 10..20).await;
    let (mut stream, client) = connect(&elsewhere).await;
    subscribe(&elsewhere, "", &client, &[&topic]).await;
    create(&elsewhere, 20..21).await;
    assert_eq!(numbers(&mut stream, 11).await, range(10..21));
}

/// A stream of which everything that arrives is read, whatever is done with it.
struct RawStream {
    socket: TcpStream,
    text: String,
}

impl RawStream {
    async fn open(service: &Service, topic: &str) -> Self {
        Self::over(TcpStream::connect(&service.address).await.unwrap(), service, topic).await
    }

    async fn over(mut socket: TcpStream, service: &Service, topic: &str) -> Self {
        let head = format!("GET {REALTIME} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut stream = Self { socket, text: String::new() };
        while !stream.text.contains("\"}\n\n") {
            stream.read().await;
        }
        let client =
            stream.text.split("\"clientId\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        subscribe(service, "", &client, &[topic]).await;
        stream
    }

    /// False: it has ended.
    async fn read(&mut self) -> bool {
        let mut bytes = [0; 65_536];
        let read = self.socket.read(&mut bytes).await.unwrap_or_default();
        self.text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        read > 0
    }

    fn numbers(&self) -> Vec<u64> {
        let number = |rest: &str| rest.split([',', '}']).next().unwrap().parse().unwrap();
        self.text.split("\"n\":").skip(1).map(number).collect()
    }
}

#[tokio::test]
async fn breaks_in_the_middle_of_events_lose_none() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, _token) = nodes(&database, &[]).await;
    let topic = resumed("posts/*", Uuid::new_v4());
    let mut stream = RawStream::open(&here, &topic).await;
    let writing = create(&elsewhere, 0..200);
    let reading = async {
        let (mut found, mut repeated, mut round) = (BTreeSet::new(), 0, 0);
        loop {
            let before = found.len();
            let count = |stream: &RawStream| stream.numbers().iter().filter(|n| **n >= before as u64).count();
            while count(&stream) < 20.min(200 - before) {
                assert!(stream.read().await);
            }
            // The client closes its side, and reads what was on its way.
            stream.socket.shutdown().await.unwrap();
            while stream.read().await {}
            for number in stream.numbers() {
                repeated += usize::from(!found.insert(number));
                assert_eq!(found.len() as u64, found.last().unwrap() + 1, "nothing is skipped: {found:?}");
            }
            if found.len() == 200 {
                return repeated;
            }
            round += 1;
            stream = RawStream::open(if round % 2 == 0 { &here } else { &elsewhere }, &topic).await;
        }
    };
    let (repeated, ()) = tokio::join!(reading, writing);
    assert!(repeated < 100, "{repeated} came again: those that were on their way");
}

#[tokio::test]
async fn a_connection_that_seems_open_is_not_believed() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, _token) = nodes(&database, &[]).await;
    let topic = resumed("posts/*", Uuid::new_v4());
    let (mut first, client) = connect(&here).await;
    subscribe(&here, "", &client, &[&topic]).await;
    create(&here, 0..5).await;
    assert_eq!(numbers(&mut first, 5).await, range(0..5));
    // The client vanished some time ago, for all that its connection tells.
    let (mut second, client) = connect(&elsewhere).await;
    subscribe(&elsewhere, "", &client, &[&topic]).await;
    assert_eq!(numbers(&mut second, 5).await, range(0..5));
    // The first one keeps no position any more, and still gets events.
    create(&here, 5..6).await;
    assert_eq!(numbers(&mut first, 1).await, [5]);
    assert_eq!(numbers(&mut second, 1).await, [5]);
    arrived().await;
    drop(second);
    create(&here, 6..7).await;
    assert_eq!(numbers(&mut first, 1).await, [6]);
    let (mut third, client) = connect(&elsewhere).await;
    subscribe(&elsewhere, "", &client, &[&topic]).await;
    assert_eq!(numbers(&mut third, 1).await, [6]);
}

#[tokio::test]
async fn each_topic_has_a_position_of_its_own() {
    let database = TestDatabase::create().await;
    let (service, _elsewhere, token) = nodes(&database, &[]).await;
    make(&service, &token, "others", basic(), json!({})).await;
    let one = good(&service, "POST", &records("posts"), "", &json!({"n": 0})).await;
    let single = format!("posts/{}", one["id"].as_str().unwrap());
    let name = Uuid::new_v4();
    let (all, single) = (resumed("posts/*", name), resumed(&single, name));
    let (mut stream, client) = connect(&service).await;
    subscribe(&service, "", &client, &[&all, &single]).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 1})).await;
    let mut names = [next(&mut stream, "n").await.0, next(&mut stream, "n").await.0];
    names.sort();
    assert_eq!(names, [all.clone(), single.clone()]);
    // From here on one of the two alone.
    arrived().await;
    subscribe(&service, "", &client, &[&all]).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 2})).await;
    assert_eq!(next(&mut stream, "n").await, (all.clone(), "update".into(), json!(2)));
    // It comes back beside live topics, of which nothing is repeated.
    let plain = "posts/*";
    subscribe(&service, "", &client, &[&all, plain, "others/*"]).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 3})).await;
    let mut names = [next(&mut stream, "n").await.0, next(&mut stream, "n").await.0];
    names.sort();
    assert_eq!(names, [plain.to_owned(), all.clone()]);
    subscribe(&service, "", &client, &[&all, plain, "others/*", &single]).await;
    good(&service, "POST", &records("others"), "", &json!({"n": 4})).await;
    assert_eq!(next(&mut stream, "n").await, (single.clone(), "update".into(), json!(2)));
    assert_eq!(next(&mut stream, "n").await, (single.clone(), "update".into(), json!(3)));
    assert_eq!(next(&mut stream, "n").await, ("others/*".into(), "create".into(), json!(4)));
}

#[tokio::test]
async fn a_native_event_source_comes_back_with_the_id_of_its_last_event() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, _token) = nodes(&database, &[]).await;
    let (mut stream, client) = connect(&here).await;
    subscribe(&here, "", &client, &["posts/*"]).await;
    create(&here, 0..3).await;
    let last = stream.take(3).await.remove(1).id;
    drop(stream);
    let mut stream = EventStream::open(&elsewhere, REALTIME, &[("last-event-id", &last)]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    subscribe(&elsewhere, "", &client, &["posts/*"]).await;
    create(&here, 3..4).await;
    assert_eq!(numbers(&mut stream, 2).await, [2, 3]);
}

#[tokio::test]
async fn a_position_that_is_too_old_is_a_reset() {
    let database = TestDatabase::create().await;
    let (service, elsewhere, _token) = nodes(&database, &[("CHANGES_RETENTION_S", "1")]).await;
    let (old, plain) = (resumed("posts/*", Uuid::new_v4()), "posts/*");
    let (mut stream, client) = connect(&service).await;
    subscribe(&service, "", &client, &[&old]).await;
    create(&service, 0..1).await;
    assert_eq!(numbers(&mut stream, 1).await, [0]);
    drop(stream);
    let database_client = database.connect().await;
    let newest = "select max(xid::text::bigint) from changes";
    let newest: i64 = database_client.query_one(newest, &[]).await.unwrap().get(0);
    let forgotten =
        "select pg_snapshot_xmax(seen::pg_snapshot)::text::bigint > $1::bigint + 1 from feed_floor";
    eventually("the feed has forgotten", async || {
        create(&service, 1..2).await;
        database_client.query_one(forgotten, &[&newest]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let (mut stream, client) = connect(&elsewhere).await;
    subscribe(&elsewhere, "", &client, &[&old, plain]).await;
    create(&service, 2..3).await;
    let event = stream.next().await.unwrap().unwrap();
    assert_eq!((event.event, event.data), (old.clone(), json!({"action": "reset"}).to_string()));
    let events = [next(&mut stream, "n").await, next(&mut stream, "n").await];
    assert!(events.iter().all(|event| event.2 == json!(2)), "{events:?}");
    // It goes on from there.
    arrived().await;
    drop(stream);
    let (mut stream, client) = connect(&elsewhere).await;
    subscribe(&elsewhere, "", &client, &[&old]).await;
    create(&service, 3..4).await;
    assert_eq!(numbers(&mut stream, 1).await, [3]);
}

#[tokio::test]
async fn positions_are_bounded_and_their_names_checked() {
    let database = TestDatabase::create().await;
    let (service, _elsewhere, token) = nodes(&database, &[]).await;
    let (_stream, client) = connect(&service).await;
    let message = "Something went wrong while processing your request.";
    for bad in [json!("x"), json!(5), json!([])] {
        let topic = with("posts/*", &json!({"query": {"resume": bad}}));
        let body = json!({"clientId": client, "subscriptions": ["posts/*", topic]});
        let data = refused(&service, ("POST", REALTIME, "", &body), 400, message).await;
        assert_eq!(data["subscriptions"]["1"]["code"], "validation_invalid_format", "{data}");
    }
    let database_client = database.connect().await;
    let fill = "insert into client_positions (identity, name, owner, holder, position)
        select 'guest', gen_random_uuid(), 'guest:127.0.0.1', '', '' from generate_series(1, 1000)";
    database_client.execute(fill, &[]).await.unwrap();
    let topic = resumed("posts/*", Uuid::new_v4());
    let body = json!({"clientId": client, "subscriptions": [topic]});
    let data = refused(&service, ("POST", REALTIME, "", &body), 400, message).await;
    assert_eq!(data["subscriptions"]["code"], "validation_too_many_values", "{data}");
    // Those of others count for them alone.
    let (_stream, of_superuser) = connect(&service).await;
    subscribe(&service, &token, &of_superuser, &[&topic]).await;
    // One whose connection has ended makes room.
    let end = "update client_positions set is_open = false, at = now() - interval '1 minute'
        where name = (select name from client_positions where owner like 'guest%' limit 1) returning name";
    let oldest: Uuid = database_client.query_one(end, &[]).await.unwrap().get(0);
    subscribe(&service, "", &client, &[&topic]).await;
    let count =
        "select count(*), count(*) filter (where name = $1) from client_positions where identity = 'guest'";
    let row = database_client.query_one(count, &[&oldest]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1_000, 0));
    // Old ones are deleted, and those of open connections are not.
    database_client
        .execute("update client_positions set at = now() - interval '3 days' where holder = ''", &[])
        .await
        .unwrap();
    let other = Service::start(database.url(), &VARIABLES).await;
    eventually("the old ones are gone", async || {
        let count = "select count(*) from client_positions";
        (database_client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    eventually("those that are left are counted", async || {
        (metric(&other, "tidegate_client_positions").await == 2.0).then_some(())
    })
    .await;
    assert_eq!(send(&other, "GET", "/api/health", "", &Value::Null).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_slow_reader_that_is_cut_off_has_everything_once_after_it_comes_back() {
    let database = TestDatabase::create().await;
    let (here, elsewhere, _token) = nodes(&database, &[("SUBSCRIBER_BYTES", "262144")]).await;
    let topic = resumed("posts/*", Uuid::new_v4());
    let mut stream = RawStream::over(narrow(&here.address).await, &here, &topic).await;
    let title = "x".repeat(4_000);
    let cut = "tidegate_follows_closed_total{reason=\"slow_reader\"}";
    let begun = metric(&here, cut).await;
    let mut written = 0;
    // It does not read until it was given up.
    while metric(&here, "tidegate_followers_dropped_total{reason=\"slow\"}").await == 0.0 {
        for _ in 0..50 {
            good(&elsewhere, "POST", &records("posts"), "", &json!({"n": written, "title": title})).await;
            written += 1;
        }
        assert!(written < 20_000, "it is never cut off");
    }
    while stream.read().await {}
    let mut found = stream.numbers();
    drop(stream);
    assert!(!found.is_empty() && (found.len() as u64) < written, "{} of {written}", found.len());
    eventually("its end is counted", async || (metric(&here, cut).await > begun).then_some(())).await;
    let (mut stream, client) = connect(&elsewhere).await;
    subscribe(&elsewhere, "", &client, &[&topic]).await;
    let missing = written as usize - found.len();
    found.extend(numbers(&mut stream, missing).await);
    assert_eq!(found, range(0..written));
}

#[tokio::test]
async fn a_topic_that_comes_back_among_live_ones_disturbs_none_of_them() {
    let database = TestDatabase::create().await;
    let (service, _elsewhere, token) = nodes(&database, &[]).await;
    make(&service, &token, "others", basic(), json!({})).await;
    let (all, others) = ("posts/*", "others/*");
    let back = resumed("posts", Uuid::new_v4());
    let (mut stream, client) = connect(&service).await;
    subscribe(&service, "", &client, &[all, others, &back]).await;
    let writing = async {
        for n in 0..300 {
            let name = if n % 2 == 0 { "posts" } else { "others" };
            good(&service, "POST", &records(name), "", &json!({"n": n})).await;
        }
    };
    let changing = async {
        for _ in 0..15 {
            subscribe(&service, "", &client, &[all, others]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            subscribe(&service, "", &client, &[all, others, &back]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = async {
        let (mut of_all, mut of_others, mut of_back) = (Vec::new(), Vec::new(), Vec::new());
        while of_all.len() < 150 || of_others.len() < 150 || of_back.last() != Some(&298) {
            let (name, _, n) = next(&mut stream, "n").await;
            let n = n.as_u64().unwrap();
            match name {
                name if name == all => of_all.push(n),
                name if name == others => of_others.push(n),
                _ => of_back.push(n),
            }
        }
        (of_all, of_others, of_back)
    };
    let ((of_all, of_others, of_back), (), ()) = tokio::join!(reading, writing, changing);
    assert_eq!(of_all, (0..300).step_by(2).collect::<Vec<u64>>());
    assert_eq!(of_others, (1..300).step_by(2).collect::<Vec<u64>>());
    // It left in the middle of events, so those that had just been sent come again.
    let mut seen = BTreeSet::new();
    for n in of_back {
        assert!(n / 2 <= seen.len() as u64, "{n} behind {seen:?}");
        seen.insert(n);
    }
    assert_eq!(seen.len(), 150);
}
