//! `GET /api/events/stream`: everything that changes behind a position, once, in order.

use std::collections::BTreeSet;
use std::time::Duration;

use eventsource_stream::Event;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::conversations::make;
use crate::support::accounts::{guarded, key, log_in, register, send, tidegate, token_with};
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Service, eventually, narrow};
use crate::support::sse::{EventStream, metric};

const ITEMS: &str = "/api/stress/records/items";

async fn open(service: &Service, topics: &str, from: &str) -> EventStream {
    let from = if from.is_empty() { String::new() } else { format!("&from={from}") };
    let stream = EventStream::open(service, &format!("/api/events/stream?topics={topics}{from}"), &[]).await;
    assert_eq!(stream.status.as_u16(), 200);
    stream
}

/// A stream behind its `ready`, and that position.
async fn opened(service: &Service, topics: &str, from: &str) -> (EventStream, String) {
    let mut stream = open(service, topics, from).await;
    let ready = stream.take(1).await.remove(0);
    assert_eq!(ready.event, "ready");
    assert_eq!(data(&ready), json!({"position": ready.id}));
    (stream, ready.id)
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

async fn change(stream: &mut EventStream) -> (Value, String) {
    let event = stream.take(1).await.remove(0);
    assert_eq!(event.event, "change");
    (data(&event), event.id)
}

pub(crate) async fn add(service: &Service, path: &str, body: Value) -> Value {
    let added = send(service, "POST", path, "", &body).await;
    assert_eq!(added.status.as_u16(), 201, "{added:?}");
    added.json()
}

pub(crate) fn publish(topic: &str, n: usize) -> String {
    format!("select tidegate_publish('{topic}', '{{\"n\":{n}}}')")
}

#[tokio::test]
async fn a_stream_delivers_what_changes_in_each_of_its_topics() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let id = conversation.rsplit('/').next().unwrap();
    add(&service, ITEMS, json!({"n": "before"})).await;
    let topics = format!("records/items,conversations/{id},topic/a%2Cb,records/other/abcdefghij01234");
    let (mut stream, _) = opened(&service, &topics, "").await;

    let item = add(&service, ITEMS, json!({"n": 1})).await;
    let (created, _) = change(&mut stream).await;
    assert_eq!(created["topic"], "records/items");
    assert_eq!((&created["action"], &created["key"]), (&json!("create"), &item["id"]));
    assert_eq!(created["record"], item);
    let path = format!("{ITEMS}/{}", item["id"].as_str().unwrap());
    let updated = send(&service, "PATCH", &path, "", &json!({"n": 2})).await.json();
    assert_eq!(change(&mut stream).await.0["record"], updated);
    send(&service, "DELETE", &path, "", &Value::Null).await;
    let (deleted, _) = change(&mut stream).await;
    assert_eq!((&deleted["action"], &deleted["record"]["n"]), (&json!("delete"), &json!(2)));

    // Of the other collection this record alone.
    add(&service, "/api/stress/records/other", json!({"id": "abcdefghij01235"})).await;
    add(&service, "/api/stress/records/other", json!({"id": "abcdefghij01234"})).await;
    assert_eq!(change(&mut stream).await.0["topic"], "records/other/abcdefghij01234");

    let said =
        add(&service, &format!("{conversation}/messages"), json!({"role": "user", "content": "hi"})).await;
    let (message, _) = change(&mut stream).await;
    assert_eq!(message["topic"], format!("conversations/{id}"));
    assert_eq!((&message["action"], &message["record"]), (&json!("create"), &said));

    let client = database.connect().await;
    client.batch_execute(&format!("begin; {}; rollback", publish("a,b", 0))).await.unwrap();
    client.batch_execute(&publish("a,b", 1)).await.unwrap();
    let (published, _) = change(&mut stream).await;
    assert_eq!(published["topic"], "topic/a,b", "a rolled-back one is silent");
    assert_eq!((&published["action"], &published["key"]), (&json!("publish"), &Value::Null));
    assert_eq!(published["record"], json!({"n": 1}));
}

