//! Files of records, in the protocol of PocketBase.

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::pocketbase::{COLLECTIONS, good, make, path_of, records, send};
use crate::pocketbase_batch::start_with_batches;
use crate::support::accounts::key;
use crate::support::files::{BOUNDARY, MULTIPART, body, on_disk};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Folder, Service, eventually, try_request};

/// A part with a file.
fn file(field: &str, filename: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"{filename}\"\r\n\r\n"
    );
    [head.as_bytes(), content, b"\r\n"].concat()
}

/// A part with a field.
fn field(name: &str, value: &str) -> Vec<u8> {
    format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes()
}

async fn form(service: &Service, method: &str, path: &str, token: &str, parts: &[Vec<u8>]) -> Answer {
    let mut headers = vec![("content-type", MULTIPART)];
    if !token.is_empty() {
        headers.push(("authorization", token));
    }
    service.request(method, path, &headers, body(parts)).await
}

async fn sent(service: &Service, method: &str, path: &str, parts: &[Vec<u8>]) -> Value {
    let answer = form(service, method, path, "", parts).await;
    assert_eq!(answer.status.as_u16(), 200, "{method} {path}: {:?}", answer.body);
    answer.json()
}

/// The violation of a field of a form that is refused.
async fn violation(service: &Service, method: &str, path: &str, field: &str, parts: &[Vec<u8>]) -> Value {
    let answer = form(service, method, path, "", parts).await;
    assert_eq!(answer.status.as_u16(), 400, "{method} {path}: {:?}", answer.body);
    answer.json()["data"][field].clone()
}

fn path(record: &Value, name: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    format!("/api/files/{}/{}/{}", text(&record["collectionName"]), text(&record["id"]), text(name))
}

async fn down(service: &Service, record: &Value, name: &Value, query: &str) -> Answer {
    service.get(&format!("{}{query}", path(record, name))).await
}

fn fields() -> Value {
    json!([
        {"name": "title", "type": "text"},
        {"name": "one", "type": "file", "maxSelect": 1, "thumbs": ["20x10", "20x10t", "20x10f", "0x30", "40x0"]},
        {"name": "some", "type": "file", "maxSelect": 3},
    ])
}

/// A service whose contents are in a folder that the test reads, and which sweeps every second.
async fn start_in(database: &TestDatabase, data: &Folder) -> (Service, String) {
    let variables =
        [("MODULES", "events,records,pocketbase,stress"), ("DATA_DIR", data.path()), ("FILES_SWEEP_S", "1")];
    let (service, token) =
        (Service::start(database.url(), &variables).await, key(database, &["--admin"]).await);
    good(&service, "PATCH", "/api/settings", &token, &json!({"batch": {"enabled": true}})).await;
    (service, token)
}

fn first(name: &Value) -> String {
    name.as_str().unwrap()[..1].to_owned()
}

fn stems(record: &Value) -> String {
    record["some"].as_array().unwrap().iter().map(first).collect()
}

