//! Connections that any node finds by their client ids: two nodes in this process, over one Postgres.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate::config::{Config, Variables};
use tidegate::db::{ConnectionUrl, Database};
use tidegate::observe::Metrics;
use tidegate::realtime::clients::{ClientConnection, ClientId, MAX_BODY_BYTES, RequestError};
use tidegate::realtime::{FeedReader, Hub, Next, Realtime};
use tidegate::supervisor::Supervisor;
use tokio_postgres::Client;

use crate::support::postgres::TestDatabase;
use crate::support::service::eventually;

/// The time in which a request to another node is answered, on a busy machine.
const SOON: Duration = Duration::from_secs(2);

struct Node {
    realtime: Realtime,
    supervisor: Supervisor,
}

impl Node {
    fn start(url: &str) -> Self {
        let variables = Variables::from_iter([("DATABASE_URL".to_owned(), url.to_owned())]);
        let config = Config::from_variables(&variables).unwrap();
        let database = Database::new(&ConnectionUrl::parse(url).unwrap(), &config.database).unwrap();
        let metrics = Metrics::new().unwrap();
        let supervisor = Supervisor::new(&metrics);
        let hub = Hub::new(&config.subscriber_limits(), &metrics);
        FeedReader::start(&hub, &database, &supervisor);
        let realtime = Realtime::new(&hub, &database);
        realtime.clients().start(86_400, &supervisor);
        Self { realtime, supervisor }
    }

    async fn open(&self) -> ClientConnection {
        self.realtime.clients().open().await.unwrap()
    }

    async fn request(&self, id: &ClientId, body: &'static [u8]) -> Result<Bytes, RequestError> {
        self.realtime.clients().request(id, Bytes::from_static(body)).await
    }
}

/// Answers each request by its own body in capitals.
fn echo(mut connection: ClientConnection) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let request = connection.next().await;
            let body = request.body.to_ascii_uppercase();
            request.answer(body.into());
        }
    })
}