#[tokio::test]
async fn a_position_continues_on_any_node_without_gap_or_double() {
    let database = TestDatabase::create().await;
    let services = [Service::start(database.url(), &[]).await, Service::start(database.url(), &[]).await];
    let (_, start) = opened(&services[0], "topic/x,records/items,topic/y", "").await;
    let writer = |writer: usize| {
        let (database, services) = (&database, &services);
        async move {
            let client = database.connect().await;
            let mut sent = Vec::new();
            for n in 0..40 {
                let n = writer * 1000 + n;
                let topic = if n.is_multiple_of(2) { "x" } else { "y" };
                match n % 5 {
                    // Another transaction is open meanwhile.
                    0 => {
                        client.batch_execute(&format!("begin; {}", publish(topic, n))).await.unwrap();
                        add(&services[writer % 2], ITEMS, json!({"n": n + 500})).await;
                        client.batch_execute("commit").await.unwrap();
                        sent.push(n + 500);
                    }
                    1 => {
                        client
                            .batch_execute(&format!("begin; {}; rollback", publish(topic, 999_999)))
                            .await
                            .unwrap();
                        client.batch_execute(&publish(topic, n)).await.unwrap();
                    }
                    2 => {
                        let rolled_back = publish(topic, 999_999);
                        let text = format!(
                            "begin; savepoint a; {rolled_back}; rollback to a; {}; commit",
                            publish(topic, n)
                        );
                        client.batch_execute(&text).await.unwrap();
                    }
                    _ => client.batch_execute(&publish(topic, n)).await.unwrap(),
                }
                sent.push(n);
            }
            sent
        }
    };
    let read = async {
        let (mut last, mut seen, mut numbers, mut round) = (start.clone(), Vec::new(), BTreeSet::new(), 0);
        while seen.len() < 6 * 48 {
            round += 1;
            let (mut stream, position) =
                opened(&services[round % 2], "topic/x,records/items,topic/y", &last).await;
            assert_eq!(position, last);
            for _ in 0..(round * 7) % 23 + 1 {
                if seen.len() == 6 * 48 {
                    break;
                }
                let (change, id) = change(&mut stream).await;
                seen.push(change["record"]["n"].as_u64().unwrap() as usize);
                assert!(numbers.insert(change["number"].as_i64().unwrap()), "doubled: {change}");
                assert!(id.len() <= 600, "{id}");
                last = id;
            }
        }
        (seen, last)
    };
    let (sent, (mut seen, last)) = tokio::join!(join_all((0..6).map(writer)), read);
    let mut sent: Vec<usize> = sent.into_iter().flatten().collect();
    seen.sort_unstable();
    sent.sort_unstable();
    assert_eq!(seen, sent);
    // All of it again, in one order on either node, and nothing behind the last position.
    let all = async |service: &Service, from: &str, count: usize| {
        let (mut stream, _) = opened(service, "topic/x,records/items,topic/y", from).await;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(change(&mut stream).await.0["number"].as_i64().unwrap());
        }
        all
    };
    let once = all(&services[0], &start, sent.len()).await;
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), sent.len());
    let (mut stream, _) = opened(&services[1], "topic/x,topic/y", &last).await;
    database.connect().await.batch_execute(&publish("x", 7)).await.unwrap();
    assert_eq!(change(&mut stream).await.0["record"]["n"], 7);
}

