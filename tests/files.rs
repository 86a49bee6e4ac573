//! Files: stored, listed, deleted, each for its owner alone.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::accounts::{guarded, log_in, register};
use crate::support::files::{ask, body, on_disk, part, store, upload};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};

fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn files_of_one_upload_are_stored_and_come_back_byte_for_byte() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let binary: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    // Text that looks like a boundary is no boundary.
    let tricky = b"--\r\n------a-boundar\r\n\r\n--x\r\n".to_vec();
    let contents = [binary, tricky, Vec::new()];
    let sent = body(&[
        part("a.bin", "application/octet-stream", &contents[0]),
        part("C:\\Users\\ada\\b.txt", "text/plain; charset=utf-8", &contents[1]),
        part("../../leer.csv", "text/csv", &contents[2]),
    ]);
    let answer = upload(&service, "", sent).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    let json = answer.json();
    let stored = json["files"].as_array().unwrap();
    let names = ["a.bin", "b.txt", "leer.csv"];
    let types = ["application/octet-stream", "text/plain; charset=utf-8", "text/csv"];
    assert_eq!(stored.len(), 3);
    for (place, file) in stored.iter().enumerate() {
        let content = &contents[place];
        let expected = json!({
            "id": file["id"], "filename": names[place], "size": content.len(), "mime_type": types[place],
            "sha256": hash(content),
        });
        assert_eq!(*file, expected);
        let path = format!("/api/files/{}", file["id"].as_str().unwrap());
        let answer = service.get(&path).await;
        assert_eq!((answer.status.as_u16(), answer.body[..] == content[..]), (200, true), "{}", names[place]);
        assert_eq!(answer.header("content-type"), types[place]);
    }
    let listed = service.get("/api/files").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
    assert_eq!(listed[0]["processed"], false);
    assert!(listed[0]["uploaded_at"].as_str().unwrap().ends_with('Z'), "{listed}");
    assert_eq!(on_disk(&data).1, Vec::<std::path::PathBuf>::new(), "no draft stays");
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_files_stored_total 3"), "{metrics}");
}

