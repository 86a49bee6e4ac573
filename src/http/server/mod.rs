//! The listener, and the threads that serve its connections.
//!
//! Each thread runs a runtime of its own, so that a connection never moves between cores and its tasks never
//! synchronise. One task accepts, and assigns connections to the threads in turn.

mod connection;
mod detached;
mod handle;
mod timer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::ConnectionLimits;
use crate::config::{ServerConfig, limits};
use crate::observe::Metrics;
use crate::waking::LocalWaker;
pub(super) use connection::TimedStream;
pub(super) use detached::{Detachable, DetachedConnection};
pub(super) use handle::ConnectionHandle;

/// The answer to a connection beyond `MAX_CONNECTIONS` and those of operators.
fn too_many_connections() -> String {
    let body = r#"{"error":{"code":"overloaded","message":"too many connections; try again later"}}"#;
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Connections beyond `MAX_CONNECTIONS`, for operators' requests only: a service without a free connection still reports its
/// health.
pub const OPERATOR_CONNECTIONS: usize = 16;
/// The time of a request on such a connection, so that no client occupies them all.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Answers the requests of one thread's connections.
pub(super) trait Handler: Clone + Send + Sync + Unpin + 'static {
    /// Answers a request.
    fn answer(
        &self,
        request: Request<Incoming>,
        connection: &ConnectionHandle,
    ) -> impl Future<Output = Response> + Send;

    /// Answers a request of a connection beyond `MAX_CONNECTIONS`, which serves operators only.
    fn answer_operator(
        &self,
        request: Request<Incoming>,
        connection: &ConnectionHandle,
    ) -> impl Future<Output = Response> + Send;
}

/// A listener before it serves.
#[derive(Debug)]
pub struct BoundServer {
    listener: TcpListener,
}

/// A running server.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    stop: CancellationToken,
    abort: CancellationToken,
    failed: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl BoundServer {
    /// Listens on the configured address.
    ///
    /// # Errors
    ///
    /// If the address is in use, or not of this machine.
    pub fn bind(config: &ServerConfig) -> io::Result<Self> {
        let address = SocketAddr::new(config.host, config.port);
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait until the last run's connections have timed out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { listener: socket.listen(BACKLOG)? })
    }

    /// Serves at most `max_connections` at once until it is stopped; `handler` makes each thread's handler.
    pub(super) fn serve<H: Handler>(
        self,
        config: &ServerConfig,
        max_connections: usize,
        metrics: &Arc<Metrics>,
        handler: impl Fn() -> H + Clone + Send + 'static,
    ) -> io::Result<RunningServer> {
        let address = self.listener.local_addr()?;
        let [stop, abort, failed] = std::array::from_fn(|_| CancellationToken::new());
        let limits = ConnectionLimits {
            max_header_bytes: limits::MAX_HEADER_BYTES,
            header_timeout: config.header_timeout(),
            idle_timeout: Duration::from_secs(config.idle_timeout_s),
            operations_only: false,
        };
        let mut threads = Vec::new();
        let mut senders = Vec::new();
        for index in 0..config.http_threads() {
            let (sender, connections) = unbounded_channel();
            let worker = Worker {
                connections,
                metrics: Arc::clone(metrics),
                limits,
                stop: stop.clone(),
                abort: abort.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            let thread = std::thread::Builder::new().name(format!("http-{index}")).spawn({
                let (ended, handler) = (failed.clone().drop_guard(), handler.clone());
                move || {
                    let _ended = ended;
                    runtime.block_on(worker.run(handler()));
                }
            })?;
            threads.push(thread);
            senders.push(sender);
        }
        tokio::spawn(accept(
            self.listener,
            senders,
            Arc::clone(metrics),
            max_connections as i64,
            stop.clone(),
        ));
        Ok(RunningServer { address, stop, abort, failed, threads })
    }
}

impl RunningServer {
    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when a thread has ended by a panic: its connections are lost, and a part of all new ones would be.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Stops accepting, answers the current requests until `deadline`, and joins the threads.
    pub async fn stop(self, deadline: Instant) {
        self.stop.cancel();
        let abort = self.abort.clone();
        let mut joining = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                if thread.join().is_err() {
                    tracing::error!("a request thread panicked");
                }
            }
        });
        if tokio::time::timeout_at(deadline, &mut joining).await.is_err() {
            abort.cancel();
            let _joined = joining.await;
        }
    }
}

async fn accept(
    listener: TcpListener,
    senders: Vec<UnboundedSender<Accepted>>,
    metrics: Arc<Metrics>,
    max_connections: i64,
    stop: CancellationToken,
) {
    let open = &metrics.gauges.connections;
    let too_many = too_many_connections();
    let mut turn = senders.iter().cycle();
    let mut in_trouble = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _peer)) if open.get() >= max_connections + OPERATOR_CONNECTIONS as i64 => {
                // It fits into the socket's empty send buffer: the accept loop never waits for a client.
                let _sent = stream.try_write(too_many.as_bytes());
                metrics.connections_refused.inc();
            }
            Ok((stream, _peer)) => {
                let _refused = stream.set_nodelay(true);
                if let (Ok(stream), Some(sender)) = (stream.into_std(), turn.next()) {
                    let operations_only = open.get() >= max_connections;
                    if operations_only {
                        metrics.connections_refused.inc();
                    }
                    // Counted here, before the next connection is accepted; the worker's guard counts it out.
                    open.inc();
                    if sender.send(Accepted { stream, operations_only }).is_err() {
                        return;
                    }
                }
                in_trouble = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut in_trouble, true) {
                    tracing::warn!(error = error.to_string(), "cannot accept connections; trying again");
                }
                // Most likely out of descriptors: an immediate retry would only use CPU.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection on its way to its thread.
struct Accepted {
    stream: std::net::TcpStream,
    operations_only: bool,
}

/// One thread's share of the connections.
struct Worker {
    connections: UnboundedReceiver<Accepted>,
    metrics: Arc<Metrics>,
    limits: ConnectionLimits,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Worker {
    async fn run(mut self, handler: impl Handler) {
        let tasks = TaskTracker::new();
        // Wakes the answers of one group commit together. Not tracked, as it never ends by itself.
        tokio::spawn(LocalWaker::serve());
        loop {
            let accepted = tokio::select! {
                accepted = self.connections.recv() => accepted,
                () = self.stop.cancelled() => None,
            };
            let Some(Accepted { stream, operations_only }) = accepted else { break };
            let open = OpenConnection(Arc::clone(&self.metrics));
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let (handler, mut limits, stop) = (handler.clone(), self.limits, self.stop.clone());
                    if operations_only {
                        limits.operations_only = true;
                        limits.header_timeout = limits.header_timeout.min(OPERATOR_TIMEOUT);
                        limits.idle_timeout = limits.idle_timeout.min(OPERATOR_TIMEOUT);
                    }
                    let streams = tasks.clone();
                    tasks.spawn(async move {
                        if let Some(detached) = connection::serve(stream, handler, limits, stop).await {
                            // In a task of its own, as this one has room for hyper's connection.
                            streams.spawn(async move {
                                let _open = open;
                                detached.await;
                            });
                        }
                    });
                }
                Err(error) => tracing::warn!(error = error.to_string(), "a connection cannot be served"),
            }
        }
        tasks.close();
        tokio::select! {
            () = tasks.wait() => {}
            () = self.abort.cancelled() => {}
        }
    }
}

/// Counts a connection until it is dropped.
struct OpenConnection(Arc<Metrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.gauges.connections.dec();
    }
}
