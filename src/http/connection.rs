//! One client connection: hyper's protocol loop, watched.
//!
//! hyper knows one time limit, for a request's head. The [watch](super::watch) knows what a connection is doing and since
//! when. It looks now and then instead of setting a timer for each request.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::dispatch::answer;
use super::error::ApiError;
use super::watch::{Ending, Phase, Watch};
use super::{AppState, ops};

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    pub(super) max_header_bytes: usize,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    /// Beyond `MAX_CONNECTIONS`: health and metrics are answered, everything else is refused.
    pub(super) operations_only: bool,
}

/// What a request may ask of the connection that it came by.
#[derive(Debug, Clone)]
pub(super) struct Line {
    watch: Arc<Watch>,
    peer: IpAddr,
}

impl Line {
    /// The address at the other end.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Resets the connection, whatever is answered.
    pub(super) fn reset(&self) {
        self.watch.end(Ending::Reset);
    }

    /// Ends the connection once all that the answer's body gave so far is sent; the body gives nothing more.
    pub(super) fn cut(&self, by_reset: bool) {
        self.watch.end(if by_reset { Ending::ResetAfterFlush } else { Ending::CloseAfterFlush });
    }

    /// A client that reads nothing of a streamed answer is cut off at `deadline`.
    pub(super) fn read_by(&self, deadline: Instant) {
        self.watch.read_by(deadline);
    }

    /// Whether the client of a streamed answer was slower than it, since the last [`Self::forget_blocked`].
    pub(super) fn was_blocked(&self) -> bool {
        self.watch.was_blocked()
    }

    /// The stream has caught up.
    pub(super) fn forget_blocked(&self) {
        self.watch.forget_blocked();
    }
}

/// Serves `stream` until its client goes, a limit is passed, or `stop` is cancelled and the request under way is
/// answered.
pub(super) async fn serve(
    stream: TcpStream,
    face: Arc<AppState>,
    router: axum::Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    // A connection that broke already has none; nothing will be read from it.
    let peer = stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
    let watch = Arc::new(Watch::new());
    let line = Line { watch: Arc::clone(&watch), peer };
    let service = service_fn(|request| {
        let (face, mut router, line) = (Arc::clone(&face), router.clone(), line.clone());
        async move {
            line.watch.enter(Phase::Busy);
            let response = match limits.operations_only && !ops::is_one(request.uri().path()) {
                true => too_many_connections(),
                false => answer(&face, &mut router, request, &line).await,
            };
            // An answer of a known length is left to the client; one without may go on for ever.
            if response.body().size_hint().exact().is_some() {
                line.watch.enter(Phase::Idle);
                return Ok::<_, Infallible>(response);
            }
            line.watch.enter(Phase::Answering);
            Ok(response.map(|body| Body::new(Streamed { body, watch: line.watch })))
        }
    });
    let io = TokioIo::new(Watched { stream, watch: Arc::clone(&watch) });
    let connection =
        http1::Builder::new().max_buf_size(limits.max_header_bytes).serve_connection(io, service);
    tokio::pin!(connection);
    tokio::select! {
        // In this order the watch sees at once that an answer has begun to stream.
        biased;
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

/// What is answered beyond `MAX_CONNECTIONS`.
fn too_many_connections() -> Response {
    let message = "too many connections; try again later";
    let mut response = ApiError::unavailable("overloaded", message, Duration::from_secs(1)).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A body of unknown length; the connection is idle once it has ended.
struct Streamed {
    body: Body,
    watch: Arc<Watch>,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.watch.enter(Phase::Idle);
    }
}

/// The stream, telling the watch what comes and goes, and ended as the watch says.
struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl Watched {
    /// hyper gives a connection up at the first error.
    fn ended() -> io::Error {
        io::ErrorKind::ConnectionAborted.into()
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.watch.wrote(polled.is_ready());
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.watch.ends_by_reset() {
            // With no time to linger, closing a socket resets its connection (Linux: socket(7), SO_LINGER).
            let _closed_then = self.stream.set_zero_linger();
        }
    }
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
        if self.watch.ends_at_once() {
            return Poll::Ready(Err(Self::ended()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.watch.ends_at_once() {
            return Poll::Ready(Err(Self::ended()));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has written all that it holds.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.ends_after_flush() {
            return Poll::Ready(Err(Self::ended()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
