//! Imports that end because their file or its owner goes, while lanes are at it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::accounts::{PASSWORD, guarded, log_in, register, tidegate, tidegate_with};
use crate::support::imports::{count, ended, process, small_parts};
use crate::support::postgres::{TestDatabase, blocked};
use crate::support::service::{Service, eventually};

#[tokio::test]
async fn an_import_ends_with_its_file() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let variables = [("DB_POOL_SIZE", "19")];
    small_parts(&client, 4096).await;
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
    let last = process(&service, "?kind=event", "", "2\n").await;
    ended(&service, "", &last).await;
    assert_eq!(count(&client, "requests").await, stored + 1);
}

#[tokio::test]
async fn a_file_can_be_deleted_while_many_lanes_import_it() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let variables = [("DB_POOL_SIZE", "40")];
    small_parts(&client, 16384).await;
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
    let variables = [("DB_POOL_SIZE", "40")];
    small_parts(&client, 4096).await;
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

#[tokio::test]
async fn parts_on_their_way_when_a_users_imports_end_are_counted() {
    let database = TestDatabase::create().await;
    tidegate(&database, &["users", "add", "ada@example.com"], PASSWORD).await.unwrap();
    let (client, mut lane, holder) =
        (database.connect().await, database.connect().await, database.connect().await);
    let begin = "
        insert into files (filename, file_path, size, mime_type, owner, sha256)
        select 'a', 'a', 100, 'application/x-ndjson', id, sha256('') from users;
        insert into imports (file_id, mapping, allowed, part_bytes, started_us) select id, '{}', '{}', 50, 1 from files";
    client.batch_execute(begin).await.unwrap();
    let part = |number: u8, stored: u8| {
        format!(
            "insert into import_parts (file_id, number, first_line, lines, bytes, end_offset, stored, rejected)
             select file_id, {number}, 1, 10, 50, 50, {stored}, 10 - {stored} from imports"
        )
    };
    client.batch_execute(&part(0, 9)).await.unwrap();
    // A lane that has not committed its part yet.
    let on_its_way = lane.transaction().await.unwrap();
    on_its_way.batch_execute(&part(1, 7)).await.unwrap();
    // Keeps the user, and so what became of their import.
    holder.batch_execute("begin; select from users for key share").await.unwrap();
    let committing = async {
        eventually("the import is stopped", async || {
            (count(&client, "imports where state = 'failed'").await == 1).then_some(())
        })
        .await;
        blocked(&client, 1, "true").await;
        on_its_way.commit().await.unwrap();
    };
    let deleting = async {
        let variables = [("STATEMENT_TIMEOUT_MS", "500")];
        tidegate_with(&database, &["users", "delete", "ada@example.com"], "", &variables).await
    };
    let (deleted, ()) = tokio::join!(deleting, committing);
    assert!(deleted.unwrap_err().contains("the same command deletes the rest"));
    let row = client.query_one("select lines, stored, rejected from imports", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (20, 16, 4));
    holder.batch_execute("rollback").await.unwrap();
    tidegate(&database, &["users", "delete", "ada@example.com"], "").await.unwrap();
    assert_eq!(count(&client, "imports").await, 0);
}
