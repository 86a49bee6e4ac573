//! Records: written records are read back by the rules of HTTP, and each change adds its row to the feed.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const ITEMS: &str = "/api/stress/records/items";

pub(crate) async fn send(service: &Service, method: &str, path: &str, body: &Value) -> Answer {
    service.request(method, path, &[], body.to_string()).await
}

pub(crate) async fn create(service: &Service, body: &Value) -> Value {
    let answer = send(service, "POST", ITEMS, body).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    answer.json()
}

fn id_of(record: &Value) -> &str {
    record["id"].as_str().unwrap()
}

pub(crate) fn path_of(record: &Value) -> String {
    format!("{ITEMS}/{}", id_of(record))
}

/// The feed as `action record version data`, in its order.
async fn feed(database: &TestDatabase) -> Vec<(String, String, i64, Value)> {
    let sql = "select action, record, number, data from changes order by xid, number";
    let rows = database.connect().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

#[tokio::test]
async fn a_record_is_created_read_merged_replaced_and_deleted() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", ITEMS, &json!({"name": "a", "n": {"x": 1, "y": 2}})).await;
    assert_eq!(made.status.as_u16(), 201);
    let record = made.json();
    let path = path_of(&record);
    assert_eq!(made.header("location"), path);
    assert_eq!(made.header("content-type"), "application/json");
    assert!(id_of(&record).len() == 15 && record["created"] == record["updated"], "{record}");
    assert_eq!((&record["name"], &record["n"]), (&json!("a"), &json!({"x": 1, "y": 2})));

    let got = service.get(&path).await;
    assert_eq!(
        (got.status.as_u16(), got.json(), got.header("etag")),
        (200, record.clone(), made.header("etag"))
    );

    for (method, body, expected) in [
        ("PUT", json!({"n": {"x": null, "z": 3}}), json!({"name": "a", "n": {"y": 2, "z": 3}})),
        ("PATCH", json!({"name": null, "m": [1]}), json!({"n": {"y": 2, "z": 3}, "m": [1]})),
        ("PUT?mode=replace", json!({"k": 1}), json!({"k": 1})),
    ] {
        let (method, query) =
            method.split_once('?').map_or((method, String::new()), |(m, q)| (m, format!("?{q}")));
        let answer = send(&service, method, &format!("{path}{query}"), &body).await;
        assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
        let mut own = answer.json();
        assert_eq!((&own["id"], &own["created"]), (&record["id"], &record["created"]));
        for made in ["id", "created", "updated"] {
            own.as_object_mut().unwrap().remove(made);
        }
        assert_eq!(own, expected);
        assert_eq!(service.get(&path).await.json(), answer.json());
    }
    let gone = service.request("DELETE", &path, &[], "").await;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        let answer = send(&service, method, &path, &json!({})).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (404, "not_found"), "{method}");
    }
}

#[tokio::test]
async fn a_fetched_record_can_be_sent_back() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let record = create(&service, &json!({"a": 1})).await;
    let answer = send(&service, "PUT", &path_of(&record), &record).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["a"]), (200, &json!(1)));
    let stored: Value =
        database.connect().await.query_one("select data from records_1", &[]).await.unwrap().get(0);
    assert_eq!(stored, json!({"a": 1}), "what the service makes is no part of the data");
    let other = json!({"id": "abcdefghij01234"});
    assert_eq!(send(&service, "PATCH", &path_of(&record), &other).await.json()["error"]["field"], "id");
}

#[tokio::test]
async fn a_chosen_id_is_kept_and_a_taken_one_is_a_conflict() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let chosen = json!({"id": "abcdefghij01234", "a": 1});
    assert_eq!(id_of(&create(&service, &chosen).await), "abcdefghij01234");
    let again = send(&service, "POST", ITEMS, &chosen).await;
    assert_eq!((again.status.as_u16(), again.error_code().as_str()), (409, "conflict"));
    assert_eq!(again.json()["error"]["field"], "id");
}

#[tokio::test]
async fn of_two_writers_of_one_version_one_wins() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", ITEMS, &json!({"n": 0})).await;
    let (path, tag) = (path_of(&made.json()), made.header("etag").to_owned());
    assert!(tag.starts_with('"'), "{tag}");
    let headers = [("if-match", tag.as_str())];
    let patch = |n: i32| service.request("PATCH", &path, &headers, json!({"n": n}).to_string());
    let (one, other) = tokio::join!(patch(1), patch(2));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    let loser = if one.status.as_u16() == 412 { one } else { other };
    assert_eq!(loser.error_code(), "precondition_failed");

    let old = service.request("DELETE", &path, &headers, "").await;
    assert_eq!(old.status.as_u16(), 412);
    let now = service.get(&path).await.header("etag").to_owned();
    for (value, status) in [
        ("W/".to_owned() + &now, 412),
        ("nonsense".into(), 400),
        (now.replacen('"', "\"0", 1), 412),
        (now.replacen('"', "\"+", 1), 412),
        (format!("\"0\", {now}"), 200),
    ] {
        let answer = service.request("PATCH", &path, &[("if-match", &value)], "{}").await;
        assert_eq!(answer.status.as_u16(), status, "{value}");
    }
    assert_eq!(service.request("DELETE", &path, &[("if-match", "*")], "").await.status.as_u16(), 204);
}

