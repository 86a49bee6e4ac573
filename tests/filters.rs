//! Filter expressions: in SQL and in memory, on lists and on streams of changes.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tidegate::realtime::Members;
use tidegate::records::{Expression, Made, RequestAuth, Subject};
use tidegate::time::Millis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::records::create;
use crate::support::accounts::send;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};
use crate::support::sse::{EventStream, metric};

const ITEMS: &str = "/api/stress/records/items";

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

async fn list(service: &Service, filter: &str) -> Answer {
    service.get(&format!("{ITEMS}?limit=1000&filter={}", encoded(filter))).await
}

fn ids(answer: &Answer) -> BTreeSet<String> {
    let list = answer.json();
    list.as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
}

fn any_of<T: Clone>(values: &[T]) -> T {
    values[fastrand::usize(..values.len())].clone()
}

/// A random value of a member.
fn value(depth: usize) -> Value {
    let scalars = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(10),
        json!(9.5),
        json!(0.1),
        json!("10"),
        json!("9"),
        json!("a"),
        json!("A"),
        json!("B"),
        json!("é"),
        json!("É"),
        json!("a'b"),
        json!("a\"b\\"),
        json!("null"),
        json!(""),
        json!("50%"),
        json!("x_y"),
        json!("xay"),
        json!("%"),
        json!("2026-11-30T08:00:00.000Z"),
        json!("[1, 2]"),
        json!("a\nb"),
    ];
    match fastrand::usize(..6) {
        0 if depth > 0 => {
            Value::from((0..fastrand::usize(..4)).map(|_| value(depth - 1)).collect::<Vec<_>>())
        }
        1 if depth > 0 => json!({"x": value(depth - 1), "0": value(depth - 1)}),
        _ => any_of(&scalars),
    }
}

fn operand(id: &str) -> String {
    let fields =
        ["a", "b", "c", "a.x", "b.0", "a.0.x", "b.00", "id", "created", "updated", "missing", "id.x"];
    let literals = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "10.0",
        "9.50",
        "0.10",
        "99999999999999999999",
        "''",
        "\"a\"",
        "'A'",
        "'é'",
        "'10'",
        "'50%'",
        "'5%'",
        "'%'",
        "'_'",
        "'x_y'",
        r"'50\%'",
        r"'\x'",
        r"'a\'b'",
        "'[1, 2]'",
        "'[]'",
        "'{'",
        "'2026-11'",
        "'2026-11-30 08:00:00.000Z'",
        "'2026-11-30T08:00:00.000Z'",
        "@now",
        "@yesterday",
        "@year",
        "@request.auth.id",
        "@request.auth.none",
        "'%a%b'",
        "'a\nb'",
        "'_b'",
    ];
    match fastrand::usize(..9) {
        0..=4 => any_of(&fields).to_owned() + any_of(&["", "", "", ":each", ":length", ":lower"]),
        5 => format!("'{id}'"),
        _ => any_of(&literals).to_owned(),
    }
}

fn expression(depth: usize, id: &str) -> String {
    match fastrand::usize(..4) {
        0 if depth > 0 => format!("{} && {}", expression(depth - 1, id), expression(depth - 1, id)),
        1 if depth > 0 => format!("({} || {})", expression(depth - 1, id), expression(depth - 1, id)),
        _ => {
            let operator = any_of(&["=", "!=", ">", ">=", "<", "<=", "~", "!~"]);
            format!("{} {}{operator} {}", operand(id), any_of(&["", "?"]), operand(id))
        }
    }
}

