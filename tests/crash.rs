//! Acknowledged events survive `kill -9` at any moment.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::load::{Load, assert_exactly_once};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service};

/// `.ci/long` sets more.
fn rounds() -> u32 {
    std::env::var("TIDEGATE_CRASH_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_event_survives_kill_9_exactly_once() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    eprintln!("seed {seed}");
    let database = TestDatabase::refusing_evil().await;
    let client = database.connect().await;
    let folder = Folder::new();
    let settings = [
        ("DATABASE_URL", database.url()),
        ("DATA_DIR", folder.path()),
        // Small batches, so that many transactions are in progress.
        ("BATCH_SIZE", "50"),
        ("JOURNAL_KEEP_BYTES", "16777216"),
    ];
    let mut service = Service::start_with(&settings).await;
    let load = Load::start(&service.address, 4, 97);
    for round in 0..rounds() {
        load.progresses(random.u64(1..1500)).await;
        service.signal(Signal::SIGKILL);
        service.ended().await;
        if round % 4 == 3 {
            // Kills recoveries too, at any time: a start shows no states before it is up.
            let starting = Service::spawn(&settings).await;
            tokio::time::sleep(Duration::from_millis(random.u64(1..150))).await;
            starting.signal(Signal::SIGKILL);
            starting.ended().await;
        }
        service = Service::start_with(&settings).await;
        load.turn_to(&service.address);
        load.progresses(1).await;
    }
    let sent = load.stop().await;
    let health = service.settled().await;
    assert_eq!(health["journal"]["quarantined_bytes"], 0);
    assert!(sent.committed > 0, "some requests waited for the commit");
    assert_exactly_once(&client, &sent).await;
    let dead: i64 = client.query_one("select count(*) from dead_letters", &[]).await.unwrap().get(0);
    assert!(dead > 0, "some events are rejected");
    let ended = service.stop().await;
    assert!(ended.status.success(), "{}", ended.log);
}
