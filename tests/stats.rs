//! The topic `stats`: the service's figures, once a second.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use eventsource_stream::Event;
use serde_json::{Value, json};

use crate::realtime::publish;
use crate::support::accounts::{guarded, token_with};
use crate::support::postgres::{PrivateServer, TestDatabase};
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;
use crate::support::websocket::Socket;

async fn open(service: &Service, topics: &str) -> EventStream {
    EventStream::open(service, &format!("/api/events/stream?topics={topics}"), &[]).await
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

/// The next figures of a stream that has no other events.
async fn figures(stream: &mut EventStream) -> Event {
    let event = stream.take(1).await.remove(0);
    assert_eq!((&*event.event, &*event.id), ("stats", ""));
    event
}

#[tokio::test]
async fn figures_come_once_a_second_and_are_the_same_for_all() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (mut one, mut other) = (open(&service, "stats").await, open(&service, "stats").await);
    for stream in [&mut one, &mut other] {
        let ready = stream.take(1).await.remove(0);
        assert_eq!((&*ready.event, &*ready.id, data(&ready)), ("ready", "", json!({"position": null})));
        figures(stream).await;
    }
    // The first ones may be older than the second stream.
    while data(&figures(&mut one).await)["realtime"]["subscribers"] != 2 {}
    for _ in 0..7 {
        assert_eq!(service.post(&[("prefer", "wait=10")], "{}").await.status.as_u16(), 201);
    }
    let began = Instant::now();
    let (mut own, mut others) = (Vec::new(), BTreeSet::new());
    for _ in 0..4 {
        own.push(figures(&mut one).await.data);
        others.insert(figures(&mut other).await.data);
    }
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(own.iter().filter(|one| others.contains(*one)).count() >= 3, "{own:?} {others:?}");
    let all: Vec<Value> = own.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let last = all.last().unwrap();
    let (health, keys) = (service.health().await, |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    });
    assert!(keys(last).is_superset(&keys(&health)), "{last}");
    assert_eq!((&last["accepted"], &last["committed"], &last["pending"]), (&json!(7), &json!(7), &json!(0)));
    assert_eq!((&last["lanes"]["count"], &last["lanes"]["busy"]), (&json!(2), &json!(0)));
    for state in ["accepted", "committed", "duplicates", "dead", "discarded", "quarantined", "pending"] {
        assert!(last["ledger"][state].is_u64(), "{state}: {last}");
    }
    let acks = all.iter().map(|one| one["last_second"]["acks"]["committed"]["count"].as_u64().unwrap_or(0));
    assert_eq!(acks.sum::<u64>(), 7, "{all:?}");
    let of_acks = |one: &&Value| one["last_second"]["acks"]["committed"]["count"] != 0;
    let acked = all.iter().find(of_acks).unwrap();
    let latency = &acked["last_second"]["acks"]["committed"];
    let ms = |name: &str| latency[name].as_f64().unwrap();
    assert!(0.0 < ms("p50_ms") && ms("p50_ms") <= ms("p95_ms") && ms("p95_ms") <= ms("p99_ms"), "{latency}");
    assert_eq!(acked["last_second"]["acks"]["queued"]["p50_ms"], Value::Null);
    assert!(acked["last_second"]["copies"]["count"].as_u64().unwrap() > 0, "{acked}");
}

#[tokio::test]
async fn figures_and_changes_share_a_stream_and_only_changes_have_positions() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let client = database.connect().await;
    let mut stream = open(&service, "topic/a,stats").await;
    let ready = stream.take(1).await.remove(0);
    assert_eq!((&*ready.event, data(&ready)), ("ready", json!({"position": ready.id})));
    client.batch_execute(&publish("a", 1)).await.unwrap();
    let (mut position, mut seen, mut changes) = (ready.id, 0, 0);
    while seen < 2 || changes < 1 {
        let event = stream.take(1).await.remove(0);
        match &*event.event {
            // The parser repeats the last id, as browsers do.
            "stats" => {
                assert_eq!(event.id, position);
                seen += 1;
            }
            "change" => {
                position = event.id;
                changes += 1;
            }
            other => panic!("{other}"),
        }
    }
    drop(stream);

    let mut socket = Socket::open(&service, "").await;
    assert_eq!(socket.subscribe(&json!({"subscribe": ["stats"]})).await, "");
    let frame = socket.take("stats").await;
    assert_eq!((&*frame.id, &frame.data["status"]), ("", &json!("ok")));
    socket.send(&json!({"subscribe": ["topic/b"]})).await;
    let of_feed = |frame: &crate::support::websocket::Frame| frame.event != "stats";
    let mut frame = socket.next().await;
    while !of_feed(&frame) {
        frame = socket.next().await;
    }
    assert!(frame.event == "ready" && !frame.id.is_empty(), "{frame:?}");
    socket.send(&json!({"unsubscribe": ["stats"]})).await;
    while socket.next().await.event != "unsubscribed" {}
    socket.idle(Duration::from_millis(1_500)).await;
    socket.send(&json!({"subscribe": ["stats"], "from": position})).await;
    assert_eq!(socket.error().await, ("invalid_request".into(), "from".into()));
    let path = format!("/api/events/stream?topics=stats&from={position}");
    assert_eq!(service.get(&path).await.json()["error"]["field"], "from");
}

#[tokio::test]
async fn figures_require_their_scope() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    for (topics, scopes, expected) in [
        ("stats", vec![], 401),
        ("stats", vec!["realtime:read"], 403),
        ("topic/a,stats", vec!["realtime:read"], 403),
        ("stats", vec!["ops:read"], 200),
        ("topic/a,stats", vec!["ops:read"], 403),
        ("topic/a,stats", vec!["realtime:read", "ops:read"], 200),
    ] {
        let bearer = format!("Bearer {}", token_with(&scopes));
        let headers = [("authorization", bearer.as_str())];
        let headers = if scopes.is_empty() { &[][..] } else { &headers };
        let path = format!("/api/events/stream?topics={topics}");
        assert_eq!(
            EventStream::open(&service, &path, headers).await.status.as_u16(),
            expected,
            "{topics} {scopes:?}"
        );
    }
}

#[tokio::test]
async fn figures_alone_need_no_postgres() {
    let mut server = PrivateServer::start(&[]).await;
    let service = Service::start(server.url(), &[]).await;
    server.stop_immediate().await;
    let mut stream = open(&service, "stats").await;
    assert_eq!(stream.take(1).await[0].event, "ready");
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    eventually("the event is pending", async || {
        let figures = data(&figures(&mut stream).await);
        (figures["pending"] == 1 && figures["writer"]["state"] != "running").then_some(())
    })
    .await;
    let mut socket = Socket::open(&service, "").await;
    socket.subscribe(&json!({"subscribe": ["stats"]})).await;
    assert_eq!(socket.take("stats").await.data["pending"], 1);
}
