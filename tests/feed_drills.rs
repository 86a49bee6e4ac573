//! Subscribers over outages: of the network, of the service, of one node of three; over pauses, open and prepared transactions. Each change
//! of a committed transaction is delivered once, in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::proxy::Proxy;
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;

/// A subscriber of `topic/x` and `topic/y` that comes back with its position whenever its stream ends.
#[derive(Default)]
struct Follower {
    position: String,
    /// The member `n` of each change, in the order of delivery.
    seen: Vec<u64>,
    numbers: BTreeSet<i64>,
    /// Streams that were opened.
    opened: usize,
}

impl Follower {
    /// A follower from the position on at which a stream of the service begins.
    async fn from_now(service: &Service) -> Self {
        let mut follower = Self::default();
        let mut stream = follower.open(&service.address).await;
        let ready = stream.take(1).await.remove(0);
        follower.position = ready.id;
        follower
    }

    async fn open(&mut self, address: &str) -> EventStream {
        let from = if self.position.is_empty() { String::new() } else { format!("&from={}", self.position) };
        let path = format!("/api/events/stream?topics=topic/x,topic/y{from}");
        self.opened += 1;
        eventually("a stream opens", async || {
            let stream = EventStream::try_open(address, &path, &[]).await?;
            (stream.status.as_u16() == 200).then_some(stream)
        })
        .await
    }

    /// Follows until `count` changes were delivered in all; `delivered` is called with the number so far.
    async fn until(&mut self, address: &str, count: usize, mut delivered: impl FnMut(usize)) {
        while self.seen.len() < count {
            let mut stream = self.open(address).await;
            while self.seen.len() < count {
                let Some(Ok(event)) = stream.next().await else { break };
                match &*event.event {
                    "ready" | "cut" => continue,
                    "change" => {}
                    other => panic!("{other}: {}", event.data),
                }
                let change: Value = serde_json::from_str(&event.data).unwrap();
                assert!(self.numbers.insert(change["number"].as_i64().unwrap()), "doubled: {change}");
                self.seen.push(change["record"]["n"].as_u64().unwrap());
                self.position = event.id;
                delivered(self.seen.len());
            }
        }
    }
}

/// Publishes `first` and those behind it in one transaction.
fn publish_many(topic: &str, first: usize, count: usize) -> String {
    let last = first + count - 1;
    format!(
        "select tidegate_publish('{topic}', jsonb_build_object('n', n)) from generate_series({first}, {last}) n"
    )
}

fn publish(topic: &str, n: usize) -> String {
    publish_many(topic, n, 1)
}

fn counted(count: usize) -> Vec<u64> {
    (0..count as u64).collect()
}

#[tokio::test]
async fn connections_that_break_between_the_pages_of_a_poll_lose_no_change() {
    const ROWS: usize = 2_500;
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(database.url()).await;
    let service = Service::start(proxy.url(), &[]).await;
    let mut follower = Follower::from_now(&service).await;
    let client = database.connect().await;
    for round in 0..8 {
        let publishing = async {
            client.batch_execute(&publish_many("x", round * ROWS, ROWS)).await.unwrap();
        };
        // Each time, behind the first page or within the second.
        let cut = round * ROWS + 400 + 300 * round;
        let following = follower.until(&service.address, (round + 1) * ROWS, |seen| {
            if seen == cut {
                proxy.cut_all();
            }
        });
        tokio::join!(publishing, following);
    }
    assert_eq!(follower.seen, counted(8 * ROWS));
}

#[tokio::test]
async fn changes_while_the_service_is_dead_are_delivered_by_the_next_one() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let mut service = Service::start(database.url(), &[]).await;
    let mut follower = Follower::from_now(&service).await;
    for round in 0..3 {
        let first = round * 30;
        client.batch_execute(&publish_many("x", first, 10)).await.unwrap();
        follower.until(&service.address, first + 5, |_| {}).await;
        service.signal(Signal::SIGKILL);
        client.batch_execute(&publish_many("y", first + 10, 10)).await.unwrap();
        service = Service::start(database.url(), &[]).await;
        client.batch_execute(&publish_many("x", first + 20, 10)).await.unwrap();
    }
    follower.until(&service.address, 90, |_| {}).await;
    assert_eq!(follower.seen, counted(90));
}

