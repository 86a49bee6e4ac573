//! Losses of the journal: reported until an operator acknowledges them, and restored if their bytes come back.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, run};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
/// Three segments of 4 MiB.
const EVENTS: u64 = 6000;

/// A journal with acknowledged events that Postgres does not have.
struct Pending {
    database: TestDatabase,
    folder: Folder,
}

async fn accept(service: &Service) {
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1900));
    for _ in 0..EVENTS / 500 {
        let answer = service.post_batch(&[NDJSON], line.repeat(500)).await;
        assert_eq!(answer.status.as_u16(), 202, "{:?}", answer.body);
    }
}

impl Pending {
    /// Accepted by a service that is killed before it stores them.
    async fn new() -> Self {
        let this = Self { database: TestDatabase::create().await, folder: Folder::new() };
        let mut holder = this.database.connect().await;
        let hold = holder.transaction().await.unwrap();
        hold.batch_execute("lock table requests in exclusive mode").await.unwrap();
        let service = this.start().await;
        accept(&service).await;
        service.signal(Signal::SIGKILL);
        service.ended().await;
        hold.rollback().await.unwrap();
        this
    }

    fn settings(&self) -> [(&str, &str); 2] {
        [("DATABASE_URL", self.database.url()), ("DATA_DIR", self.folder.path())]
    }

    async fn start(&self) -> Service {
        Service::start_with(&self.settings()).await
    }

    fn dir(&self) -> PathBuf {
        Path::new(self.folder.path()).join("journal")
    }

    /// The journal's segments, in order.
    fn segments(&self) -> Vec<PathBuf> {
        let names = std::fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> =
            names.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
        segments.sort();
        segments
    }

    async fn rows(&self) -> u64 {
        let rows = self.database.connect().await.query_one("select count(*) from requests", &[]).await;
        rows.unwrap().get::<_, i64>(0) as u64
    }

    /// The exit code and the output.
    async fn run(&self, arguments: &[&str]) -> (i32, String) {
        let (status, stdout, stderr) = run(arguments, &self.settings()).await;
        (status.code().unwrap(), stdout + &stderr)
    }

    /// Checks that the loss is reported everywhere, before and after a restart, until it is acknowledged; returns its number of
    /// events.
    async fn is_reported(&self, service: Service) -> u64 {
        let health = service.settled().await;
        let lost = health["journal"]["acknowledged_lost"].as_u64().unwrap();
        assert!(lost > 0, "{health}");
        assert_eq!(self.rows().await, EVENTS - lost, "all others are stored");
        assert_eq!(health["status"], "degraded", "{health}");
        eventually("the ledger has it", async || {
            let ledger = service.health().await["journal"]["ledger"].take();
            // Postgres has everything, so the journal may be trimmed already.
            (ledger["balanced"] == true && ledger["pending"] == 0).then_some(())
        })
        .await;
        let ended = service.stop().await;
        assert!(ended.status.success());
        assert!(!ended.log.contains("all accepted events are stored"), "{}", ended.log);
        assert!(ended.log.contains("acknowledged events are lost; health is degraded"), "{}", ended.log);

        let service = self.start().await;
        let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
        assert!(metrics.contains(&format!("\ntidegate_acknowledged_lost {lost}\n")), "{metrics}");
        for arguments in [&["verify"][..], &["journal", "--check"]] {
            let (code, said) = self.run(arguments).await;
            assert_eq!(code, 1, "{said}");
            assert!(said.contains(&format!("{lost} acknowledged events are lost")), "{said}");
            assert!(said.contains(" at offset ") && said.contains(".seg"), "{said}");
        }
        let (_, said) = self.run(&["verify", "--json"]).await;
        let verdict: Value = serde_json::from_str(said.split("\ntidegate: ").next().unwrap()).unwrap();
        assert_eq!(verdict["journals"][0]["differences"], json!([]), "the books balance: {verdict}");
        assert_eq!(verdict["journals"][0]["quarantined"], json!(lost));
        let journal = verdict["losses"][0]["journal"].as_str().unwrap();
        assert_eq!(self.run(&["journal", "--acknowledge", journal]).await.0, 0);
        eventually("it is acknowledged", async || (service.health().await["status"] == "ok").then_some(()))
            .await;
        for arguments in [&["verify"][..], &["journal", "--check"]] {
            let (code, said) = self.run(arguments).await;
            assert_eq!(code, 0, "{said}");
        }
        lost
    }
}

