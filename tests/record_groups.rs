//! Batches of creates and look-ups: one that waits delays no other, and no request waits longer than its limit.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::records::create;
use crate::support::postgres::{TestDatabase, blocked};
use crate::support::service::{Service, eventually};

const ITEMS: &str = "/api/stress/records/items";
const OTHERS: &str = "/api/stress/records/others";

#[tokio::test]
async fn a_locked_collection_delays_no_other() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let locked = create(&service, &json!({})).await;
    let other = service.request("POST", OTHERS, &[], "{}").await.json();
    let client = database.connect().await;
    client.batch_execute("begin; lock table records_1").await.unwrap();
    let request = |method: &'static str, path: String| {
        let service = &service;
        async move { service.request(method, &path, &[], "{}").await.status.as_u16() }
    };
    let path = format!("{ITEMS}/{}", locked["id"].as_str().unwrap());
    let held_up = (0..6).flat_map(|_| [request("POST", ITEMS.into()), request("GET", path.clone())]);
    let mut took = Duration::ZERO;
    let free = async {
        let began = Instant::now();
        assert_eq!(service.request("POST", OTHERS, &[], "{}").await.status.as_u16(), 201);
        let path = format!("{OTHERS}/{}", other["id"].as_str().unwrap());
        assert_eq!(service.get(&path).await.status.as_u16(), 200);
        took = began.elapsed();
        client.batch_execute("commit").await.unwrap();
    };
    // In sequence: each would be a batch of its own.
    let statuses = service.in_turn(0, held_up, free).await;
    assert!(took < Duration::from_millis(1000), "{took:?}");
    assert_eq!(statuses, [201, 200].repeat(6), "nobody waited too long");
}

#[tokio::test]
async fn a_request_is_refused_if_its_batch_does_not_begin_in_time() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("POOL_WAIT_MS", "400")]).await;
    create(&service, &json!({})).await;
    let (client, admin) = (database.connect().await, database.connect().await);
    client.batch_execute("begin; lock table records_1").await.unwrap();
    let with_a_turn = service.request("POST", ITEMS, &[], "{\"n\":1}");
    let without = async {
        blocked(&admin, 1, "relation = 'records_1'::regclass").await;
        let began = Instant::now();
        let refused = service.request("POST", ITEMS, &[], "{\"n\":2}").await;
        let took = began.elapsed();
        assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (503, "pool_exhausted"));
        assert!((400..1200).contains(&took.as_millis()), "{took:?}");
        let waits = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock' and now() - query_start > interval '800 ms'";
        eventually("the first one waits for twice as long", async || {
            (admin.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
        })
        .await;
        client.batch_execute("commit").await.unwrap();
    };
    let (made, ()) = tokio::join!(with_a_turn, without);
    assert_eq!(made.status.as_u16(), 201, "it had its turn, however long that took");
    create(&service, &json!({"n": 3})).await;
    let rows = "select string_agg(data ->> 'n', ',' order by id) from records_1 where data ? 'n'";
    let stored: String = client.query_one(rows, &[]).await.unwrap().get(0);
    assert_eq!(stored, "1,3", "who was refused is not stored later");
}
