//! One client connection: hyper's protocol loop, watched.
//!
//! hyper knows one time limit, for a request's head. The watch here knows what a connection is doing and since when:
//! idle (waiting for a request, or for a client that does not read its answers), reading a head, or busy with a
//! request, whose body has a limit of its own. It looks now and then instead of setting a timer for each request.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Face, dispatch};

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    pub(super) max_header_bytes: usize,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// Serves `stream` until its client goes, a limit is passed, or `stop` is cancelled and the request under way is
/// answered.
pub(super) async fn serve(
    stream: TcpStream,
    face: Arc<Face>,
    router: axum::Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let watch = Arc::new(Watch::new());
    let service = service_fn(|request| {
        let (face, mut router, watch) = (Arc::clone(&face), router.clone(), Arc::clone(&watch));
        async move {
            watch.enter(Phase::Busy);
            let response = dispatch(&face, &mut router, request).await;
            watch.enter(Phase::Idle);
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(Watched { stream, watch: Arc::clone(&watch) });
    let connection =
        http1::Builder::new().max_buf_size(limits.max_header_bytes).serve_connection(io, service);
    tokio::pin!(connection);
    tokio::select! {
        // Broken connections are the clients' business.
        _ended = &mut connection => {}
        () = watch.overdue(&limits) => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                _ended = &mut connection => {}
                () = watch.overdue(&limits) => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Idle,
    Head,
    Busy,
}

/// What a connection is doing, and since when.
#[derive(Debug)]
struct Watch {
    phase: AtomicU8,
    /// Milliseconds from `origin`.
    since_ms: AtomicU64,
    origin: Instant,
}

impl Watch {
    fn new() -> Self {
        Self { phase: AtomicU8::new(Phase::Idle as u8), since_ms: AtomicU64::new(0), origin: Instant::now() }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since_ms.store(self.origin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn bytes_came(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.enter(Phase::Head);
        }
    }

    /// Resolves when the connection has been in one phase for longer than it may.
    async fn overdue(&self, limits: &ConnectionLimits) {
        loop {
            let since = Duration::from_millis(self.since_ms.load(Ordering::Relaxed));
            let passed = self.origin.elapsed().saturating_sub(since);
            let limit = match self.phase.load(Ordering::Relaxed) {
                phase if phase == Phase::Idle as u8 => limits.idle_timeout,
                phase if phase == Phase::Head as u8 => limits.header_timeout,
                _busy => Duration::MAX,
            };
            let Some(left) = limit.checked_sub(passed).filter(|left| !left.is_zero()) else { return };
            // A head may begin right after this look, so the next one comes no later than a head's limit.
            tokio::time::sleep(left.min(limits.header_timeout)).await;
        }
    }
}

/// The stream, telling the watch when bytes come.
struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.bytes_came();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
