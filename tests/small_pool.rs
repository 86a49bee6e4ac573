//! A small hosted server offers few connections: with five of them everything works, only slower.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::accounts::send;
use crate::support::files::store;
use crate::support::imports::{count, ended, figures, process};
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;
use crate::support::sse::EventStream;

const CLIENTS: usize = 8;
const CONVERSATIONS: &str = "/api/conversations";

async fn status(service: &Service, method: &str, path: &str, body: &serde_json::Value) -> u16 {
    send(service, method, path, "", body).await.status.as_u16()
}

/// What one client does, of everything a little.
async fn use_everything(service: &Service, client: usize) {
    assert_eq!(service.post(&[], "{\"n\":1}").await.status.as_u16(), 202);
    let items = "/api/stress/records/items";
    let made = send(service, "POST", items, "", &json!({"client": client})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let record = made.header("location").to_owned();
    for method in ["PUT", "PATCH", "GET"] {
        assert_eq!(status(service, method, &record, &json!({"n": 2})).await, 200, "{method}");
    }
    assert_eq!(service.get(items).await.status.as_u16(), 200);

    let made = send(service, "POST", CONVERSATIONS, "", &json!({"title": "Ferries"})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let messages = format!("{}/messages", made.header("location"));
    let mut live = EventStream::open(service, &format!("{messages}?live=sse"), &[]).await;
    let said = json!({"role": "user", "content": "harbours"});
    assert_eq!(status(service, "POST", &messages, &said).await, 201);
    assert_eq!(live.take(1).await.len(), 1);
    assert_eq!(service.get(&messages).await.status.as_u16(), 200);
    assert_eq!(service.get(CONVERSATIONS).await.status.as_u16(), 200);

    let file = store(service, "", "a.bin", &[client as u8; 1000]).await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    assert_eq!(service.get(&path).await.body.len(), 1000);
    let import = process(service, "?kind=event", "", "{\"n\":1}\n{\"n\":2}\n").await;
    assert_eq!(figures(&ended(service, "", &import).await), (2, 2, 0));
    let email = format!("user{client}@example.com");
    let account = json!({"email": email, "password": "correct horse"});
    assert_eq!(status(service, "POST", "/api/auth/register", &account).await, 201);
    let logged_in = send(service, "POST", "/api/auth/login", "", &account).await;
    assert_eq!(logged_in.status.as_u16(), 200, "{logged_in:?}");
    assert_eq!(service.get("/api/v1/dead-letters").await.status.as_u16(), 200);
    let large = "/api/stress/large-payload/items";
    let made = send(service, "POST", large, "", &json!({"text": "x".repeat(100_000)})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    assert_eq!(service.get(made.header("location")).await.status.as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_five_connections_everything_works() {
    let database = TestDatabase::create().await;
    // Nothing here is about how long it may take.
    let settings =
        [("DB_POOL_SIZE", "5"), ("POOL_WAIT_MS", "60000"), ("RATE_LOGINS", "0"), ("FILES_SWEEP_S", "1")];
    let service = Service::start(database.url(), &settings).await;
    join_all((0..CLIENTS).map(|client| use_everything(&service, client))).await;
    let open = service.health().await["pool"]["open"].as_i64().unwrap();
    assert!(open <= 5, "{open}");
    service.settled().await;
    let client = database.connect().await;
    assert_eq!(count(&client, "requests").await, 3 * CLIENTS as i64);
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn one_that_holds_its_connection_for_long_leaves_one_to_the_others() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("DB_POOL_SIZE", "5")]).await;
    let holding = service.get("/api/stress/error/timeout?delay_ms=3000");
    let others = async {
        for _ in 0..10 {
            assert_eq!(status(&service, "POST", "/api/stress/records/items", &json!({})).await, 201);
            assert_eq!(service.post(&[], "1").await.status.as_u16(), 202);
        }
    };
    let (held, ()) = tokio::join!(holding, others);
    assert_eq!(held.error_code(), "statement_timeout");
    assert_eq!(service.settled().await["committed"], 10);
}
