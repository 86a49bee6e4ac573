//! Imports that are taken up by another process, or by another node: each line is stored once, by the process that has the file.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::accounts::send;
use crate::support::files::{on_disk, store};
use crate::support::imports::{PROCESS, count, ended, figures, process, progress, small_parts};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, poll};

#[tokio::test]
async fn an_import_that_is_killed_again_and_again_stores_each_line_once() {
    const LINES: i64 = 30_000;
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let data = Folder::new();
    let variables = [("DATA_DIR", data.path())];
    small_parts(&client, 4096).await;
    let lines: String = (0..LINES).map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "y".repeat(30))).collect();
    let mut service = Service::start(database.url(), &variables).await;
    let file = process(&service, "?kind=event", "", &lines).await;
    let mut kills = 0;
    for goal in [1, 3_000, 9_000, 15_000] {
        poll("some of it is stored", Duration::from_millis(2), Duration::from_secs(60), async || {
            (count(&client, "requests").await >= goal).then_some(())
        })
        .await;
        if goal == 9_000 {
            // Its backends too, in the middle of whatever they do.
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
            client.execute(end, &[]).await.unwrap();
            continue;
        }
        kills += i32::from(count(&client, "requests").await < LINES);
        service.signal(Signal::SIGKILL);
        service.ended().await;
        service = Service::start(database.url(), &variables).await;
    }
    assert!(kills > 0, "it was done before it could be killed");
    assert_eq!(figures(&ended(&service, "", &file).await), (LINES, LINES, 0));
    let row = client
        .query_one("select count(*), count(distinct payload->>'n'), count(distinct id) from requests", &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (LINES, LINES, LINES));
}

#[tokio::test]
async fn an_import_whose_beginning_was_not_heard_of_is_begun_by_who_asks_again() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let form = "--x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\n\u{feff}{\"n\":1}\n2\r\n--x--\r\n";
    let uploaded = service
        .request("POST", "/api/files/upload", &[("content-type", "multipart/form-data; boundary=x")], form)
        .await;
    let file = uploaded.json()["files"][0]["id"].as_str().unwrap().to_owned();
    let client = database.connect().await;
    let note = "insert into imports (file_id, kind, mapping, allowed, part_bytes, started_us)
        values ($1::text::uuid, 'event', '{}', '{event}', 4194304, 1700000000000000)";
    client.execute(note, &[&file]).await.unwrap();
    let named = json!({"file_id": file});
    let other = send(&service, "POST", &format!("{PROCESS}?kind=message"), "", &named).await;
    assert_eq!((other.status.as_u16(), other.error_code().as_str()), (409, "processed"));
    let again = send(&service, "POST", &format!("{PROCESS}?kind=event"), "", &named).await;
    assert_eq!(again.status.as_u16(), 202);
    assert_eq!(
        figures(&ended(&service, "", &file).await),
        (2, 2, 0),
        "a mark of UTF-8 is no part of the first line"
    );
}

#[tokio::test]
async fn a_node_without_the_file_leaves_its_import_to_the_one_that_has_it_whoever_was_asked() {
    const LINES: i64 = 60_000;
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let (with, without) = (Folder::new(), Folder::new());
    let variables = [("DB_POOL_SIZE", "19"), ("FILES_SWEEP_S", "1")];
    small_parts(&client, 4096).await;
    let node = async |data: &Folder| {
        Service::start(database.url(), &[&variables[..], &[("DATA_DIR", data.path())]].concat()).await
    };
    let lines: String = (0..LINES).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let (one, other) = (node(&with).await, node(&without).await);
    let uploaded = store(&one, "", "later", b"1\n2\n").await;
    let begun = process(&one, "?kind=event", "", &lines).await;
    eventually("some of it is stored", async || (count(&client, "requests").await > 0).then_some(())).await;
    one.signal(Signal::SIGKILL);
    one.ended().await;
    let stored = count(&client, "requests").await;
    assert!(stored < LINES, "it was done before it could be killed");

    // The first node is gone: the other one is asked for a file that only that one has, begins anew, and goes on without it.
    let later = uploaded["id"].as_str().unwrap();
    let asked = send(&other, "POST", &format!("{PROCESS}?kind=event"), "", &json!({"file_id": later})).await;
    assert_eq!(asked.status.as_u16(), 202);
    other.stop().await;
    let other = node(&without).await;
    for file in [later, &begun] {
        eventually("it is left alone", async || {
            other.log().lines().any(|line| line.contains(file) && line.contains("left to")).then_some(())
        })
        .await;
        assert_eq!(progress(&other, "", file).await["state"], "running");
    }
    let own = process(&other, "?kind=event", "", "1\n").await;
    assert_eq!(
        figures(&ended(&other, "", &own).await),
        (1, 1, 0),
        "its turn is not held by what it cannot do"
    );
    assert_eq!(count(&client, "requests").await, stored + 1);

    let one = node(&with).await;
    assert_eq!(figures(&ended(&one, "", &begun).await), (LINES, LINES, 0));
    assert_eq!(figures(&ended(&other, "", later).await), (2, 2, 0));
    let all = client.query_one("select count(*), count(distinct id) from requests", &[]).await.unwrap();
    assert_eq!((all.get::<_, i64>(0), all.get::<_, i64>(1)), (LINES + 3, LINES + 3));
}

#[tokio::test]
async fn a_content_that_cannot_be_read_holds_up_no_other_import() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("DB_POOL_SIZE", "19")];
    let service = Service::start(database.url(), &variables).await;
    let damaged = store(&service, "", "damaged", b"1\n2\n").await;
    std::fs::write(&on_disk(&data).0[0], "1").unwrap();
    let named = json!({"file_id": damaged["id"]});
    assert_eq!(
        send(&service, "POST", &format!("{PROCESS}?kind=event"), "", &named).await.status.as_u16(),
        202
    );
    let next = process(&service, "?kind=event", "", "1\n").await;
    assert_eq!(figures(&ended(&service, "", &next).await), (1, 1, 0));
    assert_eq!(progress(&service, "", damaged["id"].as_str().unwrap()).await["state"], "running");
}
