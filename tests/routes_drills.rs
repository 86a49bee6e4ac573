//! Routes under kill -9, stops of Postgres, locked and missing targets, and bad rows: each stored event is in the target, refused or
//! deferred, once.

use nix::sys::signal::Signal;

use crate::routes::count;
use crate::support::load::{Load, assert_exactly_once};
use crate::support::postgres::{PrivateServer, connect};
use crate::support::service::{Folder, Service, eventually, run};

/// `.ci/long` sets more.
fn rounds() -> u32 {
    std::env::var("TIDEGATE_ROUTE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// An event whose id ends with a 3 is no number. A doubled event would violate the key.
const SELECT: &str =
    "select id as event_id, (case when id::text like '%3' then 'x' else '1' end)::int as n from batch";
const NEWEST: &str = "select right(id::text, 1) as k, id as event_id from batch";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_routed_once_whatever_fails() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let folder = Folder::new();
    let settings = [("DATABASE_URL", url.as_str()), ("DATA_DIR", folder.path()), ("BATCH_SIZE", "50")];
    let mut service = Service::start_with(&settings).await;
    let client = connect(&url).await;
    client
        .batch_execute(
            "create schema app; create table app.events (event_id uuid primary key, n int);
             create table app.newest (k text primary key, event_id uuid)",
        )
        .await
        .unwrap();
    for (name, into, sql, key) in [("all", "app.events", SELECT, ""), ("newest", "app.newest", NEWEST, "k")] {
        let mut add = vec!["routes", "add", name, "--into", into, "--sql", sql];
        add.extend(if key.is_empty() { vec![] } else { vec!["--key", key] });
        let (status, stdout, stderr) = run(&add, &[("DATABASE_URL", &url)]).await;
        assert!(status.success(), "{stdout}{stderr}");
    }
    let load = Load::start(&service.address, 4, 0);
    for _ in 0..rounds() {
        load.progresses(300).await;
        service.signal(Signal::SIGKILL);
        service.ended().await;
        service = Service::start_with(&settings).await;
        load.turn_to(&service.address);
        load.progresses(300).await;
        // A locked target, and one that is not there.
        let mut locker = connect(&url).await;
        let lock = locker.transaction().await.unwrap();
        lock.batch_execute("lock table app.events, app.newest in access exclusive mode").await.unwrap();
        load.progresses(300).await;
        let mender = connect(&url).await;
        eventually("it is suspended", async || (count(&mender, "route_deferred").await > 0).then_some(()))
            .await;
        lock.commit().await.unwrap();
        mender.batch_execute("alter table app.events rename to gone").await.unwrap();
        load.progresses(300).await;
        server.stop_immediate().await;
        load.progresses(100).await;
        server.start_again().await;
        assert_eq!(server.url(), url);
        load.progresses(300).await;
        connect(&url).await.batch_execute("alter table app.gone rename to events").await.unwrap();
    }
    let sent = load.stop().await;
    service.fenced().await;
    let client = connect(&url).await;
    eventually("the routes are live", async || {
        (count(&client, "event_routes where state = 'live'").await == 2).then_some(())
    })
    .await;
    assert_exactly_once(&client, &sent).await;
    let stored = count(&client, "requests").await;
    assert_eq!(
        count(&client, "requests where id::text like '%3'").await,
        count(&client, "route_errors where sqlstate = '22P02'").await
    );
    assert_eq!(
        count(&client, "route_errors").await,
        count(&client, "route_errors where sqlstate = '22P02'").await
    );
    assert_eq!(count(&client, "app.events").await + count(&client, "route_errors").await, stored);
    assert_eq!(count(&client, "route_deferred").await, 0);
    let missing = "requests where not exists (select from app.events where event_id = id)
        and not exists (select from route_errors where event_id = id)";
    assert_eq!(count(&client, missing).await, 0);
    let (status, stdout, stderr) = run(&["verify", "--json"], &[("DATABASE_URL", &url)]).await;
    assert!(status.success(), "{stdout}{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let all = &report["routes"][0];
    let (target, rows) = (&all["target"], count(&client, "app.events").await);
    let expected = serde_json::json!({"column": "event_id", "rows": rows, "doubled": 0, "repeated": 0, "without_event": 0, "not_routed": 0});
    assert_eq!(*target, expected);
    assert_eq!(rows + all["refused"].as_i64().unwrap(), stored);
    eprintln!(
        "{} rounds: {stored} events stored, {rows} rows, {} refused, 0 deferred",
        rounds(),
        all["refused"]
    );
    assert!(service.stop().await.status.success());
}
