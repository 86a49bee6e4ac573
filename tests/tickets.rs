//! `POST /api/events/ticket`: one-use tickets for the URLs of streams and WebSockets.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::realtime::publish;
use crate::support::accounts::{guarded, key, log_in, register, send, tidegate, token_with};
use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;
use crate::support::websocket::Socket;

const TICKET: &str = "/api/events/ticket";

async fn ticket(service: &Service, token: &str) -> String {
    let answer = send(service, "POST", TICKET, token, &Value::Null).await;
    assert_eq!(answer.status.as_u16(), 201, "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json()["expires_in"], 30);
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

fn stream_path(ticket: &str, topic: &str) -> String {
    format!("/api/events/stream?ticket={ticket}&topics={topic}")
}

async fn stream(service: &Service, ticket: &str, topic: &str) -> EventStream {
    EventStream::open(service, &stream_path(ticket, topic), &[]).await
}

async fn socket(service: &Service, ticket: &str) -> Result<Socket, (u16, String)> {
    Socket::try_open(service, &format!("/api/events/ws?ticket={ticket}"), &[]).await
}

#[tokio::test]
async fn a_ticket_is_used_once_on_any_node() {
    let database = TestDatabase::create().await;
    let services = [guarded(&database, &[]).await, guarded(&database, &[]).await];
    let orders = key(&database, &["--scope", "realtime:read:orders/"]).await;
    let client = database.connect().await;

    let made = ticket(&services[0], &orders).await;
    let mut by_stream = stream(&services[1], &made, "topic/orders/1").await;
    assert_eq!(by_stream.status.as_u16(), 200);
    assert_eq!(by_stream.take(1).await[0].event, "ready");
    let made_too = ticket(&services[1], &orders).await;
    let mut by_socket = socket(&services[0], &made_too).await.unwrap();
    by_socket.subscribe(&json!({"subscribe": ["topic/orders/1"]})).await;
    by_socket.send(&json!({"subscribe": ["topic/other"]})).await;
    assert_eq!(by_socket.error().await.0, "forbidden", "it has the scopes of its caller");
    client.batch_execute(&publish("orders/1", 7)).await.unwrap();
    assert_eq!(by_stream.take(1).await[0].event, "change");
    assert_eq!(by_socket.take("change").await.data["record"]["n"], 7);

    // Used, unknown, expired, of another form, beside a token, twice: 401.
    let unknown = format!("{}0", &made[..made.len() - 1]);
    let expired = ticket(&services[0], &orders).await;
    let fresh = ticket(&services[0], &orders).await;
    client
        .execute("update auth_tickets set expires = now() where hash = sha256($1::text::bytea)", &[&expired])
        .await
        .unwrap();
    for bad in [made.as_str(), &made_too, &unknown, &expired, "", "nonsense", &orders] {
        let answer = services[0].get(&stream_path(bad, "topic/orders/1")).await;
        assert_eq!((answer.status.as_u16(), answer.error_code()), (401, "invalid_ticket".into()), "{bad}");
        assert_eq!(answer.json()["error"]["field"], "ticket");
        assert_eq!(socket(&services[1], bad).await.err().unwrap().0, 401);
    }
    let twice = format!("{}&ticket={fresh}", stream_path(&fresh, "topic/orders/1"));
    assert_eq!(services[0].get(&twice).await.status.as_u16(), 401);
    let both = stream_path(&fresh, "topic/orders/1");
    assert_eq!(send(&services[0], "GET", &both, &orders, &Value::Null).await.status.as_u16(), 401);
    // A request that fails uses it up too, and other routes take none.
    assert_eq!(services[0].get(&stream_path(&fresh, "topic/other")).await.status.as_u16(), 403);
    assert_eq!(services[0].get(&stream_path(&fresh, "topic/orders/1")).await.status.as_u16(), 401);
    let fresh = ticket(&services[0], &orders).await;
    assert_eq!(services[0].get(&format!("/api/health?ticket={fresh}")).await.status.as_u16(), 401);
    assert_eq!(
        send(&services[0], "POST", &format!("{TICKET}?ticket={fresh}"), "", &Value::Null)
            .await
            .status
            .as_u16(),
        400
    );
    for (token, status) in [("", 401), ("nonsense", 401)] {
        assert_eq!(send(&services[0], "POST", TICKET, token, &Value::Null).await.status.as_u16(), status);
    }

    // Raced on both nodes, one request gets it.
    for _ in 0..20 {
        let raced = ticket(&services[0], &orders).await;
        let tries = (0..8).map(|n| {
            let path = stream_path(&raced, "topic/orders/1");
            let service = &services[n % 2];
            async move { EventStream::open(service, &path, &[]).await }
        });
        let answers = join_all(tries).await;
        let admitted = answers.iter().filter(|stream| stream.status.as_u16() == 200).count();
        assert_eq!(admitted, 1);
        assert!(answers.iter().all(|stream| [200, 401].contains(&stream.status.as_u16())));
    }
    let secrets = [made, made_too, expired, fresh];
    for service in services {
        let log = service.stop().await.log;
        assert!(secrets.iter().all(|secret| !log.contains(secret.as_str())), "{log}");
    }
    // The database has none of them either.
    let all = client.query("select auth_tickets::text as all from auth_tickets", &[]).await.unwrap();
    assert!(
        all.iter()
            .all(|row| secrets.iter().all(|secret| !row.get::<_, String>("all").contains(secret.as_str())))
    );
}

#[tokio::test]
async fn a_stream_by_a_ticket_ends_with_the_access_behind_it() {
    let database = TestDatabase::create().await;
    let services = [
        guarded(&database, &[("SSE_HEARTBEAT_S", "1")]).await,
        guarded(&database, &[("SSE_HEARTBEAT_S", "1")]).await,
    ];
    let reader = key(&database, &["--scope", "realtime:read"]).await;
    let mut of_key = stream(&services[1], &ticket(&services[0], &reader).await, "topic/a").await;
    let mut socket_of_key = socket(&services[1], &ticket(&services[0], &reader).await).await.unwrap();
    socket_of_key.subscribe(&json!({"subscribe": ["topic/a"]})).await;
    register(&services[0], "ada@example.com").await;
    let tokens = log_in(&services[0], "ada@example.com").await;
    let made = send(&services[0], "POST", "/api/conversations", &tokens.access, &json!({})).await.json();
    let own = format!("conversations/{}", made["id"].as_str().unwrap());
    let mut of_user = stream(&services[1], &ticket(&services[0], &tokens.access).await, &own).await;
    let mut lasting =
        stream(&services[1], &ticket(&services[0], &token_with(&["realtime:read"])).await, "topic/a").await;
    for stream in [&mut of_key, &mut of_user, &mut lasting] {
        assert_eq!(stream.status.as_u16(), 200);
        assert_eq!(stream.take(1).await[0].event, "ready");
    }
    // A ticket of a session or a key that ends before it is used is worth nothing.
    let (late_key, late_user) =
        (ticket(&services[0], &reader).await, ticket(&services[0], &tokens.access).await);
    tidegate(&database, &["keys", "revoke", &reader[..11]], "").await.unwrap();
    send(&services[0], "POST", "/api/auth/logout", &tokens.access, &json!({})).await;
    for stream in [&mut of_key, &mut of_user] {
        let rest = stream.rest().await;
        let last = rest.last().unwrap();
        assert_eq!((&*last.event, &*last.data), ("cut", r#"{"reason":"denied"}"#));
    }
    assert_eq!(socket_of_key.take("cut").await.data["reason"], "denied");
    for late in [&late_key, &late_user] {
        assert_eq!(services[1].get(&stream_path(late, "topic/a")).await.status.as_u16(), 401);
    }
    database.connect().await.batch_execute(&publish("a", 1)).await.unwrap();
    assert_eq!(lasting.take(1).await[0].event, "change");
}

#[tokio::test]
async fn an_open_service_gives_tickets_too_and_their_number_is_bounded() {
    let database = TestDatabase::create().await;
    let services = [Service::start(database.url(), &[]).await, Service::start(database.url(), &[]).await];
    let client = database.connect().await;
    let made = ticket(&services[0], "").await;
    assert_eq!(stream(&services[1], &made, "topic/a").await.status.as_u16(), 200);
    let foreign = services[0].request("POST", TICKET, &[("origin", "https://evil.example")], "").await;
    assert_eq!(foreign.status.as_u16(), 403);
    for _ in 0..100 {
        ticket(&services[0], "").await;
    }
    let refused = send(&services[0], "POST", TICKET, "", &Value::Null).await;
    assert_eq!((refused.status.as_u16(), refused.error_code()), (409, "too_many_tickets".into()));
    // Another caller has their own, until all have too many.
    let other = key(&database, &["--scope", "realtime:read"]).await;
    ticket(&services[0], &other).await;
    let fill = "insert into auth_tickets (hash, caller, credential, expires)
        select sha256(n::text::bytea), sha256((n / 90)::text::bytea), '{}', now() + interval '1 minute' from generate_series(1, 20000) n";
    client.batch_execute(fill).await.unwrap();
    assert_eq!(
        send(&services[0], "POST", TICKET, &other, &Value::Null).await.error_code(),
        "too_many_tickets"
    );
    client.batch_execute("update auth_tickets set expires = now()").await.unwrap();
    ticket(&services[0], &other).await;
    // Expired ones are deleted with each new one, and by a task.
    let left = count(&client, "auth_tickets").await;
    assert!(left < 20_101, "{left}");
    eventually("a task deletes the rest", async || {
        (count(&client, "auth_tickets").await <= 15_102).then_some(())
    })
    .await;
}