#[tokio::test]
async fn a_file_goes_up_with_a_record_and_comes_down() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let made = sent(
        &service,
        "POST",
        &records("posts"),
        &[
            field("title", "007"),
            file("one", "My Notes (1).txt", b"hello"),
            file("nothing", "x.txt", b"dropped"),
        ],
    )
    .await;
    let name = made["one"].as_str().unwrap();
    assert!(name.starts_with("my_notes_1_") && name.ends_with(".txt") && name.len() == 25, "{name}");
    assert_eq!((&made["title"], &made["some"]), (&json!("007"), &json!([])));
    let whole = down(&service, &made, &made["one"], "").await;
    assert_eq!((whole.status.as_u16(), &whole.body[..]), (200, &b"hello"[..]));
    for (header, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-disposition", &*format!("attachment; filename=\"{name}\"")),
        (
            "content-security-policy",
            "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox",
        ),
        ("cache-control", "max-age=2592000, stale-while-revalidate=86400"),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(whole.header(header), value);
    }
    let (tag, time) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    let path = path(&made, &made["one"]);
    let with = async |name: &str, value: &str| service.request("GET", &path, &[(name, value)], "").await;
    for (header, value, status, body) in [
        ("if-none-match", tag.as_str(), 304, ""),
        ("if-modified-since", time.as_str(), 304, ""),
        ("if-modified-since", "Mon, 01 Jan 2001 00:00:00 GMT", 200, "hello"),
        ("if-modified-since", "nonsense", 200, "hello"),
        ("range", "bytes=1-3", 206, "ell"),
        ("range", "bytes=-2", 206, "lo"),
        ("range", "bytes=0-0,2-2", 200, "hello"),
    ] {
        let answer = with(header, value).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (status, body.as_bytes()),
            "{header}: {value}"
        );
    }
    let beyond = with("range", "bytes=9-").await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */5"));
    assert_eq!(service.request("HEAD", &path, &[], "").await.header("content-length"), "5");
    for (missing, message) in [
        (path.replace(name, "nothing.txt"), "The requested resource wasn't found."),
        (path.replace(made["id"].as_str().unwrap(), "nothing"), "The requested resource wasn't found."),
        (path.replace("posts", "nothing"), "Missing or invalid collection context."),
    ] {
        let answer = service.get(&missing).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["message"]), (404, &json!(message)), "{missing}");
    }
}

#[tokio::test]
async fn types_are_those_of_the_content_and_only_media_are_shown() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    for (filename, content, media_type, shown) in [
        ("a.svg", &b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>"[..], "image/svg+xml", "attachment"),
        ("a.html", b"<html><script>alert(1)</script></html>", "text/html; charset=utf-8", "attachment"),
        ("a.png", b"<html><script>alert(1)</script></html>", "text/html; charset=utf-8", "attachment"),
        ("a.json", b"{\"a\":1}", "application/json", "attachment"),
        ("a.css", b"a{color:red}", "text/css; charset=utf-8", "attachment"),
        ("a.js", b"alert(1)", "text/javascript; charset=utf-8", "attachment"),
        ("a.bin", b"\0\x01", "application/octet-stream", "attachment"),
        ("a.pdf", b"%PDF-1.4\n", "application/pdf", "inline"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "image/png", "inline"),
    ] {
        let made = sent(&service, "POST", &records("posts"), &[file("one", filename, content)]).await;
        let answer = down(&service, &made, &made["one"], "").await;
        assert_eq!(answer.header("content-type"), media_type, "{filename}");
        assert!(answer.header("content-disposition").starts_with(&format!("{shown}; ")), "{filename}");
        let forced = down(&service, &made, &made["one"], "?download=1").await;
        assert!(forced.header("content-disposition").starts_with("attachment; "), "{filename}");
    }
}

#[tokio::test]
async fn files_are_appended_prepended_removed_and_replaced() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let made = sent(&service, "POST", &records("posts"), &[file("some", "b.txt", b"b")]).await;
    let (b, path) = (made["some"][0].clone(), path_of("posts", &made));
    let record = sent(&service, "PATCH", &path, &[file("some+", "c.txt", b"c")]).await;
    assert_eq!(stems(&record), "bc");
    let record = sent(&service, "PATCH", &path, &[file("+some", "a.txt", b"a")]).await;
    assert_eq!(stems(&record), "abc");
    let many = violation(&service, "PATCH", &path, "some", &[file("some+", "d.txt", b"d")]).await;
    let expected = json!({
        "code": "validation_too_many_files", "message": "The maximum allowed files is 3.", "params": {"maxSelect": 3},
    });
    assert_eq!(many, expected);
    let record = good(&service, "PATCH", &path, "", &json!({"some-": [b]})).await;
    assert_eq!(stems(&record), "ac");
    assert_eq!(down(&service, &record, &b, "").await.status.as_u16(), 404);
    // A name beside a file is kept, before it.
    let c = record["some"][1].as_str().unwrap();
    let record = sent(&service, "PATCH", &path, &[file("some", "e.txt", b"e"), field("some", c)]).await;
    assert_eq!(stems(&record), "ce");
    let payload = json!({"some": [record["some"][1]], "title": "x"}).to_string();
    let record =
        sent(&service, "PATCH", &path, &[field("@jsonPayload", &payload), file("some+", "f.txt", b"f")])
            .await;
    assert_eq!((stems(&record), &record["title"]), ("ef".to_owned(), &json!("x")));
    // Of two files for a single field the last one counts.
    let record =
        sent(&service, "PATCH", &path, &[file("one", "x.txt", b"x"), file("one", "y.txt", b"y")]).await;
    assert_eq!((first(&record["one"]), stems(&record)), ("y".to_owned(), "ef".to_owned()));
    let unchanged = good(&service, "PATCH", &path, "", &json!({"title": "still"})).await;
    assert_eq!((&unchanged["one"], &unchanged["some"]), (&record["one"], &record["some"]));
    assert_eq!(down(&service, &record, &record["one"], "").await.body, "y");
    let record = good(&service, "PATCH", &path, "", &json!({"some": [], "one": ""})).await;
    assert_eq!((&record["one"], &record["some"]), (&json!(""), &json!([])));
    eventually("all contents go", async || on_disk(&data).0.is_empty().then_some(())).await;
}