#[tokio::test]
async fn damage_found_by_a_start_is_reported_until_it_is_acknowledged() {
    let pending = Pending::new().await;
    let segment = std::fs::File::options().write(true).open(&pending.segments()[0]).unwrap();
    segment.write_all_at(&[0xA5; 256], 1 << 20).unwrap();
    let service = pending.start().await;
    let lost = pending.is_reported(service).await;
    assert!(lost < 1000, "a block: {lost}");
}

#[tokio::test]
async fn a_segment_cut_to_nothing_is_reported_with_the_number_of_its_events() {
    let pending = Pending::new().await;
    for segment in pending.segments() {
        std::fs::write(segment, b"").unwrap();
    }
    let (code, said) = pending.run(&["journal", "--check"]).await;
    assert!(code == 1 && said.contains(&format!("{EVENTS} events of the journal cannot be read")), "{said}");
    let service = pending.start().await;
    assert_eq!(pending.is_reported(service).await, EVENTS);
}

#[tokio::test]
async fn a_missing_segment_is_reported_whatever_its_position() {
    for index in [1, 2] {
        let pending = Pending::new().await;
        let segments = pending.segments();
        std::fs::remove_file(&segments[index]).unwrap();
        let service = pending.start().await;
        let lost = pending.is_reported(service).await;
        assert!((1000..3000).contains(&lost), "a segment: {lost}");
    }
}

#[tokio::test]
async fn damage_found_while_running_is_reported_at_once() {
    let pending = Pending { database: TestDatabase::create().await, folder: Folder::new() };
    let mut holder = pending.database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in exclusive mode").await.unwrap();
    let service = pending.start().await;
    accept(&service).await;
    // The second and third: a batch of the first may be in flight.
    let segment = std::fs::File::options().write(true).open(&pending.segments()[1]).unwrap();
    segment.write_all_at(&[0xA5; 256], 3 << 20).unwrap();
    hold.rollback().await.unwrap();
    pending.is_reported(service).await;
}

#[tokio::test]
async fn recovered_events_are_stored_exactly_once() {
    let pending = Pending::new().await;
    let segment = pending.segments().swap_remove(1);
    let elsewhere = Path::new(pending.folder.path()).join("found-later");
    std::fs::rename(&segment, &elsewhere).unwrap();
    let service = pending.start().await;
    let lost = service.settled().await["journal"]["acknowledged_lost"].as_u64().unwrap();
    assert_eq!(pending.rows().await, EVENTS - lost);
    let (code, said) = pending.run(&["journal", "--recover"]).await;
    assert!(code == 1 && said.contains(&format!("{lost} are still lost")), "{said}");

    let quarantine = pending.dir().join("quarantine");
    std::fs::create_dir_all(&quarantine).unwrap();
    std::fs::rename(&elsewhere, quarantine.join(segment.file_name().unwrap())).unwrap();
    let settings = pending.settings();
    let (one, two) =
        tokio::join!(run(&["journal", "--recover"], &settings), run(&["journal", "--recover"], &settings));
    assert!(one.0.success() || two.0.success(), "{one:?} {two:?}");
    assert_eq!(pending.rows().await, EVENTS);
    eventually("nothing is lost any more", async || (service.health().await["status"] == "ok").then_some(()))
        .await;
    let (code, said) = pending.run(&["journal", "--recover"]).await;
    assert!(code == 0 && said.contains("nothing is lost"), "{said}");
    let (code, said) = pending.run(&["verify"]).await;
    assert!(code == 0 && said.contains(&format!("{EVENTS} committed")), "{said}");
}