#[tokio::test]
async fn an_open_transaction_delays_its_own_changes_and_no_others() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (mut stream, _) = opened(&service, "topic/x", "").await;
    let slow = database.connect().await;
    slow.batch_execute(&format!("begin; {}", publish("x", 1))).await.unwrap();
    let client = database.connect().await;
    client.batch_execute(&publish("x", 2)).await.unwrap();
    let (first, position) = change(&mut stream).await;
    assert_eq!(first["record"]["n"], 2, "while the other is open");
    // A prepared transaction may stay open for days; here another one rolls back.
    client.batch_execute(&format!("begin; {}; rollback", publish("x", 3))).await.unwrap();
    slow.batch_execute("commit").await.unwrap();
    client.batch_execute(&publish("x", 4)).await.unwrap();
    for expected in [1, 4] {
        assert_eq!(change(&mut stream).await.0["record"]["n"], expected);
    }
    let (mut again, _) = opened(&service, "topic/x", &position).await;
    for expected in [1, 4] {
        assert_eq!(change(&mut again).await.0["record"]["n"], expected);
    }
}

#[tokio::test]
async fn a_transaction_is_delivered_whole_and_in_its_order() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (mut stream, start) = opened(&service, "topic/x,topic/y", "").await;
    let (one, two) = (database.connect().await, database.connect().await);
    one.batch_execute(&format!("begin; {}", publish("x", 1))).await.unwrap();
    two.batch_execute(&format!("begin; {}; {}", publish("x", 2), publish("y", 3))).await.unwrap();
    one.batch_execute(&format!("{}; {}", publish("y", 4), publish("x", 5))).await.unwrap();
    two.batch_execute("commit").await.unwrap();
    one.batch_execute("commit").await.unwrap();
    let mut live = Vec::new();
    for _ in 0..5 {
        live.push(change(&mut stream).await);
    }
    let ns = |changes: &[(Value, String)]| {
        changes.iter().map(|(change, _)| change["record"]["n"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ns(&live), [2, 3, 1, 4, 5]);
    // In the middle of a poll of many pages, from each position.
    let insert = "insert into changes (number, topic, record, action, created, updated, data)
        select nextval('change_numbers'), 'topic:x', '', 'publish', now(), now(), json_build_object('n', n)
        from generate_series(10, 2509) n";
    one.batch_execute(insert).await.unwrap();
    let mut last = start;
    let mut all = Vec::new();
    while all.len() < 2505 {
        let (mut stream, _) = opened(&service, "topic/x,topic/y", &last).await;
        for _ in 0..701.min(2505 - all.len()) {
            let next = change(&mut stream).await;
            last.clone_from(&next.1);
            all.push(next);
        }
    }
    assert_eq!(ns(&all), [2, 3, 1, 4, 5].into_iter().chain(10..2510).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_crash_of_postgres_that_reuses_transaction_ids_loses_no_change() {
    let mut server = PrivateServer::start(&[]).await;
    let service = Service::start(server.url(), &[]).await;
    let client = connect(server.url()).await;
    client.batch_execute(&publish("x", 1)).await.unwrap();
    let (_, mut position) = opened(&service, "topic/x", "").await;
    for round in 0..3 {
        // Their ids are assigned again after the crash, as nothing of them was flushed.
        let client = connect(server.url()).await;
        for _ in 0..20 {
            client.batch_execute(&format!("begin; {}; rollback", publish("x", 0))).await.unwrap();
        }
        let (stream, ready) = opened(&service, "topic/x", &position).await;
        assert_eq!(ready, position);
        drop(stream);
        let (_, fresh) = opened(&service, "topic/x", "").await;
        server.stop_immediate().await;
        server.start_again().await;
        let client = connect(server.url()).await;
        for n in 0..10 {
            client.batch_execute(&publish("x", round * 100 + n)).await.unwrap();
        }
        let mut last = String::new();
        for from in [&position, &fresh] {
            let mut stream = eventually("the service is connected again", async || {
                let path = format!("/api/events/stream?topics=topic/x&from={from}");
                let stream = EventStream::open(&service, &path, &[]).await;
                (stream.status.as_u16() == 200).then_some(stream)
            })
            .await;
            assert_eq!(stream.take(1).await[0].event, "ready");
            for n in 0..10 {
                let (change, id) = change(&mut stream).await;
                assert_eq!(change["record"]["n"], round * 100 + n);
                last = id;
            }
        }
        position = last;
    }
}

#[tokio::test]
async fn a_position_that_is_too_old_or_of_another_server_begins_with_a_reset() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (_, old) = opened(&service, "topic/x", "").await;
    let client = database.connect().await;
    client.batch_execute(&publish("x", 1)).await.unwrap();
    client
        .batch_execute("delete from changes; update feed_floor set seen = pg_current_snapshot()::text")
        .await
        .unwrap();
    let digit = if old.starts_with('1') { '2' } else { '1' };
    let other = format!("{digit}{}", &old[1..]);
    let future = old.replace('~', "~1");
    for from in [&old, &other, &future] {
        let (mut stream, _) = opened(&service, "topic/x", from).await;
        let reset = stream.take(1).await.remove(0);
        assert_eq!(reset.event, "reset", "{from}");
        assert_eq!(data(&reset)["position"], json!(reset.id));
        client.batch_execute(&publish("x", 2)).await.unwrap();
        let (change, id) = change(&mut stream).await;
        assert_eq!(change["record"]["n"], 2);
        let (_, ready) = opened(&service, "topic/x", &id).await;
        assert_eq!(ready, id);
    }
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_and_still_reads_is_told_and_resumes() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SUBSCRIBERS_BYTES", "2000000")]).await;
    let client = database.connect().await;
    let (mut stream, mut last) = opened(&service, "topic/x", "").await;
    // More than there is memory for, in one transaction, so that it is published at once.
    let all = "select tidegate_publish('x', jsonb_build_object('n', n, 'text', repeat('x', 2000))) from generate_series(0, 2999) n";
    client.batch_execute(all).await.unwrap();
    let (mut seen, mut cuts) = (Vec::new(), 0);
    while seen.len() < 3_000 {
        let Some(event) = stream.next().await else {
            stream = open(&service, "topic/x", &last).await;
            continue;
        };
        let event = event.unwrap();
        match &*event.event {
            "ready" => {}
            "change" => {
                seen.push(data(&event)["record"]["n"].as_u64().unwrap());
                last = event.id;
            }
            "cut" => {
                assert_eq!(data(&event), json!({"reason": "slow_reader"}));
                cuts += 1;
                assert!(
                    stream.next().await.is_none(),
                    "it is the last event, and the response ends as it should"
                );
                stream = open(&service, "topic/x", &last).await;
            }
            other => panic!("{other}"),
        }
    }
    assert!(cuts > 0);
    assert_eq!(seen, (0..3_000).collect::<Vec<u64>>());
    let closed = "tidegate_follows_closed_total{reason=\"slow_reader\"}";
    assert_eq!(metric(&service, closed).await, f64::from(cuts));
}

#[tokio::test]
async fn topics_positions_and_parameters_of_every_wrong_kind_are_refused_by_name() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let many: Vec<String> = (0..101).map(|n| format!("topic/{n}")).collect();
    let many = many.join(",");
    for (query, field) in [
        ("", "topics"),
        ("topics=", "topics"),
        ("topics=records", "topics"),
        ("topics=records/1a", "topics"),
        ("topics=records/a,", "topics"),
        ("topics=conversations/x", "topics"),
        ("topics=records/a,records/a/abcdefghij01234", "topics"),
        ("topics=topic/a%3Foption=%7B%7D", "topics"),
        (&format!("topics={many}"), "topics"),
        ("topics=topic/%ff", "query"),
        ("topics=topic/a&from=", "from"),
        ("topics=topic/a&from=x", "from"),
        ("topics=topic/a&from=1.2", "from"),
        (&format!("topics=topic/a&from={}", "A".repeat(5000)), "from"),
        ("topics=topic/a&other=1", "other"),
    ] {
        let refused = service.get(&format!("/api/events/stream?{query}")).await;
        assert_eq!(refused.status.as_u16(), 400, "{query}");
        assert_eq!(refused.json()["error"]["field"], field, "{query}");
    }
    let last = [("last-event-id", "x")];
    let refused = service.request("GET", "/api/events/stream?topics=topic/a", &last, "").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["field"]), (400, &json!("last-event-id")));
    let none = "/api/events/stream?topics=conversations/018f3f6e-0000-7000-8000-000000000001";
    assert_eq!(service.get(none).await.status.as_u16(), 404);
}

