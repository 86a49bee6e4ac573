//! A data folder belongs to one database and one process.

use nix::sys::signal::Signal;

use super::{load_of, rows};
use crate::support::load::{Load, assert_exactly_once};
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Folder, Service, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_journal_is_refused_unless_it_is_adopted() {
    let (first, other) = (TestDatabase::create().await, TestDatabase::create().await);
    let folder = Folder::new();
    let service = Service::start_with(&[("DATABASE_URL", first.url()), ("DATA_DIR", folder.path())]).await;
    let sent = load_of(&service, 100).await;
    service.fenced().await;
    assert!(service.stop().await.status.success());

    let settings = [("DATABASE_URL", other.url()), ("DATA_DIR", folder.path()), ("PORT", "0")];
    let (status, _, stderr) = run(&["serve"], &settings).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("the database does not know journal ") && stderr.contains("--adopt-database"),
        "{stderr}"
    );
    let client = other.connect().await;
    assert_eq!(rows(&client).await, 0);
    let service = Service::start_as(&["serve", "--adopt-database"], &settings).await;
    service.settled().await;
    assert_exactly_once(&client, &sent).await;
    assert!(service.stop().await.status.success());
    // From now on it belongs to this database.
    let service = Service::start_with(&settings).await;
    let sent = sent.and(load_of(&service, 20).await);
    service.fenced().await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_one_data_dir_is_refused() {
    let database = TestDatabase::create().await;
    let folder = Folder::new();
    let settings = [("DATABASE_URL", database.url()), ("DATA_DIR", folder.path()), ("PORT", "0")];
    let service = Service::start_with(&settings).await;
    let (status, _, stderr) = run(&["serve"], &settings).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("journal"), "{stderr}");
    let sent = load_of(&service, 20).await;
    service.fenced().await;
    assert_exactly_once(&database.connect().await, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_data_dir_stores_each_event_once() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let (folder, parent) = (Folder::new(), Folder::new());
    let settings = [("DATABASE_URL", url.as_str()), ("DATA_DIR", folder.path())];
    let service = Service::start_with(&settings).await;
    let sent = load_of(&service, 20).await;
    service.fenced().await;
    server.stop_immediate().await;
    let load = Load::start_impatient(&service.address, 3);
    load.progresses(3000).await;
    let sent = sent.and(load.stop().await);
    service.signal(Signal::SIGKILL);
    service.ended().await;
    let clone = format!("{}/clone", parent.path());
    let copied = std::process::Command::new("cp").args(["-R", "-p", folder.path(), &clone]).status().unwrap();
    assert!(copied.success());
    // Batches of other sizes, so that those of the two processes overlap partly.
    let first = [settings[0], settings[1], ("BATCH_SIZE", "70")];
    let second = [settings[0], ("DATA_DIR", &clone), ("BATCH_SIZE", "30"), ("WRITERS", "3")];
    let (one, two) = tokio::join!(Service::start_with(&first), Service::start_with(&second));
    server.start_again().await;
    assert_eq!(server.url(), url);
    let sent = sent.and(load_of(&one, 50).await).and(load_of(&two, 50).await);
    one.settled().await;
    two.settled().await;
    let client = connect(&url).await;
    assert_exactly_once(&client, &sent).await;
}
