//! Batches of typed collections: one transaction, in the protocol of PocketBase.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::pocketbase::{COLLECTIONS, basic, found, good, make, records, refused, send, start};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};
use crate::support::sse::EventStream;

const BATCH: &str = "/api/batch";
const SETTINGS: &str = "/api/settings";
const FAILED: &str = "Batch transaction failed.";
const INVALID: &str = "Invalid batch request data.";
const GENERIC: &str = "Something went wrong while processing your request.";

/// A service that accepts batches.
pub(crate) async fn start_with_batches(database: &TestDatabase) -> (Service, String) {
    let (service, token) = start(database).await;
    good(&service, "PATCH", SETTINGS, &token, &json!({"batch": {"enabled": true}})).await;
    (service, token)
}

async fn batch(service: &Service, token: &str, requests: Value) -> Value {
    good(service, "POST", BATCH, token, &json!({"requests": requests})).await
}

/// The errors of a batch that is refused, by request.
async fn failed(service: &Service, token: &str, message: &str, requests: Value) -> Value {
    refused(service, ("POST", BATCH, token, &json!({"requests": requests})), 400, message).await["requests"]
        .clone()
}

fn post(name: &str, body: Value) -> Value {
    of_batch("POST", records(name), body)
}

fn change(method: &str, name: &str, id: &str, body: Value) -> Value {
    of_batch(method, format!("{}/{id}", records(name)), body)
}

fn of_batch(method: &str, url: String, body: Value) -> Value {
    let mut request = json!({"method": method});
    (request["url"], request["body"]) = (url.into(), body);
    request
}

const A: &str = "aaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbb";

#[tokio::test]
async fn writes_of_a_batch_are_one_transaction_and_their_events_come_in_order() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    let mut stream = EventStream::open(&service, "/api/realtime", &[]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    let topics = json!({"clientId": client, "subscriptions": ["posts"]});
    good(&service, "POST", "/api/realtime", "", &topics).await;
    let upsert = |body: Value| json!({"method": "PUT", "url": records("posts"), "body": body});
    let answers = batch(
        &service,
        "",
        json!([
            {"method": "POST", "url": format!("{}?fields=id", records("posts")), "body": {"id": A, "title": "one"}},
            change("PATCH", "posts", A, json!({"n+": 2})),
            upsert(json!({"id": A, "title": "two"})),
            upsert(json!({"title": "new"})),
            post("posts", json!({"id": B})),
            change("DELETE", "posts", B, Value::Null),
        ]),
    )
    .await;
    let statuses: Vec<u64> =
        answers.as_array().unwrap().iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 204]);
    assert_eq!((&answers[0]["body"], &answers[5]["body"]), (&json!({"id": A}), &Value::Null));
    assert_eq!((&answers[2]["body"]["title"], &answers[2]["body"]["n"]), (&json!("two"), &json!(2)));
    assert_eq!(found(&service, "", "posts", &[("sort", "title")], "title").await, json!(["new", "two"]));
    for (action, title) in [
        ("create", "one"),
        ("update", "one"),
        ("update", "two"),
        ("create", "new"),
        ("create", ""),
        ("delete", ""),
    ] {
        let event = stream.next().await.unwrap().unwrap();
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!((&data["action"], &data["record"]["title"]), (&json!(action), &json!(title)));
    }
}