#[tokio::test]
async fn each_topic_requires_its_permission_and_ends_with_it() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("SSE_HEARTBEAT_S", "1")]).await;
    register(&service, "ada@example.com").await;
    register(&service, "bob@example.com").await;
    let (ada, bob) =
        (log_in(&service, "ada@example.com").await.access, log_in(&service, "bob@example.com").await.access);
    let made = send(&service, "POST", "/api/conversations", &ada, &json!({"title": "t"})).await.json();
    let conversation = format!("conversations/{}", made["id"].as_str().unwrap());
    let ask = async |topics: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        EventStream::open(&service, &format!("/api/events/stream?topics={topics}"), headers)
            .await
            .status
            .as_u16()
    };
    let both = format!("topic/a,{conversation}");
    for (topics, token, expected) in [
        ("topic/a", "", 401),
        ("topic/a", ada.as_str(), 403),
        ("records/items", &ada, 403),
        (&conversation, &ada, 200),
        (&conversation, &bob, 404),
        (&both, &ada, 403),
        ("topic/a", &token_with(&["realtime:read"]), 200),
        ("records/items", &token_with(&["realtime:read"]), 403),
        ("records/items,topic/a", &token_with(&["realtime:read", "records:read"]), 200),
        ("topic/a,records/items", &token_with(&["admin"]), 200),
    ] {
        assert_eq!(ask(topics, token).await, expected, "{topics}");
    }
    let secret = key(&database, &["--scope", "realtime:read", "--name", "reader"]).await;
    let headers = [("x-api-key", secret.as_str())];
    let mut stream = EventStream::open(&service, "/api/events/stream?topics=topic/a", &headers).await;
    assert_eq!(stream.take(1).await[0].event, "ready");
    let list = tidegate(&database, &["keys", "list"], "").await.unwrap();
    let id = list.lines().find(|line| line.contains("reader")).unwrap().split_whitespace().next().unwrap();
    tidegate(&database, &["keys", "revoke", id], "").await.unwrap();
    let rest = stream.rest().await;
    assert_eq!((rest.len(), &*rest[0].event, &*rest[0].data), (1, "cut", r#"{"reason":"denied"}"#));
}

#[tokio::test]
async fn publishing_needs_a_grant_and_has_limits() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let client = database.connect().await;
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("create role {role}")).await.unwrap();
    let publishing = format!("set role {role}; {}", publish("x", 1));
    let refused = database.connect().await.batch_execute(&publishing).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501", "{refused:?}");
    let grants = tidegate(&database, &["grants", "--publisher", &role], "").await.unwrap();
    client.batch_execute(&grants).await.unwrap();
    let (mut stream, _) = opened(&service, "topic/x", "").await;
    database.connect().await.batch_execute(&publishing).await.unwrap();
    assert_eq!(change(&mut stream).await.0["record"]["n"], 1);
    for (topic, body) in [
        ("''".to_owned(), "'1'"),
        ("null".to_owned(), "'1'"),
        ("'x'".to_owned(), "null"),
        (format!("'{}'", "x".repeat(201)), "'1'"),
        ("'x'".to_owned(), "to_jsonb(repeat('x', 1048577))"),
    ] {
        let refused = client.batch_execute(&format!("select tidegate_publish({topic}, {body})")).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "22023", "{topic} {refused:?}");
    }
    client.batch_execute("select tidegate_publish('x', to_jsonb(repeat('x', 1000000)))").await.unwrap();
    assert_eq!(change(&mut stream).await.0["record"].as_str().unwrap().len(), 1_000_000);
    tokio::time::timeout(
        Duration::from_secs(20),
        client.batch_execute(&format!("drop owned by {role}; drop role {role}")),
    )
    .await
    .unwrap()
    .unwrap();
}