#[tokio::test]
async fn a_known_version_is_not_sent_again() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = path_of(&create(&service, &json!({})).await);
    let tag = service.get(&path).await.header("etag").to_owned();
    let known = service.request("GET", &path, &[("if-none-match", &tag)], "").await;
    assert_eq!((known.status.as_u16(), known.body.len(), known.header("etag")), (304, 0, tag.as_str()));
    send(&service, "PATCH", &path, &json!({"a": 1})).await;
    assert_eq!(service.request("GET", &path, &[("if-none-match", &tag)], "").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_recreated_id_never_has_its_old_tag() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let chosen = json!({"id": "abcdefghij01234"});
    let path = path_of(&chosen);
    create(&service, &chosen).await;
    let tag = service.get(&path).await.header("etag").to_owned();
    service.request("DELETE", &path, &[], "").await;
    create(&service, &chosen).await;
    assert_eq!(service.request("DELETE", &path, &[("if-match", &tag)], "").await.status.as_u16(), 412);
}

#[tokio::test]
async fn in_a_batch_the_invalid_record_fails_alone() {
    let database = TestDatabase::create().await;
    // One batch at a time, so that all of them wait together behind the lock.
    let service = Service::start(database.url(), &[("DB_POOL_SIZE", "19")]).await;
    let first = create(&service, &json!({})).await;
    let client = database.connect().await;
    client.batch_execute("alter table records_1 add check (data->>'evil' is null)").await.unwrap();
    client.batch_execute("begin; lock table records_1").await.unwrap();
    let bodies: Vec<Value> = (0..20)
        .map(|n| match n {
            7 => json!({"evil": 1}),
            9 => json!({"id": first["id"]}),
            11 | 12 => json!({"id": "samesamesame123"}),
            _ => json!({"n": n}),
        })
        .collect();
    let sending =
        futures_util::future::join_all(bodies.iter().map(|body| send(&service, "POST", ITEMS, body)));
    let unlocking = async {
        service.has_begun(bodies.len()).await;
        client.batch_execute("commit").await.unwrap();
    };
    let (answers, ()) = tokio::join!(sending, unlocking);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!((statuses[7], statuses[9]), (422, 409), "{statuses:?}");
    assert_eq!(answers[7].error_code(), "check_failed");
    assert_eq!(statuses[11] + statuses[12], 201 + 409, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 17, "{statuses:?}");
    let rows: i64 = client.query_one("select count(*) from records_1", &[]).await.unwrap().get(0);
    assert_eq!((rows, feed(&database).await.len()), (18, 18));
}

#[tokio::test]
async fn concurrent_creates_share_commits_and_lose_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({})).await;
    let bodies: Vec<Value> = (0..300).map(|n| json!({"n": n})).collect();
    let answers =
        futures_util::future::join_all(bodies.iter().map(|body| send(&service, "POST", ITEMS, body))).await;
    for (answer, body) in answers.iter().zip(&bodies) {
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["n"]),
            (201, &body["n"]),
            "each has its own answer"
        );
    }
    let ids: HashSet<String> = answers.iter().map(|answer| id_of(&answer.json()).to_owned()).collect();
    assert_eq!(ids.len(), 300);
    let sql = "select count(*), count(distinct xid) from changes";
    let row = database.connect().await.query_one(sql, &[]).await.unwrap();
    let (changes, commits): (i64, i64) = (row.get(0), row.get(1));
    assert!(changes == 301 && commits < 150, "{changes} changes in {commits} commits");
}

