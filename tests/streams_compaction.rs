//! Compaction of streams by key: what is left gives the same state from every offset.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::streams::memory::MemoryStore;
use tidegate::streams::{CreateStream, Freshness, Offset, ReadFrom, StreamStore};

use crate::streams_postgres::{Node, fork_of, json as append, of_json, stream};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

fn compacted() -> CreateStream {
    CreateStream { compacts_by_key: true, ..of_json() }
}

/// A message with the offset at which it begins.
type Placed = (u64, Value);

/// Random messages of the State Protocol, of few keys, and others.
fn random(count: usize) -> Vec<Value> {
    let message = |number: usize| {
        let operation = match fastrand::u8(..20) {
            0 => return json!({"headers": {"control": "reset"}}),
            1 => return json!({"headers": {"control": "snapshot-start"}}),
            2 => return json!({"note": number}),
            3 | 4 => "delete",
            5..=9 => "insert",
            _ => "update",
        };
        let (entity_type, key) = (fastrand::u8(..2).to_string(), fastrand::u8(..4).to_string());
        json!({"type": entity_type, "key": key, "value": "x".repeat(number % 90), "headers": {"operation": operation}})
    };
    (0..count).map(message).collect()
}

type State = BTreeMap<(String, String), Value>;

fn fold(mut state: State, messages: &[Placed]) -> State {
    for (_, message) in messages {
        if message["headers"]["control"] == "reset" {
            state.clear();
        }
        let Some(key) = message["key"].as_str() else { continue };
        let entity = (message["type"].to_string(), key.to_owned());
        match message["headers"]["operation"] == "delete" {
            true => drop(state.remove(&entity)),
            false => drop(state.insert(entity, message["value"].clone())),
        }
    }
    state
}

/// The offsets of the messages that may be removed: a later one has the key, and no control message is in between.
fn replaced(messages: &[Placed]) -> BTreeSet<u64> {
    let (mut later, mut replaced) = (BTreeSet::new(), BTreeSet::new());
    for (offset, message) in messages.iter().rev() {
        if !message["headers"]["control"].is_null() {
            later.clear();
        } else if let Some(key) = message["key"].as_str()
            && !later.insert((message["type"].to_string(), key.to_owned()))
        {
            replaced.insert(*offset);
        }
    }
    replaced
}

/// The messages of a stream from an offset on, read in pages.
async fn read(store: &dyn StreamStore, path: &str, from: u64, max_bytes: usize) -> Vec<Value> {
    let (mut from, mut bytes) = (ReadFrom::At(Offset(from)), Vec::new());
    loop {
        let slice = store.read(&stream(path), from, max_bytes, Freshness::Verified).await.unwrap();
        assert!(slice.is_tail || !slice.bytes.is_empty(), "no page is empty before the end: {slice:?}");
        bytes.extend(slice.bytes.concat());
        if slice.is_tail {
            bytes.pop();
            return serde_json::from_slice(format!("[{}]", String::from_utf8(bytes).unwrap()).as_bytes())
                .unwrap();
        }
        from = ReadFrom::At(slice.next);
    }
}

/// Appends messages, several at once; returns them with their offsets.
async fn fill(store: &dyn StreamStore, path: &str, messages: Vec<Value>, mut at: u64) -> Vec<Placed> {
    let mut placed = Vec::new();
    for group in messages.chunks(1 + fastrand::usize(..7)) {
        let body = Value::Array(group.to_vec()).to_string();
        let appended = store.append(&stream(path), append(&body)).await.unwrap();
        for message in group {
            placed.push((at, message.clone()));
            at += message.to_string().len() as u64 + 1;
        }
        assert_eq!(appended.next, Offset(at));
    }
    placed
}