/// A proxy that gives each connection to the next node that answers.
async fn round_robin(nodes: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut turn = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            for _ in 0..nodes.len() {
                turn += 1;
                if let Ok(mut node) = TcpStream::connect(&nodes[turn % nodes.len()]).await {
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut node).await });
                    break;
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn subscribers_of_a_node_that_dies_continue_on_the_others() {
    const CHANGES: usize = 600;
    let database = TestDatabase::create().await;
    let mut services = Vec::new();
    for _ in 0..3 {
        services.push(Service::start(database.url(), &[]).await);
    }
    let address = round_robin(services.iter().map(|service| service.address.clone()).collect()).await;
    let start = Follower::from_now(&services[0]).await.position;
    let progress = Arc::new(AtomicUsize::new(0));
    let following = join_all((0..9).map(|_| {
        let (address, start, progress) = (&address, start.clone(), &progress);
        async move {
            let mut follower = Follower { position: start, ..Follower::default() };
            follower
                .until(address, CHANGES, |_| {
                    progress.fetch_add(1, Ordering::Relaxed);
                })
                .await;
            follower
        }
    }));
    let publishing = async {
        let client = database.connect().await;
        for n in 0..CHANGES {
            client.batch_execute(&publish("x", n)).await.unwrap();
            if n == CHANGES / 3 {
                eventually("some were delivered", async || {
                    (progress.load(Ordering::Relaxed) > CHANGES).then_some(())
                })
                .await;
                services[1].signal(Signal::SIGKILL);
            }
        }
    };
    let (followers, ()) = tokio::join!(following, publishing);
    for follower in &followers {
        assert_eq!(follower.seen, counted(CHANGES));
    }
    let again = followers.iter().filter(|follower| follower.opened > 1).count();
    assert_eq!(again, 3, "those of the dead node came back");
}

#[tokio::test]
async fn a_prepared_transaction_delays_its_own_changes_alone_and_survives_a_restart() {
    let mut server = PrivateServer::start(&[("max_prepared_transactions", "4")]).await;
    let service = Service::start(server.url(), &[]).await;
    let mut follower = Follower::from_now(&service).await;
    let client = connect(server.url()).await;
    let prepare = format!("begin; {}; prepare transaction 'left open'", publish_many("x", 10, 3));
    client.batch_execute(&prepare).await.unwrap();
    client.batch_execute(&publish_many("y", 0, 5)).await.unwrap();
    follower.until(&service.address, 5, |_| {}).await;
    server.stop_immediate().await;
    server.start_again().await;
    let client = connect(server.url()).await;
    client.batch_execute(&publish_many("y", 5, 5)).await.unwrap();
    follower.until(&service.address, 10, |_| {}).await;
    client.batch_execute("commit prepared 'left open'").await.unwrap();
    client.batch_execute(&publish("y", 13)).await.unwrap();
    follower.until(&service.address, 14, |_| {}).await;
    assert_eq!(follower.seen, counted(14));
}

#[tokio::test]
async fn a_reader_that_pauses_comes_back_to_what_it_missed() {
    const ROUNDS: usize = 40;
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut follower = Follower::from_now(&service).await;
    let _paused = follower.open(&service.address).await;
    let client = database.connect().await;
    for round in 0..ROUNDS {
        let large = format!(
            "select tidegate_publish('x', jsonb_build_object('n', n, 'text', repeat('x', 4000)))
            from generate_series({}, {}) n",
            round * 100,
            round * 100 + 99
        );
        client.batch_execute(&large).await.unwrap();
    }
    follower.until(&service.address, ROUNDS * 100, |_| {}).await;
    assert_eq!(follower.seen, counted(ROUNDS * 100));
}

