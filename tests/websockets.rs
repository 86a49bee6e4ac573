//! `GET /api/events/ws`: topics that a client adds and removes, over one connection.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::conversations::make;
use crate::realtime::{add, publish};
use crate::support::accounts::{guarded, key, log_in, register, send, tidegate, token_with};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually, narrow};
use crate::support::sse::metric;
use crate::support::websocket::Socket;

const WS: &str = "/api/events/ws";
/// The number of the last change of a test.
const LAST: usize = 9_999_999;

async fn closed(service: &Service, reason: &str) -> f64 {
    metric(service, &format!("tidegate_follows_closed_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn topics_are_added_and_removed_while_others_are_delivered() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let client = database.connect().await;
    let conversation = make(&service, "").await;
    let conversation = format!("conversations/{}", conversation.rsplit('/').next().unwrap());
    let mut socket = Socket::open(&service, "").await;
    socket.subscribe(&json!({"subscribe": ["topic/a", "topic/a,b"]})).await;
    client.batch_execute(&publish("b", 0)).await.unwrap();
    client.batch_execute(&publish("a", 1)).await.unwrap();
    let change = socket.take("change").await;
    assert_eq!((&change.data["topic"], &change.data["record"]), (&json!("topic/a"), &json!({"n": 1})));
    client.batch_execute(&publish("a,b", 2)).await.unwrap();
    assert_eq!(socket.take("change").await.data["topic"], "topic/a,b");

    let all = json!(["topic/b", "topic/a", conversation, "records/items/abcdefghij01234"]);
    let ready = socket.subscribe(&json!({"subscribe": all})).await;
    client.batch_execute(&publish("b", 3)).await.unwrap();
    let change = socket.take("change").await;
    assert_eq!(change.data["record"]["n"], 3, "what was published before is behind the answer");
    assert_ne!(change.id, ready);
    add(&service, &format!("/api/{conversation}/messages"), json!({"role": "user", "content": "hi"})).await;
    assert_eq!(socket.take("change").await.data["topic"], conversation);

    // Another record of the same collection, and then the first one no more.
    socket.subscribe(&json!({"subscribe": ["records/items/abcdefghij01235"]})).await;
    socket.send(&json!({"unsubscribe": ["records/items/abcdefghij01234", "topic/a", "topic/none"]})).await;
    assert_eq!(socket.take("unsubscribed").await.data["topics"].as_array().unwrap().len(), 3);
    for id in ["abcdefghij01234", "abcdefghij01235"] {
        add(&service, "/api/stress/records/items", json!({"id": id})).await;
    }
    client.batch_execute(&publish("a", 4)).await.unwrap();
    client.batch_execute(&publish("b", 5)).await.unwrap();
    assert_eq!(socket.take("change").await.data["key"], "abcdefghij01235");
    assert_eq!(socket.take("change").await.data["record"]["n"], 5);
    socket.send(&json!({"subscribe": ["records/items"]})).await;
    assert_eq!(socket.error().await, ("invalid_request".into(), "topics".into()), "it includes the record");
}

#[tokio::test]
async fn added_topics_continue_at_their_position_and_join_the_others() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let client = database.connect().await;
    let mut socket = Socket::open(&service, "").await;
    let start = socket.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    // More than a page of the table.
    for lot in 0..6 {
        let values = format!(
            "select tidegate_publish('b', json_build_object('n', n)::jsonb) from generate_series({}, {}) n",
            lot * 500,
            lot * 500 + 499
        );
        client.batch_execute(&values).await.unwrap();
        client.batch_execute(&publish("a", lot)).await.unwrap();
        assert_eq!(socket.take("change").await.data["record"]["n"], lot);
    }
    assert_eq!(socket.subscribe(&json!({"subscribe": ["topic/b"], "from": start})).await, start);
    // While they are read: neither is lost, and a request waits.
    client.batch_execute(&publish("a", 7)).await.unwrap();
    client.batch_execute(&publish("b", 3_000)).await.unwrap();
    socket.send(&json!({"unsubscribe": ["topic/c"]})).await;
    let (mut last, mut seen_a) = (start.clone(), false);
    for n in 0..=3_000 {
        let mut frame = socket.next().await;
        if frame.event == "unsubscribed" {
            frame = socket.next().await;
        }
        if frame.data["topic"] == "topic/a" {
            assert!(n >= 3_000, "it waits: {n}");
            seen_a = true;
            frame = socket.next().await;
        }
        if frame.event == "unsubscribed" {
            frame = socket.next().await;
        }
        assert_eq!((&*frame.event, &frame.data["record"]["n"]), ("change", &json!(n)));
        if n == 1_234 {
            last = frame.id;
        }
    }
    assert!(seen_a);
    // The position of meanwhile is one of all topics: nothing is missed.
    let mut other = Socket::open(&service, "").await;
    let both = json!({"subscribe": ["topic/a", "topic/b"], "from": last});
    assert_eq!(other.subscribe(&both).await, last);
    let mut rest = Vec::new();
    while rest.last() != Some(&3_000) {
        let change = other.take("change").await;
        if change.data["topic"] == "topic/b" {
            rest.push(change.data["record"]["n"].as_i64().unwrap());
        }
    }
    assert_eq!(rest, (1_235..=3_000).collect::<Vec<i64>>());
    // One that is too old.
    let mut third = Socket::open(&service, "").await;
    third.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    let unknown = start.replacen(start.split('.').next().unwrap(), "1", 1);
    third.send(&json!({"subscribe": ["topic/b"], "from": unknown})).await;
    let answer = third.next().await;
    if answer.event == "ready" {
        assert_eq!(third.take("reset").await.data["topics"], json!(["topic/b"]));
    } else {
        assert_eq!(answer.event, "error", "{answer:?}");
    }
    client.batch_execute(&publish("a", 9)).await.unwrap();
    assert_eq!(third.take("change").await.data["record"]["n"], 9);
}

#[tokio::test]
async fn nothing_behind_an_answer_is_missed_or_doubled_while_topics_come_and_go() {
    let database = TestDatabase::create().await;
    let services = [Service::start(database.url(), &[]).await, Service::start(database.url(), &[]).await];
    let mut socket = Socket::open(&services[0], "").await;
    socket.subscribe(&json!({"subscribe": ["topic/all"]})).await;
    let rounds = AtomicUsize::new(0);
    let writing = async {
        let writer = async |writer: usize| {
            let client = database.connect().await;
            let mut n = writer * 1_000_000;
            while rounds.load(Relaxed) < 12 {
                let both = format!("begin; {}; {}; commit", publish("all", n), publish("some", n));
                client.batch_execute(&both).await.unwrap();
                n += 1;
            }
            n - writer * 1_000_000
        };
        let sent: usize = join_all((0..3).map(writer)).await.into_iter().sum();
        database.connect().await.batch_execute(&publish("all", LAST)).await.unwrap();
        sent
    };
    let reading = async {
        // The same numbers come by both topics, as far as the second one is there.
        let (mut all, mut some, mut wanted) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut has_some = false;
        loop {
            let frame = socket.next().await;
            match &*frame.event {
                "ready" => has_some = true,
                "unsubscribed" => {
                    has_some = false;
                    rounds.fetch_add(1, Relaxed);
                }
                "change" => {
                    let n = frame.data["record"]["n"].as_u64().unwrap() as usize;
                    if n == LAST {
                        return (all, some, wanted);
                    }
                    if frame.data["topic"] == "topic/some" {
                        assert!(has_some, "behind its answer only");
                        some.push(n);
                        continue;
                    }
                    all.push(n);
                    if has_some {
                        wanted.insert(n);
                    }
                    match all.len() % 20 {
                        5 => socket.send(&json!({"subscribe": ["topic/some"]})).await,
                        15 => socket.send(&json!({"unsubscribe": ["topic/some"]})).await,
                        _ => {}
                    }
                }
                other => panic!("{other}"),
            }
        }
    };
    let (sent, (all, some, wanted)) = tokio::join!(writing, reading);
    let unique = |numbers: &[usize]| numbers.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!((all.len(), unique(&all).len()), (sent, sent), "none missed, none doubled");
    assert_eq!(unique(&some).len(), some.len(), "none doubled");
    // The second change of a transaction comes behind the first, so each end of the subscription may come between the two.
    let missed = wanted.difference(&unique(&some)).count();
    assert!(missed <= rounds.load(Relaxed), "{missed} of {}", wanted.len());
}

#[tokio::test]
async fn a_bad_frame_is_answered_by_its_fault_and_the_connection_stays() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut socket = Socket::open(&service, "").await;
    for (frame, field) in [
        (json!({}), "subscribe"),
        (json!([]), "body"),
        (json!({"subscribe": ["nonsense"]}), "topics"),
        (json!({"subscribe": ["topic/a"], "from": "nonsense"}), "from"),
        (json!({"subscribe": ["topic/a"], "more": 1}), "more"),
        (json!({"subscribe": {}}), "subscribe"),
        (json!({"unsubscribe": []}), "topics"),
        (json!({"subscribe": (0..2_000).map(|n| format!("topic/{n}")).collect::<Vec<_>>()}), "topics"),
    ] {
        socket.send(&frame).await;
        assert_eq!(socket.error().await, ("invalid_request".into(), field.into()), "{frame}");
    }
    socket.send(&json!({"subscribe": ["conversations/00000000-0000-0000-0000-000000000001"]})).await;
    assert_eq!(socket.error().await.0, "not_found");
    socket.0.send(Message::text("{")).await.unwrap();
    assert_eq!(socket.error().await, ("invalid_request".into(), "body".into()));
    socket.0.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(socket.error().await, ("invalid_request".into(), "body".into()));
    // A thousand topics, and not one more.
    let names = |from: usize| (from..from + 500).map(|n| format!("topic/{n}")).collect::<Vec<_>>();
    socket.subscribe(&json!({"subscribe": names(0)})).await;
    socket.subscribe(&json!({"subscribe": names(500)})).await;
    socket.subscribe(&json!({"subscribe": names(250)})).await;
    socket.send(&json!({"subscribe": ["topic/x"]})).await;
    assert_eq!(socket.error().await, ("invalid_request".into(), "topics".into()));
    database.connect().await.batch_execute(&publish("999", 1)).await.unwrap();
    assert_eq!(socket.take("change").await.data["topic"], "topic/999");
    // What is no message ends it.
    for (message, code) in
        [(Message::text("x".repeat(70_000)), 1009), (Message::binary(vec![0; 1 << 20]), 1009)]
    {
        let mut socket = Socket::open(&service, "").await;
        let _broken = socket.0.send(message).await;
        assert_eq!(socket.error().await.0, "too_large");
        assert_eq!(socket.end().await, code);
    }
    for (bytes, code) in [(&[0x81, 0x81, 0, 0, 0, 0, 0xff][..], 1007), (&[0x83, 0x80, 0, 0, 0, 0], 1002)] {
        use tokio::io::AsyncWriteExt;
        let mut socket = Socket::open(&service, "").await;
        socket.0.get_mut().write_all(bytes).await.unwrap();
        assert_eq!(socket.error().await.0, "invalid_request");
        assert_eq!(socket.end().await, code);
    }
    for (path, headers, status) in [
        (WS, &[("sec-websocket-version", "8")][..], 426),
        ("/api/events/ws?topics=topic/a", &[], 400),
        (WS, &[("authorization", "Bearer nonsense")], 401),
    ] {
        let rejected = Socket::try_open(&service, path, headers).await.err().unwrap();
        assert_eq!(rejected.0, status, "{path} {headers:?}");
    }
    let plain = service.get(WS).await;
    assert_eq!((plain.status.as_u16(), plain.header("upgrade")), (426, "websocket"));
}

