//! Batches of creates and look-ups: one that waits delays no other, and no request waits longer than its limit.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::records::create;
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

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
    let later = |n: u64, method: &'static str, path: String| {
        let service = &service;
        async move {
            // In sequence: each would be a batch of its own.
            tokio::time::sleep(Duration::from_millis(40 * n)).await;
            service.request(method, &path, &[], "{}").await.status.as_u16()
        }
    };
    let path = format!("{ITEMS}/{}", locked["id"].as_str().unwrap());
    let held_up = futures_util::future::join_all(
        (0..6).flat_map(|n| [later(n, "POST", ITEMS.into()), later(n, "GET", path.clone())]),
    );
    let free = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let began = Instant::now();
        assert_eq!(service.request("POST", OTHERS, &[], "{}").await.status.as_u16(), 201);
        let path = format!("{OTHERS}/{}", other["id"].as_str().unwrap());
        assert_eq!(service.get(&path).await.status.as_u16(), 200);
        let took = began.elapsed();
        client.batch_execute("commit").await.unwrap();
        took
    };
    let (statuses, took) = tokio::join!(held_up, free);
    assert!(took < Duration::from_millis(1000), "{took:?}");
    assert_eq!(statuses, [201, 200].repeat(6), "nobody waited too long");
}

#[tokio::test]
async fn a_request_is_refused_if_its_batch_does_not_begin_in_time() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("POOL_WAIT_MS", "400")]).await;
    create(&service, &json!({})).await;
    let client = database.connect().await;
    client.batch_execute("begin; lock table records_1").await.unwrap();
    let with_a_turn = service.request("POST", ITEMS, &[], "{\"n\":1}");
    let without = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        let refused = service.request("POST", ITEMS, &[], "{\"n\":2}").await;
        let took = began.elapsed();
        assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (503, "pool_exhausted"));
        assert!((400..1200).contains(&took.as_millis()), "{took:?}");
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.batch_execute("commit").await.unwrap();
    };
    let (made, ()) = tokio::join!(with_a_turn, without);
    assert_eq!(made.status.as_u16(), 201, "it had its turn, however long that took");
    create(&service, &json!({"n": 3})).await;
    let rows = "select string_agg(data ->> 'n', ',' order by id) from records_1 where data ? 'n'";
    let stored: String = client.query_one(rows, &[]).await.unwrap().get(0);
    assert_eq!(stored, "1,3", "who was refused is not stored later");
}
