//! The listener, and the threads that serve its connections.
//!
//! Each thread runs a runtime of its own, so that a connection never moves between cores and its tasks never
//! synchronise. One task accepts and hands connections out in turn.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, ConnectionLimits};
use super::{Face, router};
use crate::config::ServerConfig;
use crate::ingest;

/// What a connection beyond `MAX_CONNECTIONS` is told.
fn too_many_connections() -> String {
    let body = r#"{"error":{"code":"overloaded","message":"too many connections; try again later"}}"#;
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// A listener that does not serve yet.
#[derive(Debug)]
pub struct BoundServer {
    listener: TcpListener,
}

/// A server at work.
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
    /// If the address is taken or not ours.
    pub fn bind(config: &ServerConfig) -> io::Result<Self> {
        let address = SocketAddr::new(config.host, config.port);
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the last run's connections to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { listener: socket.listen(BACKLOG)? })
    }

    /// Serves `face` until it is stopped.
    ///
    /// # Errors
    ///
    /// If threads cannot be started.
    pub fn serve(self, config: &ServerConfig, face: &Arc<Face>) -> io::Result<RunningServer> {
        let address = self.listener.local_addr()?;
        let [stop, abort, failed] = std::array::from_fn(|_| CancellationToken::new());
        let limits = ConnectionLimits {
            max_header_bytes: config.max_header_bytes,
            header_timeout: Duration::from_secs(config.header_timeout_s),
            idle_timeout: Duration::from_secs(config.idle_timeout_s),
        };
        let mut threads = Vec::new();
        let mut senders = Vec::new();
        for index in 0..config.http_threads() {
            let (sender, connections) = unbounded_channel();
            let worker = Worker {
                connections,
                face: Arc::clone(face),
                limits,
                stop: stop.clone(),
                abort: abort.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            let thread = std::thread::Builder::new().name(format!("http-{index}")).spawn({
                let ended = failed.clone().drop_guard();
                move || {
                    let _ended = ended;
                    runtime.block_on(worker.run());
                }
            })?;
            threads.push(thread);
            senders.push(sender);
        }
        tokio::spawn(accept(
            self.listener,
            senders,
            Arc::clone(face),
            config.max_connections as i64,
            stop.clone(),
        ));
        Ok(RunningServer { address, stop, abort, failed, threads })
    }
}

impl RunningServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when a thread has ended, by a panic: its connections are gone, and every so many new ones would be.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Takes no more connections, answers the requests under way until `deadline`, and joins the threads.
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
    senders: Vec<UnboundedSender<std::net::TcpStream>>,
    face: Arc<Face>,
    max_connections: i64,
    stop: CancellationToken,
) {
    let open = &face.metrics.gauges.connections;
    let too_many = too_many_connections();
    let mut turn = senders.iter().cycle();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _peer)) if open.get() >= max_connections => {
                // Fits into the socket's empty send buffer; nothing waits for a client here.
                let _told = stream.try_write(too_many.as_bytes());
                face.metrics.connections_refused.inc();
            }
            Ok((stream, _peer)) => {
                let _refused = stream.set_nodelay(true);
                if let (Ok(stream), Some(sender)) = (stream.into_std(), turn.next()) {
                    // Counted here, so that the next look sees it; the worker counts it out.
                    open.inc();
                    if sender.send(stream).is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only burn the core.
                tracing::warn!(error = error.to_string(), "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One thread's share of the connections.
struct Worker {
    connections: UnboundedReceiver<std::net::TcpStream>,
    face: Arc<Face>,
    limits: ConnectionLimits,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Worker {
    async fn run(mut self) {
        let tasks = TaskTracker::new();
        // Answers that a group commit makes possible are woken together. Not tracked: it never ends by itself.
        tokio::spawn(ingest::Home::serve());
        let router = router(&self.face);
        loop {
            let stream = tokio::select! {
                stream = self.connections.recv() => stream,
                () = self.stop.cancelled() => None,
            };
            let Some(stream) = stream else { break };
            let open = OpenConnection(Arc::clone(&self.face));
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let (router, limits, stop) = (router.clone(), self.limits, self.stop.clone());
                    tasks.spawn(async move {
                        connection::serve(stream, Arc::clone(&open.0), router, limits, stop).await;
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

/// Counts a connection out when it ends, however it ends.
struct OpenConnection(Arc<Face>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.metrics.gauges.connections.dec();
    }
}
