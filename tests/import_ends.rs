//! Imports that end because their file or its owner goes, while lanes are at it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::accounts::{guarded, log_in, register, tidegate};
use crate::support::imports::{count, ended, process};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

#[tokio::test]
async fn an_import_ends_with_its_file() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let variables = [("IMPORT_PART_BYTES", "4096"), ("IMPORT_WRITERS", "1"), ("IMPORTS_AT_ONCE", "1")];
    let service = Service::start(database.url(), &variables).await;
    let lines: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    let file = process(&service, "?kind=event", "", &lines).await;
    eventually("some of it is stored", async || (count(&client, "requests").await > 0).then_some(())).await;
    let deleted = service.request("DELETE", &format!("/api/files/{file}"), &[], "").await;
    assert_eq!(deleted.status.as_u16(), 204);
    assert_eq!(service.get(&format!("/api/files/{file}/progress")).await.status.as_u16(), 404);
    // The next one has its turn, so the first one has ended.
    let next = process(&service, "?kind=event", "", "1\n").await;
    ended(&service, "", &next).await;
    let stored = count(&client, "requests").await;
    assert!(stored < 200_001, "{stored}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(count(&client, "requests").await, stored);
}

#[tokio::test]
async fn a_file_can_be_deleted_while_many_lanes_import_it() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let variables = [("IMPORT_PART_BYTES", "16384"), ("IMPORT_WRITERS", "4")];
    let service = Service::start(database.url(), &variables).await;
    let lines: String = (0..400_000).map(|n| format!("{n}\n")).collect();
    let file = process(&service, "?kind=event", "", &lines).await;
    eventually("some of it is stored", async || (count(&client, "requests").await > 0).then_some(())).await;
    let began = Instant::now();
    let deleted = service.request("DELETE", &format!("/api/files/{file}"), &[], "").await;
    assert_eq!(deleted.status.as_u16(), 204, "{:?}", deleted.body);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(count(&client, "requests").await < 400_000);
}

#[tokio::test]
async fn a_user_can_be_deleted_while_many_lanes_import_a_file_of_his() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let variables = [("IMPORT_PART_BYTES", "4096"), ("IMPORT_WRITERS", "4")];
    let service = guarded(&database, &variables).await;
    // Conversations, as their owner's row is looked at by each part that makes one.
    let line = |n: u32| json!({"kind": "conversation", "title": format!("{n}")}).to_string() + "\n";
    let lines: String = (0..100_000).map(line).collect();
    for (round, email) in ["ada@example.com", "bob@example.com"].into_iter().enumerate() {
        register(&service, email).await;
        let token = log_in(&service, email).await.access;
        process(&service, "", &token, &lines).await;
        eventually("some of it is stored", async || {
            (count(&client, "conversations").await > 0).then_some(())
        })
        .await;
        let began = Instant::now();
        let deleted = tidegate(&database, &["users", "delete", email], "").await;
        assert!(deleted.is_ok(), "{deleted:?} in round {round} after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        for table in ["users", "files", "imports", "import_parts", "conversations"] {
            assert_eq!(count(&client, table).await, 0, "{table}");
        }
    }
}
