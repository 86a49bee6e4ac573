//! Streams in SQL: the view of their messages, and appends in transactions of users.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tidegate::streams::{
    Append, AppendBody, ContentType, CreateStream, Lifetime, Offset, ReadFrom, StreamStore,
};
use tokio_postgres::Client;

use crate::streams_postgres::{Node, fork_of, json, of_json, of_text, stream, text};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::metric;

/// A row of the view: offset, message, JSON as text.
type Message = (String, Option<String>, Option<String>);

async fn messages(client: &Client, path: &str) -> Vec<Message> {
    let query =
        r#"select "offset", message, json::text from streams_messages where path = $1 order by "offset""#;
    let rows = client.query(query, &[&path]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn message(offset: u64, message: &str, json: Option<&str>) -> Message {
    (Offset(offset).to_string(), Some(message.to_owned()), json.map(str::to_owned))
}

#[tokio::test]
async fn the_view_has_each_message_of_living_streams_with_its_offset_and_its_time() {
    let database = TestDatabase::create().await;
    let node = Node::start(database.url());
    let client = database.connect().await;
    node.create("j", of_json()).await.unwrap();
    node.append("j", json(r#"[{"b":1.0, "a":2}, "\u0000", "\ud800x", [1]]"#)).await.unwrap();
    let huge = format!("1{}", "0".repeat(200_000));
    node.append("j", json(&huge)).await.unwrap();
    let found = messages(&client, "j").await;
    let expected = [
        message(0, r#"{"b":1.0, "a":2}"#, Some(r#"{"a": 2, "b": 1.0}"#)),
        message(17, r#""\u0000""#, None),
        message(26, r#""\ud800x""#, None),
        message(36, "[1]", Some("[1]")),
        message(40, &huge, None),
    ];
    assert_eq!(found, expected);
    // Each is what a read from its offset begins with.
    for (offset, message, _) in found {
        let from = ReadFrom::At(Offset::parse(&offset).unwrap());
        assert!(node.read_from("j", from, 1 << 20).await.unwrap().starts_with(&(message.unwrap() + ",")));
    }

    node.create("t", of_text()).await.unwrap();
    node.append("t", text("hello ")).await.unwrap();
    let bytes = AppendBody::of_bytes(Bytes::from_static(b"\xff\x00"));
    node.append("t", Append { body: bytes, ..text("") }).await.unwrap();
    node.append("t", text("w\u{f6}rld")).await.unwrap();
    let of_text_stream =
        [message(0, "hello ", None), (Offset(6).to_string(), None, None), message(8, "w\u{f6}rld", None)];
    assert_eq!(messages(&client, "t").await, of_text_stream);

    // A fork has what it inherits: here two messages of an append of four, and a part of an append of text.
    node.create("fork", fork_of("j", Some(0), 2)).await.unwrap();
    node.append("fork", json("\"f\"")).await.unwrap();
    node.create("fork of it", fork_of("fork", Some(17), 0)).await.unwrap();
    node.create("cut", fork_of("t", Some(0), 3)).await.unwrap();
    node.append("cut", text("p")).await.unwrap();
    node.store.delete(&stream("j")).await.unwrap();
    assert_eq!(messages(&client, "j").await, [], "it is deleted, and kept for its fork");
    let of_fork = [expected[0].clone(), expected[1].clone(), message(26, "\"f\"", Some("\"f\""))];
    assert_eq!(messages(&client, "fork").await, of_fork);
    assert_eq!(messages(&client, "fork of it").await, expected[..1]);
    assert_eq!(messages(&client, "cut").await, [message(0, "hel", None), message(3, "p", None)]);

    let short = CreateStream { lifetime: Some(Lifetime::Ttl(1)), ..of_text() };
    node.create("short", short).await.unwrap();
    node.append("short", text("x")).await.unwrap();
    eventually("an expired stream has none", async || {
        messages(&client, "short").await.is_empty().then_some(())
    })
    .await;

    // Merged chunks keep messages and their times.
    let upper_case = Some(ContentType::parse("Application/JSON; charset=utf-8").unwrap());
    node.create("m", CreateStream { content_type: upper_case, ..of_json() }).await.unwrap();
    for number in 0..40 {
        node.append("m", json(&format!("[{number}, {number}]"))).await.unwrap();
    }
    let before = messages(&client, "m").await;
    assert_eq!(before.len(), 80);
    let times = "select count(distinct at), count(*) from streams_messages where path = 'm'";
    let times_before = client.query_one(times, &[]).await.unwrap().get::<_, i64>(0);
    client.batch_execute("update stream_chunks set at = at - interval '1 minute'").await.unwrap();
    eventually("the chunks are merged", async || {
        let chunks =
            "select count(*) from stream_chunks c join streams s on s.id = c.stream where s.path = 'm'";
        (client.query_one(chunks, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    assert_eq!(messages(&client, "m").await, before);
    assert_eq!(client.query_one(times, &[]).await.unwrap().get::<_, i64>(0), times_before);
    assert_eq!(times_before, 40, "an append has one time");
    node.stop().await;
}

#[tokio::test]
async fn appends_of_a_transaction_come_with_its_commit_and_bad_ones_are_kept_with_their_reason() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let variables = [("MODULES", "events,streams"), ("STREAMS_REGISTRY_PATH", "registry")];
    let (service, other) =
        (Service::start(database.url(), &variables).await, Service::start(database.url(), &variables).await);
    for (path, content_type) in [("j", "application/json"), ("t", "text/plain"), ("closed", "text/plain")] {
        let headers = [("content-type", content_type)];
        let made = service.request("PUT", &format!("/v1/stream/{path}"), &headers, "").await;
        assert_eq!(made.status, 201);
    }
    service.request("POST", "/v1/stream/closed", &[("stream-closed", "true")], "").await;
    let read = async |path: &str| {
        let answer = other.get(&format!("/v1/stream/{path}")).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let live = other.get("/v1/stream/t?offset=-1&live=long-poll");
    let append = async {
        client
            .batch_execute(
                "begin; select tidegate_append('t', 'lost'::bytea); rollback;
                 begin; select tidegate_append('t', 'first '::bytea); select tidegate_append('j', '{\"n\": 1}'::jsonb);
                 select tidegate_append('t', 'second'::bytea); select tidegate_append('j', '[2, [3]]'::jsonb);
                 select tidegate_append('j', convert_to('[4.0, \"\\u0000\"]', 'UTF8')); commit;",
            )
            .await
            .unwrap();
    };
    let (live, ()) = tokio::join!(live, append);
    assert!(live.body.starts_with(b"first "), "a live reader of any node is woken: {live:?}");
    eventually("the appends are moved", async || {
        (read("t").await == "first second" && read("j").await == r#"[{"n": 1},2,[3],4.0,"\u0000"]"#)
            .then_some(())
    })
    .await;

    let bad = "select tidegate_append('none', 'x'::bytea); select tidegate_append('closed', 'x'::bytea);
        select tidegate_append('t', '{}'::jsonb); select tidegate_append('j', '{'::bytea);
        select tidegate_append('registry', '{}'::jsonb); select tidegate_append('__ds/x', 'x'::bytea);
        select tidegate_append('t', ' third'::bytea); select tidegate_append('j', '5'::jsonb)";
    client.batch_execute(&format!("begin; {bad}; commit")).await.unwrap();
    eventually("those behind them are moved", async || {
        (read("t").await == "first second third" && read("j").await.ends_with(",5]")).then_some(())
    })
    .await;
    let rows = "select path, error from stream_inbox where failed_at is not null order by id";
    let rows = client.query(rows, &[]).await.unwrap();
    let errors: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let paths: Vec<&str> = errors.iter().map(|(path, _)| &**path).collect();
    assert_eq!(paths, ["none", "closed", "t", "j", "registry", "__ds/x"], "{errors:?}");
    for (place, part) in
        [(0, "no such stream"), (1, "closed"), (2, "text/plain"), (3, "not valid JSON"), (4, "registry")]
    {
        assert!(errors[place].1.contains(part), "{errors:?}");
    }
    let mut counted = 0.0;
    for node in [&service, &other] {
        eventually("health counts them", async || {
            (node.health().await["stream_inbox"]["failed"] == 6).then_some(())
        })
        .await;
        assert_eq!(node.health().await["stream_inbox"]["waiting"], 0);
        assert_eq!(metric(node, "tidegate_stream_inbox_rows{state=\"failed\"}").await, 6.0);
        counted += metric(node, "tidegate_stream_inbox_total{outcome=\"failed\"}").await;
    }
    assert_eq!(counted, 6.0, "each is counted once, by the node that found it");
    let logged = |node: &Service| node.log().matches("cannot be moved to their streams").count();
    assert!((1..=6).contains(&(logged(&service) + logged(&other))));

    // Without its reason a row is tried again.
    assert_eq!(
        service.request("PUT", "/v1/stream/none", &[("content-type", "text/plain")], "").await.status,
        201
    );
    client.batch_execute("update stream_inbox set error = null where path = 'none'").await.unwrap();
    eventually("the row is moved", async || (read("none").await == "x").then_some(())).await;
    for (path, data, code) in [
        ("null", "'x'::bytea", "22023"),
        ("''", "'x'::bytea", "22023"),
        ("repeat('x', 1025)", "'x'::bytea", "22023"),
        ("'t'", "''::bytea", "22023"),
        ("'t'", "null::bytea", "22023"),
        ("'j'", "'[]'::jsonb", "22023"),
        ("'j'", "null::jsonb", "22023"),
        ("'t'", "convert_to(repeat('x', 33554433), 'UTF8')", "22023"),
    ] {
        let refused =
            client.batch_execute(&format!("select tidegate_append({path}, {data})")).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), code, "{path} {data}: {refused:?}");
    }
}

#[tokio::test]
async fn a_role_with_its_grants_appends_and_reads() {
    let database = TestDatabase::create().await;
    let node = Node::start(database.url());
    node.create("t", of_text()).await.unwrap();
    let client = database.connect().await;
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("create role {role}")).await.unwrap();
    let append = format!("set role {role}; select tidegate_append('t', 'x'::bytea)");
    let refused = database.connect().await.batch_execute(&append).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501", "{refused:?}");
    let grants =
        crate::support::accounts::tidegate(&database, &["grants", "--appender", &role], "").await.unwrap();
    client.batch_execute(&grants).await.unwrap();
    database.connect().await.batch_execute(&append).await.unwrap();
    eventually("it is moved", async || (node.read("t").await == "x").then_some(())).await;
    let reader = database.connect().await;
    reader.batch_execute(&format!("set role {role}")).await.unwrap();
    assert_eq!(messages(&reader, "t").await, [message(0, "x", None)]);
    for own in
        ["select from stream_inbox", "select from streams", "select tidegate_append_row('t', 'x', false)"]
    {
        assert_eq!(reader.batch_execute(own).await.unwrap_err().code().unwrap().code(), "42501", "{own}");
    }
    node.stop().await;
    client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}

#[tokio::test]
async fn rows_of_a_locked_stream_wait_and_delay_no_other() {
    let database = TestDatabase::create().await;
    let node = Node::start(database.url());
    for path in ["locked", "free"] {
        node.create(path, of_text()).await.unwrap();
    }
    let (holder, client) = (database.connect().await, database.connect().await);
    holder.batch_execute("begin; select from streams where path = 'locked' for update").await.unwrap();
    // More than are moved at once.
    let rows =
        "select tidegate_append('locked', convert_to(n || ' ', 'UTF8')) from generate_series(1, 1500) n";
    client.batch_execute(rows).await.unwrap();
    for number in 1..=3 {
        client.batch_execute("select tidegate_append('free', 'x'::bytea)").await.unwrap();
        eventually("the other stream grows", async || {
            (node.tail("free").await == Offset(number)).then_some(())
        })
        .await;
    }
    holder.batch_execute("commit").await.unwrap();
    let expected: String = (1..=1500).map(|n| format!("{n} ")).collect();
    eventually("its rows are moved in order", async || (node.read("locked").await == expected).then_some(()))
        .await;
    node.stop().await;
}

/// Appends by several connections, in transactions of a few calls, until it is told to stop; returns how many each has committed.
async fn write(database: &TestDatabase, paths: &[&str], stopped: &AtomicBool) -> Vec<usize> {
    let writers = (0..4).map(|writer| async move {
        let client = database.connect().await;
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            let calls: Vec<String> = (0..5)
                .flat_map(|number| {
                    let data = format!("<{writer}:{}>", count + number);
                    paths.iter().map(move |path| format!("select tidegate_append('{path}', '{data}'::bytea)"))
                })
                .collect();
            client.batch_execute(&format!("begin; {}; commit", calls.join("; "))).await.unwrap();
            // As often rolled back.
            client.batch_execute(&format!("begin; {}; rollback", calls.join("; "))).await.unwrap();
            count += 5;
        }
        count
    });
    join_all(writers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_moved_once_and_in_order_though_nodes_are_killed() {
    let database = TestDatabase::create().await;
    let variables = [("MODULES", "events,streams")];
    let paths = ["k/0", "k/1", "k/2"];
    let steady = Service::start(database.url(), &variables).await;
    for path in paths {
        let (target, headers) = (format!("/v1/stream/{path}"), [("content-type", "text/plain")]);
        assert_eq!(steady.request("PUT", &target, &headers, "").await.status, 201);
    }
    let stopped = AtomicBool::new(false);
    let drill = async {
        // Each of these moves rows in its turn, and is killed while it does.
        for _ in 0..4 {
            let victim = Service::start(database.url(), &variables).await;
            eventually("it moves rows", async || {
                (metric(&victim, "tidegate_stream_inbox_total{outcome=\"moved\"}").await > 0.0).then_some(())
            })
            .await;
            victim.signal(Signal::SIGKILL);
            victim.ended().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        stopped.store(true, Ordering::Relaxed);
    };
    let ((), counts) = tokio::join!(drill, write(&database, &paths, &stopped));
    let client = database.connect().await;
    eventually("the inbox is empty", async || {
        client.query("select from stream_inbox", &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
    for path in paths {
        let body = steady.get(&format!("/v1/stream/{path}")).await.body;
        let read = String::from_utf8(body.to_vec()).unwrap();
        let mut next: BTreeMap<usize, usize> = BTreeMap::new();
        for entry in read.trim_end_matches('>').split('>') {
            let (writer, number) = entry.trim_start_matches('<').split_once(':').unwrap();
            let expected = next.entry(writer.parse().unwrap()).or_default();
            assert_eq!(number.parse::<usize>().unwrap(), *expected, "{path}: of writer {writer}");
            *expected += 1;
        }
        let found: Vec<usize> = next.into_values().collect();
        assert_eq!(found, counts, "{path}: each is there once, and in order");
    }
}