#[tokio::test]
async fn one_failure_undoes_all_and_is_named() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    let fields =
        json!([{"name": "title", "type": "text", "required": true}, {"name": "code", "type": "text"}]);
    let indexes = json!({"indexes": ["CREATE UNIQUE INDEX codes ON posts (code) WHERE code != ''"]});
    make(&service, &token, "posts", fields, indexes).await;
    let mut stream = EventStream::open(&service, "/api/realtime", &[]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    good(&service, "POST", "/api/realtime", "", &json!({"clientId": client, "subscriptions": ["posts"]}))
        .await;
    let fine = post("posts", json!({"title": "fine"}));
    let failure = |response: Value| json!({"code": "batch_request_failed", "message": "Batch request failed.", "response": response});
    let blank = json!({"title": {"code": "validation_required", "message": "Cannot be blank."}});
    let create = |data: Value| json!({"data": data, "message": "Failed to create record.", "status": 400});
    let other = |message: &str, status: u16| json!({"data": {}, "message": message, "status": status});
    let unique =
        |field: &str| json!({field: {"code": "validation_not_unique", "message": "Value must be unique."}});
    let not_found = "The requested resource wasn't found.";
    for (second, response) in [
        (post("posts", json!({})), create(blank.clone())),
        (post("posts", json!({"title": "x", "code": "c"})), create(unique("code"))),
        (post("posts", json!({"title": "x", "id": A})), create(unique("id"))),
        (change("PATCH", "posts", B, json!({"title": "x"})), other(not_found, 404)),
        (change("PATCH", "posts", "nothing", json!({"title": "x"})), other(not_found, 404)),
        (change("DELETE", "posts", B, Value::Null), other(not_found, 404)),
        (
            json!({"method": "PUT", "url": records("posts"), "body": {"id": A, "title": ""}}),
            json!({"data": blank.clone(), "message": "Failed to update record.", "status": 400}),
        ),
        (post("nothing", json!({})), other("Missing collection context.", 404)),
        (json!({"method": "GET", "url": records("posts")}), other(GENERIC, 400)),
        (json!({"method": "POST", "url": "/api/collections/posts/auth-with-password"}), other(GENERIC, 400)),
        (
            json!({"method": "POST", "url": format!("http://127.0.0.1:1{}", records("posts"))}),
            other(GENERIC, 400),
        ),
        (json!({"method": "PUT", "url": format!("{}/{A}", records("posts"))}), other(GENERIC, 400)),
        (json!({"method": "POST", "url": format!("{}?fields=:x(1)", records("posts"))}), other(GENERIC, 400)),
    ] {
        let first = post("posts", json!({"id": A, "title": "first", "code": "c"}));
        let data = failed(&service, "", FAILED, json!([first, fine, second])).await;
        assert_eq!(data, json!({"2": failure(response)}), "{second}");
    }
    assert_eq!(found(&service, "", "posts", &[], "id").await, json!([]));
    batch(&service, "", json!([fine])).await;
    let event: Value = serde_json::from_str(&stream.next().await.unwrap().unwrap().data).unwrap();
    assert_eq!((&event["action"], &event["record"]["title"]), (&json!("create"), &json!("fine")));
}

