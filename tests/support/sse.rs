//! Streams of server-sent events, read with an independent parser.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::service::Service;

/// The time limit for a message.
const PATIENCE: Duration = Duration::from_secs(60);

type Events = Pin<Box<dyn Stream<Item = Result<Event, EventStreamError<hyper::Error>>> + Send>>;

/// An open stream, closed with its value.
pub(crate) struct EventStream {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    events: Events,
    driver: JoinHandle<()>,
}

impl EventStream {
    pub(crate) async fn open(service: &Service, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open(&service.address, path, headers).await.expect("the service answers")
    }

    /// A stream from the service at `address`; `None`: it does not answer.
    pub(crate) async fn try_open(address: &str, path: &str, headers: &[(&str, &str)]) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let driver = tokio::spawn(async move {
            let _ended = connection.await;
        });
        let mut request = Request::get(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
        let (head, body) = response.into_parts();
        let events = Box::pin(body.into_data_stream().eventsource());
        Some(Self { status: head.status, headers: head.headers, events, driver })
    }

    /// The next event; `None`: the end; an error if the response broke off.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, String>> {
        let next = tokio::time::timeout(PATIENCE, self.events.next()).await.expect("no event, and no end");
        next.map(|event| event.map_err(|error| error.to_string()))
    }

    /// The next `count` events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await.expect("the stream ended").unwrap());
        }
        events
    }

    /// All events up to the end.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event.unwrap());
        }
        events
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The value of a metric; 0 if it is missing.
pub(crate) async fn metric(service: &Service, name: &str) -> f64 {
    let text = service.get("/metrics").await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
