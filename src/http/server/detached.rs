//! Streams that leave hyper once their head is sent.
//!
//! hyper keeps buffers and a state machine for each connection, for requests that a stream's client does not send any more, and each chunk passes
//! a channel and two tasks. A stream of events needs neither: it takes the socket over, and writes its chunks (RFC 9112, section 7.1) itself.
//!
//! ```text
//! handler ─ response with Detachable ─▶ hyper writes the head ─▶ `serve` ends hyper's connection ─▶ the stream's own task
//! ```
//!
//! The head is sent when hyper has asked for the body, which says nothing, and has flushed its buffer after that. Where a response does not come
//! that far (HEAD, a fault that changes the body), its body is read as any other.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connection::TimedStream;
use super::timer::{ConnectionTimer, Ending};

/// Bytes that a client may send behind its request; none of them has a meaning.
const MAX_IGNORED_BYTES: usize = 32 * 1024;
/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The task of a stream, which takes its connection over.
type Run = Box<dyn FnOnce(DetachedConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// An extension of a response whose stream can take the connection over.
#[derive(Clone)]
pub(in crate::http) struct Detachable(Arc<Mutex<Option<Run>>>);

impl Detachable {
    /// A stream that `run` writes.
    pub(in crate::http) fn new<F>(run: impl FnOnce(DetachedConnection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(Mutex::new(Some(Box::new(|connection| Box::pin(run(connection)))))))
    }

    pub(super) fn take(&self) -> Option<Run> {
        self.0.lock().take()
    }
}

/// A stream whose head is about to be sent.
pub(super) struct Detaching {
    pub(super) run: Run,
    /// Whether the head announces chunks: an answer to HTTP/1.0 ends with its connection.
    pub(super) is_chunked: bool,
    /// Whether another protocol follows the head.
    pub(super) is_upgrade: bool,
}

/// The body in the place of a detached one: hyper asks for it once the head is in its buffer.
pub(super) struct DetachedBody(pub(super) Arc<ConnectionTimer>);

impl hyper::body::Body for DetachedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.0.wrote_head();
        Poll::Pending
    }
}

/// A connection without hyper, behind the head of a stream.
pub(in crate::http) struct DetachedConnection {
    io: TimedStream,
    /// What hyper had read behind the request.
    read: Bytes,
    is_chunked: bool,
    /// The time for which a client may take nothing of what waits for it.
    idle_timeout: Duration,
    ignored: usize,
    /// A part of a chunk was sent.
    is_mid_chunk: bool,
    /// The rest of a chunk that the socket has not taken.
    rest: Bytes,
}

impl DetachedConnection {
    pub(super) fn new(io: TimedStream, read: Bytes, is_chunked: bool, idle_timeout: Duration) -> Self {
        Self { io, read, is_chunked, idle_timeout, ignored: 0, is_mid_chunk: false, rest: Bytes::new() }
    }

    /// The socket, for another protocol, and what the client has sent of it.
    pub(in crate::http) fn into_socket(self) -> (TimedStream, Bytes) {
        (self.io, self.read)
    }

    /// Resolves when the client has closed the connection, or it broke. Cancel-safe.
    pub(in crate::http) async fn gone(&mut self) {
        let mut bytes = [0; 256];
        while self.ignored < MAX_IGNORED_BYTES {
            match self.io.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(read) => self.ignored += read,
            }
        }
    }

    /// Sends a chunk as far as the socket takes it at once; returns the rest.
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub(in crate::http) fn try_send(&mut self, chunk: &[u8]) -> io::Result<Option<Bytes>> {
        let length = format!("{:x}\r\n", chunk.len());
        let (length, end): (&[u8], &[u8]) =
            if self.is_chunked { (length.as_bytes(), b"\r\n") } else { (b"", b"") };
        self.check()?;
        let parts = [length, chunk, end];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let written = match self.io.stream.try_write_vectored(&parts.map(IoSlice::new)) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.io.timer.wrote(written == total);
        if written == total {
            return Ok(None);
        }
        self.is_mid_chunk = written > 0;
        let mut rest = Vec::with_capacity(total - written);
        let mut skipped = written;
        for part in parts {
            let skip = skipped.min(part.len());
            rest.extend_from_slice(part.get(skip..).unwrap_or_default());
            skipped -= skip;
        }
        Ok(Some(rest.into()))
    }

    /// Sends a last chunk, unless a part of another one was sent, or the socket does not take it at once. False: it was not sent whole.
    pub(in crate::http) fn finishes_with(&mut self, chunk: &[u8]) -> bool {
        !self.is_mid_chunk && matches!(self.try_send(chunk), Ok(None))
    }

    /// Keeps the rest of a chunk that has to wait, for [`Self::settle`].
    pub(in crate::http) fn keep_rest(&mut self, rest: &Bytes) {
        self.rest = rest.clone();
    }

    /// Sends the rest of a chunk.
    ///
    /// # Errors
    ///
    /// The connection is over, or the client took nothing for `IDLE_TIMEOUT_S`.
    pub(in crate::http) async fn send_rest(&mut self, rest: Bytes) -> io::Result<()> {
        self.rest = rest;
        while !self.rest.is_empty() {
            let Ok(writable) = tokio::time::timeout(self.idle_timeout, self.io.stream.writable()).await
            else {
                // The kernel would keep unread data for minutes.
                self.io.timer.end(Ending::Reset);
                return Err(io::ErrorKind::TimedOut.into());
            };
            writable?;
            self.check()?;
            match self.io.stream.try_write(&self.rest) {
                Ok(written) => {
                    self.io.timer.wrote(true);
                    self.is_mid_chunk = true;
                    self.rest.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.is_mid_chunk = false;
        self.rest = Bytes::new();
        Ok(())
    }

    /// Sends what is left of a chunk and the end of the stream, and waits until the client closes its side. False: it has not, and what it has
    /// received is not known.
    pub(in crate::http) async fn settle(&mut self, limit: Duration) -> bool {
        let settling = async {
            let rest = std::mem::take(&mut self.rest);
            if self.is_mid_chunk && rest.is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.send_rest(rest).await?;
            if self.is_chunked {
                self.send_rest(Bytes::from_static(LAST_CHUNK)).await?;
            }
            self.io.stream.shutdown().await?;
            let mut bytes = [0; 256];
            while self.ignored < MAX_IGNORED_BYTES {
                match self.io.stream.read(&mut bytes).await? {
                    0 => return Ok(()),
                    read => self.ignored += read,
                }
            }
            Err(io::Error::from(io::ErrorKind::InvalidData))
        };
        matches!(tokio::time::timeout(limit, settling).await, Ok(Ok(())))
    }

    /// Ends the stream and its connection. The end of a body of which a client takes nothing is not waited for: it sees a broken one.
    pub(in crate::http) async fn finish(mut self) {
        if self.is_mid_chunk || self.io.timer.ends_at_once() {
            return;
        }
        if self.is_chunked
            && !matches!(self.io.stream.try_write(LAST_CHUNK), Ok(written) if written == LAST_CHUNK.len())
        {
            return;
        }
        let _closed = self.io.stream.shutdown().await;
    }

    fn check(&self) -> io::Result<()> {
        match self.io.timer.ends_at_once() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}