#[tokio::test]
async fn sql_and_memory_decide_every_filter_alike() {
    fastrand::seed(11);
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({})).await;
    let client = database.connect().await;
    let table =
        client.query_one("select 'records_' || id from collections where name = 'items'", &[]).await.unwrap();
    let table: String = table.get(0);
    for n in 0..150_i32 {
        let data = json!({"a": value(2), "b": value(2), "c": value(1), "d": value(0)});
        let insert = format!(
            "insert into {table} (id, version, created, updated, data)
             values (lpad($1::integer::text, 15, '0'), 1, $2::text::timestamptz, $3::text::timestamptz, $4::text::jsonb)"
        );
        let times = [
            "2026-11-30T08:00:00Z",
            "2026-11-30T08:00:00.0005Z",
            "2026-11-30T08:00:00.001Z",
            "2025-01-01T00:00:00Z",
        ];
        let (created, updated) = (any_of(&times), any_of(&times));
        client.execute(&insert, &[&n, &created, &updated, &data.to_string()]).await.unwrap();
    }
    let rows =
        client.query(&format!("select id, created, updated, data::text from {table}"), &[]).await.unwrap();
    let (mut cases, mut holding) = (0, 0);
    for _ in 0..60 {
        let filters: Vec<String> = (0..10).map(|n| expression(2, &format!("{n:015}"))).collect();
        let answers = join_all(filters.iter().map(|filter| list(&service, filter))).await;
        for (filter, answer) in filters.iter().zip(answers) {
            assert_eq!(answer.status.as_u16(), 200, "{filter}: {answer:?}");
            let expression = Expression::parse(filter, RequestAuth::default()).unwrap();
            let mut found = BTreeSet::new();
            for row in &rows {
                let (id, data): (&str, &str) = (row.get(0), row.get(3));
                let time = |column| Millis::from(row.get::<_, SystemTime>(column));
                let made = Made { id, created: time(1), updated: Some(time(2)) };
                let subject = Subject { made: Some(made), data, members: &Members::of(data) };
                if expression.matches(&subject, Millis::now()).unwrap() {
                    found.insert(id.to_owned());
                }
            }
            let listed = ids(&answer);
            let differing: Vec<_> = listed.symmetric_difference(&found).collect();
            if let Some(id) = differing.first() {
                let row = rows.iter().find(|row| row.get::<_, &str>(0) == id.as_str()).unwrap();
                panic!("{filter}\n{row:?} {}\nSQL: {}", row.get::<_, &str>(3), listed.contains(*id));
            }
            cases += rows.len();
            holding += found.len();
        }
    }
    assert!(holding > cases / 20 && holding < cases * 19 / 20, "{holding} of {cases}");
}

#[tokio::test]
async fn a_list_takes_a_filter_beside_the_others() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for n in 0..30 {
        let tags = if n % 2 == 0 { json!(["even", "n"]) } else { json!([]) };
        create(&service, &json!({"n": n, "tags": tags, "title": format!("Item {n}")})).await;
    }
    let numbers = async |filter: &str| -> Vec<i64> {
        let mut numbers: Vec<i64> = list(&service, filter)
            .await
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["n"].as_i64().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers("n < 3 || title ~ 'ITEM 29'").await, [0, 1, 2, 29]);
    assert_eq!(numbers("n >= 27 && tags:each ?= 'even'").await, [28]);
    assert_eq!(numbers("n >= 27 && tags:length = 0").await, [27, 29]);
    assert_eq!(numbers("created > @yesterday && created <= @tomorrow && n = 4").await, [4]);
    let page = format!(
        "{ITEMS}?filter={}&filter_n=gte:20&sortBy=-n&limit=3&count=exact",
        encoded("tags:length > 0")
    );
    let page = service.get(&page).await;
    assert_eq!(page.header("x-total-count"), "5");
    let shown: Vec<i64> = page.json().as_array().unwrap().iter().map(|r| r["n"].as_i64().unwrap()).collect();
    assert_eq!(shown, [28, 26, 24]);
    let next = page.header("link").strip_prefix('<').unwrap().split('>').next().unwrap();
    let shown: Vec<i64> =
        service.get(next).await.json().as_array().unwrap().iter().map(|r| r["n"].as_i64().unwrap()).collect();
    assert_eq!(shown, [22, 20]);
    for bad in
        ["", "n", "n = ", "n = 1 &&", "@collection.x.y = 1", "(n = 1", "n = 'x", "geoDistance(1,2,3,4) < 1"]
    {
        let refused = list(&service, bad).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["field"]),
            (400, &json!("filter")),
            "{bad}"
        );
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("at character"), "{refused:?}");
    }
    let twice = service.get(&format!("{ITEMS}?filter=n%3D1&filter=n%3D2")).await;
    assert_eq!(twice.status.as_u16(), 400);
}

