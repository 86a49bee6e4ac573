//! Files on their way out: as attachments, in ranges, by tags, out of the folder of contents and no other.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::files::{body, on_disk, part, store, upload};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, narrow};

#[tokio::test]
async fn a_file_is_sent_as_an_attachment_in_a_sandbox_under_its_own_name() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let html = b"<html><script>alert(1)</script></html>";
    for (sent, disposition) in [
        ("page.html", "attachment; filename=\"page.html\""),
        (
            "Ünï \\\"x\\\".html",
            "attachment; filename=\"_n_ _x_.html\"; filename*=UTF-8''%C3%9Cn%C3%AF%20%22x%22.html",
        ),
        ("'; drop table files;--", "attachment; filename=\"'; drop table files;--\""),
        ("<img src=x>", "attachment; filename=\"<img src=x>\""),
    ] {
        let answer = upload(&service, "", body(&[part(sent, "text/html", html)])).await;
        let id = answer.json()["files"][0]["id"].as_str().map(str::to_owned);
        let answer = service.get(&format!("/api/files/{}", id.unwrap())).await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &html[..]));
        assert_eq!(answer.header("content-type"), "text/html");
        let shown = answer.headers.get("content-disposition").unwrap().to_str().unwrap();
        assert_eq!(shown, disposition);
        assert_eq!(answer.header("content-security-policy"), "sandbox; default-src 'none'");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "private, no-cache");
    }
}

#[tokio::test]
async fn ranges_and_tags_are_answered_as_rfc_9110_says() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let file = store(&service, "", "a", &content).await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    let tag = format!("\"{}\"", file["sha256"].as_str().unwrap());
    let size = content.len();
    for (range, status, expected) in [
        ("bytes=0-0", 206, 0..1),
        ("bytes=100-131171", 206, 100..131_172),
        ("bytes=299999-", 206, 299_999..size),
        ("bytes=-5", 206, size - 5..size),
        ("bytes=-999999", 206, 0..size),
        ("bytes=5-999999", 206, 5..size),
        ("bytes=0-1,5-6", 200, 0..size),
        ("bytes=5-2", 200, 0..size),
        ("items=0-1", 200, 0..size),
        ("bytes=300000-", 416, 0..0),
    ] {
        let answer = service.request("GET", &path, &[("range", range)], "").await;
        assert_eq!(answer.status.as_u16(), status, "{range}");
        let content_range = answer.header("content-range");
        match status {
            416 => assert_eq!(
                (content_range, answer.error_code().as_str()),
                ("bytes */300000", "range_not_satisfiable")
            ),
            _ => {
                assert!(answer.body == content[expected.clone()], "{range}");
                assert_eq!(answer.header("content-length"), (expected.end - expected.start).to_string());
                assert_eq!((answer.header("etag"), answer.header("accept-ranges")), (tag.as_str(), "bytes"));
                let said = format!("bytes {}-{}/300000", expected.start, expected.end - 1);
                assert_eq!(content_range, if status == 206 { &said } else { "" }, "{range}");
            }
        }
    }
    for (condition, status) in
        [(tag.as_str(), 206), ("\"other\"", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)]
    {
        let headers = [("range", "bytes=0-9"), ("if-range", condition)];
        assert_eq!(service.request("GET", &path, &headers, "").await.status.as_u16(), status, "{condition}");
    }
    for (listed, status) in [(tag.as_str(), 304), ("*", 304), ("\"x\", W/\"y\"", 200)] {
        let answer = service.request("GET", &path, &[("if-none-match", listed)], "").await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (status, tag.as_str()), "{listed}");
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    let head = service.request("HEAD", &path, &[("range", "bytes=0-9")], "").await;
    assert_eq!((head.status.as_u16(), head.body.len(), head.header("content-length")), (200, 0, "300000"));
    let empty = store(&service, "", "empty", b"").await;
    let path = format!("/api/files/{}", empty["id"].as_str().unwrap());
    assert_eq!(service.get(&path).await.header("content-length"), "0");
    assert_eq!(service.request("GET", &path, &[("range", "bytes=0-")], "").await.status.as_u16(), 416);
}

#[tokio::test]
async fn links_that_are_planted_in_the_folder_lead_nowhere() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let outside = Folder::new();
    let service = Service::start(database.url(), &[("DATA_DIR", data.path()), ("FILES_SWEEP_S", "0")]).await;
    let secret = Path::new(outside.path()).join("secret");
    std::fs::write(&secret, b"another").unwrap();
    let file = store(&service, "", "a", b"content").await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    let [content] = &on_disk(&data).0[..] else { panic!() };

    // A link in the content's place is not followed, and an upload of the same content takes its place.
    std::fs::remove_file(content).unwrap();
    let answer = service.get(&path).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (500, "content_missing"));
    symlink(&secret, content).unwrap();
    let answer = service.get(&path).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (500, "content_missing"));
    store(&service, "", "b", b"content").await;
    assert_eq!(service.get(&path).await.body, "content");
    assert_eq!(std::fs::read(&secret).unwrap(), b"another");

    // One in the place of the content's folder neither.
    let folder = content.parent().unwrap();
    let moved = Path::new(outside.path()).join("moved");
    std::fs::rename(folder, &moved).unwrap();
    symlink(&moved, folder).unwrap();
    assert_eq!(service.get(&path).await.status.as_u16(), 500);
    let again = upload(&service, "", body(&[part("c", "text/plain", b"content")])).await;
    assert_eq!(again.status.as_u16(), 500, "{:?}", again.body);
    assert!(!again.error_code().contains('/'));
    // Nor one in the place of the folder of drafts.
    let drafts = Path::new(data.path()).join("files/tmp");
    std::fs::remove_dir(&drafts).unwrap();
    symlink(outside.path(), &drafts).unwrap();
    assert_eq!(upload(&service, "", body(&[part("d", "text/plain", b"d")])).await.status.as_u16(), 500);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn a_download_that_nobody_reads_gives_its_turn_back_in_time() {
    use tokio::io::AsyncWriteExt;
    let (database, data) = (TestDatabase::create().await, Folder::new());
    // A 32nd of the budget holds 32 downloads, each for a second and what it takes at 64 KiB a second. More are begun than that, as one
    // of the requests that look may be among the first.
    let variables = [("DATA_DIR", data.path()), ("MEMORY_BUDGET", "134217728"), ("BODY_TIMEOUT_S", "1")];
    let service = Service::start(database.url(), &variables).await;
    let file = store(&service, "", "a", &vec![7; 512 << 10]).await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut stream = narrow(&service.address).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stuck.push(stream);
    }
    let answer = eventually("all are under way", async || {
        let answer = service.get(&path).await;
        (answer.status.as_u16() == 503).then_some(answer)
    })
    .await;
    assert_eq!(answer.error_code(), "overloaded");
    // HEAD, which sends nothing, needs none.
    assert_eq!(service.request("HEAD", &path, &[], "").await.status.as_u16(), 200);
    eventually("the turn comes free", async || {
        (service.get(&path).await.status.as_u16() == 200).then_some(())
    })
    .await;
    drop(stuck);
}
