//! Uploads that are wrong, too many, cut off or hostile: each is refused as a whole and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::files::{BOUNDARY, MULTIPART, begun, body, end, on_disk, part, store, upload};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Folder, Service, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

fn told(answer: &Answer) -> (u16, String, String) {
    let field = answer.json()["error"]["field"].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), answer.error_code(), field)
}

fn refused(status: u16, code: &str, field: &str) -> (u16, String, String) {
    (status, code.to_owned(), field.to_owned())
}

async fn assert_nothing_is_left(service: &Service, data: &Folder) {
    assert_eq!(service.get("/api/files").await.json(), serde_json::json!([]));
    assert_eq!(on_disk(data), (Vec::<PathBuf>::new(), Vec::new()));
}

#[tokio::test]
async fn what_is_no_upload_is_refused_as_a_whole_and_leaves_nothing() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("MAX_FILE_BYTES", "100000")];
    let service = Service::start(database.url(), &variables).await;
    let good = part("good.txt", "text/plain", b"good");
    let raw = |head: &str, content: &[u8]| {
        [b"--", BOUNDARY.as_bytes(), b"\r\n", head.as_bytes(), content, b"\r\n"].concat()
    };
    let after_good = |bad: Vec<u8>| [good.clone(), bad].concat();
    let invalid = |field| refused(400, "invalid_request", field);
    let disposition = "content-disposition: form-data; name=\"file\"; filename=\"a\"\r\n";
    for (what, sent, expected) in [
        ("nothing", Vec::new(), invalid("body")),
        ("no part", end(), invalid("file")),
        ("no boundary in it", b"hello".to_vec(), invalid("body")),
        ("cut off in a head", after_good(b"------a-boundary\r\ncontent-dis".to_vec()), invalid("body")),
        ("cut off in a content", after_good(part("a", "text/plain", b"x")), invalid("body")),
        ("cut off in a boundary", after_good(b"------a-bou".to_vec()), invalid("body")),
        (
            "no filename",
            body(&[raw("content-disposition: form-data; name=\"note\"\r\n\r\n", b"x")]),
            invalid("file"),
        ),
        ("no head", body(&[good.clone(), raw("\r\n", b"x")]), invalid("body")),
        ("a head that is none", body(&[good.clone(), raw("nonsense\r\n\r\n", b"x")]), invalid("body")),
        (
            "a huge head",
            body(&[good.clone(), raw(&format!("{disposition}x: {}\r\n\r\n", "y".repeat(60_000)), b"x")]),
            invalid("body"),
        ),
        (
            "many heads",
            body(&[good.clone(), raw(&format!("{disposition}{}\r\n", "x: y\r\n".repeat(100)), b"x")]),
            invalid("body"),
        ),
        (
            "a long preamble",
            [vec![b'x'; 60_000], body(std::slice::from_ref(&good))].concat(),
            invalid("body"),
        ),
        (
            "a name of 300 bytes",
            body(&[good.clone(), part(&"n".repeat(300), "text/plain", b"x")]),
            invalid("filename"),
        ),
        (
            "a name that is a folder",
            body(&[good.clone(), part("../..", "text/plain", b"x")]),
            invalid("filename"),
        ),
        ("no name", body(&[good.clone(), part("", "text/plain", b"x")]), invalid("filename")),
        ("a NUL in a name", body(&[good.clone(), part("a\0b", "text/plain", b"x")]), invalid("body")),
        ("a tab in a name", body(&[good.clone(), part("a\tb", "text/plain", b"x")]), invalid("filename")),
        (
            "a line in a name",
            body(&[good.clone(), part("a\r\nset-cookie: x", "text/plain", b"x")]),
            invalid("file"),
        ),
        ("a type that is none", body(&[good.clone(), part("a", "nonsense", b"x")]), invalid("content-type")),
        ("a type of bytes", body(&[good.clone(), part("a", "text/\u{fc}", b"x")]), invalid("content-type")),
        (
            "another type",
            body(&[good.clone(), part("a.png", "image/png", b"<html><script>alert(1)</script>")]),
            refused(415, "type_mismatch", "content-type"),
        ),
        (
            "a file that is too large",
            body(&[good.clone(), part("a", "text/plain", &vec![b'x'; 100_001])]),
            refused(413, "too_large", ""),
        ),
        ("twenty-one files", body(&vec![good.clone(); 21]), refused(413, "too_large", "")),
        ("10,000 parts", body(&vec![part("a", "text/plain", b""); 10_000]), refused(413, "too_large", "")),
    ] {
        let answer = upload(&service, "", sent).await;
        assert_eq!(told(&answer), expected, "{what}: {:?}", answer.body);
        // Nothing of the machine is told.
        assert!(!String::from_utf8_lossy(&answer.body).contains(data.path()), "{what}");
    }
    let sent = body(std::slice::from_ref(&good));
    for (content_type, expected) in [
        ("text/plain", refused(415, "unsupported_media_type", "content-type")),
        ("multipart/mixed; boundary=x", refused(415, "unsupported_media_type", "content-type")),
        ("multipart/form-data", invalid("content-type")),
        (&format!("multipart/form-data; boundary={}", "x".repeat(1000)), invalid("content-type")),
        ("multipart/form-data; boundary=another", invalid("body")),
    ] {
        let answer = service
            .request("POST", "/api/files/upload", &[("content-type", content_type)], sent.clone())
            .await;
        assert_eq!(told(&answer), expected, "{content_type}");
    }
    let answer = service.request("POST", "/api/files/upload", &[], sent.clone()).await;
    assert_eq!(answer.status.as_u16(), 415);
    let invalid_utf8 = [
        b"------a-boundary\r\ncontent-disposition: form-data; name=\"file\"; filename=\"\xff\xfe\"\r\n\r\nx\r\n".to_vec(),
        end(),
    ];
    assert_eq!(told(&upload(&service, "", invalid_utf8.concat()).await), invalid("file"));
    let nested = "multipart/mixed; boundary=inner";
    assert_nothing_is_left(&service, &data).await;
    // What is within a file is its own business; three of the largest are taken.
    let full = part("a", nested, &vec![b'-'; 100_000]);
    assert_eq!(upload(&service, "", body(&vec![full; 3])).await.status.as_u16(), 201);
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_file_uploads_refused_total{reason=\"type_mismatch\"} 1"), "{metrics}");
}