#[tokio::test]
async fn a_list_continues_live_from_exactly_where_it_was_read() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    add(&service, ITEMS, json!({"n": 0})).await;
    let position = |answer: &crate::support::service::Answer| answer.header("x-feed-position").to_owned();
    let writing = async {
        for n in 1..120 {
            add(&service, ITEMS, json!({"n": n})).await;
        }
    };
    let reading = async {
        let mut lists = Vec::new();
        for round in 0..20 {
            let query = if round % 2 == 0 { "limit=1000&count=exact" } else { "limit=1000" };
            let list = service.get(&format!("{ITEMS}?{query}")).await;
            let records = list.json().as_array().unwrap().clone();
            if round % 2 == 0 {
                assert_eq!(list.header("x-total-count"), records.len().to_string(), "of one snapshot");
            }
            lists.push((records.len(), position(&list)));
        }
        lists
    };
    let ((), lists) = tokio::join!(writing, reading);
    for (count, position) in lists {
        let (mut stream, _) = opened(&service, "records/items", &position).await;
        for n in count..120 {
            assert_eq!(change(&mut stream).await.0["record"]["n"], n, "behind a list of {count}");
        }
    }
    let item = add(&service, ITEMS, json!({"n": 120})).await;
    let path = format!("{ITEMS}/{}", item["id"].as_str().unwrap());
    let got = service.get(&path).await;
    let known = service.request("GET", &path, &[("if-none-match", got.header("etag"))], "").await;
    assert_eq!(known.status.as_u16(), 304);
    send(&service, "PATCH", &path, "", &json!({"n": 121})).await;
    for answer in [got, known] {
        let (mut stream, _) = opened(&service, "records/items", &position(&answer)).await;
        assert_eq!(change(&mut stream).await.0["record"]["n"], 121);
    }
    let empty = service.get(&format!("{ITEMS}?limit=1&filter_n=eq:-1")).await;
    assert_eq!(empty.json(), json!([]));
    let (mut stream, _) = opened(&service, "records/items", &position(&empty)).await;
    add(&service, ITEMS, json!({"n": 122})).await;
    assert_eq!(change(&mut stream).await.0["record"]["n"], 122);
}

