//! Collections: the writes that create one, and dropped ones.

use serde_json::json;

use crate::records::{create, path_of, send};
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

const ITEMS: &str = "/api/stress/records/items";

#[tokio::test]
async fn reads_create_no_collection_and_writes_only_where_allowed() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let id = "abcdefghij01234";
    for (method, path) in [
        ("GET", "/api/stress/records/none".to_owned()),
        ("GET", format!("/api/stress/records/none/{id}")),
        ("PATCH", format!("/api/stress/records/none/{id}")),
        ("DELETE", format!("/api/stress/records/none/{id}")),
    ] {
        assert_eq!(send(&service, method, &path, &json!({})).await.status.as_u16(), 404, "{method} {path}");
    }
    let count = "select count(*) from collections";
    let made: i64 = database.connect().await.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(made, 0);
    // Concurrent first writes create one collection.
    let writes = (0..30).map(|_| service.request("POST", "/api/stress/records/one", &[], "{}"));
    for answer in futures_util::future::join_all(writes).await {
        assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    }
    let post =
        async |name: &str| service.request("POST", &format!("/api/stress/records/{name}"), &[], "{}").await;
    assert_eq!(post("two").await.status.as_u16(), 201);
    let others = "insert into collections (name) select 'other' || n from generate_series(3, 1000) n";
    database.connect().await.batch_execute(others).await.unwrap();
    let beyond = post("three").await;
    assert_eq!((beyond.status.as_u16(), beyond.error_code().as_str()), (409, "too_many_collections"));
    let made: i64 = database.connect().await.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(made, 1000);

    let service = Service::start(database.url(), &[("RECORDS_AUTO_CREATE", "off")]).await;
    assert_eq!(service.request("POST", "/api/stress/records/four", &[], "{}").await.status.as_u16(), 404);
    assert_eq!(service.request("POST", "/api/stress/records/one", &[], "{}").await.status.as_u16(), 201);
    database
        .connect()
        .await
        .batch_execute("drop table records_1; delete from collections where id = 1")
        .await
        .unwrap();
    assert_eq!(service.get(&format!("/api/stress/records/one/{id}")).await.status.as_u16(), 404);
}

#[tokio::test]
async fn a_dropped_collection_is_created_again_by_the_next_write() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = path_of(&create(&service, &json!({})).await);
    let client = database.connect().await;
    client.batch_execute("drop table records_1; delete from collections where id = 1").await.unwrap();
    assert_eq!(send(&service, "POST", ITEMS, &json!({"a": 1})).await.status.as_u16(), 201);
    assert_eq!(service.get(&path).await.status.as_u16(), 404);

    // A row of `collections` without its table is not the client's error, at every request.
    client.batch_execute("drop table records_2").await.unwrap();
    for _ in 0..2 {
        for (method, path) in [("POST", ITEMS), ("GET", &path), ("PATCH", &path), ("GET", ITEMS)] {
            let answer = send(&service, method, path, &json!({})).await;
            assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (500, "internal"), "{method}");
        }
    }
    assert!(service.log().contains("records_2"), "the log tells the cause");
}
