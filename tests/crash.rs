//! `kill -9` at random moments under load: what was acknowledged is there exactly once, and nothing that was never sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, run};

/// Ten rounds take about half a minute; `.ci/long` asks for a hundred.
fn rounds() -> usize {
    std::env::var("TIDEGATE_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10)
}

/// What producers did.
#[derive(Debug, Default)]
struct Sent {
    /// Trace ids of events that were sent; of these the service may have some.
    all: BTreeSet<String>,
    /// Those of answers 202 and 201: the service has them.
    acknowledged: BTreeSet<String>,
}

/// One connection that sends until it breaks; requests are numbered by `next`.
async fn produce(address: String, next: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Sent {
    let mut sent = Sent::default();
    let Ok(mut stream) = TcpStream::connect(&address).await else { return sent };
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let trace = format!("c{number}");
        let (path, body, traces) = match number % 4 {
            0 => {
                let body: String = (0..50).map(|n| format!("{{\"n\":{n}}}\n")).collect();
                ("/api/v1/events/batch", body, (0..50).map(|n| format!("{trace}-{n}")).collect::<Vec<_>>())
            }
            1 => ("/api/v1/events?ack=committed", "{\"evil\":1}".to_owned(), vec![trace.clone()]),
            2 => ("/api/v1/events?ack=committed", "{}".to_owned(), vec![trace.clone()]),
            _ => ("/api/v1/events", "{}".to_owned(), vec![trace.clone()]),
        };
        sent.all.extend(traces.iter().cloned());
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-trace-id: {trace}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(request.as_bytes()).await.is_err() {
            return sent;
        }
        let mut answer = [0; 1024];
        let Ok(read @ 1..) = stream.read(&mut answer).await else { return sent };
        let status = &answer[..read.min(12)];
        // 422: it was accepted, and is a dead letter.
        if [&b"HTTP/1.1 201"[..], b"HTTP/1.1 202", b"HTTP/1.1 422"].contains(&status) {
            sent.acknowledged.extend(traces);
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_were_acknowledged_survive_kill_9_exactly_once_and_others_never_appear() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute("alter table requests add constraint no_evil check (payload->>'evil' is null)")
        .await
        .unwrap();
    let data = Folder::new();
    let settings = [("DATA_DIR", data.path()), ("BATCH_SIZE", "50"), ("FLUSH_INTERVAL_MS", "5")];
    let next = Arc::new(AtomicU64::new(0));
    let mut sent = Sent::default();
    for round in 0..rounds() {
        let service = Service::start(database.url(), &settings).await;
        let stop = Arc::new(AtomicBool::new(false));
        let producers: Vec<_> = (0..8)
            .map(|_| tokio::spawn(produce(service.address.clone(), Arc::clone(&next), Arc::clone(&stop))))
            .collect();
        // From just after the start to a while into the draining of what the round before left.
        tokio::time::sleep(Duration::from_millis(20 + (round as u64 * 137) % 700)).await;
        service.signal(nix::sys::signal::Signal::SIGKILL);
        stop.store(true, Ordering::Relaxed);
        for producer in producers {
            let one = producer.await.unwrap();
            sent.all.extend(one.all);
            sent.acknowledged.extend(one.acknowledged);
        }
        service.ended().await;
    }
    let service = Service::start(database.url(), &settings).await;
    eventually("everything is settled", async || {
        let health = service.health().await;
        (health["pending"] == 0 && health["journal"]["ledger"]["pending"] == 0).then_some(())
    })
    .await;
    assert!(service.stop().await.status.success());

    let rows = client
        .query("select trace_id from requests union all select trace_id from dead_letters", &[])
        .await
        .unwrap();
    let mut stored: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        *stored.entry(row.get(0)).or_default() += 1;
    }
    let lost: Vec<_> = sent.acknowledged.iter().filter(|trace| !stored.contains_key(*trace)).collect();
    let doubled: Vec<_> = stored.iter().filter(|(_, times)| **times > 1).collect();
    let never_sent: Vec<_> = stored.keys().filter(|trace| !sent.all.contains(*trace)).collect();
    assert!(sent.acknowledged.len() > 100 * rounds(), "{} were acknowledged", sent.acknowledged.len());
    assert_eq!((lost, doubled, never_sent), (vec![], vec![], vec![]));
    let url = [("DATABASE_URL", database.url()), ("DATA_DIR", data.path())];
    let (status, stdout, stderr) = run(&["verify"], &url).await;
    assert!(status.success(), "{stdout} {stderr}");
}
