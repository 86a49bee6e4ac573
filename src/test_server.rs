//! A server of Durable Streams within a program: for tests of clients, without Postgres and without a process of its own.
//!
//! It is the service's own face over a store in memory, or over one that the caller brings. Everybody on this machine may use it.
//!
//! ```
//! use tidegate::test_server::{TestServer, TestServerOptions};
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//! let server = TestServer::start(TestServerOptions::default()).await?;
//! let stream = format!("{}/v1/stream/greetings", server.base_url());
//! assert!(stream.starts_with("http://127.0.0.1:"));
//! // Three requests to the stream fail.
//! server.inject_fault(&serde_json::json!({"path": "/v1/stream/greetings", "status": 503, "count": 3}))?;
//! assert_eq!(server.clear_injected_faults(), 1);
//! server.stop().await;
//! # Ok::<(), tidegate::test_server::TestServerError>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::auth::Verifier;
use crate::config::{Config, ConfigError};
use crate::faults::InjectError;
use crate::http::{self, AppState, BoundServer, RunningServer, StreamsApi};
use crate::lifecycle::Lifecycle;
use crate::observe::Metrics;
use crate::streams::memory::MemoryStore;
use crate::streams::{
    CursorClock, StreamEvent, StreamEventKind, StreamListener, StreamStore, Streams, StreamsSettings,
};
use crate::supervisor::Supervisor;

/// Bytes of the store of a server that brings none.
const MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// Connections at once.
const MAX_CONNECTIONS: usize = 10_000;
/// The time in which requests under way are answered at a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A hook, called after a change is durable. It must return at once.
pub type Hook = Arc<dyn Fn(&StreamEvent) + Send + Sync>;

/// Options of a [`TestServer`].
pub struct TestServerOptions {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The store; `None`: one in memory.
    pub store: Option<Arc<dyn StreamStore>>,
    /// Called for each stream that is created.
    pub on_stream_created: Option<Hook>,
    /// Called for each stream that is deleted, or has expired.
    pub on_stream_deleted: Option<Hook>,
    /// Origins whose web pages may call, such as `http://localhost:5173`.
    pub cors: Vec<String>,
    /// The cursors of live answers: their interval and epoch.
    pub cursor: CursorClock,
    /// The wait of a long-poll.
    pub long_poll_timeout: Duration,
    /// Bytes of an answer, about.
    pub max_answer_bytes: usize,
}

impl Default for TestServerOptions {
    fn default() -> Self {
        let settings = StreamsSettings::default();
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            store: None,
            on_stream_created: None,
            on_stream_deleted: None,
            cors: Vec::new(),
            cursor: settings.cursor,
            long_poll_timeout: settings.long_poll_timeout,
            max_answer_bytes: settings.max_answer_bytes,
        }
    }
}