#[tokio::test]
async fn the_largest_filter_is_decided_in_time() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({"a": 1})).await;
    for (filter, expected) in [("a:each!~b:each", 0), ("a<b", 0), ("a.b:lower>=a", 0), ("a=1", 1)] {
        let answer = list(&service, &vec![filter; 200].join("||")).await;
        assert_eq!(answer.status.as_u16(), 200, "{filter} {answer:?}");
        assert_eq!(answer.json().as_array().unwrap().len(), expected, "{filter}");
    }
}

async fn add(service: &Service, path: &str, body: Value) -> Value {
    let added = send(service, "POST", path, "", &body).await;
    assert_eq!(added.status.as_u16(), 201, "{added:?}");
    added.json()
}

async fn patch(service: &Service, record: &Value, body: Value) -> Value {
    let path = format!("{ITEMS}/{}", record["id"].as_str().unwrap());
    let patched = send(service, "PATCH", &path, "", &body).await;
    assert_eq!(patched.status.as_u16(), 200, "{patched:?}");
    patched.json()
}

async fn delete(service: &Service, record: &Value) {
    let path = format!("{ITEMS}/{}", record["id"].as_str().unwrap());
    assert_eq!(send(service, "DELETE", &path, "", &Value::Null).await.status.as_u16(), 204);
}

/// A topic with options, as a part of a URL.
fn with(topic: &str, options: &Value) -> String {
    format!("{topic}?options={}", encoded(&options.to_string()))
}

/// A stream behind its `ready`, and that position.
async fn opened(service: &Service, topics: &str, from: &str) -> (EventStream, String) {
    let from = if from.is_empty() { String::new() } else { format!("&from={from}") };
    let path = format!("/api/events/stream?topics={topics}{from}");
    let mut stream = EventStream::open(service, &path, &[]).await;
    assert_eq!(stream.status.as_u16(), 200, "{topics}");
    let ready = stream.take(1).await.remove(0);
    assert_eq!(ready.event, "ready");
    (stream, ready.id)
}

async fn change(stream: &mut EventStream) -> Value {
    let event = stream.take(1).await.remove(0);
    assert_eq!(event.event, "change");
    serde_json::from_str(&event.data).unwrap()
}

/// The action and the number `n` of the next changes.
async fn changes(stream: &mut EventStream, count: usize) -> Vec<(String, i64)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let change = change(stream).await;
        all.push((change["action"].as_str().unwrap().to_owned(), change["record"]["n"].as_i64().unwrap()));
    }
    all
}

fn expected(changes: &[(&str, i64)]) -> Vec<(String, i64)> {
    changes.iter().map(|(action, n)| ((*action).to_owned(), *n)).collect()
}

#[tokio::test]
async fn a_filter_delivers_what_matches_live_and_on_resume() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let open = with("records/items", &json!({"filter": "state = 'open' && n >= 2"}));
    let leave = with("records/items", &json!({"filter": "state = 'open' && n >= 2", "leave": true}));
    let (mut silent, start) = opened(&service, &open, "").await;
    let (mut told, _) = opened(&service, &leave, "").await;
    let (mut all, _) = opened(&service, "records/items", "").await;

    let one = add(&service, ITEMS, json!({"n": 1, "state": "open"})).await;
    let two = add(&service, ITEMS, json!({"n": 2, "state": "open"})).await;
    patch(&service, &two, json!({"n": 3})).await;
    patch(&service, &two, json!({"state": "shut"})).await;
    patch(&service, &two, json!({"n": 4})).await;
    patch(&service, &one, json!({"n": 5})).await;
    delete(&service, &two).await;
    delete(&service, &one).await;
    add(&service, ITEMS, json!({"n": 9, "state": "open"})).await;

    let shown = expected(&[("create", 2), ("update", 3), ("update", 5), ("delete", 5), ("create", 9)]);
    let with_leave =
        expected(&[("create", 2), ("update", 3), ("leave", 3), ("update", 5), ("delete", 5), ("create", 9)]);
    assert_eq!(changes(&mut silent, 5).await, shown);
    assert_eq!(changes(&mut told, 6).await, with_leave, "a leave once");
    assert_eq!(changes(&mut all, 9).await.len(), 9);
    for (topic, shown) in [(&open, &shown), (&leave, &with_leave)] {
        let (mut stream, _) = opened(&service, topic, &start).await;
        assert_eq!(changes(&mut stream, shown.len()).await, **shown);
    }
    // By id and time, which are not among a record's own members.
    let filter =
        format!("id = '{}' || created > @tomorrow || updated < @yesterday", one["id"].as_str().unwrap());
    let (mut stream, _) = opened(&service, &with("records/items", &json!({"filter": filter})), &start).await;
    assert_eq!(changes(&mut stream, 3).await, expected(&[("create", 1), ("update", 5), ("delete", 5)]));
}