#[tokio::test]
async fn size_type_and_number_are_limited_by_the_field() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    let fields = json!([
        {"name": "one", "type": "file", "maxSelect": 1, "maxSize": 10, "mimeTypes": ["text/plain", "image/jpeg"], "required": true},
        {"name": "some", "type": "file", "maxSelect": 3},
    ]);
    make(&service, &token, "posts", fields, json!({})).await;
    let all = records("posts");
    let of = async |field: &str, parts: &[Vec<u8>]| violation(&service, "POST", &all, field, parts).await;
    let size = json!({
        "code": "validation_file_size_limit",
        "message": "Failed to upload a.txt - the maximum allowed file size is 10 bytes.",
        "params": {"file": "a.txt", "maxSize": 10},
    });
    assert_eq!(of("one", &[file("one", "a.txt", b"more than ten bytes")]).await, size);
    let media = of("one", &[file("one", "abc.txt", b"\x89PNG\r\n\x1a\n")]).await;
    assert_eq!(media["code"], "validation_invalid_mime_type");
    let message = media["message"].as_str().unwrap();
    assert!(
        message.starts_with("\"abc_")
            && message.ends_with("mime type must be one of: text/plain, image/jpeg."),
        "{message}"
    );
    let invalid = json!({
        "code": "validation_invalid_file", "message": "Invalid new files: [x.txt y.txt].", "params": {"invalidFiles": ["x.txt", "y.txt"]},
    });
    let answer = send(&service, "POST", &all, "", &json!({"some": ["x.txt", "y.txt"]})).await.json();
    assert_eq!(
        (&answer["data"]["some"], &answer["data"]["one"]["code"]),
        (&Value::Null, &json!("validation_required"))
    );
    let answer =
        send(&service, "POST", &all, "", &json!({"some": ["x.txt", "y.txt"], "one": "z"})).await.json();
    assert_eq!(
        (&answer["data"]["some"], &answer["data"]["one"]["code"]),
        (&invalid, &json!("validation_invalid_file"))
    );
    let four: Vec<Vec<u8>> = ["a", "b", "c", "d"].map(|name| file("some", name, b"x")).to_vec();
    assert_eq!(of("some", &four).await["code"], "validation_too_many_files");
    // More than one field at once.
    let both =
        form(&service, "POST", &all, "", &[four.concat(), file("one", "a.txt", b"more than ten bytes")])
            .await
            .json();
    assert_eq!(
        (&both["data"]["one"], &both["data"]["some"]["code"]),
        (&size, &json!("validation_too_many_files"))
    );
    let beyond = form(&service, "POST", &all, "", &[file("one", "a.txt", &vec![b'x'; 40 << 20])]).await;
    assert_eq!(
        (beyond.status.as_u16(), &beyond.json()["message"]),
        (413, &json!("Request entity too large."))
    );
    let many: Vec<Vec<u8>> = (0..60).map(|n| file("some", &format!("{n}.txt"), b"x")).collect();
    assert_eq!(form(&service, "POST", &all, "", &many).await.status.as_u16(), 413);
    let found = good(&service, "GET", &all, "", &Value::Null).await;
    assert_eq!(found["totalItems"], 0);
}