#[tokio::test]
async fn rules_are_judged_in_the_state_of_the_transaction() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    let team = make(&service, &token, "teams", json!([{"name": "open", "type": "bool"}]), json!({})).await;
    let relation = json!([
        {"name": "team", "type": "relation", "collectionId": team["id"], "maxSelect": 1, "cascadeDelete": true},
        {"name": "n", "type": "number"},
    ]);
    let rules = json!({
        "createRule": "team.open = true && @request.context = 'batch'",
        "updateRule": "team.open = true && @request.body.n > n",
        "deleteRule": "n > 5",
    });
    make(&service, &token, "players", relation, rules).await;
    // The team is only in the transaction.
    let team = post("teams", json!({"id": A, "open": true}));
    let player = post("players", json!({"id": B, "team": A, "n": 1}));
    let answers = batch(
        &service,
        "",
        json!([team, player, change("PATCH", "players", &format!("{B}?expand=team"), json!({"n": 7}))]),
    )
    .await;
    assert_eq!(answers[2]["body"]["expand"]["team"]["open"], true);
    let data = failed(
        &service,
        "",
        FAILED,
        json!([
            change("PATCH", "teams", A, json!({"open": false})),
            change("PATCH", "players", B, json!({"n": 9}))
        ]),
    )
    .await;
    assert_eq!(data["1"]["response"]["status"], 404);
    let outside = ("POST", &*records("players"), "", &json!({"team": A}));
    refused(&service, outside, 400, "Failed to create record.").await;
    // The deleted team takes its players along, and a later request sees that.
    let data = failed(
        &service,
        "",
        FAILED,
        json!([change("DELETE", "teams", A, Value::Null), change("DELETE", "players", B, Value::Null)]),
    )
    .await;
    assert_eq!(data["1"]["response"]["status"], 404);
    assert_eq!(found(&service, "", "teams", &[], "id").await, json!([A]));
    // A record of this batch is deleted with what it follows.
    batch(
        &service,
        "",
        json!([post("players", json!({"team": A})), change("DELETE", "teams", A, Value::Null)]),
    )
    .await;
    assert_eq!(found(&service, "", "players", &[], "id").await, json!([]));
    // Null rules are for superusers, whose token counts for all requests.
    make(&service, &token, "closed", basic(), json!({"createRule": null})).await;
    let closed = json!([post("closed", json!({}))]);
    let data = failed(&service, "", FAILED, closed.clone()).await;
    assert_eq!(data["0"]["response"]["message"], "Only superusers can perform this action.");
    batch(&service, &token, closed).await;
    // Headers of the whole, and of the request.
    let by_header = "@request.headers.x_a = '1' && @request.query.q = 'é' && @request.method = 'POST'";
    make(&service, &token, "headed", basic(), json!({"createRule": by_header})).await;
    let url = format!("{}?q=%C3%A9", records("headed"));
    batch(&service, "", json!([{"method": "POST", "url": url, "headers": {"X-A": "1"}}])).await;
    batch(&service, "", json!([{"method": "PUT", "url": url, "headers": {"x_a": "1"}}])).await;
    failed(&service, "", FAILED, json!([{"method": "POST", "url": url}])).await;
}

#[tokio::test]
async fn what_is_no_batch_is_refused_by_its_shape() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    let url = records("posts");
    let raw = async |body: &str| -> Answer {
        service.request("POST", BATCH, &[("content-type", "application/json")], body.to_owned()).await
    };
    for body in [
        "nope",
        "[]",
        r#"{"requests":"x"}"#,
        r#"{"requests":{"a":1}}"#,
        r#"{"requests":["x"]}"#,
        r#"{"requests":[{"method":5}]}"#,
        r#"{"requests":[{"method":"POST","url":"/","body":[1]}]}"#,
        r#"{"requests":[{"method":"POST","url":"/","headers":1}]}"#,
    ] {
        let answer = raw(body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["message"]),
            (400, &json!("Failed to read the submitted batch data.")),
            "{body}"
        );
    }
    let required = json!({"code": "validation_required", "message": "Cannot be blank."});
    for body in ["", "{}", r#"{"requests":null}"#, r#"{"requests":[]}"#] {
        let answer = raw(body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["data"]["requests"]), (400, &required), "{body}");
    }
    let data = failed(
        &service,
        "",
        INVALID,
        json!([{"url": url}, {"method": "POST"}, {"method": "post", "url": url}]),
    )
    .await;
    let expected = json!({
        "0": {"method": required}, "1": {"url": required},
        "2": {"method": {"code": "validation_in_invalid", "message": "Must be a valid value."}},
    });
    assert_eq!(data, expected);
    let many: Vec<Value> = (0..51).map(|_| post("posts", json!({}))).collect();
    let data = failed(&service, "", INVALID, json!(many)).await;
    assert_eq!(
        (&data["code"], &data["params"]),
        (&json!("validation_length_too_long"), &json!({"max": 50, "min": 0}))
    );
    let statuses = good(
        &service,
        "POST",
        &format!("{BATCH}?fields=status"),
        "",
        &json!({"requests": [post("posts", json!({}))]}),
    )
    .await;
    assert_eq!(statuses, json!([{"status": 200}]));
    let answer = send(
        &service,
        "POST",
        BATCH,
        "",
        &json!({"requests": [post("posts", json!({"title": "x".repeat(33 << 20)}))]}),
    )
    .await;
    assert_eq!(answer.status.as_u16(), 413);
}

