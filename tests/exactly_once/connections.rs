//! Cut connections and stopped backends, at the worst moment.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::load::{Load, assert_exactly_once};
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::proxy::{Cut, Proxy};
use crate::support::service::{Service, eventually};

/// Repeatedly cuts connections at `cut`.
async fn cut_at(cut: Cut, times: u32, settings: &[(&str, &str)]) {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(database.url()).await;
    let mut all = vec![("BATCH_SIZE", "50")];
    all.extend(settings);
    let service = Service::start(proxy.url(), &all).await;
    let load = Load::start(&service.address, 3, 0);
    load.progresses(50).await;
    proxy.arm(cut, times);
    eventually("all cuts are made", async || (proxy.done() == times).then_some(())).await;
    load.progresses(50).await;
    let sent = load.stop().await;
    service.fenced().await;
    assert_exactly_once(&database.connect().await, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_the_middle_of_a_copy_is_settled_exactly_once() {
    cut_at(Cut::MidCopy, 10, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_right_after_the_commit_is_settled_exactly_once() {
    cut_at(Cut::AfterCommit, 10, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_drops_a_commit_blocks_nothing_forever() {
    // The server still waits for the end of the transaction, and its backend holds the lane.
    cut_at(Cut::HangAtCommit, 2, &[("STATEMENT_TIMEOUT_MS", "100")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatedly_cutting_all_connections_doubles_nothing() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(database.url()).await;
    let service = Service::start(proxy.url(), &[("BATCH_SIZE", "20"), ("WRITERS", "4")]).await;
    let load = Load::start(&service.address, 4, 0);
    for _ in 0..30 {
        load.progresses(fastrand::u64(1..100)).await;
        proxy.cut_all();
    }
    let sent = load.stop().await;
    service.fenced().await;
    assert_exactly_once(&database.connect().await, &sent).await;
}

/// A stopped backend, until drop.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

/// Stops a backend while it commits, so that the service gives up the connection, and resumes it after `pause`.
async fn stopped_at_commit(pause: Duration) {
    // A private server: creating or dropping a database waits for every backend of a server.
    let server = PrivateServer::start(&[]).await;
    let migrated = Service::start(server.url(), &[]).await;
    assert!(migrated.stop().await.status.success());
    let client = connect(server.url()).await;
    client
        .batch_execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.4); return null; end $$;
             create constraint trigger slow after insert on requests deferrable initially deferred
                for each row when (new.payload->>'slow' is not null) execute function slow();",
        )
        .await
        .unwrap();
    let service =
        Service::start(server.url(), &[("STATEMENT_TIMEOUT_MS", "100"), ("BATCH_SIZE", "20")]).await;
    let load = Load::start(&service.address, 2, 0);
    load.progresses(50).await;
    let answer = service.post(&[("x-trace-id", "slow")], "{\"slow\":true}").await;
    assert_eq!(answer.status.as_u16(), 202);
    let committing = "select pid from pg_stat_activity
        where datname = current_database() and application_name like 'tidegate % lane %' and wait_event = 'PgSleep'";
    let pid = eventually("a backend commits", async || {
        client.query_opt(committing, &[]).await.unwrap().map(|row| Pid::from_raw(row.get(0)))
    })
    .await;
    let stopped = Stopped::stop(pid);
    eventually("it is given up", async || service.logged("no answer from postgres within 1.2 s")).await;
    // The time for which a backend stands still is what both tests vary.
    tokio::time::sleep(pause).await;
    drop(stopped);
    load.progresses(50).await;
    let mut sent = load.stop().await;
    sent.add("slow");
    service.fenced().await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_stopped_at_commit_and_resumed_during_the_retry_doubles_nothing() {
    stopped_at_commit(Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_stopped_at_commit_for_long_doubles_nothing() {
    stopped_at_commit(Duration::from_secs(5)).await;
}