#[tokio::test]
async fn names_are_data_wherever_they_turn_up() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    for (sent, kept) in [
        ("../../../etc/passwd", "passwd"),
        ("/etc/shadow", "shadow"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\x", "x"),
        ("'; drop table files; --", "'; drop table files; --"),
        ("$1 {schema} %s ${PATH}", "$1 {schema} %s ${PATH}"),
        ("日本語.txt", "日本語.txt"),
        ("a%2e%2e%2fb", "a%2e%2e%2fb"),
        (".htaccess", ".htaccess"),
        ("CON", "CON"),
    ] {
        let file = store(&service, "", sent, sent.as_bytes()).await;
        assert_eq!(file["filename"], kept);
        let path = format!("/api/files/{}", file["id"].as_str().unwrap());
        assert_eq!(service.get(&path).await.body, sent.as_bytes());
    }
    let (contents, drafts) = on_disk(&data);
    assert_eq!((contents.len(), drafts.len()), (10, 0));
    let is_a_hash =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().chars().all(|c| c.is_ascii_hexdigit());
    assert!(contents.iter().all(is_a_hash), "{contents:?}");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&contents[0]), 0o600);
    assert_eq!(mode(contents[0].parent().unwrap()), 0o700);
    assert_eq!(mode(contents[0].parent().unwrap().parent().unwrap()), 0o700);
}

#[tokio::test]
async fn twenty_uploads_at_once_do_not_pass_the_quota_by_a_byte() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    // Seven of them fit.
    let variables = [
        ("DATA_DIR", data.path()),
        ("FILE_QUOTA_BYTES", "700099"),
        ("POOL_WAIT_MS", "30000"),
        ("STATEMENT_TIMEOUT_MS", "30000"),
        ("FILES_SWEEP_S", "1"),
    ];
    let service = Service::start(database.url(), &variables).await;
    let uploads = (0..20_u8).map(|number| {
        let service = &service;
        async move {
            let sent = body(&[part("a", "text/plain", &vec![b'a' + number; 100_000])]);
            // Eight have their turn at once.
            let answer = eventually("it has its turn", async || {
                let answer = upload(service, "", sent.clone()).await;
                (answer.status.as_u16() != 503).then_some(answer)
            })
            .await;
            if answer.status.as_u16() != 201 {
                assert_eq!(told(&answer), refused(413, "quota_exceeded", ""));
            }
            answer.status.as_u16()
        }
    });
    let answers = join_all(uploads).await;
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 7, "{answers:?}");
    let client = database.connect().await;
    let held: i64 = client.query_one("select sum(size)::bigint from files", &[]).await.unwrap().get(0);
    assert_eq!(held, 700_000);
    assert_eq!(on_disk(&data), (on_disk(&data).0, Vec::new()));
    assert_eq!(on_disk(&data).0.len(), 7, "what was refused was not put into place");
    // Empty files count as well, and what is deleted is free again.
    let listed = service.get("/api/files?limit=1").await.json();
    let path = format!("/api/files/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 204);
    for _ in 0..24 {
        store(&service, "", "empty", b"").await;
    }
    let answer = upload(&service, "", body(&[part("empty", "text/plain", b"")])).await;
    assert_eq!(told(&answer), refused(413, "quota_exceeded", ""));
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing_and_gives_its_turn_back() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("BODY_TIMEOUT_S", "2")];
    let service = Service::start(database.url(), &variables).await;
    let sent = body(&[part("b", "text/plain", b"b")]);
    for by_reset in [true, false] {
        let stuck = join_all((0..8).map(|_| begun(&service, 9_000_000, 100_000))).await;
        eventually("eight drafts", async || (on_disk(&data).1.len() == 8).then_some(())).await;
        let answer = upload(&service, "", sent.clone()).await;
        assert_eq!(told(&answer), refused(503, "overloaded", ""));
        if by_reset {
            stuck.iter().for_each(|stream| stream.set_zero_linger().unwrap());
            drop(stuck);
        } else {
            // One that sends nothing more is told so in time.
            for mut stream in stuck {
                let mut answer = String::new();
                tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
                assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
            }
        }
        eventually("no drafts", async || on_disk(&data).1.is_empty().then_some(())).await;
        assert_eq!(on_disk(&data).0, Vec::<PathBuf>::new());
    }
    assert_eq!(upload(&service, "", sent).await.status.as_u16(), 201);
}

