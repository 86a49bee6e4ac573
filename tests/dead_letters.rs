//! Dead letters: listed, redriven, discarded; each move happens exactly once, together with its receipt.

use serde_json::{Value, json};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, run};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

async fn ledger(database: &TestDatabase) -> (i64, i64, i64) {
    let sum = "select coalesce(sum(committed), 0)::bigint, coalesce(sum(dead), 0)::bigint, coalesce(sum(discarded), 0)::bigint from ingest_receipts";
    let row = database.connect().await.query_one(sum, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

async fn count(database: &TestDatabase, table: &str) -> i64 {
    database.connect().await.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
}

async fn execute(database: &TestDatabase, sql: &str) {
    database.connect().await.batch_execute(sql).await.unwrap();
}

/// A service with 90 stored events and 10 rejected ones, whose payload has `evil`.
async fn with_ten_refused() -> (TestDatabase, Service) {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    let body: String = (0..100)
        .map(|n| if n % 10 == 3 { format!("{{\"evil\":{n}}}\n") } else { format!("{{\"n\":{n}}}\n") })
        .collect();
    assert_eq!(service.post_batch(&[NDJSON, ("x-trace-id", "T")], body).await.json()["accepted"], 100);
    service.settled().await;
    assert_eq!(ledger(&database).await, (90, 10, 0));
    (database, service)
}

async fn redrive(service: &Service, body: Value) -> Answer {
    service.request("POST", "/api/v1/dead-letters/redrive", &[], body.to_string()).await
}

#[tokio::test]
async fn pages_show_each_dead_letter_once_with_its_content() {
    let (_database, service) = with_ten_refused().await;
    let mut path = "/api/v1/dead-letters?limit=3&reason=rejected".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = service.get(&path).await;
        let letters = page.json();
        for letter in letters.as_array().unwrap() {
            assert!(letter["error"].as_str().unwrap().starts_with("23514 "), "{letter}");
            seen.push(letter["trace_id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page.header("link").strip_suffix(">; rel=\"next\"") else { break };
        path = next[1..].to_owned();
    }
    seen.sort();
    let mut all: Vec<String> = (0..10).map(|n| format!("T-{}", n * 10 + 3)).collect();
    all.sort();
    assert_eq!(seen, all);
    let letters = service.get("/api/v1/dead-letters?limit=1").await.json();
    let id = letters[0]["id"].as_str().unwrap();
    let whole = service.get(&format!("/api/v1/dead-letters/{id}")).await.json();
    assert_eq!(whole["body_encoding"], "utf-8");
    assert!(whole["body"].as_str().unwrap().starts_with("{\"evil\":"), "byte for byte: {whole}");
    for (path, status, field) in [
        ("/api/v1/dead-letters?limit=0", 400, json!("limit")),
        ("/api/v1/dead-letters?after=x", 400, json!("after")),
        ("/api/v1/dead-letters?since=yesterday", 400, json!("since")),
        ("/api/v1/dead-letters?reason=none", 400, json!("reason")),
        ("/api/v1/dead-letters?other=1", 400, Value::Null),
        ("/api/v1/dead-letters/01a1fc92-9c3a-70d3-96b6-7b000000038b", 404, Value::Null),
        ("/api/v1/dead-letters/nonsense", 404, Value::Null),
    ] {
        let answer = service.get(path).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["field"]), (status, &field), "{path}");
    }
}

#[tokio::test]
async fn redriven_letters_become_rows_once_and_rejected_ones_stay() {
    let (database, service) = with_ten_refused().await;
    let answer = redrive(&service, json!({"all": true})).await;
    assert_eq!(answer.json(), json!({"redriven": 0, "refused": 10, "more": false}));
    assert_eq!(ledger(&database).await, (90, 10, 0));
    execute(&database, "alter table requests drop constraint no_evil").await;
    execute(&database, "alter table requests add constraint no_13 check (payload->>'evil' <> '13')").await;
    // Concurrently.
    let all = json!({"all": true});
    let (one, two, three) =
        tokio::join!(redrive(&service, all.clone()), redrive(&service, all.clone()), redrive(&service, all));
    let redriven: u64 =
        [one, two, three].iter().map(|answer| answer.json()["redriven"].as_u64().unwrap()).sum();
    assert_eq!(redriven, 9);
    assert_eq!((count(&database, "requests").await, count(&database, "dead_letters").await), (99, 1));
    assert_eq!(ledger(&database).await, (99, 1, 0));
    let row = database
        .connect()
        .await
        .query_one(
            "select payload, (select attempts from dead_letters) from requests where trace_id = 'T-3'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, Value>(0), json!({"evil": 3}), "jsonb again");
    assert!(row.get::<_, i32>(1) >= 3, "each rejection counts as an attempt");
    assert!(service.stop().await.status.success());

    execute(&database, "alter table requests drop constraint no_13").await;
    let (status, stdout, stderr) = run(&["redrive", "--all"], &[("DATABASE_URL", database.url())]).await;
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout, "1 stored, 0 rejected again\n");
    assert_eq!(ledger(&database).await, (100, 0, 0));
}

#[tokio::test]
async fn a_deleted_letter_is_discarded_in_the_ledger() {
    let (database, service) = with_ten_refused().await;
    let letters = service.get("/api/v1/dead-letters").await.json();
    let path = format!("/api/v1/dead-letters/{}", letters[4]["id"].as_str().unwrap());
    assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 204);
    assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 404);
    assert_eq!(ledger(&database).await, (90, 9, 1));
}

#[tokio::test]
async fn overloads_are_redriven_only_by_name_and_newly_accepted_then() {
    let database = TestDatabase::create().await;
    execute(
        &database,
        "insert into dead_letters (id, trace_id, payload, received_at, error, reason, attempts, failed_at)
         select gen_random_uuid(), 'over-' || n, '{}', now(), 'the queue was full', 'overload', 0, now() from generate_series(1, 700) n",
    )
    .await;
    let url = [("DATABASE_URL", database.url())];
    let (_, stdout, _) = run(&["redrive", "--all"], &url).await;
    assert_eq!(stdout, "0 stored, 0 rejected again\n");
    let (status, stdout, stderr) = run(&["redrive", "--reason", "overload"], &url).await;
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout, "700 stored, 0 rejected again\n");
    assert_eq!(ledger(&database).await, (700, 0, 0));
    let (status, stdout, _) = run(&["verify"], &url).await;
    assert!(status.success() && stdout.contains("700 accepted = 700 committed"), "{stdout}");
}

#[tokio::test]
async fn a_redrive_of_nothing_or_too_much_is_refused() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for body in [
        json!({}),
        json!({"all": true, "reason": "rejected"}),
        json!({"ids": ["x"]}),
        json!({"some": 1}),
        json!([]),
    ] {
        assert_eq!(redrive(&service, body.clone()).await.status.as_u16(), 400, "{body}");
    }
}