#[tokio::test]
async fn rules_read_the_names_of_uploaded_files() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    let rule =
        json!({"createRule": "@request.body.one:isset = true && @request.body.one ~ 'cat_' && one ~ '.txt'"});
    make(&service, &token, "posts", fields(), rule).await;
    let all = records("posts");
    sent(&service, "POST", &all, &[file("one", "cat.txt", b"x")]).await;
    assert_eq!(form(&service, "POST", &all, "", &[file("one", "dog.txt", b"x")]).await.status.as_u16(), 400);
    assert_eq!(form(&service, "POST", &all, "", &[field("title", "cat")]).await.status.as_u16(), 400);
}

#[tokio::test]
async fn files_go_with_their_record_their_field_and_their_collection() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    let client = database.connect().await;
    let posts = make(&service, &token, "posts", fields(), json!({})).await;
    let all = records("posts");
    let create = async |n: usize| {
        let (one, some) = (format!("one {n}"), format!("some {n}"));
        let parts = [
            file("one", "one.txt", one.as_bytes()),
            file("some", "a.txt", some.as_bytes()),
            file("some", "b.txt", b"the same"),
        ];
        sent(&service, "POST", &all, &parts).await
    };
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(create(n).await);
    }
    // Two of each record, and one that they share.
    let rows =
        async || -> i64 { client.query_one("select count(*) from record_files", &[]).await.unwrap().get(0) };
    assert_eq!((rows().await, on_disk(&data).0.len()), (15, 11));
    good(&service, "DELETE", &path_of("posts", &made[0]), "", &Value::Null).await;
    assert_eq!(rows().await, 12);
    // By another face of the same records, which knows nothing of files, and by SQL.
    let stress = format!("/api/stress/records/posts/{}", made[1]["id"].as_str().unwrap());
    assert_eq!(service.request("DELETE", &stress, &[], "").await.status.as_u16(), 204);
    assert_eq!(down(&service, &made[1], &made[1]["one"], "").await.status.as_u16(), 404);
    let table: String = client
        .query_one("select 'records_' || id from collections where name = 'posts'", &[])
        .await
        .unwrap()
        .get(0);
    let id = made[2]["id"].as_str().unwrap();
    client
        .execute(&format!("update {table} set data = data || '{{\"one\": \"\"}}' where id = '{id}'"), &[])
        .await
        .unwrap();
    eventually("rows that no record names go", async || (rows().await == 8).then_some(())).await;
    eventually("and their contents", async || (on_disk(&data).0.len() == 6).then_some(())).await;
    assert_eq!(down(&service, &made[3], &made[3]["one"], "").await.body, "one 3");
    // A field with one file of several keeps the last one.
    let mut fields = posts["fields"].clone();
    fields[3]["maxSelect"] = json!(1);
    let path = format!("{COLLECTIONS}/posts");
    good(&service, "PATCH", &path, &token, &json!({"fields": fields})).await;
    assert_eq!(rows().await, 5);
    assert_eq!(down(&service, &made[3], &made[3]["some"][1], "").await.body, "the same");
    assert_eq!(down(&service, &made[3], &made[3]["some"][0], "").await.status.as_u16(), 404);
    let fields: Vec<Value> =
        fields.as_array().unwrap().iter().filter(|field| field["name"] != "one").cloned().collect();
    good(&service, "PATCH", &path, &token, &json!({"fields": fields})).await;
    assert_eq!(rows().await, 3);
    eventually("one content is left", async || (on_disk(&data).0.len() == 1).then_some(())).await;
    good(&service, "DELETE", &path, &token, &Value::Null).await;
    assert_eq!(rows().await, 0);
    eventually("none is left", async || on_disk(&data).0.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_crash_during_an_upload_leaves_nothing_behind_for_ever() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let kept = sent(&service, "POST", &records("posts"), &[file("one", "kept.txt", b"kept")]).await;
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {MULTIPART}\r\ncontent-length: 4000000\r\n\r\n",
        records("posts")
    );
    let begun = [
        head.as_bytes(),
        &file("some", "whole.txt", b"whole"),
        &file("one", "half.txt", &vec![b'x'; 2_000_000]),
    ]
    .concat();
    stream.write_all(&begun).await.unwrap();
    eventually("two drafts", async || (on_disk(&data).1.len() >= 2).then_some(())).await;
    service.signal(nix::sys::signal::Signal::SIGKILL);
    service.ended().await;
    // And the content of a transaction that was not committed, with a preview.
    let orphan = "ab".to_owned() + &"0".repeat(62);
    let folder = Path::new(data.path()).join("files/ab");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(&orphan), "x").unwrap();
    std::fs::write(folder.join(format!("{orphan}.100x100")), "x").unwrap();
    let (service, _) = start_in(&database, &data).await;
    eventually("drafts, the orphan and its preview go", async || {
        let (contents, drafts) = on_disk(&data);
        (drafts.is_empty() && contents.len() == 1).then_some(())
    })
    .await;
    assert_eq!(down(&service, &kept, &kept["one"], "").await.body, "kept");
}