#[tokio::test]
async fn streams_that_come_back_open_at_once_while_others_read_and_get_everything_once() {
    let database = TestDatabase::create().await;
    // Memory for one page of the table.
    let service = Service::start(database.url(), &[("SUBSCRIBERS_BYTES", "524288")]).await;
    let (_, start) = opened(&service, "topic/big,topic/x", "").await;
    let client = database.connect().await;
    let large = "select tidegate_publish('big', to_jsonb(repeat('x', 100000))) from generate_series(1, 40)";
    client.batch_execute(large).await.unwrap();
    let mut idle = narrow(&service.address).await;
    let request =
        format!("GET /api/events/stream?topics=topic/big&from={start} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    idle.write_all(request.as_bytes()).await.unwrap();
    eventually("it reads, and takes nothing", async || {
        (metric(&service, "tidegate_followers_bytes").await > 0.0).then_some(())
    })
    .await;
    for n in 0..30 {
        client.batch_execute(&publish("x", n)).await.unwrap();
    }
    // Each is ready at once, though the memory for pages is taken.
    let mut streams = Vec::new();
    for n in 0..40 {
        let topics = if n % 2 == 0 { "topic/x" } else { "topic/x,topic/y" };
        streams.push(opened(&service, topics, &start).await.0);
    }
    client.batch_execute(&publish("x", 30)).await.unwrap();
    drop(idle);
    let all = streams.into_iter().map(async |mut stream| {
        for n in 0..31 {
            assert_eq!(change(&mut stream).await.0["record"]["n"], n);
        }
        stream
    });
    let mut streams = join_all(all).await;
    client.batch_execute(&publish("x", 31)).await.unwrap();
    for stream in &mut streams {
        assert_eq!(change(stream).await.0["record"]["n"], 31, "nothing came twice");
    }
}

#[tokio::test]
async fn the_load_tests_audit_of_subscribers_passes_and_finds_what_was_taken_away() {
    let loadtest = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("loadtest");
    assert!(loadtest.exists(), "run `cargo test --workspace`, which builds {}", loadtest.display());
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let url = format!("http://{}", service.address);
    let load = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(&loadtest);
        command.args(["realtime", "--url", &url, "--seconds", "2", "--subscribers", "20"]).args(arguments);
        let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(120), output).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let pid = service.pid().to_string();
    for arguments in [
        &["--rate", "100", "--pid", &pid][..],
        &["--topics", "5", "--rate", "100", "--slow", "20", "--reconnects", "50", "--payload", "2000"],
        &["--behind", "30", "--rate", "20"],
    ] {
        let (code, output) = load(arguments).await;
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("each of their subscribers are there, once and in order"), "{output}");
    }
    let client = database.connect().await;
    client
        .batch_execute(
            "create function lose() returns trigger language plpgsql as $$ begin
                delete from changes where number = new.number and number % 20 = 0; return null;
            end $$;
            create trigger lose after insert on changes for each row execute function lose();",
        )
        .await
        .unwrap();
    let (code, output) = load(&["--rate", "100"]).await;
    assert_eq!(code, Some(3), "{output}");
    assert!(!output.contains(" 0 lost") && output.contains(" lost, 0 doubled"), "{output}");
}

