//! Responses byte by byte, and the ends of their connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::service::Service;

/// The time limit for the end of a response.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of a connection up to its end.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// Whether it ended by a reset.
    pub(crate) was_reset: bool,
}

impl Received {
    pub(crate) fn head(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.body_at()]).to_ascii_lowercase()
    }

    /// The body as received, including the framing of chunks.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.body_at()..]
    }

    fn body_at(&self) -> usize {
        self.bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(self.bytes.len(), |at| at + 4)
    }

    /// The body without the framing of chunks, including an unfinished one.
    pub(crate) fn dechunked(&self) -> Vec<u8> {
        let (mut body, mut rest) = (Vec::new(), self.body());
        while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
            let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            let chunk = &rest[end + 2..];
            body.extend_from_slice(&chunk[..length.min(chunk.len())]);
            rest = chunk.get(length + 2..).unwrap_or_default();
        }
        body
    }
}

/// Sends a request on a connection of its own, and reads to its end.
pub(crate) async fn exchange(service: &Service, request: &str, body: &str) -> Received {
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\
         content-type: application/x-ndjson\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("no end");
    let was_reset = read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    Received { bytes, was_reset }
}