#[tokio::test]
async fn files_of_a_batch_are_stored_with_it_or_not_at_all() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let post = |body: Value| json!({"method": "POST", "url": records("posts"), "body": body});
    let send = async |requests: Value| {
        let parts = [
            field("@jsonPayload", &json!({"requests": requests}).to_string()),
            file("requests.0.one", "first.txt", b"first"),
            file("requests.1.some", "a.txt", b"a"),
            file("requests.1.some", "b.txt", b"b"),
            file("requests.9.one", "of_none.txt", b"dropped"),
            file("other", "of_none.txt", b"dropped"),
        ];
        form(&service, "POST", "/api/batch", "", &parts).await
    };
    let refused = send(json!([post(json!({})), post(json!({"some-": 1})), post(json!({"id": "x"}))])).await;
    assert_eq!(refused.status.as_u16(), 400);
    eventually("no draft is left", async || on_disk(&data).1.is_empty().then_some(())).await;
    assert_eq!(on_disk(&data).0.len(), 0);
    let answers = send(json!([post(json!({"title": "one"})), post(json!({"title": "two"}))])).await;
    assert_eq!(answers.status.as_u16(), 200, "{:?}", answers.body);
    let answers = answers.json();
    let (one, two) = (&answers[0]["body"], &answers[1]["body"]);
    assert_eq!((&one["title"], stems(two)), (&json!("one"), "ab".to_owned()));
    assert_eq!(down(&service, one, &one["one"], "").await.body, "first");
    assert_eq!(down(&service, two, &two["some"][1], "").await.body, "b");
    assert_eq!(on_disk(&data).0.len(), 3);
}

#[tokio::test]
async fn two_hundred_uploads_at_once_are_all_stored() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let (address, all) = (service.address.clone(), records("posts"));
        tasks.spawn(async move {
            let content = vec![n as u8; 10_000 + n];
            let parts = [field("title", &n.to_string()), file("one", "a.bin", &content)];
            let headers = [("content-type", MULTIPART)];
            (content, try_request(&address, "POST", &all, &headers, body(&parts)).await.unwrap())
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (content, answer) = done.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
        let record = answer.json();
        assert!(down(&service, &record, &record["one"], "").await.body == content);
    }
    let (contents, drafts) = on_disk(&data);
    assert_eq!((contents.len(), drafts.len()), (200, 0));
}

/// Signs a new record up and in; returns it and its token.
async fn signed_up(service: &Service, email: &str) -> (Value, String) {
    let account = json!({"email": email, "password": "correct horse", "passwordConfirm": "correct horse"});
    let record = good(service, "POST", &records("people"), "", &account).await;
    let path = format!("{COLLECTIONS}/people/auth-with-password");
    let form = json!({"identity": email, "password": "correct horse"});
    let token = good(service, "POST", &path, "", &form).await["token"].as_str().unwrap().to_owned();
    (record, token)
}

