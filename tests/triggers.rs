//! Users' triggers that return null: a dropped row is never answered as stored.

use serde_json::{Value, json};

use crate::appends::{append, begin};
use crate::conversations::CONVERSATIONS;
use crate::support::accounts::{guarded, send, tidegate};
use crate::support::files;
use crate::support::imports;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const RECORDS: &str = "/api/stress/records/triggers";

/// A trigger that drops rows of a table.
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
async fn a_dropped_record_is_an_error_for_every_operation() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", RECORDS, "", &json!({"id": "aaaaaaaaaaaaaaa", "n": 0})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let record = made.header("location").to_owned();

    dropping(&database, "records_1", "insert", "").await;
    assert_dropped(&send(&service, "POST", RECORDS, "", &json!({"n": 1})).await);
    let chosen = json!({"id": "bbbbbbbbbbbbbbb", "n": 1});
    assert_dropped(&send(&service, "POST", RECORDS, "", &chosen).await);
    // An existing record is still distinguished.
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
    assert_eq!(
        rows(&database, "changes").await,
        1,
        "nothing else happened, and no other change is delivered"
    );
}

#[tokio::test]
async fn dropped_messages_and_conversations_are_errors_and_the_others_are_stored() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "kept"})).await;
    let conversation = made.header("location").to_owned();
    let messages = format!("{conversation}/messages");
    let say = |content: &str| json!({"role": "user", "content": content});

    dropping(&database, "messages", "insert", "when (new.content like 'bad%')").await;
    assert_dropped(&send(&service, "POST", &messages, "", &say("bad one")).await);
    // Of several in one batch, the good ones are stored.
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
    assert_eq!(keyed("bad with a key").await.status.as_u16(), 201, "it was not stored, so the key is free");
    assert_eq!(rows(&database, "messages").await, 3);

    dropping(&database, "conversations", "insert", "").await;
    assert_dropped(&send(&service, "POST", CONVERSATIONS, "", &json!({"title": "dropped"})).await);
    restored(&database, "conversations").await;
    dropping(&database, "conversations", "update", "").await;
    assert_dropped(&send(&service, "PATCH", &conversation, "", &json!({"title": "other"})).await);
    restored(&database, "conversations").await;
    dropping(&database, "conversations", "delete", "").await;
    assert_dropped(&send(&service, "DELETE", &conversation, "", &Value::Null).await);
    assert_eq!(rows(&database, "messages").await, 3, "its messages are kept with it");
    // More than one transaction deletes.
    let many = format!(
        "insert into messages (id, conversation_id, role, content, timestamp)
         select gen_random_uuid(), '{}', 'user', 'x', now() + n * interval '1 microsecond' from generate_series(1, 5100) as n",
        conversation.rsplit('/').next().unwrap()
    );
    database.connect().await.batch_execute(&many).await.unwrap();
    assert_dropped(&send(&service, "DELETE", &conversation, "", &Value::Null).await);
    assert_eq!(rows(&database, "messages").await, 5103);
    restored(&database, "conversations").await;
    assert_eq!(service.get(&conversation).await.json()["title"], "kept");
    assert_eq!(send(&service, "DELETE", &conversation, "", &Value::Null).await.status.as_u16(), 204);
    assert_eq!((rows(&database, "messages").await, rows(&database, "conversations").await), (0, 0));
}

#[tokio::test]
async fn dropped_files_users_sessions_and_keys_are_errors() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    dropping(&database, "files", "insert", "").await;
    let body = files::body(&[files::part("a.bin", "application/octet-stream", b"abc")]);
    assert_dropped(&files::upload(&service, "", body).await);
    assert_eq!(rows(&database, "files").await, 0);
    restored(&database, "files").await;
    let file = files::store(&service, "", "a.bin", b"abc").await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    dropping(&database, "files", "delete", "").await;
    assert_dropped(&send(&service, "DELETE", &path, "", &Value::Null).await);
    restored(&database, "files").await;
    assert!(send(&service, "DELETE", &path, "", &Value::Null).await.status.is_success());
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
    restored(&database, "api_keys").await;

    // A key that cannot be revoked, a user that cannot be changed or deleted: each exists, so it is not reported as missing.
    let make = ["keys", "create", "--name", "k", "--scope", "events:write"];
    tidegate(&database, &make, "").await.unwrap();
    let client = database.connect().await;
    let key: String = client.query_one("select prefix from api_keys", &[]).await.unwrap().get(0);
    for table in ["api_keys", "auth_revocations"] {
        dropping(&database, table, if table == "api_keys" { "update" } else { "insert" }, "").await;
        let revoked = tidegate(&database, &["keys", "revoke", &key], "").await;
        assert!(revoked.as_ref().is_err_and(|error| error.contains("trigger")), "{revoked:?}");
        restored(&database, table).await;
    }
    tidegate(&database, &["keys", "revoke", &key], "").await.unwrap();
    dropping(&database, "users", "delete", "").await;
    let deleted = tidegate(&database, &["users", "delete", "ada@example.com"], "").await;
    assert!(deleted.as_ref().is_err_and(|error| error.contains("trigger")), "{deleted:?}");
    restored(&database, "users").await;
    tidegate(&database, &["users", "delete", "ada@example.com"], "").await.unwrap();
}

