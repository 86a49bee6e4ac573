//! One client connection: hyper's protocol loop, with limits of time.
//!
//! hyper has one time limit, for a request's head. The [`ConnectionTimer`] records each phase of a connection and its start,
//! and checks them now and then, which is cheaper than a timer for each request.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Handler;
use super::detached::{Detachable, DetachedBody, DetachedConnection, Detaching};
use super::handle::ConnectionHandle;
use super::timer::{ConnectionTimer, Phase};
use crate::http::turns;

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    pub(super) max_header_bytes: usize,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    /// Beyond `MAX_CONNECTIONS`: only requests of operators are served.
    pub(super) operations_only: bool,
}

/// Serves `stream` until its client disconnects, a limit is exceeded, or `stop` is cancelled and the current request is
/// answered. Returns the task of a stream or of a WebSocket that has taken the connection over.
pub(super) async fn serve(
    stream: TcpStream,
    handler: impl Handler,
    limits: ConnectionLimits,
    stop: CancellationToken,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    // A broken connection has none, and nothing will be read from it.
    let peer = stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
    let timer = Arc::new(ConnectionTimer::new());
    let handle = ConnectionHandle { timer: Arc::clone(&timer), peer };
    let detaching = Arc::new(Mutex::new(None));
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, handle, detaching) = (handler.clone(), handle.clone(), Arc::clone(&detaching));
        async move {
            handle.timer.enter(Phase::Busy);
            turns::note_request();
            let is_chunked = request.version() == Version::HTTP_11;
            let mut response = match limits.operations_only {
                true => handler.answer_operator(request, &handle).await,
                false => handler.answer(request, &handle).await,
            };
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // hyper ends once the head is sent.
                let run = response.extensions_mut().remove::<Detachable>().and_then(|socket| socket.take());
                *detaching.lock() = run.map(|run| Detaching { run, is_chunked: false, is_upgrade: true });
                return Ok(response);
            }
            // The client reads an answer of a known length in its own time; a stream may never end.
            if response.body().size_hint().exact().is_some() {
                handle.timer.enter(Phase::Idle);
                return Ok::<_, Infallible>(response);
            }
            handle.timer.enter(Phase::Answering);
            if let Some(run) =
                response.extensions_mut().remove::<Detachable>().and_then(|stream| stream.take())
            {
                *detaching.lock() = Some(Detaching { run, is_chunked, is_upgrade: false });
                // The connection ends with the stream.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return Ok(response.map(|_| Body::new(DetachedBody(handle.timer))));
            }
            Ok(response.map(|body| Body::new(Streamed { body, timer: handle.timer })))
        }
    });
    let io = TokioIo::new(TimedStream { stream, timer: Arc::clone(&timer) });
    let mut connection =
        http1::Builder::new().max_buf_size(limits.max_header_bytes).serve_connection(io, service);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // In this order, so that the timer's loop notices the start of a stream at once.
            biased;
            // Broken connections need no report.
            is_whole = ended_or_detached(&mut connection, &timer) => match is_whole {
                None => break,
                // The head of a WebSocket was sent.
                Some(true) if detaching.lock().as_ref().is_some_and(|socket| socket.is_upgrade) => break,
                Some(_) => return None,
            },
            () = timer.overdue(&limits) => return None,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let Detaching { run, is_chunked, .. } = detaching.lock().take()?;
    let parts = connection.into_parts();
    let io = parts.io.into_inner();
    Some(run(DetachedConnection::new(io, parts.read_buf, is_chunked, limits.idle_timeout)))
}

/// Waits until the connection has ended, well or not, or the head of a stream that leaves hyper was sent (`None`).
async fn ended_or_detached(
    connection: &mut (impl Future<Output = Result<(), hyper::Error>> + Unpin),
    timer: &ConnectionTimer,
) -> Option<bool> {
    poll_fn(|cx| {
        let polled = Pin::new(&mut *connection).poll(cx);
        match timer.has_sent_head() {
            true => Poll::Ready(None),
            false => polled.map(|ended| Some(ended.is_ok())),
        }
    })
    .await
}

/// A body of unknown length; the connection is idle once it has ended.
struct Streamed {
    body: Body,
    timer: Arc<ConnectionTimer>,
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
        self.timer.enter(Phase::Idle);
    }
}

/// A socket that reports its traffic to the timer, and ends the connection as the timer requires.
pub(in crate::http) struct TimedStream {
    pub(super) stream: TcpStream,
    pub(super) timer: Arc<ConnectionTimer>,
}

impl TimedStream {
    /// hyper drops a connection at its first error.
    fn ended() -> io::Error {
        io::ErrorKind::ConnectionAborted.into()
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.timer.wrote(polled.is_ready());
        polled
    }
}

impl Drop for TimedStream {
    fn drop(&mut self) {
        if self.timer.ends_by_reset() {
            // With a linger time of 0, closing the socket resets the connection (Linux: socket(7), SO_LINGER).
            let _closed_then = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.timer.bytes_came();
        }
        polled
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.timer.ends_at_once() {
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
        if self.timer.ends_at_once() {
            return Poll::Ready(Err(Self::ended()));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes after it has written its whole buffer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.timer.ends_after_flush() {
            return Poll::Ready(Err(Self::ended()));
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if polled.is_ready() {
            self.timer.flushed();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