#[tokio::test]
async fn protected_files_need_a_token_of_a_record_that_the_view_rule_admits() {
    let database = TestDatabase::create().await;
    let (service, token) = start_with_batches(&database).await;
    make(&service, &token, "people", json!([]), json!({"type": "auth"})).await;
    let fields = json!([
        {"name": "owner", "type": "text"}, {"name": "one", "type": "file", "maxSelect": 1, "protected": true},
        {"name": "open", "type": "file", "maxSelect": 1},
    ]);
    let rule = "owner = @request.auth.id && @request.context = 'protectedFile' && @request.query.token != ''";
    make(&service, &token, "posts", fields, json!({"viewRule": rule})).await;
    let (ann, of_ann) = signed_up(&service, "ann@example.com").await;
    let (_, of_bob) = signed_up(&service, "bob@example.com").await;
    let owner = field("owner", ann["id"].as_str().unwrap());
    let parts = [owner, file("one", "s.txt", b"secret"), file("open", "o.txt", b"open")];
    let made = sent(&service, "POST", &records("posts"), &parts).await;
    let file_token = async |token: &str| {
        let answer = good(&service, "POST", "/api/files/token", token, &Value::Null).await;
        answer["token"].as_str().unwrap().to_owned()
    };
    let by = async |token: &str| {
        let answer = down(&service, &made, &made["one"], &format!("?token={token}")).await;
        (answer.status.as_u16(), answer.body)
    };
    let (by_ann, by_bob) = (file_token(&of_ann).await, file_token(&of_bob).await);
    assert_eq!(by(&by_ann).await, (200, "secret".into()));
    for token in ["", "garbage", "a.b.c", &of_ann, &by_bob] {
        assert_eq!(by(token).await.0, 404, "{token}");
    }
    // A token for files is none for anything else, and that of a sign-in does not count in its header here.
    let path = path(&made, &made["one"]);
    assert_eq!(service.request("GET", &path, &[("authorization", &of_ann)], "").await.status.as_u16(), 404);
    let me = format!("{COLLECTIONS}/people/auth-refresh");
    assert_eq!(send(&service, "POST", &me, &by_ann, &Value::Null).await.status.as_u16(), 401);
    assert_eq!(down(&service, &made, &made["open"], "").await.body, "open");
    let shown = service.get(&format!("{path}?token={by_ann}")).await;
    assert!(shown.header("cache-control").starts_with("private, "));
    for token in ["", "garbage"] {
        assert_eq!(
            send(&service, "POST", "/api/files/token", token, &Value::Null).await.status.as_u16(),
            401
        );
    }
    // Another password ends the token.
    let person = path_of("people", &ann);
    let password = json!({"password": "another one", "passwordConfirm": "another one"});
    good(&service, "PATCH", &person, &token, &password).await;
    assert_eq!(by(&by_ann).await.0, 404);
}

#[tokio::test]
async fn no_form_is_an_error_of_the_service() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let piece = prop_oneof![
        Just(format!("--{BOUNDARY}")),
        Just(format!("--{BOUNDARY}--")),
        Just("\r\n".to_owned()),
        Just("\r\n\r\n".to_owned()),
        Just("content-disposition: form-data; name=\"one\"; filename=\"a.txt\"".to_owned()),
        Just("content-disposition: form-data; name=\"some+\"; filename*=utf-8''%ff".to_owned()),
        Just("content-disposition: form-data; name=\"title\"".to_owned()),
        Just("content-disposition: form-data; name=\"@jsonPayload\"".to_owned()),
        Just("{\"title\":1,\"some-\":[null,{}]}".to_owned()),
        Just("\0".to_owned()),
        "[ -~]{0,20}",
        "\\PC{0,10}",
    ];
    let forms = prop::collection::vec(piece, 0..14);
    let types = prop_oneof![
        8 => Just(MULTIPART.to_owned()),
        1 => Just("multipart/form-data".to_owned()),
        1 => Just("multipart/form-data; boundary=\"\"".to_owned()),
        1 => Just("multipart/mixed; boundary=x".to_owned()),
    ];
    let mut runner = TestRunner::deterministic();
    for n in 0..300 {
        let form = forms.new_tree(&mut runner).unwrap().current().concat();
        let media_type = types.new_tree(&mut runner).unwrap().current();
        let path = if n % 5 == 0 { "/api/batch".to_owned() } else { records("posts") };
        let answer = service.request("POST", &path, &[("content-type", &media_type)], form.clone()).await;
        assert!(matches!(answer.status.as_u16(), 200 | 400), "{} {media_type} {form:?}", answer.status);
    }
    eventually("no draft is left", async || on_disk(&data).1.is_empty().then_some(())).await;
}