#[tokio::test]
async fn an_upload_under_way_is_stored_before_the_service_stops() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let (first, last) = (part("a", "application/octet-stream", &vec![1; 500_000]), end());
    let mut stream = begun(&service, first.len() + last.len(), 500_000).await;
    eventually("a draft", async || (on_disk(&data).1.len() == 1).then_some(())).await;
    service.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("it stops", async || service.log().contains("stopping:").then_some(())).await;
    stream.write_all(&last).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let ended = service.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!((on_disk(&data).0.len(), on_disk(&data).1.len()), (1, 0));
}

#[tokio::test]
async fn an_upload_that_outlasts_the_stop_leaves_nothing_behind() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("SHUTDOWN_TIMEOUT_S", "4")];
    let service = Service::start(database.url(), &variables).await;
    let _stuck = begun(&service, 9_000_000, 500_000).await;
    eventually("a draft", async || (on_disk(&data).1.len() == 1).then_some(())).await;
    let ended = service.stop().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(on_disk(&data), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn an_upload_of_256_mib_takes_no_memory_to_speak_of() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    store(&service, "", "warm", &vec![1; 1 << 20]).await;
    let most = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    };
    let before = most();
    let mib = 256_usize;
    let (first, last) = (part("large", "application/octet-stream", b""), end());
    let head = &first[..first.len() - 2];
    let length = head.len() + (mib << 20) + 2 + last.len();
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let request = format!(
        "POST /api/files/upload HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {MULTIPART}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(&[request.as_bytes(), head].concat()).await.unwrap();
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 253) as u8).collect();
    for _ in 0..mib {
        stream.write_all(&piece).await.unwrap();
    }
    stream.write_all(&[b"\r\n", &last[..]].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 201") && answer.contains(&format!("\"size\":{}", mib << 20)),
        "{answer}"
    );
    let grown = most().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
}

#[tokio::test]
async fn forms_are_taken_as_browsers_and_libraries_write_them() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let raw = |disposition: &str, content: &[u8]| {
        let head = format!("--{BOUNDARY}\r\n{disposition}\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    };
    let form = body(&[
        raw("content-disposition: form-data; name=\"note\"", &b"x".repeat(200_000)),
        part("chosen.txt", "text/plain", b"hi"),
        part("", "application/octet-stream", b""),
        raw("Content-Disposition: form-data; name=empty", b""),
        raw("Content-Disposition: form-data; NAME=\"file\"; FILENAME=\"a%22b%0D%0Ac.txt\"", b"1"),
        raw(
            "content-disposition: form-data; name=\"f\"; filename=\"x\"; filename*=UTF-8''%e2%82%ac.txt",
            b"2",
        ),
        raw("content-disposition: form-data; name=\"f\"; filename=\"=?utf-8?B?w6kudHh0?=\"", b"3"),
    ]);
    let answer = upload(&service, "", form).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    let files = answer.json()["files"].as_array().unwrap().clone();
    let names: Vec<&str> = files.iter().map(|file| file["filename"].as_str().unwrap()).collect();
    assert_eq!(names, ["chosen.txt", "a\"b c.txt", "€.txt", "é.txt"]);
    for (file, content) in files.iter().zip(["hi", "1", "2", "3"]) {
        let path = format!("/api/files/{}", file["id"].as_str().unwrap());
        assert_eq!(service.get(&path).await.body, content.as_bytes());
    }
}
