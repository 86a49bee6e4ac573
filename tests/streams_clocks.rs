//! Durable Streams end by the clock of their store, while the clock of the node is another one, or jumps.

use tokio_postgres::Client;

use crate::clocks::other_clock;
use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};
use crate::support::sse::EventStream;
use crate::support::streams::{STORES, TEXT, get, head, put};

/// Ten days: the node's clock is ahead, then behind.
const JUMPS: [&str; 2] = ["864000", "-864000"];

/// A time so many seconds from now, by Postgres' clock.
async fn in_seconds(client: &Client, seconds: i32) -> String {
    let time = "select to_char((now() + $1 * interval '1 second') at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
    client.query_one(time, &[&f64::from(seconds)]).await.unwrap().get(0)
}

/// Seconds of processor time that a process has used.
fn used_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::test]
async fn a_stream_ends_by_postgres_clock_while_that_of_the_node_jumps() {
    let folder = Folder::new();
    let (library, file) = (other_clock(&folder), format!("{}/offset", folder.path()));
    std::fs::write(&file, "0").unwrap();
    let database = TestDatabase::create().await;
    let variables = [
        ("MODULES", "events,streams"),
        ("STREAMS_LONG_POLL_TIMEOUT_MS", "1500"),
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("CLOCK_OFFSET_FILE", &*file),
    ];
    let service = Service::start(database.url(), &variables).await;
    let client = database.connect().await;
    for (number, jump) in JUMPS.iter().enumerate() {
        let path = |name: &str| format!("{name}{number}");
        let (ttl, hour, soon) = (path("ttl"), path("hour"), path("soon"));
        // Made before the jump, and read behind it.
        assert_eq!(put(&service, &ttl, &[TEXT[0], ("stream-ttl", "60")], "x").await.status, 201);
        std::fs::write(&file, jump).unwrap();
        let expires = [TEXT[0], ("stream-expires-at", &*in_seconds(&client, 3_600).await)];
        assert_eq!(put(&service, &hour, &expires, "x").await.status, 201, "{jump}");
        let expires = [TEXT[0], ("stream-expires-at", &*in_seconds(&client, 3).await)];
        assert_eq!(put(&service, &soon, &expires, "x").await.status, 201, "{jump}");
        let read = get(&service, &ttl, &[]).await;
        let kept = read.header("cache-control");
        assert!(["public, max-age=59", "public, max-age=60"].contains(&kept), "{jump}: {read:?}");
        let kept = get(&service, &hour, &[]).await;
        assert_eq!(kept.header("cache-control"), "public, max-age=60, stale-while-revalidate=300", "{jump}");
        let mut events =
            EventStream::open(&service, &format!("/v1/stream/{soon}?offset=-1&live=sse"), &[]).await;
        events.rest().await;
        // A reader waits for its end without asking again and again.
        let before = used_s(service.pid());
        let waited = get(&service, &format!("{hour}?offset=now&live=long-poll"), &[]).await;
        let used = used_s(service.pid()) - before;
        assert!(waited.status == 204 && used < 0.75, "{jump}: {used} s of processor time, {waited:?}");
        assert_eq!(get(&service, &soon, &[]).await.status, 404, "{jump}");
        assert_eq!(get(&service, &hour, &[]).await.status, 200, "{jump}");
        assert_eq!(head(&service, &hour).await.header("stream-next-offset").len(), 33);
        // Nothing is removed while the clocks differ.
        let rows = format!("streams where path = '{soon}' and state = 0");
        eventually("deletion is refused", async || {
            (service.health().await["housekeeping"]["deletion_refused"] == true).then_some(())
        })
        .await;
        assert_eq!(count(&client, &rows).await, 1, "{jump}");
        std::fs::write(&file, "0").unwrap();
        eventually("what has expired is removed", async || (count(&client, &rows).await == 0).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_ttl_is_a_duration_whatever_the_clock_of_the_day_says() {
    let folder = Folder::new();
    let (library, file) = (other_clock(&folder), format!("{}/offset", folder.path()));
    for store in STORES {
        std::fs::write(&file, "0").unwrap();
        let database = TestDatabase::create().await;
        let variables = [
            ("MODULES", "events,streams"),
            ("STREAMS_STORE", store),
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("CLOCK_OFFSET_FILE", &*file),
        ];
        let service = Service::start(database.url(), &variables).await;
        for (path, seconds) in [("none", "0"), ("short", "1"), ("long", "600")] {
            let made = put(&service, path, &[TEXT[0], ("stream-ttl", seconds)], "x").await;
            assert_eq!(made.status, 201, "{store}");
        }
        assert_eq!(get(&service, "none", &[]).await.status, 404, "{store}");
        for jump in JUMPS {
            std::fs::write(&file, jump).unwrap();
            assert_eq!(get(&service, "long", &[]).await.status, 200, "{store}: {jump}");
        }
        eventually("it ends", async || (head(&service, "short").await.status == 404).then_some(())).await;
        assert_eq!(get(&service, "long", &[]).await.status, 200, "{store}");
        // It may be made anew, as something else.
        let again = put(&service, "short", &[("content-type", "application/json")], "[1]").await;
        assert_eq!(again.status, 201, "{store}");
    }
}