/// The sides of a PNG.
fn sides(answer: &Answer) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(answer.body[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// An image, in a format.
fn image(width: u32, height: u32, format: image::ImageFormat) -> Vec<u8> {
    let image =
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, 7]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::from(image).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn previews_are_made_of_images_in_the_sizes_that_a_field_lists() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let (service, token) = start_in(&database, &data).await;
    make(&service, &token, "posts", fields(), json!({})).await;
    let all = records("posts");
    let png = image(200, 100, image::ImageFormat::Png);
    let made = sent(&service, "POST", &all, &[file("one", "dot.png", &png)]).await;
    let of = async |thumb: &str| down(&service, &made, &made["one"], &format!("?thumb={thumb}")).await;
    for (thumb, expected) in [
        ("20x10", (20, 10)),
        ("20x10t", (20, 10)),
        ("20x10f", (20, 10)),
        ("0x30", (60, 30)),
        ("40x0", (40, 20)),
        ("100x100", (100, 100)),
        // Not listed, or no size: the original.
        ("30x30", (200, 100)),
        ("20x10b", (200, 100)),
        ("x", (200, 100)),
        ("0x0", (200, 100)),
        ("-1x5", (200, 100)),
    ] {
        let answer = of(thumb).await;
        assert_eq!((answer.status.as_u16(), sides(&answer)), (200, expected), "{thumb}");
        assert_eq!(answer.header("content-type"), "image/png");
    }
    let thumb = of("20x10").await;
    let name = made["one"].as_str().unwrap();
    assert_eq!(thumb.header("content-disposition"), format!("inline; filename=\"20x10_{name}\""));
    assert_ne!(thumb.header("etag"), of("100x100").await.header("etag"));
    let path = format!("{}?thumb=20x10", path(&made, &made["one"]));
    let part = service.request("GET", &path, &[("range", "bytes=1-3")], "").await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"PNG"[..]));
    // Kept beside the content.
    assert_eq!(on_disk(&data).0.len(), 7);
    for (format, name, kept) in [
        (image::ImageFormat::Jpeg, "a.jpg", "image/jpeg"),
        (image::ImageFormat::Gif, "a.gif", "image/gif"),
        (image::ImageFormat::WebP, "a.webp", "image/png"),
    ] {
        let made = sent(&service, "POST", &all, &[file("one", name, &image(50, 40, format))]).await;
        let answer = down(&service, &made, &made["one"], "?thumb=20x10").await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, kept));
        let small = image::load_from_memory(&answer.body).unwrap();
        assert_eq!((small.width(), small.height()), (20, 10), "{name}");
    }
    // Broken images, other files, and one that would decode to 400 million pixels.
    let mut bomb = image(1, 1, image::ImageFormat::Png);
    bomb[16..24].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 0, 0x4e, 0x20]);
    let crc = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    for (name, content) in
        [("cut.png", &png[..60]), ("text.png", b"no image"), ("bomb.png", &bomb[..]), ("a.svg", b"<svg/>")]
    {
        let made = sent(&service, "POST", &all, &[file("one", name, content)]).await;
        let answer = down(&service, &made, &made["one"], "?thumb=100x100").await;
        assert!(answer.status.as_u16() == 200 && answer.body == content, "{name}");
    }
    // They go with their content.
    for record in good(&service, "GET", &all, "", &Value::Null).await["items"].as_array().unwrap() {
        good(&service, "DELETE", &path_of("posts", record), "", &Value::Null).await;
    }
    eventually("none is left", async || on_disk(&data).0.is_empty().then_some(())).await;
}