#[tokio::test]
async fn a_change_without_its_row_in_the_feed_is_not_made() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "kept"})).await;
    let conversation = made.header("location").to_owned();
    let message = begin(&service, &conversation, "so far").await;
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "empty"})).await;
    let empty = made.header("location").to_owned();
    let hi = json!({"role": "user", "content": "hi"});
    for table in ["changes", "conversations", "message_pieces", "message_drafts"] {
        let event = if matches!(table, "conversations" | "message_drafts") { "update" } else { "insert" };
        dropping(&database, table, event, "").await;
        assert_dropped(&append(&service, &message, 6, " and on", table == "conversations").await);
        if table == "changes" {
            assert_dropped(&append(&service, &message, 6, " to the end", true).await);
            assert_dropped(&send(&service, "PATCH", &conversation, "", &json!({"title": "other"})).await);
            assert_dropped(&send(&service, "DELETE", &empty, "", &Value::Null).await);
            assert_eq!(service.get(&empty).await.status.as_u16(), 200);
        }
        if table == "changes" || table == "conversations" {
            assert_dropped(&send(&service, "POST", &format!("{conversation}/messages"), "", &hi).await);
        }
        restored(&database, table).await;
    }
    assert_eq!(append(&service, &message, 6, " and on", false).await.status.as_u16(), 200);
    for table in ["message_drafts", "message_pieces"] {
        dropping(&database, table, "delete", "").await;
        assert_dropped(&append(&service, &message, 13, ".", true).await);
        restored(&database, table).await;
    }
    assert_eq!(append(&service, &message, 13, ".", true).await.status.as_u16(), 200);
    assert_eq!(service.get(&message).await.json()["content"], "so far and on.");
    assert_eq!(service.get(&conversation).await.json()["title"], "kept");
    assert_eq!(rows(&database, "messages").await, 1);
}

#[tokio::test]
async fn a_dropped_collection_is_not_reported_as_too_many() {
    let database = TestDatabase::create().await;
    let others = "insert into collections (name) select 'other' || n from generate_series(1, 999) n";
    database.connect().await.batch_execute(others).await.unwrap();
    let service = Service::start(database.url(), &[]).await;
    dropping(&database, "collections", "insert", "").await;
    assert_dropped(&send(&service, "POST", RECORDS, "", &json!({"n": 1})).await);
    restored(&database, "collections").await;
    assert_eq!(send(&service, "POST", RECORDS, "", &json!({"n": 1})).await.status.as_u16(), 201);
    let second = send(&service, "POST", "/api/stress/records/second", "", &json!({"n": 1})).await;
    assert!(second.status.is_client_error() && second.error_code() != "dropped_by_trigger", "{second:?}");
}

#[tokio::test]
async fn imported_lines_that_a_trigger_drops_are_rejected_and_the_others_are_stored() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    dropping(&database, "requests", "insert", "when (new.payload ? 'bad')").await;
    let file = imports::process(&service, "?kind=event", "", "{\"n\":1}\n{\"bad\":2}\n{\"n\":3}\n").await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &file).await), (3, 2, 1));
    let reasons = imports::rejected(&service, "", &file).await;
    assert_eq!(reasons, [(2, "a trigger on the table dropped it".to_owned())]);
    assert_eq!(rows(&database, "requests").await, 2);

    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "kept"})).await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    dropping(&database, "messages", "insert", "when (new.content = 'bad')").await;
    let line = |content: &str| {
        let line = json!({"kind": "message", "conversation_id": id, "role": "user", "content": content});
        format!("{line}\n")
    };
    let file = imports::process(&service, "", "", &[line("one"), line("bad"), line("two")].concat()).await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &file).await), (3, 2, 1));
    assert_eq!(imports::rejected(&service, "", &file).await.len(), 1);
    assert_eq!(rows(&database, "messages").await, 2);
}