#[tokio::test]
async fn a_leave_is_judged_by_the_times_before_the_update() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let record = add(&service, ITEMS, json!({"n": 1})).await;
    let before = record["updated"].as_str().unwrap();
    let filter = format!("updated = '{before}' || is_last = true");
    let (mut stream, _) =
        opened(&service, &with("records/items", &json!({"filter": filter, "leave": true, "old": true})), "")
            .await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    patch(&service, &record, json!({"n": 2})).await;
    patch(&service, &record, json!({"n": 3})).await;
    add(&service, ITEMS, json!({"n": 4, "is_last": true})).await;
    let left = change(&mut stream).await;
    assert_eq!((&left["action"], &left["record"]["n"]), (&json!("leave"), &json!(2)));
    assert_eq!(left["old"], record, "the whole record");
    assert_eq!(change(&mut stream).await["record"]["n"], 4, "and nothing of the second update");
}

#[tokio::test]
async fn an_event_shows_fields_the_previous_state_and_what_changed() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let topic = |options: Value| with("records/items", &options);
    let (mut fields, start) = opened(&service, &topic(json!({"fields": "id,a.b,n"})), "").await;
    let (mut both, _) = opened(&service, &topic(json!({"old": true, "changed": true})), "").await;
    let record = add(&service, ITEMS, json!({"n": 1, "a": {"b": 1, "c": 2}, "gone": [1], "same": "x"})).await;
    let id = record["id"].as_str().unwrap();
    let updated = patch(&service, &record, json!({"n": 2, "gone": null, "a": {"b": 3}, "new": true})).await;
    delete(&service, &record).await;

    let created = change(&mut fields).await;
    assert_eq!(created["record"], json!({"id": id, "a": {"b": 1}, "n": 1}));
    let created = change(&mut both).await;
    assert_eq!((created.get("old"), created.get("changed")), (None, None));
    assert_eq!(created["record"], record);
    assert_eq!(change(&mut fields).await["record"], json!({"id": id, "a": {"b": 3}, "n": 2}));
    let change_of = change(&mut both).await;
    assert_eq!((&change_of["record"], &change_of["old"]), (&updated, &record));
    assert_eq!(change_of["changed"], json!(["a", "gone", "n", "new"]));
    assert_eq!(change(&mut both).await["record"]["same"], "x", "a deletion has the last state");
    // Later, all of them together, for one record.
    let topic = with(
        &format!("records/items/{id}"),
        &json!({"fields": "n", "old": true, "changed": true, "filter": "n > 0"}),
    );
    let (mut later, _) = opened(&service, &topic, &start).await;
    assert_eq!(change(&mut later).await["record"], json!({"n": 1}));
    let later = change(&mut later).await;
    assert_eq!((&later["record"], &later["old"]), (&json!({"n": 2}), &json!({"n": 1})));
    assert_eq!(later["topic"], format!("records/items/{id}"));
}