#[tokio::test]
async fn each_change_adds_one_row_to_the_feed_and_a_refused_one_none() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let record = create(&service, &json!({"a": 1})).await;
    let (path, id) = (path_of(&record), id_of(&record).to_owned());
    send(&service, "PATCH", &path, &json!({"b": 2})).await;
    service.request("PATCH", &path, &[("if-match", "\"0\"")], "{\"c\":3}").await;
    send(&service, "POST", ITEMS, &json!({"id": id})).await;
    database
        .connect()
        .await
        .batch_execute("alter table records_1 add check (data->>'evil' is null)")
        .await
        .unwrap();
    assert_eq!(send(&service, "PATCH", &path, &json!({"evil": 1})).await.status.as_u16(), 422);
    let last = service.get(&path).await.header("etag").to_owned();
    service.request("DELETE", &path, &[], "").await;
    let feed = feed(&database).await;
    let told: Vec<_> = feed
        .iter()
        .map(|(action, record, _, data)| (action.as_str(), record.as_str(), data.clone()))
        .collect();
    let merged = json!({"a": 1, "b": 2});
    assert_eq!(
        told,
        [("create", id.as_str(), json!({"a": 1})), ("update", &id, merged.clone()), ("delete", &id, merged)]
    );
    assert_eq!(format!("\"{}\"", feed[1].2), last, "a change's number is the record's version");
    assert!(feed.is_sorted_by_key(|change| change.2));
}

#[tokio::test]
async fn the_feed_has_the_changes_of_one_record_in_their_order_for_any_writers() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = path_of(&create(&service, &json!({"n": 0})).await);
    futures_util::future::join_all((0..60).map(|n| {
        let (service, path) = (&service, &path);
        async move { assert_eq!(send(service, "PATCH", path, &json!({"n": n})).await.status.as_u16(), 200) }
    }))
    .await;
    let feed = feed(&database).await;
    assert_eq!(feed.len(), 61);
    assert!(feed.is_sorted_by_key(|change| change.2), "versions rise along the feed");
    assert_eq!(
        feed[60].3["n"],
        service.get(&path).await.json()["n"],
        "the last change is the record's state"
    );
}

#[tokio::test]
async fn changes_are_deleted_after_their_retention() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let old = "insert into changes (number, topic, record, action, created, updated, data, at)
        select n, 'old', 'x', 'create', now(), now(), '{}', now() - interval '2 days' from generate_series(1, 12000) n";
    client.batch_execute(old).await.unwrap();
    let kept = "insert into feed_positions values (now() - interval '2 days', pg_current_snapshot()::text)";
    client.batch_execute(kept).await.unwrap();
    let service = Service::start(database.url(), &[("CHANGES_RETENTION_S", "86400")]).await;
    create(&service, &json!({})).await;
    let topics = "select count(*) filter (where topic = 'old'), count(*) from changes";
    eventually("the old ones are gone", async || {
        let row = client.query_one(topics, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then(|| assert_eq!(row.get::<_, i64>(1), 1))
    })
    .await;
}

#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_EVENT_BYTES", "2048")]).await;
    let record = create(&service, &json!({})).await;
    for name in [
        "a%22b",
        "a;b",
        "..",
        "a%00",
        "1a",
        "a-b",
        "%27%3B%20drop%20table%20changes--",
        &"x".repeat(64),
        "%ff",
    ] {
        let answer = service.request("POST", &format!("/api/stress/records/{name}"), &[], "{}").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["field"]),
            (400, &json!("collection")),
            "{name}"
        );
    }
    for body in [
        "",
        "[]",
        "1",
        "NaN",
        "null",
        "{",
        "{\"a\":NaN}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":1e999999}",
        "{}\u{feff}",
    ] {
        for (method, path) in [("POST", ITEMS.to_owned()), ("PATCH", path_of(&record))] {
            let answer = service.request(method, &path, &[], body).await;
            assert_eq!(answer.status.as_u16(), 400, "{method} {body:?}");
            assert_eq!(answer.error_code(), "invalid_request");
        }
    }
    for id in ["x", "ABCDEFGHIJ01234", "..", "%27", "abcdefghij0123%00"] {
        assert_eq!(service.get(&format!("{ITEMS}/{id}")).await.status.as_u16(), 404, "{id}");
    }
    let plain = service.request("POST", ITEMS, &[("content-type", "text/plain")], "{}").await;
    assert_eq!(plain.status.as_u16(), 415);
    let twice = service.request("POST", ITEMS, &[], "{\"a\":1,\"a\":2,\"__proto__\":{\"b\":1}}").await;
    assert_eq!(
        (&twice.json()["a"], &twice.json()["__proto__"]),
        (&json!(2), &json!({"b": 1})),
        "the last one counts"
    );
    let large = json!({"a": "x".repeat(1500)});
    let path = path_of(&create(&service, &large).await);
    let grown = send(&service, "PATCH", &path, &json!({"b": "y".repeat(1500)})).await;
    assert_eq!((grown.status.as_u16(), grown.error_code().as_str()), (413, "too_large"));
    assert_eq!(
        service.request("PUT", &format!("{path}?mode=append"), &[], "{}").await.json()["error"]["field"],
        "mode"
    );
}