#[tokio::test]
async fn what_is_read_of_a_conversation_continues_at_its_position() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = make(&service, "").await;
    let topic = format!("conversations/{}", path.rsplit('/').next().unwrap());
    let say = async |text: &str| {
        add(&service, &format!("{path}/messages"), json!({"role": "user", "content": text})).await
    };
    let first = say("first").await;
    let message = format!("{path}/messages/{}", first["id"].as_str().unwrap());
    let lists = ["/api/conversations", "/api/conversations?q=first", "/api/conversations?q=nothing"];
    let reads =
        [&path, &message, &format!("{path}/messages"), &format!("{path}/messages?limit=1&before=end")];
    for read in lists.into_iter().chain(reads.into_iter().map(String::as_str)) {
        let answer = service.get(read).await;
        assert_eq!(answer.status.as_u16(), 200, "{read}: {answer:?}");
        let position = answer.header("x-feed-position").to_owned();
        let next = say(read).await;
        let (mut stream, _) = opened(&service, &topic, &position).await;
        assert_eq!(change(&mut stream).await.0["record"], next, "{read}");
    }
    // Read while many write: what a page has not, its position has, and nothing twice.
    let writing = join_all((0..4).map(|writer| {
        let (service, path) = (&service, &path);
        async move {
            for n in 0..25 {
                let body = json!({"role": "user", "content": format!("{writer} {n}")});
                add(service, &format!("{path}/messages"), body).await;
            }
        }
    }));
    let reading = async {
        let mut pages = Vec::new();
        for _ in 0..10 {
            pages.push(service.get(&format!("{path}/messages?limit=200")).await);
        }
        pages
    };
    let (_, pages) = tokio::join!(writing, reading);
    let all = service.get(&format!("{path}/messages?limit=200")).await.json().as_array().unwrap().len();
    for page in pages {
        let shown = page.json().as_array().unwrap().len();
        let (mut stream, _) = opened(&service, &topic, page.header("x-feed-position")).await;
        let known: BTreeSet<String> =
            page.json().as_array().unwrap().iter().map(|message| message["id"].to_string()).collect();
        for _ in shown..all {
            let (change, _) = change(&mut stream).await;
            assert!(!known.contains(&change["record"]["id"].to_string()), "{change}");
        }
    }
    for (method, target, body) in [("PATCH", &path, json!({"title": "x"})), ("PATCH", &path, json!({}))] {
        let answer = send(&service, method, target, "", &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-feed-position")), (200, ""), "a write has none");
    }
}
