//! Whatever happens to Postgres and the network, each accepted event is stored exactly once.

mod connections;
mod folders;
mod outages;
mod restores;

use tokio_postgres::Client;

use crate::support::load::{Load, Sent};
use crate::support::service::{Service, eventually};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

/// Sends this many events and waits for all answers.
async fn load_of(service: &Service, events: u64) -> Sent {
    let load = Load::start(&service.address, 3, 0);
    load.progresses(events).await;
    load.stop().await
}

async fn writer_is(service: &Service, state: &str) {
    eventually(state, async || (service.health().await["writer"]["state"] == state).then_some(())).await;
}

async fn rows(client: &Client) -> i64 {
    client.query_one("select count(*) from requests", &[]).await.unwrap().get(0)
}
