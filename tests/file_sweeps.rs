//! What no file has any more: removed in the end, and never too early.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::config::{Config, Variables};
use tidegate::db::{ConnectionUrl, Database};
use tidegate::files::{Files, FilesSettings};
use tidegate::observe::Metrics;
use tokio::task::JoinSet;

use crate::support::files::{begun, on_disk, store};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};

#[tokio::test]
async fn a_process_that_is_killed_during_an_upload_leaves_no_orphan_after_its_next_start() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path())];
    let service = Service::start(database.url(), &variables).await;
    let kept = store(&service, "", "kept", b"kept").await;
    let _stuck = begun(&service, 9_000_000, 2_000_000).await;
    eventually("a draft", async || (on_disk(&data).1.len() == 1).then_some(())).await;
    service.signal(nix::sys::signal::Signal::SIGKILL);
    service.ended().await;
    assert_eq!(on_disk(&data).1.len(), 1, "it was killed in the middle");
    // And a content whose transaction failed.
    let orphan = "ab".to_owned() + &"0".repeat(62);
    let folder = Path::new(data.path()).join("files/ab");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(orphan), "x").unwrap();
    let service = Service::start(database.url(), &variables).await;
    eventually("the draft and the orphan go", async || {
        let (contents, drafts) = on_disk(&data);
        (drafts.is_empty() && contents.len() == 1).then_some(())
    })
    .await;
    let path = format!("/api/files/{}", kept["id"].as_str().unwrap());
    assert_eq!(service.get(&path).await.body, "kept");
}

#[tokio::test]
async fn a_folder_of_another_database_is_never_cleared() {
    let (database, another, data) =
        (TestDatabase::create().await, TestDatabase::create().await, Folder::new());
    let variables = [("DATA_DIR", data.path()), ("FILES_SWEEP_S", "1"), ("DURABILITY", "memory")];
    let client = another.connect().await;
    client.execute("update file_store set id = gen_random_uuid()", &[]).await.unwrap();
    let service = Service::start(database.url(), &[&variables[..], &[("FILES_SWEEP_S", "0")]].concat()).await;
    let file = store(&service, "", "a", b"content").await;
    service.stop().await;
    let service = Service::start(another.url(), &variables).await;
    eventually("it says so", async || service.log().contains("belongs to another database").then_some(()))
        .await;
    service.runs("file-sweeper", "").await;
    let headers = [("content-type", "multipart/form-data; boundary=x")];
    let form = "--x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"b\"\r\n\r\nother\r\n--x--\r\n";
    let refused = service.request("POST", "/api/files/upload", &headers, form).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (503, "folder_of_another_database"));
    assert_eq!(on_disk(&data).0.len(), 1);
    service.stop().await;
    let service = Service::start(database.url(), &variables).await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    assert_eq!(service.get(&path).await.body, "content");
}

/// The same files as a service has on this folder, to be swept as often as can be.
fn swept_by_the_test(database: &TestDatabase, data: &Folder) -> Files {
    let url = database.url().to_owned();
    let variables = [("DATABASE_URL", url.as_str()), ("STATEMENT_TIMEOUT_MS", "60000")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_variables(&variables.into_iter().collect::<Variables>()).unwrap();
    let pool = Database::new(&ConnectionUrl::parse(&url).unwrap(), &config.database).unwrap();
    let folder = Path::new(data.path()).join("files");
    let settings = FilesSettings { config: config.files, max_downloads: 1, folder, min_free: 0 };
    Files::new(settings, &pool, &Metrics::new().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_that_is_deleted_and_uploaded_again_while_it_is_swept_is_never_lost() {
    let (database, data) = (TestDatabase::create().await, Folder::new());
    // Statements may take their time, as the machine is kept busy on purpose.
    let variables = [
        ("DATA_DIR", data.path()),
        ("FILES_SWEEP_S", "0"),
        ("POOL_WAIT_MS", "60000"),
        ("STATEMENT_TIMEOUT_MS", "60000"),
    ];
    let service = Arc::new(Service::start(database.url(), &variables).await);
    let files = swept_by_the_test(&database, &data);
    let sweeping = tokio::spawn(async move {
        let (mut sweeps, mut contents) = (0, 0);
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            contents += files.sweep().await.unwrap().contents;
            sweeps += 1;
        }
        (files, sweeps, contents)
    });
    // Each client deletes the last file of a content and uploads it again; two of them use the same ones.
    let mut clients = JoinSet::new();
    for client in 0..4_usize {
        let service = Arc::clone(&service);
        clients.spawn(async move {
            let until = Instant::now() + Duration::from_secs(9);
            let mut rounds = 0;
            while Instant::now() < until {
                let content = format!("content {} {}", client % 2, rounds % 3);
                let file = store(&service, "", "a", content.as_bytes()).await;
                let path = format!("/api/files/{}", file["id"].as_str().unwrap());
                let answer = service.get(&path).await;
                assert_eq!(
                    (answer.status.as_u16(), &answer.body[..]),
                    (200, content.as_bytes()),
                    "round {rounds}"
                );
                assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 204);
                rounds += 1;
            }
            rounds
        });
    }
    let rounds: usize = clients.join_all().await.into_iter().sum();
    let (files, sweeps, contents) = sweeping.await.unwrap();
    assert!(rounds > 10 && sweeps > 5 && contents > 5, "{rounds} rounds, {sweeps} sweeps, {contents} swept");
    files.sweep().await.unwrap();
    assert_eq!(on_disk(&data), (Vec::new(), Vec::new()));
}