#[tokio::test]
async fn all_subscribers_of_a_node_have_one_order() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let start = Follower::from_now(&service).await.position;
    let following = join_all((0..100).map(|_| {
        let mut follower = Follower { position: start.clone(), ..Follower::default() };
        let address = &service.address;
        async move {
            follower.until(address, 400, |_| {}).await;
            follower.seen
        }
    }));
    let publishing = join_all((0..4).map(|writer| {
        let database = &database;
        async move {
            let client = database.connect().await;
            for n in 0..50 {
                let topic = if n % 2 == 0 { "x" } else { "y" };
                client.batch_execute(&publish_many(topic, writer * 100 + n * 2, 2)).await.unwrap();
            }
        }
    }));
    let (orders, _) = tokio::join!(following, publishing);
    assert!(orders.iter().all(|order| *order == orders[0]));
    for pair in orders[0].chunks(2) {
        assert_eq!(pair[0] + 1, pair[1], "a transaction is whole");
    }
}

#[tokio::test]
async fn a_subscriber_far_behind_reads_each_page_once() {
    const ROWS: usize = 500;
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut follower = Follower::from_now(&service).await;
    let (one, two) = (database.connect().await, database.connect().await);
    // More than an order has places. The last change of each transaction is of a topic without subscribers.
    for round in 0..25 {
        let first = round * 2 * ROWS;
        one.batch_execute(&format!("begin; {}", publish_many("x", first, ROWS))).await.unwrap();
        two.batch_execute(&publish_many("y", first + ROWS, ROWS)).await.unwrap();
        one.batch_execute(&format!("{}; commit", publish("z", 0))).await.unwrap();
    }
    follower.until(&service.address, 25 * 2 * ROWS, |_| {}).await;
    let expected = (0..25u64).flat_map(|round| {
        let (first, rows) = (round * 2 * ROWS as u64, ROWS as u64);
        (first + rows..first + 2 * rows).chain(first..first + rows)
    });
    assert_eq!(follower.seen, expected.collect::<Vec<_>>());
}

/// A transaction of [`random_interleavings_keep_the_order_of_transactions`].
#[derive(Default)]
struct Transaction {
    /// The step at which it began.
    begun: usize,
    /// The step at which it was committed.
    committed: usize,
    sent: Vec<u64>,
}

#[tokio::test]
async fn random_interleavings_keep_the_order_of_transactions() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut follower = Follower::from_now(&service).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(database.connect().await);
        }
        let mut open: Vec<Option<Transaction>> = (0..4).map(|_| None).collect();
        let (mut committed, mut n) = (Vec::<Transaction>::new(), 0);
        for step in 1..300 {
            let at = random.usize(..4);
            let client = &clients[at];
            let topic = if random.bool() { "x" } else { "y" };
            n += 1;
            let publishing = publish(topic, n);
            match (&mut open[at], random.u8(..6)) {
                (slot @ None, _) => {
                    client.batch_execute(&format!("begin; {publishing}")).await.unwrap();
                    *slot = Some(Transaction { begun: step, committed: 0, sent: vec![n as u64] });
                }
                (Some(transaction), 0 | 1) => {
                    client.batch_execute(&publishing).await.unwrap();
                    transaction.sent.push(n as u64);
                }
                (Some(_), 2) => {
                    let undone = format!("savepoint a; {publishing}; rollback to a");
                    client.batch_execute(&undone).await.unwrap();
                }
                (slot, 3) => {
                    client.batch_execute("rollback").await.unwrap();
                    *slot = None;
                }
                (slot, _) => {
                    client.batch_execute("commit").await.unwrap();
                    let transaction = slot.take().map(|open| Transaction { committed: step, ..open });
                    committed.extend(transaction);
                }
            }
            if random.u8(..20) == 0 {
                let total: usize = committed.iter().map(|transaction| transaction.sent.len()).sum();
                follower.until(&service.address, total, |_| {}).await;
            }
        }
        let total: usize = committed.iter().map(|transaction| transaction.sent.len()).sum();
        follower.until(&service.address, total, |_| {}).await;
        // The place of each transaction, which is whole and in its own order.
        let place = |transaction: &Transaction| {
            let first = follower.seen.iter().position(|n| *n == transaction.sent[0]).unwrap();
            assert_eq!(follower.seen[first..first + transaction.sent.len()], transaction.sent);
            first
        };
        let places: Vec<usize> = committed.iter().map(place).collect();
        for (earlier, first) in committed.iter().zip(&places) {
            for (later, second) in committed.iter().zip(&places) {
                assert!(earlier.committed >= later.begun || first < second, "cause before effect");
            }
        }
    }
}
