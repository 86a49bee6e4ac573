//! Triggers of the user's that return null: what they drop is never answered as stored.

use serde_json::{Value, json};

use crate::conversations::CONVERSATIONS;
use crate::support::accounts::{guarded, send, tidegate};
use crate::support::files;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

const RECORDS: &str = "/api/stress/records/triggers";

/// A trigger that drops what a table is given.
async fn dropping(database: &TestDatabase, table: &str, event: &str, when: &str) {
    let make = format!(
        "create or replace function drop_row() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger drop_row before {event} on {table} for each row {when} execute function drop_row();"
    );
    database.connect().await.batch_execute(&make).await.unwrap();
}

async fn restored(database: &TestDatabase, table: &str) {
    database.connect().await.batch_execute(&format!("drop trigger drop_row on {table}")).await.unwrap();
}

async fn rows(database: &TestDatabase, table: &str) -> i64 {
    let count = format!("select count(*) from {table}");
    database.connect().await.query_one(&count, &[]).await.unwrap().get(0)
}

fn assert_dropped(answer: &Answer) {
    assert_eq!(
        (answer.status.as_u16(), answer.error_code().as_str()),
        (422, "dropped_by_trigger"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_dropped_record_is_an_error_whatever_was_to_become_of_it() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", RECORDS, "", &json!({"id": "aaaaaaaaaaaaaaa", "n": 0})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let record = made.header("location").to_owned();

    dropping(&database, "records_1", "insert", "").await;
    assert_dropped(&send(&service, "POST", RECORDS, "", &json!({"n": 1})).await);
    let chosen = json!({"id": "bbbbbbbbbbbbbbb", "n": 1});
    assert_dropped(&send(&service, "POST", RECORDS, "", &chosen).await);
    // One that is there is still told apart.
    let taken = send(&service, "POST", RECORDS, "", &json!({"id": "aaaaaaaaaaaaaaa"})).await;
    assert_eq!(taken.status.as_u16(), 409, "{taken:?}");
    restored(&database, "records_1").await;

    let headers = [("content-type", "application/merge-patch+json")];
    dropping(&database, "records_1", "update", "").await;
    assert_dropped(&service.request("PATCH", &record, &headers, "{\"n\":2}").await);
    restored(&database, "records_1").await;
    dropping(&database, "records_1", "delete", "").await;
    assert_dropped(&send(&service, "DELETE", &record, "", &Value::Null).await);
    restored(&database, "records_1").await;

    assert_eq!(service.get(&record).await.json()["n"], 0);
    assert_eq!(rows(&database, "changes").await, 1, "nothing else happened, and nothing else is told");
}

#[tokio::test]
async fn dropped_messages_and_conversations_are_errors_and_their_neighbours_are_stored() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "kept"})).await;
    let conversation = made.header("location").to_owned();
    let messages = format!("{conversation}/messages");
    let say = |content: &str| json!({"role": "user", "content": content});

    dropping(&database, "messages", "insert", "when (new.content like 'bad%')").await;
    assert_dropped(&send(&service, "POST", &messages, "", &say("bad one")).await);
    // Of several at once, those in one group, the good ones are stored.
    let (one, bad, two) = (say("one"), say("bad two"), say("two"));
    let answers = tokio::join!(
        send(&service, "POST", &messages, "", &one),
        send(&service, "POST", &messages, "", &bad),
        send(&service, "POST", &messages, "", &two),
    );
    assert_eq!((answers.0.status.as_u16(), answers.2.status.as_u16()), (201, 201), "{answers:?}");
    assert_dropped(&answers.1);
    let key = [("idempotency-key", "k"), ("content-type", "application/json")];
    let keyed =
        async |content: &str| service.request("POST", &messages, &key, say(content).to_string()).await;
    assert_dropped(&keyed("bad with a key").await);
    restored(&database, "messages").await;
    assert_eq!(keyed("bad with a key").await.status.as_u16(), 201, "it was not done, so the key is free");
    assert_eq!(rows(&database, "messages").await, 3);

    dropping(&database, "conversations", "insert", "").await;
    assert_dropped(&send(&service, "POST", CONVERSATIONS, "", &json!({"title": "dropped"})).await);
    restored(&database, "conversations").await;
    dropping(&database, "conversations", "update", "").await;
    assert_dropped(&send(&service, "PATCH", &conversation, "", &json!({"title": "other"})).await);
    restored(&database, "conversations").await;
    dropping(&database, "conversations", "delete", "").await;
    assert_dropped(&send(&service, "DELETE", &conversation, "", &Value::Null).await);
    restored(&database, "conversations").await;
    assert_eq!(service.get(&conversation).await.json()["title"], "kept");
    assert_eq!(send(&service, "DELETE", &conversation, "", &Value::Null).await.status.as_u16(), 204);
}

#[tokio::test]
async fn dropped_files_users_sessions_and_keys_are_errors() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    dropping(&database, "files", "insert", "").await;
    let body = files::body(&[files::part("a.bin", "application/octet-stream", b"abc")]);
    assert_dropped(&files::upload(&service, "", body).await);
    assert_eq!(rows(&database, "files").await, 0);
    drop(service);

    let service = guarded(&database, &[("REGISTRATION", "on")]).await;
    let ada = json!({"email": "ada@example.com", "password": crate::support::accounts::PASSWORD});
    let register = || send(&service, "POST", "/api/auth/register", "", &ada);
    dropping(&database, "users", "insert", "").await;
    assert_dropped(&register().await);
    restored(&database, "users").await;
    assert_eq!(register().await.status.as_u16(), 201);
    let log_in = || send(&service, "POST", "/api/auth/login", "", &ada);
    dropping(&database, "sessions", "insert", "").await;
    assert_dropped(&log_in().await);
    restored(&database, "sessions").await;
    assert_eq!(log_in().await.status.as_u16(), 200);

    dropping(&database, "api_keys", "insert", "").await;
    let made = tidegate(&database, &["keys", "create", "--name", "k", "--scope", "events:write"], "").await;
    assert!(made.as_ref().is_err_and(|error| error.contains("trigger")), "{made:?}");
}
