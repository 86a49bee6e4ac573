//! Panics in background tasks: the task is restarted, or the service stops in order and the next start continues.

use hyper::StatusCode;
use serde_json::Value;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};

/// Every task with these settings, and whether it is critical.
const TASKS: [(&str, bool); 45] = [
    ("account-clean-up", false),
    ("change-retention", false),
    ("client-positions", false),
    ("clients", false),
    ("collections", false),
    ("conversation-reads", true),
    ("conversation-writes", true),
    ("dead-letter-writer", true),
    ("feed", false),
    ("fence", true),
    ("figures", false),
    ("file-sweeper", false),
    ("idle-connections", false),
    ("imports", false),
    ("journal", true),
    ("journal-maintenance", false),
    ("lane-0", true),
    ("lane-1", true),
    ("mailer", false),
    ("message-keys", false),
    ("partitions", false),
    ("rates", false),
    ("record-creates", true),
    ("record-files", false),
    ("record-gets", true),
    ("request-logs", false),
    ("revocations", false),
    ("routes", false),
    ("search", false),
    ("signed-in-records", false),
    ("stream-appends", true),
    ("stream-compaction", false),
    ("stream-decisions", true),
    ("stream-fan-out", false),
    ("stream-heads", true),
    ("stream-held-appends", true),
    ("stream-inbox", false),
    ("stream-merges", false),
    ("stream-renewals", false),
    ("stream-retention", false),
    ("stream-subscriptions", false),
    ("stream-sweeps", false),
    ("stream-wake-ups", false),
    ("stream-wakes", false),
    ("watched-tables", false),
];

async fn start(database: &TestDatabase, data: &Folder) -> Service {
    Service::start(database.url(), &[("DATA_DIR", data.path()), ("FAULTS", "on"), ("MODULES", "all")]).await
}

async fn panic_in(service: &Service, task: &str) {
    let answer = service.request("POST", &format!("/_test/panic/{task}"), &[], "").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{task}");
}

fn task(health: &Value, name: &str) -> Value {
    let tasks = health["tasks"].as_array().unwrap();
    tasks.iter().find(|task| task["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_task_that_panics_is_restarted_and_reported() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = start(&database, &data).await;
    let health = service.health().await;
    let mut found: Vec<_> = health["tasks"].as_array().unwrap().iter().collect();
    found.sort_by_key(|task| task["name"].as_str().unwrap().to_owned());
    let found: Vec<(&str, bool)> = found
        .iter()
        .map(|task| (task["name"].as_str().unwrap(), task["critical"].as_bool().unwrap()))
        .collect();
    assert_eq!(found, TASKS);
    let nowhere = service.request("POST", "/_test/panic/nothing", &[], "").await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);

    for (name, _) in TASKS.iter().filter(|(_, critical)| !critical) {
        panic_in(&service, name).await;
        let health = eventually(name, async || {
            let health = service.health().await;
            (task(&health, name)["restarts"] == 1).then_some(health)
        })
        .await;
        assert_eq!(task(&health, name)["last_error"]["message"], "panicked: a panic on demand");
        // It may have recovered by now.
        assert!(task(&health, name)["state"] != "ended", "{health}");
    }
    let metrics = service.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_task_restarts_total{task=\"feed\"} 1"), "{metrics}");
    assert!(metrics.contains("tidegate_task_seconds_since_success{task=\"rates\"}"), "{metrics}");

    // Events are accepted and stored meanwhile, and tasks with a short backoff run again.
    assert_eq!(service.post(&[], "{}").await.status, StatusCode::ACCEPTED);
    service.settled().await;
    for name in ["feed", "journal-maintenance", "rates", "imports", "revocations"] {
        eventually(name, async || (task(&service.health().await, name)["state"] == "running").then_some(()))
            .await;
    }
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_panic_in_a_critical_task_stops_the_service_in_order_and_the_next_start_continues() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let mut events = 0;
    for (name, _) in TASKS.iter().filter(|(_, critical)| *critical) {
        let service = start(&database, &data).await;
        for _ in 0..3 {
            assert_eq!(service.post(&[], "{}").await.status, StatusCode::ACCEPTED);
            events += 1;
        }
        panic_in(&service, name).await;
        if *name == "journal" {
            // Its thread checks before each group, and may be waiting for one already.
            let _unanswered = service.raw(b"POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}", std::time::Duration::from_secs(5)).await;
        }
        let ended = service.ended().await;
        assert_eq!(ended.status.code(), Some(1), "{name}: {}", ended.log);
        assert!(ended.log.contains("a critical task ended; the service stops"), "{name}: {}", ended.log);
        assert!(ended.log.contains(&format!("\"task\":\"{name}\"")), "{name}: {}", ended.log);
    }
    let service = start(&database, &data).await;
    service.fenced().await;
    let stored = database.connect().await.query_one("select count(*) from requests", &[]).await.unwrap();
    let stored: i64 = stored.get(0);
    // The journal's thread may have accepted the event that was sent to wake it.
    assert!(stored == events || stored == events + 1, "{stored} of {events}");
    assert!(service.stop().await.status.success());
}