#[tokio::test]
async fn an_import_whose_own_rows_a_trigger_drops_fails() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    dropping(&database, "imports", "insert", "").await;
    assert_dropped(&imports::post(&service, "?kind=event", "", "{\"n\":0}\n").await);
    restored(&database, "imports").await;

    for (table, event) in
        [("import_parts", "insert"), ("import_parts", "update"), ("import_rejected", "insert")]
    {
        dropping(&database, table, event, "").await;
        let file = imports::process(&service, "?kind=event", "", "{\"n\":1}\nno JSON\n").await;
        let ended = imports::ended(&service, "", &file).await;
        assert_eq!((&ended["state"], &ended["stored"]), (&json!("failed"), &json!(0)), "{table} {event}");
        assert!(ended["error"].as_str().unwrap().contains("trigger"), "{ended}");
        restored(&database, table).await;
    }
    assert_eq!(rows(&database, "requests").await, 0);
    dropping(&database, "changes", "insert", "").await;
    let lines = "{\"kind\":\"conversation\",\"title\":\"unheard\"}\n";
    let file = imports::process(&service, "", "", lines).await;
    assert_eq!(imports::ended(&service, "", &file).await["state"], "failed");
    assert_eq!(rows(&database, "conversations").await, 0);
}

#[tokio::test]
async fn an_import_whose_end_a_trigger_drops_fails_with_one_error() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("LOG", "info,tidegate::imports=debug")]).await;
    dropping(&database, "imports", "update", "when (new.state = 'done')").await;
    let file = imports::process(&service, "?kind=event", "", "{\"n\":1}\n").await;
    let ended = imports::ended(&service, "", &file).await;
    assert_eq!((&ended["state"], &ended["stored"]), (&json!("failed"), &json!(1)), "{ended}");
    assert!(ended["error"].as_str().unwrap().contains("trigger"), "{ended}");
    restored(&database, "imports").await;

    // Not even a failure can be recorded: the import stays as it is, and one error is logged however often it is tried.
    dropping(&database, "imports", "update", "").await;
    let stored = files::store(&service, "", "a.jsonl", b"{\"n\":2}\n").await;
    let id = stored["id"].as_str().unwrap();
    let path = format!("{}?kind=event", imports::PROCESS);
    let process = async || {
        let answer = send(&service, "POST", &path, "", &json!({"file_id": id})).await;
        assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
    };
    eventually("it is tried again", async || {
        process().await;
        service.log().contains("still cannot be recorded").then_some(())
    })
    .await;
    assert_eq!(imports::progress(&service, "", id).await["state"], "running");
    restored(&database, "imports").await;
    eventually("it ends", async || {
        if imports::progress(&service, "", id).await["state"] == "done" {
            return Some(());
        }
        // The attempt before may still be ending, so the request has no effect.
        send(&service, "POST", &path, "", &json!({"file_id": id})).await;
        None
    })
    .await;
    let errors = service.log().matches("the end of an import cannot be recorded").count();
    assert_eq!(errors, 1, "{}", service.log());
}

#[tokio::test]
async fn a_key_that_a_trigger_drops_stores_no_event_twice() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    dropping(&database, "ingest_keys", "insert", "").await;
    for _ in 0..2 {
        assert_eq!(service.post(&[("idempotency-key", "k")], "{}").await.status.as_u16(), 202);
    }
    eventually("the writer reports the table", async || {
        let health = service.health().await;
        health["writer"]["last_error"]["message"].as_str()?.contains("ingest_keys").then_some(())
    })
    .await;
    restored(&database, "ingest_keys").await;
    eventually("one is stored, and the other is a duplicate", async || {
        let health = service.health().await;
        (health["committed"] == 1 && health["duplicates"] == 1).then_some(())
    })
    .await;
    assert_eq!(rows(&database, "requests").await, 1);
}

#[tokio::test]
async fn dropped_bytes_of_a_stream_are_an_error_and_it_does_not_grow() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let headers = [("content-type", "text/plain")];
    let stream = "/v1/stream/dropped";
    assert_eq!(service.request("PUT", stream, &headers, "").await.status.as_u16(), 201);
    assert_eq!(service.request("POST", stream, &headers, "abc").await.status.as_u16(), 204);
    dropping(&database, "stream_chunks", "insert", "").await;
    let dropped = service.request("POST", stream, &headers, "lost").await;
    assert!(!dropped.status.is_success(), "{dropped:?}");
    restored(&database, "stream_chunks").await;
    let appended = service.request("POST", stream, &headers, "def").await;
    assert_eq!(appended.header("stream-next-offset"), "0000000000000000_0000000000000006");
    assert_eq!(service.get(stream).await.body, "abcdef".as_bytes());
}
