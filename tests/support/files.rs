//! Uploads for tests, and the contents on disk.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::service::{Answer, Folder, Service};

pub(crate) const BOUNDARY: &str = "----a-boundary";
pub(crate) const MULTIPART: &str = "multipart/form-data; boundary=----a-boundary";

/// A part as a browser sends it.
pub(crate) fn part(filename: &str, content_type: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\ncontent-type: {content_type}\r\n\r\n"
    );
    [head.as_bytes(), content, b"\r\n"].concat()
}

/// The end of a body.
pub(crate) fn end() -> Vec<u8> {
    format!("--{BOUNDARY}--\r\n").into_bytes()
}

/// A body of these parts.
pub(crate) fn body(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), end()].concat()
}

/// Uploads a body.
pub(crate) async fn upload(service: &Service, token: &str, body: Vec<u8>) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("content-type", MULTIPART)];
    if !token.is_empty() {
        headers.push(("authorization", &bearer));
    }
    service.request("POST", "/api/files/upload", &headers, body).await
}

/// Uploads a file successfully; returns its JSON.
pub(crate) async fn store(service: &Service, token: &str, filename: &str, content: &[u8]) -> Value {
    let answer = upload(service, token, body(&[part(filename, "application/octet-stream", content)])).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    answer.json()["files"][0].clone()
}

/// Sends a request, with a token unless it is empty.
pub(crate) async fn ask(service: &Service, method: &str, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    service.request(method, path, if token.is_empty() { &[] } else { &headers }, "").await
}

/// The contents and the drafts on disk.
pub(crate) fn on_disk(data: &Folder) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let root = Path::new(data.path()).join("files");
    let list = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).map_or(Vec::new(), |dir| dir.map(|entry| entry.unwrap().path()).collect())
    };
    let folders = list(&root).into_iter().filter(|path| path.file_name().unwrap().len() == 2);
    (folders.flat_map(|folder| list(&folder)).collect(), list(&root.join("tmp")))
}

/// Sends the beginning of an upload of `announced` bytes, `sent` of them content.
pub(crate) async fn begun(service: &Service, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let head = format!(
        "POST /api/files/upload HTTP/1.1\r\nhost: localhost\r\ncontent-type: {MULTIPART}\r\ncontent-length: {announced}\r\n\r\n"
    );
    let first = part("a", "application/octet-stream", &vec![1; sent]);
    stream.write_all(&[head.as_bytes(), &first].concat()).await.unwrap();
    stream
}