#[tokio::test]
async fn published_json_is_filtered_and_has_no_previous_state() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let topic = with("topic/orders", &json!({"filter": "id > 1 && state != 'x'", "fields": "id"}));
    let (mut stream, _) = opened(&service, &topic, "").await;
    let client = database.connect().await;
    for json in [r#"{"id": 1}"#, r#"{"id": 2, "state": "x"}"#, "[1]", "3", r#"{"id": 4, "state": "y"}"#] {
        client.execute("select tidegate_publish('orders', $1::text::jsonb)", &[&json]).await.unwrap();
    }
    assert_eq!(change(&mut stream).await["record"], json!({"id": 4}));
}

#[tokio::test]
async fn a_resume_goes_on_past_pages_of_changes_that_do_not_match() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SSE_HEARTBEAT_S", "1")]).await;
    let topic = with("topic/x", &json!({"filter": "n = 2999 || n < 0"}));
    let (stream, start) = opened(&service, &topic, "").await;
    drop(stream);
    let client = database.connect().await;
    let insert = "insert into changes (number, topic, record, action, created, updated, data)
        select nextval('change_numbers'), 'topic:x', '', 'publish', now(), now(), json_build_object('n', n)
        from generate_series(1, 3500) n";
    client.batch_execute(insert).await.unwrap();
    let (mut stream, _) = opened(&service, &topic, &start).await;
    let matched = stream.take(1).await.remove(0);
    assert_eq!(serde_json::from_str::<Value>(&matched.data).unwrap()["record"]["n"], 2999);
    // Heartbeats report that the position has moved on past what did not match.
    let mut raw = TcpStream::connect(&service.address).await.unwrap();
    let request = format!(
        "GET /api/events/stream?topics={topic}&from={} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        matched.id
    );
    raw.write_all(request.as_bytes()).await.unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let ids = |text: &str| {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while ids(&text).len() < 2 {
        let read = tokio::time::timeout_at(deadline, raw.read(&mut buffer)).await.unwrap().unwrap();
        text += std::str::from_utf8(&buffer[..read]).unwrap();
    }
    assert!(!text.contains("event: change"), "{text}");
    assert_eq!(ids(&text)[0], matched.id);
    let (mut stream, _) = opened(&service, &topic, &ids(&text)[1]).await;
    client.execute("select tidegate_publish('x', '{\"n\": -1}')", &[]).await.unwrap();
    assert_eq!(change(&mut stream).await["record"]["n"], -1);
}

#[tokio::test]
async fn a_filter_that_fails_ends_its_own_stream_and_no_other() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let failing = with("records/items", &json!({"filter": "a:each ?= b:each"}));
    let (mut one, _) = opened(&service, &failing, "").await;
    let (mut two, _) = opened(&service, &failing, "").await;
    let (mut other, _) = opened(&service, &with("records/items", &json!({"filter": "n = 2"})), "").await;
    add(&service, ITEMS, json!({"n": 1, "a": [1], "b": [2, 1]})).await;
    assert_eq!(change(&mut one).await["record"]["n"], 1);
    let numbers: Vec<usize> = (0..3000).collect();
    let others: Vec<usize> = (3000..6000).collect();
    add(&service, ITEMS, json!({"n": 2, "a": numbers, "b": others})).await;
    assert_eq!(change(&mut two).await["record"]["n"], 1);
    for stream in [&mut one, &mut two] {
        assert!(stream.rest().await.iter().all(|event| event.event == "cut"));
    }
    assert_eq!(change(&mut other).await["record"]["n"], 2);
    eventually("the end is counted", async || {
        let closed = metric(&service, "tidegate_follows_closed_total{reason=\"filter\"}").await;
        (closed == 2.0).then_some(())
    })
    .await;
    add(&service, ITEMS, json!({"n": 2})).await;
    assert_eq!(change(&mut other).await["record"]["n"], 2, "it lives");
}

