//! Uploads and a disk that is full, or becomes full while they come in: told so, nothing is left, nobody pays for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::files::{MULTIPART, body, on_disk, part, store, upload};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};

const PATIENCE: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

/// A file system of 8 MiB as `files` of a folder, which is unmounted with its value.
pub(crate) struct SmallDisk {
    data: Folder,
    pub(crate) files: PathBuf,
}

impl SmallDisk {
    /// None where nothing can be mounted, which is said so that a run which leaves this out is seen.
    pub(crate) fn mounted() -> Option<Self> {
        let data = Folder::new();
        let files = Path::new(data.path()).join("files");
        std::fs::create_dir(&files).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"])
            .arg(&files)
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Self { data, files }),
            refused => {
                // Not `eprintln`, which a passing test keeps to itself.
                let _ =
                    writeln!(std::io::stderr(), "skipped: a small disk cannot be mounted here: {refused:?}");
                None
            }
        }
    }

    /// Takes all that is left of it, as another program may; gone again with the path.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.files.join("of-another");
        let mut file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The service may still have it open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.files).status();
    }
}

/// Sends the beginning of a request, whose head ends with `length`.
async fn begun(service: &Service, path: &str, content_type: &str, length: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let head = format!(
        "POST /api/files/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {content_type}\r\n{length}"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    stream
}

/// Sends the rest of a request, as far as it is read, and returns the answer.
async fn answer_to(mut stream: TcpStream, rest: &[u8]) -> String {
    // The service may answer and close before all is written.
    let _ = stream.write_all(rest).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn assert_says_full(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 507 "), "{answer}");
    let (_, told) = answer.split_once("\r\n\r\n").unwrap();
    let told: serde_json::Value = serde_json::from_str(told).unwrap();
    assert_eq!(told, json!({"error": {"code": "disk_full", "message": "the disk is full; try again later"}}));
}

async fn assert_nothing_is_left(service: &Service, data: &Folder) {
    assert_eq!(service.get("/api/files").await.json(), json!([]));
    assert_eq!(on_disk(data), (Vec::<PathBuf>::new(), Vec::new()));
}

#[tokio::test]
async fn the_journals_reserve_of_the_disk_is_left_to_it() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("JOURNAL_MIN_FREE", "1099511627776")];
    let service = Service::start(database.url(), &variables).await;
    let answer = upload(&service, "", body(&[part("a", "text/plain", b"a")])).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (507, "disk_full"));
    assert_nothing_is_left(&service, &data).await;
}

#[tokio::test]
async fn a_disk_that_becomes_full_during_an_upload_is_told_and_leaves_nothing_behind() {
    let Some(disk) = SmallDisk::mounted() else { return };
    let database = TestDatabase::create().await;
    // No upload that is refused could be charged and leave room in it for what is stored in the end.
    let quota = (6 * MIB).to_string();
    let variables =
        [("DATA_DIR", disk.data.path()), ("FILE_QUOTA_BYTES", quota.as_str()), ("FILES_SWEEP_S", "0")];
    let service = Service::start(database.url(), &variables).await;
    let files = body(&[
        part("small", "text/plain", b"small"),
        part("large", "application/octet-stream", &vec![1; 4 * MIB]),
    ]);
    let lines = b"1234567\n".repeat(MIB / 2);
    // Once with its length announced, once as a chunk.
    for (path, content_type, length, sent, drafts) in [
        ("upload", MULTIPART, format!("content-length: {}\r\n\r\n", files.len()), files, 2),
        (
            "process-jsonl",
            "application/x-ndjson",
            format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", lines.len()),
            [&lines[..], b"\r\n0\r\n\r\n"].concat(),
            1,
        ),
    ] {
        let stream = begun(&service, path, content_type, &length, &sent[..MIB]).await;
        eventually("drafts", async || (on_disk(&disk.data).1.len() == drafts).then_some(())).await;
        // There was room enough until somebody else took it.
        let filler = disk.fill();
        assert_says_full(&answer_to(stream, &sent[MIB..]).await);
        assert_nothing_is_left(&service, &disk.data).await;
        assert_eq!(service.health().await["status"], "ok");
        // What the drafts took is free again, until it is taken as well.
        disk.fill();
        let answer = upload(&service, "", body(&[part("a", "text/plain", b"a")])).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (507, "disk_full"), "{path}");
        assert_nothing_is_left(&service, &disk.data).await;
        std::fs::remove_file(filler).unwrap();
    }
    let file = store(&service, "", "b", &vec![2; 5 * MIB]).await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    assert_eq!(service.get(&path).await.body.len(), 5 * MIB);
    assert_eq!((on_disk(&disk.data).0.len(), on_disk(&disk.data).1.len()), (1, 0));
}

#[tokio::test]
async fn an_upload_that_is_announced_to_be_larger_than_the_disk_is_refused_before_it_comes() {
    let Some(disk) = SmallDisk::mounted() else { return };
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("DATA_DIR", disk.data.path())]).await;
    let length = format!("content-length: {}\r\n\r\n", 9 * MIB);
    let stream = begun(&service, "upload", MULTIPART, &length, &[]).await;
    assert_says_full(&answer_to(stream, &[]).await);
    assert_nothing_is_left(&service, &disk.data).await;
}
