//! What the tests of the protocols of other SDKs share.

use std::io::Write;

use serde_json::Value;

use super::postgres::TestDatabase;
use super::service::Service;

/// The payloads of all events, in order.
pub(crate) async fn payloads(database: &TestDatabase) -> Vec<Value> {
    let client = database.connect().await;
    let rows = client.query("select payload from requests order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Compresses a body.
pub(crate) fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// A service whose queue is soon full: it holds two events, and Postgres takes none.
pub(crate) struct Stalled {
    pub(crate) service: Service,
    blocker: tokio_postgres::Client,
}

impl Stalled {
    pub(crate) async fn start(database: &TestDatabase) -> Self {
        let small = [
            ("MAX_QUEUE_SIZE", "2"),
            ("ADMIT_WAIT_MS", "0"),
            ("DURABILITY", "memory"),
            ("FLUSH_INTERVAL_MS", "1000"),
        ];
        let service = Service::start(database.url(), &small).await;
        let blocker = database.connect().await;
        blocker.batch_execute("begin; lock table requests in access exclusive mode").await.unwrap();
        Self { service, blocker }
    }

    /// Postgres takes events from now on.
    pub(crate) async fn release(self) -> Service {
        self.blocker.batch_execute("rollback").await.unwrap();
        self.service
    }
}