/// Checks what a compaction left against all messages. Returns how many it removed.
async fn check(store: &dyn StreamStore, path: &str, all: &[Placed]) -> usize {
    let left = read(store, path, 0, 1 << 20).await;
    let replaced = replaced(all);
    // What is left, in order, with what may be removed left out at most.
    let mut found = left.iter().peekable();
    let mut removed = BTreeSet::new();
    for (offset, message) in all {
        match found.peek() == Some(&message) {
            true => drop(found.next()),
            false => drop(removed.insert(*offset)),
        }
    }
    assert_eq!(found.next(), None, "{path}: nothing was added or moved");
    // Equal messages may be taken for each other, so they are counted.
    assert!(removed.len() <= replaced.len(), "{path}");
    let tail = store.get(&stream(path), Freshness::Verified).await.unwrap().tail.0;
    for (place, (offset, _)) in all.iter().enumerate() {
        let rest: Vec<Placed> =
            read(store, path, *offset, 700).await.into_iter().map(|message| (0, message)).collect();
        for state in [State::new(), fold(State::new(), &all[..place])] {
            assert_eq!(fold(state.clone(), &rest), fold(state, &all[place..]), "{path} from {offset}");
        }
    }
    assert_eq!(read(store, path, tail, 100).await, [] as [Value; 0]);
    removed.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_every_offset_what_is_left_in_postgres_gives_the_same_state() {
    let database = TestDatabase::create().await;
    let (node, other) = (Node::start(database.url()), Node::start(database.url()));
    let client = database.connect().await;
    let mut streams = Vec::new();
    for number in 0..6 {
        let path = format!("s/{number}");
        node.create(&path, compacted()).await.unwrap();
        let placed = fill(&*node.store, &path, random(10 + 25 * number), 0).await;
        // The other node has them in its cache.
        assert_eq!(read(&*other.store, &path, 0, 1 << 20).await.len(), placed.len());
        streams.push((path, placed));
    }
    for (path, placed) in &streams {
        let replaced = replaced(placed);
        // However the messages came, the last pass goes through all of them.
        let again =
            "update streams set compacted_to = 0, compacted_bytes = 0, compacts_until = null where path = $1";
        eventually("all that is replaced is removed", async || {
            client.execute(again, &[path]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            (read(&*node.store, path, 0, 1 << 20).await.len() == placed.len() - replaced.len()).then_some(())
        })
        .await;
        for reader in [&node, &other] {
            assert_eq!(check(&*reader.store, path, placed).await, replaced.len());
        }
        let view = r#"select "offset", message from streams_messages where path = $1 order by 1"#;
        let rows = client.query(view, &[path]).await.unwrap();
        let shown: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let left = placed.iter().filter(|(offset, _)| !replaced.contains(offset));
        let left: Vec<(String, String)> =
            left.map(|(offset, message)| (Offset(*offset).to_string(), message.to_string())).collect();
        assert_eq!(shown, left);
    }
    let (path, placed) = &streams[5];
    let generation = async || node.store.get(&stream(path), Freshness::Verified).await.unwrap().generation;
    let chunks = "select count(*), sum(octet_length(bytes))::bigint from stream_chunks c join streams s on s.id = c.stream where s.path = $1";
    let row = client.query_one(chunks, &[path]).await.unwrap();
    let bytes: usize =
        read(&*node.store, path, 0, 1 << 20).await.iter().map(|message| message.to_string().len() + 1).sum();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (1, bytes as i64),
        "bytes are freed, and chunks merged"
    );
    assert!(generation().await > 0);
    // A fork of it shares what is left, and that stays as it is.
    let before = read(&*node.store, path, 0, 1 << 20).await;
    node.create("fork", CreateStream { compacts_by_key: true, ..fork_of(path, None, 0) }).await.unwrap();
    let end = node.tail(path).await.0;
    let more = fill(&*node.store, path, random(60), end).await;
    let of_fork = fill(&*other.store, "fork", random(60), end).await;
    let all: Vec<Placed> = placed.iter().cloned().chain(more).collect();
    let all_of_fork: Vec<Placed> = placed.iter().cloned().chain(of_fork.clone()).collect();
    let began = generation().await;
    eventually("both are compacted behind the place where they differ", async || {
        let forks = node.store.get(&stream("fork"), Freshness::Verified).await.unwrap().generation;
        (generation().await > began && forks > 0).then_some(())
    })
    .await;
    for reader in [&node, &other] {
        for path in [&**path, "fork"] {
            let shared = read(&*reader.store, path, 0, 1 << 20).await;
            assert_eq!(shared[..before.len()], before, "what is shared is as before");
        }
        check(&*reader.store, path, &all).await;
        check(&*reader.store, "fork", &all_of_fork).await;
    }
    let rest = read(&*node.store, "fork", end, 1 << 20).await;
    assert!(rest.len() < of_fork.len(), "{} of {}", rest.len(), of_fork.len());
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn from_every_offset_what_is_left_in_memory_gives_the_same_state() {
    let store = MemoryStore::with_compaction(16 << 20, Duration::from_millis(20));
    for number in 0..8 {
        let path = format!("s/{number}");
        store.create(&stream(&path), compacted()).await.unwrap();
        // As many as fill chunks, at last.
        let mut placed = fill(&store, &path, random(5 + 150 * number), 0).await;
        let used = store.used();
        eventually("it is compacted", async || {
            store.get(&stream(&path), Freshness::Verified).await.unwrap();
            let left = read(&store, &path, 0, 1 << 20).await;
            (left.len() < placed.len() || replaced(&placed).is_empty()).then_some(())
        })
        .await;
        check(&store, &path, &placed).await;
        let head = store.get(&stream(&path), Freshness::Verified).await.unwrap();
        assert_eq!(head.generation > 0, !replaced(&placed).is_empty());
        if number > 2 {
            assert!(store.used() < used, "its memory is free");
        }
        // What a fork shares stays, also where it is appended to meanwhile.
        let before = read(&store, &path, 0, 1 << 20).await;
        let fork = format!("f/{number}");
        store.create(&stream(&fork), fork_of(&path, None, 0)).await.unwrap();
        let more = fill(&store, &path, random(100), head.tail.0).await;
        let last =
            head.tail.0 + more.iter().map(|(_, message)| message.to_string().len() as u64 + 1).sum::<u64>();
        placed.extend(more);
        let tail = fill(&store, &path, random(1), last).await;
        placed.extend(tail);
        eventually("it is compacted behind the fork", async || {
            read(&store, &path, 0, 1 << 20).await;
            let now = store.get(&stream(&path), Freshness::Verified).await.unwrap();
            (now.generation > head.generation).then_some(())
        })
        .await;
        assert_eq!(read(&store, &fork, 0, 1 << 20).await, before);
        assert_eq!(read(&store, &path, 0, 1 << 20).await[..before.len()], before);
        check(&store, &path, &placed).await;
        store.delete(&stream(&fork)).await.unwrap();
        store.delete(&stream(&path)).await.unwrap();
    }
    assert_eq!(store.used(), 0, "what was counted is free");
}

async fn get(service: &Service, target: &str) -> Answer {
    service.get(&format!("/v1/stream/{target}")).await
}

#[tokio::test]
async fn compaction_is_asked_for_on_put_and_compared_and_its_generation_is_in_the_tags() {
    let database = TestDatabase::create().await;
    for store in ["memory", "postgres"] {
        let variables =
            [("MODULES", "events,streams"), ("STREAMS_STORE", store), ("STREAMS_COMPACT_AFTER_S", "1")];
        let service = Service::start(database.url(), &variables).await;
        let put = async |path: &str, content_type: &str, compaction: &str| {
            let headers = [("content-type", content_type), ("stream-compaction", compaction)];
            let headers = if compaction.is_empty() { &headers[..1] } else { &headers[..] };
            service.request("PUT", &format!("/v1/stream/{path}"), headers, "").await
        };
        let json_type = "application/json";
        assert_eq!(put("a", json_type, "key").await.status, 201);
        assert_eq!(put("a", json_type, "key").await.status, 200);
        assert_eq!(put("a", json_type, "").await.status, 409);
        assert_eq!(put("plain", json_type, "").await.status, 201);
        assert_eq!(put("plain", json_type, "key").await.status, 409);
        for (content_type, compaction) in [("text/plain", "key"), (json_type, "KEY"), (json_type, "key, key")]
        {
            let refused = put("bad", content_type, compaction).await;
            assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (400, "invalid_request"));
            assert_eq!(refused.json()["error"]["field"], "stream-compaction");
        }
        let head = service.request("HEAD", "/v1/stream/a", &[], "").await;
        assert_eq!(head.header("stream-compaction"), "key");
        let change = |value: usize| {
            json!({"type": "t", "key": "k", "value": value, "headers": {"operation": "update"}}).to_string()
        };
        for path in ["a", "plain"] {
            for value in 0..5 {
                let headers = [("content-type", json_type)];
                service.request("POST", &format!("/v1/stream/{path}"), &headers, change(value)).await;
            }
        }
        let first = get(&service, "a?offset=-1").await;
        let next = first.header("stream-next-offset").to_owned();
        let second = Offset(change(0).len() as u64 + 1);
        let (tag, tag_of_head) = (first.header("etag").to_owned(), head.header("etag").to_owned());
        let compacted = eventually("it is compacted", async || {
            let answer = get(&service, "a?offset=-1").await;
            (answer.json() == json!([serde_json::from_str::<Value>(&change(4)).unwrap()])).then_some(answer)
        })
        .await;
        assert_eq!(compacted.header("stream-next-offset"), next, "offsets stay");
        assert_ne!(compacted.header("etag"), tag);
        let known = [("if-none-match", &*tag)];
        let again = service.request("GET", "/v1/stream/a?offset=-1", &known, "").await;
        assert_eq!(again.status, 200, "other bytes are not the known ones");
        assert_ne!(service.request("HEAD", "/v1/stream/a", &[], "").await.header("etag"), tag_of_head);
        // Each offset that a client may have is one still, one within a message is none.
        let from = get(&service, &format!("a?offset={second}")).await;
        assert_eq!((from.json(), from.header("stream-up-to-date")), (compacted.json(), "true"));
        assert_eq!(get(&service, &format!("a?offset={next}")).await.json(), json!([]));
        let within = Offset(Offset::parse(&next).unwrap().0 - 3);
        assert_eq!(get(&service, &format!("a?offset={within}")).await.status, 400);
        assert_eq!(get(&service, "plain?offset=-1").await.json().as_array().unwrap().len(), 5);
        assert!(service.stop().await.status.success());
    }
}