#[tokio::test]
async fn options_of_every_wrong_kind_are_refused_by_name() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = "conversations/018f3f6e-0000-7000-8000-000000000001";
    let deep = format!("{}a=1{}", "(".repeat(1000), ")".repeat(1000));
    for (topics, field) in [
        ("records/items?options=".to_owned(), "options"),
        ("records/items?options=x".to_owned(), "options"),
        ("records/items?options=%25ff".to_owned(), "options"),
        ("records/items?other=x".to_owned(), "topics"),
        (with("records/items", &json!([])), "options"),
        (with("records/items", &json!({"filters": "a = 1"})), "filters"),
        (with("records/items", &json!({"filter": 1})), "filter"),
        (with("records/items", &json!({"filter": ""})), "filter"),
        (with("records/items", &json!({"filter": "a ="})), "filter"),
        (with("records/items", &json!({"filter": deep})), "filter"),
        (with("records/items", &json!({"filter": "@collection.a.b = 1"})), "filter"),
        (with("records/items", &json!({"fields": ""})), "fields"),
        (with("records/items", &json!({"fields": ["a"]})), "fields"),
        (with("records/items", &json!({"old": 1})), "old"),
        (with("records/items", &json!({"changed": "true"})), "changed"),
        (with("records/items", &json!({"leave": true})), "leave"),
        (with(conversation, &json!({"filter": "a = 1"})), "filter"),
        (with(conversation, &json!({"fields": "a"})), "fields"),
        (with("topic/a", &json!({"old": true})), "old"),
        (with("topic/a", &json!({"filter": "a = 1", "leave": true})), "leave"),
        (format!("records/items,{}", with("records/items", &json!({"old": true}))), "topics"),
    ] {
        let refused = service.get(&format!("/api/events/stream?topics={topics}")).await;
        assert_eq!(refused.status.as_u16(), 400, "{topics:.200} {refused:?}");
        assert_eq!(refused.json()["error"]["field"], field, "{topics:.200} {refused:?}");
    }
    fastrand::seed(3);
    let pieces = [
        "{", "}", "\"", "filter", ":", "a = 1", ",", "old", "true", "null", "[", "]", " ", "1", "fields",
        "leave", "\\", "é", "(", "&&", "@now",
    ];
    let options: Vec<String> =
        (0..1000).map(|_| (0..fastrand::usize(1..12)).map(|_| any_of(&pieces)).collect()).collect();
    for options in options.chunks(20) {
        let status = async |options: &String| {
            let path = format!("/api/events/stream?topics=records/items?options={}", encoded(options));
            EventStream::open(&service, &path, &[]).await.status.as_u16()
        };
        for (options, status) in options.iter().zip(join_all(options.iter().map(status)).await) {
            assert!([200, 400].contains(&status), "{options}: {status}");
        }
    }
    let auth = with("records/items", &json!({"filter": "owner = @request.auth.id"}));
    opened(&service, &auth, "").await;
}

#[tokio::test]
async fn rows_of_watched_tables_take_the_same_options() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let client = database.connect().await;
    let table = "create table orders (id integer primary key, state text, n integer)";
    client.batch_execute(table).await.unwrap();
    client.batch_execute("select tidegate_watch('public.orders')").await.unwrap();
    let options =
        json!({"filter": "state = 'open'", "leave": true, "fields": "id,n", "old": true, "changed": true});
    let (mut stream, _) = opened(&service, &with("table/public.orders", &options), "").await;
    for statement in [
        "insert into orders values (1, 'open', 1), (2, 'shut', 1)",
        "update orders set n = n + 1",
        "update orders set state = 'shut'",
        "delete from orders",
        "truncate orders",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let created = change(&mut stream).await;
    assert_eq!((&created["action"], &created["record"]), (&json!("create"), &json!({"id": 1, "n": 1})));
    let updated = change(&mut stream).await;
    assert_eq!((&updated["record"], &updated["old"]), (&json!({"id": 1, "n": 2}), &json!({"id": 1, "n": 1})));
    assert_eq!(updated["changed"], json!(["n"]));
    let left = change(&mut stream).await;
    assert_eq!((&left["action"], &left["key"]), (&json!("leave"), &json!("1")));
    assert_eq!(left["changed"], json!(["state"]));
    assert_eq!(change(&mut stream).await["action"], "truncate", "passes every filter");
}