#[tokio::test]
async fn a_removed_journal_refuses_at_once_and_accepted_events_are_stored() {
    let pending = Pending { database: TestDatabase::create().await, folder: Folder::new() };
    let mut holder = pending.database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in exclusive mode").await.unwrap();
    let service = pending.start().await;
    assert_eq!(service.post(&[], "1").await.status.as_u16(), 202);
    let elsewhere = Path::new(pending.folder.path()).join("elsewhere");
    std::fs::rename(pending.dir(), &elsewhere).unwrap();
    std::fs::create_dir(pending.dir()).unwrap();
    let is = async |state: &str| {
        eventually(state, async || (service.health().await["journal"]["state"] == state).then_some(())).await;
    };
    is("gone").await;
    let answer = service.post(&[], "2").await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "journal_gone"));
    assert!(service.log().contains("its folder was removed or replaced"), "{}", service.log());
    hold.rollback().await.unwrap();
    service.settled().await;
    assert_eq!(pending.rows().await, 1, "read from the open file");
    std::fs::remove_dir_all(pending.dir()).unwrap();
    std::fs::rename(&elsewhere, pending.dir()).unwrap();
    is("accepting").await;
    assert_eq!(service.post(&[], "3").await.status.as_u16(), 202);
    service.settled().await;
    assert_eq!(pending.rows().await, 2);
}

#[tokio::test]
async fn a_full_disk_is_named_in_the_log_and_in_answers() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("JOURNAL_MIN_FREE", "1099511627776")]).await;
    let line = "its disk has less free space than JOURNAL_MIN_FREE";
    eventually("it is logged", async || service.log().contains(line).then_some(())).await;
    for _ in 0..20 {
        let answer = service.post(&[], "1").await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "disk_low"));
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("JOURNAL_MIN_FREE"));
    }
    assert_eq!(service.log().matches(line).count(), 1, "{}", service.log());
    assert!(service.log().contains("\"free_bytes\":"), "{}", service.log());
    let health = service.health().await;
    assert_eq!((&health["status"], &health["journal"]["state"]), (&"overloaded".into(), &"disk_low".into()));
}

#[tokio::test]
async fn an_idle_journal_has_no_pending_bytes() {
    let database = TestDatabase::create().await;
    let mut holder = database.connect().await;
    let service = Service::start(database.url(), &[]).await;
    let idle = service.settled().await;
    assert_eq!(idle["journal"]["pending_bytes"], 0, "{idle}");
    assert!(idle["journal"]["segment_bytes"].as_u64() >= Some(4 << 20));
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in exclusive mode").await.unwrap();
    service.post(&[], format!("\"{}\"", "x".repeat(10_000))).await;
    let pending = service.health().await["journal"]["pending_bytes"].as_u64().unwrap();
    assert!((10_000..20_000).contains(&pending), "{pending}");
    hold.rollback().await.unwrap();
    service.settled().await;
    assert_eq!(service.health().await["journal"]["pending_bytes"], 0);
}

#[tokio::test]
async fn clients_that_hold_all_connections_leave_descriptors_for_the_journal_and_operators() {
    let database = TestDatabase::create().await;
    let settings = [("MEMORY_BUDGET", "134217728"), ("HTTP_THREADS", "1"), ("JOURNAL_KEEP_BYTES", "0")];
    let service = Service::start_limited(200, database.url(), &settings).await;
    assert!(service.log().contains("fewer connections than MAX_CONNECTIONS"), "{}", service.log());
    // Connected before the other clients.
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(&service.address).await.unwrap());
    }
    // Operators are always served, at the latest once the other clients' connections to their port are closed.
    let health = eventually("health is served", async || {
        let answer = service
            .raw(
                b"GET /api/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
                Duration::from_secs(2),
            )
            .await;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    })
    .await;
    assert!(health.contains("\"state\":\"accepting\""), "{health}");
    // Half of the clients disconnect, so that events arrive again: over several segments, beside the other half.
    idle.truncate(20);
    eventually("events are taken", async || {
        let event = b"POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\nconnection: close\r\n\r\n1";
        service.raw(event, Duration::from_secs(2)).await.starts_with("HTTP/1.1 202").then_some(())
    })
    .await;
    accept(&service).await;
    let health = service.settled().await;
    assert_eq!(
        (&health["status"], &health["journal"]["state"]),
        (&json!("ok"), &json!("accepting")),
        "{health}"
    );
    assert!(!service.log().contains("a sync failed"), "{}", service.log());
}