#[tokio::test]
async fn a_client_that_subscribes_in_a_loop_waits() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut socket = Socket::open(&service, "").await;
    let began = Instant::now();
    for round in 0..700 {
        // Twice the frames of its allowance, none of which it reads before the next.
        socket.send(&json!({"subscribe": [format!("topic/{}", round % 7)]})).await;
        socket.send(&json!({"unsubscribe": [format!("topic/{}", round % 7)]})).await;
    }
    for _ in 0..700 {
        socket.take("ready").await;
        socket.take("unsubscribed").await;
    }
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    socket.subscribe(&json!({"subscribe": ["topic/x"]})).await;
    database.connect().await.batch_execute(&publish("x", 1)).await.unwrap();
    assert_eq!(socket.take("change").await.data["record"]["n"], 1);
}

#[tokio::test]
async fn a_handshake_of_a_page_of_another_origin_is_rejected() {
    let database = TestDatabase::create().await;
    let app = [("CORS_ORIGINS", "https://app.example")];
    let services = [Service::start(database.url(), &app).await, guarded(&database, &app).await];
    for service in &services {
        let own = format!("http://{}", service.address);
        for (origin, is_allowed) in [
            ("https://app.example", true),
            (own.as_str(), true),
            ("https://app.example.evil", false),
            ("http://app.example", false),
            ("https://evil.example", false),
            ("null", false),
        ] {
            match Socket::try_open(service, WS, &[("origin", origin)]).await {
                Ok(_) => assert!(is_allowed, "{origin}"),
                Err((status, body)) => {
                    assert!(!is_allowed && status == 403 && body.contains("cross_site"), "{origin}: {body}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_token_sends_it_first_and_soon() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("SSE_HEARTBEAT_S", "1")]).await;
    let mut silent = Socket::open(&service, "").await;
    let mut wrong = Socket::open(&service, "").await;
    wrong.send(&json!({"subscribe": ["topic/a"]})).await;
    assert_eq!(wrong.error().await.0, "unauthorized");
    wrong.send(&json!({"auth": "nonsense"})).await;
    assert_eq!(wrong.error().await.0, "unauthorized");
    assert_eq!(wrong.end().await, 1008);

    let orders = key(&database, &["--scope", "realtime:read:orders/", "--scope", "records:read"]).await;
    let mut socket = Socket::open(&service, "").await;
    socket.send(&json!({"auth": orders})).await;
    socket.subscribe(&json!({"subscribe": ["topic/orders/1", "records/items"]})).await;
    for other in ["topic/orders", "topic/other", "topic/Orders/1"] {
        socket.send(&json!({"subscribe": [other]})).await;
        assert_eq!(socket.error().await.0, "forbidden", "{other}");
    }
    // The next token of the same caller, and none of another.
    socket.send(&json!({"auth": token_with(&["admin"])})).await;
    assert_eq!(socket.error().await.0, "another_caller");
    socket.send(&json!({"auth": orders})).await;
    database.connect().await.batch_execute(&publish("orders/1", 1)).await.unwrap();
    assert_eq!(socket.take("change").await.data["record"]["n"], 1);

    // Revoked, it ends at a heartbeat.
    tidegate(&database, &["keys", "revoke", &orders[..11]], "").await.unwrap();
    assert_eq!(socket.take("cut").await.data["reason"], "denied");
    assert_eq!(socket.end().await, 1008);
    // As the one that sent nothing did.
    assert_eq!(silent.error().await.0, "unauthorized");
    assert_eq!(silent.end().await, 1008);

    // A user's next token, and their own conversations.
    let user = register(&service, "ada@example.com").await;
    let tokens = log_in(&service, "ada@example.com").await;
    let made = send(&service, "POST", "/api/conversations", &tokens.access, &json!({})).await.json();
    let own = format!("conversations/{}", made["id"].as_str().unwrap());
    let mut socket = Socket::open(&service, &tokens.access).await;
    socket.subscribe(&json!({"subscribe": [own]})).await;
    let again = log_in(&service, "ada@example.com").await;
    socket.send(&json!({"auth": again.access})).await;
    send(&service, "POST", "/api/auth/logout", &tokens.access, &json!({})).await;
    socket.idle(Duration::from_millis(2_500)).await;
    send(
        &service,
        "POST",
        &format!("/api/{own}/messages"),
        &again.access,
        &json!({"role": "user", "content": "x"}),
    )
    .await;
    assert_eq!(socket.take("change").await.data["topic"], own.as_str(), "{user}");
    send(&service, "POST", "/api/auth/logout", &again.access, &json!({})).await;
    assert_eq!(socket.take("cut").await.data["reason"], "denied");
}

#[tokio::test]
async fn heartbeats_move_the_position_on_and_find_clients_that_are_gone() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SSE_HEARTBEAT_S", "1")]).await;
    let mut socket = Socket::open(&service, "").await;
    let ready = socket.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    database.connect().await.batch_execute(&publish("b", 1)).await.unwrap();
    let frame = socket.any().await;
    assert_eq!((&*frame.event, &frame.data), ("heartbeat", &Value::Null));
    assert_ne!(frame.id, ready);
    let mut later = Socket::open(&service, "").await;
    later.subscribe(&json!({"subscribe": ["topic/a", "topic/b"], "from": frame.id})).await;
    database.connect().await.batch_execute(&publish("b", 2)).await.unwrap();
    assert_eq!(later.take("change").await.data["record"]["n"], 2);
    // The client library answers pings while it is polled: the others are gone.
    eventually("silent clients are gone", async || {
        let _polled = tokio::time::timeout(Duration::from_millis(200), socket.0.next()).await;
        (closed(&service, "client_gone").await == 1.0).then_some(())
    })
    .await;
    database.connect().await.batch_execute(&publish("a", 3)).await.unwrap();
    assert_eq!(socket.take("change").await.data["record"]["n"], 3);
}

#[tokio::test]
async fn a_stop_closes_connections_and_they_count_until_then() {
    let database = TestDatabase::create().await;
    let limits = [("MAX_SUBSCRIBERS", "2"), ("IDLE_TIMEOUT_S", "1"), ("BODY_TIMEOUT_S", "3")];
    let service = Service::start(database.url(), &limits).await;
    let mut one = Socket::open(&service, "").await;
    let two = Socket::open(&service, "").await;
    let (status, body) = Socket::try_open(&service, WS, &[]).await.err().unwrap();
    assert!(status == 503 && body.contains("MAX_SUBSCRIBERS"), "{status} {body}");
    // Longer than any limit of a connection that serves requests.
    tokio::time::sleep(Duration::from_secs(3)).await;
    one.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    assert!(metric(&service, "tidegate_http_connections").await >= 2.0);
    drop(two);
    eventually("it counts no more", async || Socket::try_open(&service, WS, &[]).await.is_ok().then_some(()))
        .await;
    let (stopped, code) = tokio::join!(service.stop(), one.end());
    assert_eq!((stopped.status.code(), code), (Some(0), 1001), "{}", stopped.log);
}

#[tokio::test]
async fn a_long_change_comes_whole_and_a_slow_reader_is_cut_off() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SUBSCRIBER_BYTES", "200000")]).await;
    let client = database.connect().await;
    let long = "é".repeat(300_000);
    let publish = |n: usize| format!("select tidegate_publish('a', '{{\"n\":{n},\"text\":\"{long}\"}}')");
    let mut socket = Socket::open(&service, "").await;
    socket.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    client.batch_execute(&publish(0)).await.unwrap();
    assert_eq!(socket.take("change").await.data["record"]["text"], long.as_str());

    let stream = narrow(&service.address).await;
    let mut slow = Socket::try_open_over(stream, &service, WS, &[]).await.unwrap();
    slow.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    for n in 1..30 {
        client.batch_execute(&publish(n)).await.unwrap();
        assert_eq!(socket.take("change").await.data["record"]["n"], n);
    }
    eventually("it is cut off", async || (closed(&service, "slow_reader").await == 1.0).then_some(())).await;
    eventually("nothing of it is left", async || {
        (metric(&service, "tidegate_followers").await == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn filters_and_forms_of_a_topic_hold_live_and_from_a_position() {
    const ITEMS: &str = "/api/stress/records/items";
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let topic = r#"records/items?options={"filter":"n > 5","fields":"n","changed":true,"leave":true}"#;
    let mut live = Socket::open(&service, "").await;
    live.send(&json!({"subscribe": [topic]})).await;
    let start = live.take("ready").await.id;
    add(&service, ITEMS, json!({"n": 1, "secret": "low"})).await;
    let item = add(&service, ITEMS, json!({"n": 6, "secret": "high"})).await;
    let path = format!("{ITEMS}/{}", item["id"].as_str().unwrap());
    send(&service, "PATCH", &path, "", &json!({"n": 2})).await;
    send(&service, "PATCH", &path, "", &json!({"n": 3})).await;
    add(&service, ITEMS, json!({"n": 7})).await;
    let mut again = Socket::open(&service, "").await;
    again.send(&json!({"subscribe": [topic], "from": start})).await;
    assert_eq!(again.take("ready").await.id, start);
    for socket in [&mut live, &mut again] {
        for (action, n) in [("create", 6), ("leave", 2), ("create", 7)] {
            let change = socket.take("change").await.data;
            assert_eq!((&change["action"], &change["record"]["n"]), (&json!(action), &json!(n)), "{change}");
            assert!(change["record"].get("secret").is_none(), "{change}");
        }
        socket.send(&json!({"subscribe": ["records/items"]})).await;
        assert_eq!(socket.error().await, ("invalid_request".into(), "topics".into()), "other options");
    }
}