#[tokio::test]
async fn batches_are_off_until_the_settings_allow_them_and_within_their_limits() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    let two = json!({"requests": [post("posts", json!({})), post("posts", json!({}))]});
    let off = "Batch requests are not allowed.";
    refused(&service, ("POST", BATCH, "", &two), 403, off).await;
    refused(&service, ("POST", BATCH, &token, &json!({"requests": 1})), 403, off).await;
    let set = async |batch: Value| {
        good(&service, "PATCH", SETTINGS, &token, &json!({"batch": batch})).await;
    };
    set(json!({"enabled": true, "maxRequests": 1, "maxBodySize": 200})).await;
    let data = failed(&service, "", INVALID, two["requests"].clone()).await;
    assert_eq!(data["params"], json!({"max": 1, "min": 0}));
    let large = json!({"requests": [post("posts", json!({"title": "x".repeat(300)}))]});
    refused(&service, ("POST", BATCH, "", &large), 413, "Request entity too large.").await;
    set(json!({"maxRequests": 2, "maxBodySize": 0})).await;
    good(&service, "POST", BATCH, "", &two).await;
    good(&service, "POST", BATCH, "", &large).await;
    // Another transaction holds a record for longer than a batch may take.
    set(json!({"timeout": 1})).await;
    batch(&service, "", json!([post("posts", json!({"id": A}))])).await;
    let client = database.connect().await;
    let table: String = client
        .query_one("select 'records_' || id from collections where name = 'posts'", &[])
        .await
        .unwrap()
        .get(0);
    let hold = format!("begin; update {table} set data = data where id = '{A}'");
    client.batch_execute(&hold).await.unwrap();
    let change = change("PATCH", "posts", A, json!({"n": 1}));
    refused(&service, ("POST", BATCH, "", &json!({"requests": [change]})), 400, FAILED).await;
    client.batch_execute("rollback").await.unwrap();
    let change = self::change("PATCH", "posts", A, json!({"n": 2}));
    assert_eq!(batch(&service, "", json!([change])).await[0]["body"]["n"], 2);
    set(json!({"enabled": false})).await;
    refused(&service, ("POST", BATCH, "", &two), 403, off).await;
}

#[tokio::test]
async fn batches_at_once_lose_no_increment_and_do_not_wait_for_each_other_for_ever() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    // The machine of a test may be slow.
    good(&service, "PATCH", SETTINGS, &token, &json!({"batch": {"timeout": 60}})).await;
    batch(&service, "", json!([post("posts", json!({"id": A})), post("posts", json!({"id": B}))])).await;
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let (first, second) = if n % 2 == 0 { (A, B) } else { (B, A) };
        let body = json!({"requests": [
            change("PATCH", "posts", first, json!({"n+": 1})), change("PATCH", "posts", second, json!({"n+": 1})),
        ]});
        let address = service.address.clone();
        tasks.spawn(async move {
            let headers = [("content-type", "application/json")];
            crate::support::service::try_request(&address, "POST", BATCH, &headers, body.to_string())
                .await
                .unwrap()
        });
    }
    let mut done = 0;
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.unwrap();
        match answer.status.as_u16() {
            200 => done += 1,
            // Too many wait for a connection to Postgres.
            503 => {}
            status => panic!("{status} {:?}", answer.body),
        }
    }
    assert!(done > 0);
    assert_eq!(found(&service, "", "posts", &[("sort", "id")], "n").await, json!([done, done]));
    assert_eq!(send(&service, "GET", COLLECTIONS, &token, &Value::Null).await.status.as_u16(), 200);
}