impl fmt::Debug for TestServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServerOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// A server that could not start, or a fault that it does not take.
#[derive(Debug, thiserror::Error)]
pub enum TestServerError {
    /// An option has a value that the server does not take.
    #[error(transparent)]
    Option(#[from] ConfigError),
    /// The address is in use, or there are no threads.
    #[error("cannot listen")]
    Listen(#[from] io::Error),
    /// The metrics could not be made.
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
    /// The fault is malformed, or one too many.
    #[error(transparent)]
    Fault(#[from] InjectError),
    /// The verifier of tokens could not be made.
    #[error("tokens: {0}")]
    Verifier(String),
}

/// A running server of Durable Streams. Dropped without [`Self::stop`], it goes on until the process ends.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    running: RunningServer,
    state: Arc<AppState>,
    store: Arc<dyn StreamStore>,
}

impl TestServer {
    /// Starts a server. Has to be called within a runtime of tokio.
    ///
    /// # Errors
    ///
    /// [`TestServerError`].
    pub async fn start(options: TestServerOptions) -> Result<Self, TestServerError> {
        let variables = [
            ("HOST", options.host.to_string()),
            ("PORT", options.port.to_string()),
            ("MODULES", "events,streams".to_owned()),
            ("FAULTS", "on".to_owned()),
            ("CORS_ORIGINS", options.cors.join(",")),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let config = Config::from_variables(&variables)?;
        let metrics = Metrics::new()?;
        let verifier = Verifier::new(&config.auth, config.auth_mode(), None)
            .map_err(|error| TestServerError::Verifier(error.to_string()))?;
        let (lifecycle, supervisor) = (Lifecycle::default(), Supervisor::new(&metrics));
        let state = AppState::new(&config, &metrics, &lifecycle, &verifier, &supervisor);
        let store = options.store.unwrap_or_else(|| Arc::new(MemoryStore::new(MEMORY_BYTES)));
        let hooks = Hooks { created: options.on_stream_created, deleted: options.on_stream_deleted };
        store.listen(Arc::new(hooks));
        let settings = StreamsSettings {
            long_poll_timeout: options.long_poll_timeout,
            max_answer_bytes: options.max_answer_bytes,
            cursor: options.cursor,
            ..StreamsSettings::default()
        };
        let streams = Streams { store: Arc::clone(&store), settings: Arc::new(settings) };
        state.serve_streams(StreamsApi::new(streams));
        let bound = BoundServer::bind(&config.server)?;
        let running = http::serve(bound, &config.server, MAX_CONNECTIONS, &state)?;
        lifecycle.serve();
        Ok(Self { address: running.address(), running, state, store })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its URL, without a `/` at the end. Streams are below `/v1/stream/`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its store.
    pub fn store(&self) -> &Arc<dyn StreamStore> {
        &self.store
    }

    /// Makes requests of a path fail, as `POST /_test/inject-error` with this body does.
    ///
    /// # Errors
    ///
    /// The fault is malformed, has no effect, or is one too many.
    pub fn inject_fault(&self, fault: &Value) -> Result<(), TestServerError> {
        Ok(self.state.inject_fault(fault)?)
    }

    /// Removes all faults; returns their number.
    pub fn clear_injected_faults(&self) -> usize {
        self.state.clear_faults()
    }

    /// Stops it: live reads end, and requests under way are answered.
    pub async fn stop(self) {
        self.state.lifecycle.drain();
        self.running.stop(Instant::now() + STOP_TIMEOUT).await;
        self.state.supervisor.shutdown().await;
    }
}

/// The hooks of a server.
struct Hooks {
    created: Option<Hook>,
    deleted: Option<Hook>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl StreamListener for Hooks {
    fn changed(&self, event: &StreamEvent) {
        let hook = match event.kind {
            StreamEventKind::Created { .. } => &self.created,
            StreamEventKind::Deleted => &self.deleted,
            StreamEventKind::Appended | StreamEventKind::Closed => &None,
        };
        if let Some(hook) = hook {
            hook(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn send(server: &TestServer, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: text/plain\r\norigin: http://localhost:5173\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}",
            server.port()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_serves_streams_without_postgres_calls_hooks_and_fails_on_demand() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hook = |what: &'static str| {
            let seen = Arc::clone(&seen);
            let hook: Hook =
                Arc::new(move |event: &StreamEvent| seen.lock().push((what, event.path.to_string())));
            Some(hook)
        };
        let server = TestServer::start(TestServerOptions {
            on_stream_created: hook("created"),
            on_stream_deleted: hook("deleted"),
            cors: vec!["http://localhost:5173".to_owned()],
            ..TestServerOptions::default()
        })
        .await
        .unwrap();
        let path = "/v1/stream/a/b";
        let made = send(&server, "PUT", path, "hello").await;
        assert!(
            made.starts_with("HTTP/1.1 201")
                && made.contains(&format!("location: {}{path}", server.base_url())),
            "{made}"
        );
        assert!(made.contains("access-control-allow-origin: http://localhost:5173"), "{made}");
        let read = send(&server, "GET", path, "").await;
        assert!(read.ends_with("\r\n\r\nhello"), "{read}");
        server.inject_fault(&serde_json::json!({"path": path, "status": 503})).unwrap();
        assert!(send(&server, "GET", path, "").await.starts_with("HTTP/1.1 503"));
        assert!(server.inject_fault(&serde_json::json!({"path": path})).is_err());
        assert!(send(&server, "DELETE", path, "").await.starts_with("HTTP/1.1 204"));
        assert_eq!(*seen.lock(), [("created", "a/b".to_owned()), ("deleted", "a/b".to_owned())]);
        // Events have no database here.
        assert!(send(&server, "POST", "/api/v1/events", "{}").await.starts_with("HTTP/1.1 503"));
        server.stop().await;
    }
}