async fn messages(client: &Client) -> i64 {
    client.query_one("select count(*) from client_messages", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_subscription_requested_from_any_node_is_in_force_once_it_is_answered() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    for (of_connection, of_request) in [(0, 1), (0, 0), (1, 0)] {
        let realtime = nodes[of_connection].realtime.clone();
        let mut connection = nodes[of_connection].open().await;
        let id = connection.id().clone();
        let (sender, mut delivered) = tokio::sync::mpsc::channel(10);
        // What a face does: one task with a subscription, which requests change.
        let stream = tokio::spawn(async move {
            let mut subscription = realtime.connect(None).unwrap();
            let mut answer = None;
            loop {
                tokio::select! {
                    request = connection.next(), if answer.is_none() => {
                        let topic = String::from_utf8(request.body.to_vec()).unwrap();
                        subscription.add(vec![topic], None).unwrap();
                        answer = Some(request);
                    }
                    () = subscription.ready() => {}
                }
                loop {
                    match subscription.next().await.unwrap() {
                        Next::Joined => answer.take().unwrap().answer(Bytes::from_static(b"in force")),
                        Next::Change(change) => sender.send(change.data.clone()).await.unwrap(),
                        Next::Nothing => break,
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        for topic in [&b"topic:a"[..], b"topic:b"] {
            let began = Instant::now();
            assert_eq!(nodes[of_request].request(&id, topic).await.unwrap(), "in force");
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            let topic = String::from_utf8(topic[6..].to_vec()).unwrap();
            let publish = format!("select tidegate_publish('{topic}', '\"{topic}\"')");
            client.batch_execute(&publish).await.unwrap();
            assert_eq!(
                delivered.recv().await.unwrap(),
                format!("\"{topic}\""),
                "nothing behind it is missed"
            );
        }
        stream.abort();
        let _aborted = stream.await;
        let began = Instant::now();
        let unknown = nodes[of_request].request(&id, b"topic:c").await;
        assert!(matches!(unknown, Err(RequestError::Unknown)), "{unknown:?}");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
    assert_eq!(messages(&client).await, 0, "what was read is gone");
    for node in nodes {
        node.supervisor.shutdown().await;
    }
}

#[tokio::test]
async fn requests_reach_their_own_connections_and_no_others() {
    let database = TestDatabase::create().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    let mut ids = Vec::new();
    for n in 0..20 {
        let mut connection = nodes[n % 2].open().await;
        ids.push(connection.id().clone());
        let own = Bytes::from(n.to_string());
        tokio::spawn(async move {
            loop {
                let request = connection.next().await;
                let answer = [&own[..], &request.body].concat();
                request.answer(answer.into());
            }
        });
    }
    assert_eq!(ids.iter().map(ClientId::as_str).collect::<BTreeSet<_>>().len(), 20);
    let requests = ids.iter().enumerate().flat_map(|(n, id)| {
        nodes.iter().map(move |node| async move {
            assert_eq!(node.request(id, b"!").await.unwrap(), format!("{n}!"));
        })
    });
    join_all(requests).await;
}

#[tokio::test]
async fn unknown_ids_dead_nodes_and_limits_are_errors_in_bounded_time() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    let made_up = ClientId::parse(&"0123456789".repeat(4)).unwrap();
    let unknown = nodes[0].request(&made_up, b"x").await;
    assert!(matches!(unknown, Err(RequestError::Unknown)), "{unknown:?}");
    assert_eq!(messages(&client).await, 0, "no row for a node that is not there");

    let connection = nodes[1].open().await;
    let id = connection.id().clone();
    let clients = nodes[0].realtime.clients();
    let large = clients.request(&id, vec![0; MAX_BODY_BYTES + 1].into()).await;
    assert!(matches!(large, Err(RequestError::TooLarge)), "{large:?}");
    // A connection that takes nothing: some requests wait for it, and more are refused.
    let waiting = join_all((0..6).map(|_| nodes[1].request(&id, b"x"))).await;
    let count = |wanted: fn(&RequestError) -> bool| {
        waiting.iter().filter(|one| one.as_ref().is_err_and(wanted)).count()
    };
    assert_eq!(count(|error| matches!(error, RequestError::NoAnswer)), 4, "{waiting:?}");
    assert_eq!(count(|error| matches!(error, RequestError::Busy)), 2, "{waiting:?}");
    drop(connection);
    let echo = echo(nodes[1].open().await);
    let dropped = nodes[1].open().await.id().clone();
    let largest = clients.request(&dropped, vec![b'a'; MAX_BODY_BYTES].into()).await;
    assert!(matches!(largest, Err(RequestError::Unknown)), "it was dropped at once: {largest:?}");

    // A node that is gone without a word, as far as others know.
    let connection = nodes[1].open().await;
    let id = connection.id().clone();
    nodes[1].supervisor.shutdown().await;
    let began = Instant::now();
    let gone = nodes[0].request(&id, b"x").await;
    assert!(matches!(gone, Err(RequestError::NoAnswer)), "{gone:?}");
    assert!(began.elapsed() < SOON + Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(messages(&client).await, 1);
    client
        .batch_execute(
            "update client_messages set at = now() - interval '2 minutes';
             update client_nodes set seen = now() - interval '3 minutes'",
        )
        .await
        .unwrap();
    let gone = nodes[0].request(&id, b"x").await;
    assert!(matches!(gone, Err(RequestError::Unknown)), "{gone:?}");
    assert_eq!(messages(&client).await, 0, "old messages are deleted by new requests");
    echo.abort();
}

#[tokio::test]
async fn an_idle_node_asks_postgres_nothing_for_clients() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let nodes = [Node::start(database.url()), Node::start(database.url())];
    let connection = nodes[0].open().await;
    let id = connection.id().clone();
    let echo = echo(connection);
    assert_eq!(nodes[1].request(&id, b"a").await.unwrap(), "A");
    echo.abort();
    let _aborted = echo.await;
    let scans = async || -> i64 {
        let scans =
            "select pg_stat_clear_snapshot(), coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::bigint
            from pg_stat_user_tables where relname in ('client_messages', 'changes')";
        client.query_one(scans, &[]).await.unwrap().get(1)
    };
    // Statistics come late: the last ones are there once they stand still.
    let mut before = scans().await;
    eventually("nothing is read any more", async || {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let now = scans().await;
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
    .await;
}