#[tokio::test]
async fn the_same_content_is_on_the_disk_once_until_its_last_file_is_deleted() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("FILES_SWEEP_S", "1")];
    let service = Service::start(database.url(), &variables).await;
    let one = store(&service, "", "one", b"the same").await;
    let two = store(&service, "", "two", b"the same").await;
    let twice = part("three", "text/plain", b"the same");
    assert_eq!(upload(&service, "", body(&[twice.clone(), twice])).await.status.as_u16(), 201);
    let (contents, drafts) = on_disk(&data);
    assert_eq!((contents.len(), drafts.len()), (1, 0));
    assert!(contents[0].ends_with(format!("{}/{}", &hash(b"the same")[..2], hash(b"the same"))));
    for file in service.get("/api/files").await.json().as_array().unwrap() {
        if file["id"] != two["id"] {
            let path = format!("/api/files/{}", file["id"].as_str().unwrap());
            assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 204);
            assert_eq!(service.get(&path).await.status.as_u16(), 404);
            assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 404);
        }
    }
    assert_ne!(one["id"], two["id"]);
    // Two sweeps, and it is still there.
    service.runs("file-sweeper", "").await;
    let last = format!("/api/files/{}", two["id"].as_str().unwrap());
    assert_eq!(service.get(&last).await.body, "the same");
    assert_eq!(service.request("DELETE", &last, &[], "").await.status.as_u16(), 204);
    eventually("its content goes", async || on_disk(&data).0.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_file_is_its_owners_alone_and_goes_with_him() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("REGISTRATION", "on"), ("FILES_SWEEP_S", "1")];
    let service = guarded(&database, &variables).await;
    let mut users = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        register(&service, email).await;
        users.push(log_in(&service, email).await.access);
    }
    let [ada, bob] = &users[..] else { unreachable!() };
    let admin = crate::support::accounts::token_with(&["admin"]);
    let of_ada = store(&service, ada, "secret.txt", b"hers").await;
    let of_nobody = store(&service, &admin, "shared.txt", b"hers").await;
    let path = |file: &Value| format!("/api/files/{}", file["id"].as_str().unwrap());
    for (token, what) in [(bob, "another user"), (&admin, "an operator")] {
        for method in ["GET", "HEAD", "DELETE"] {
            let answer = ask(&service, method, &path(&of_ada), token).await;
            assert_eq!(answer.status.as_u16(), 404, "{method} by {what}");
        }
    }
    assert_eq!(ask(&service, "GET", &path(&of_nobody), ada).await.status.as_u16(), 404);
    let listed = async |token: &str| {
        let listed = ask(&service, "GET", "/api/files", token).await.json();
        listed.as_array().unwrap().iter().map(|file| file["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed(ada).await, [of_ada["id"].clone()]);
    assert_eq!(listed(bob).await, [] as [Value; 0]);
    assert_eq!(listed(&admin).await, [of_nobody["id"].clone()]);
    assert_eq!(ask(&service, "GET", &path(&of_ada), ada).await.body, "hers");

    let client = database.connect().await;
    client.execute("delete from users where email like 'ada%'", &[]).await.unwrap();
    let rows = client.query_one("select count(*) from files", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
    // The content is somebody else's still.
    service.runs("file-sweeper", &admin).await;
    assert_eq!(ask(&service, "GET", &path(&of_nobody), &admin).await.body, "hers");
}

#[tokio::test]
async fn lists_are_paged_newest_first_by_offset_and_by_cursor() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let mut stored = Vec::new();
    for number in 0..7 {
        stored.push(store(&service, "", &format!("{number}"), b"x").await["id"].clone());
    }
    stored.reverse();
    let ids =
        |json: &Value| json.as_array().unwrap().iter().map(|file| file["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&service.get("/api/files").await.json()), stored);
    assert_eq!(ids(&service.get("/api/files?limit=2&offset=3").await.json()), stored[3..5]);
    let (mut path, mut paged) = ("/api/files?limit=3".to_owned(), Vec::new());
    loop {
        let answer = service.get(&path).await;
        paged.extend(ids(&answer.json()));
        let link = answer.header("link").to_owned();
        let Some(next) = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\"")) else {
            break;
        };
        path = next.0.to_owned();
    }
    assert_eq!(paged, stored);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=%27;drop%20table%20files", "limit"),
        ("offset=-1", "offset"),
        ("offset=100001", "offset"),
        ("after=x", "after"),
        ("after=%00", "after"),
        ("limit=1&limit=2", "limit"),
        ("sort=size", "sort"),
    ] {
        let answer = service.get(&format!("/api/files?{query}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{query}"
        );
        assert_eq!(answer.json()["error"]["field"], field, "{query}");
    }
    for id in ["x", "%00", "'%20or%201=1", "00000000-0000-4000-8000-000000000000"] {
        assert_eq!(service.get(&format!("/api/files/{id}")).await.status.as_u16(), 404, "{id}");
    }
}

#[tokio::test]
async fn lists_and_sums_of_many_files_are_read_from_an_index() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let _service = Service::start(database.url(), &[("DATA_DIR", data.path()), ("FILES_SWEEP_S", "0")]).await;
    let client = database.connect().await;
    client
        .batch_execute(
            "insert into users (email, password_hash) select n || '@example.com', 'x' from generate_series(1, 50) as n;
             insert into files (filename, file_path, size, mime_type, uploaded_at, owner, sha256)
             select 'a', 'b', 1, 'text/plain', now() - n * interval '1 s',
                 (select id from users where email = (n % 60) || '@example.com'), sha256(n::text::bytea)
             from generate_series(1, 30000) as n",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze files").await.unwrap();
    let plan = async |sql: &str, types: &str, arguments: &str| {
        let sql = sql.replace("{schema}.", "");
        client.batch_execute(&format!("deallocate all; prepare asked({types}) as {sql}")).await.unwrap();
        let rows = client.query(&format!("explain execute asked({arguments})"), &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
    };
    let one: uuid::Uuid = client.query_one("select id from users limit 1", &[]).await.unwrap().get(0);
    let list = include_str!("../sql/files/list.sql");
    for owner in ["null".to_owned(), format!("'{one}'")] {
        let arguments = format!("{owner}, 51, 0, null, null");
        let list = plan(list, "uuid, bigint, bigint, bigint, uuid", &arguments).await;
        assert!(list.contains("Index Scan using files_owner") && !list.contains("Sort"), "{list}");
        let usage = include_str!("../sql/files/usage.sql");
        let sum = plan(usage, "uuid, bigint", &format!("{owner}, 4096")).await;
        assert!(owner == "null" || sum.contains("files_owner"), "{sum}");
    }
    let further = format!("'{one}', 51, 0, 1000000000000000, '{one}'");
    let further = plan(list, "uuid, bigint, bigint, bigint, uuid", &further).await;
    assert!(further.contains("Index Scan using files_owner") && !further.contains("Sort"), "{further}");
    let orphans = plan(include_str!("../sql/files/orphans.sql"), "bytea[]", "array[sha256('x')]").await;
    assert!(orphans.contains("files_sha256"), "{orphans}");
}
