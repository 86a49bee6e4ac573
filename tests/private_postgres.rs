//! The private Postgres of a first run.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tidegate::db::private::{PrivateCluster, PrivateError, running_url};
use tokio_postgres::NoTls;

use crate::support::postgres::{Scratch, connect, postmaster_pid};
use crate::support::service::{eventually, poll};

const SERVICE_DIR: &str = "TIDEGATE_TEST_SERVICE_DIR";

async fn start(scratch: &Scratch) -> PrivateCluster {
    PrivateCluster::start(scratch.path()).await.unwrap()
}

async fn remember(url: &str, n: i32) {
    connect(url).await.batch_execute(&format!("create table memory as select {n} as n")).await.unwrap();
}

async fn recall(url: &str) -> i32 {
    connect(url).await.query_one("select n from memory", &[]).await.unwrap().get(0)
}

/// A service in a process of its own, for the tests that kill it.
struct Service(Child);

impl Service {
    fn spawn(data_dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "private_postgres::a_service_to_be_killed"])
            .env(SERVICE_DIR, data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Kills it as soon as `seen` is true.
    async fn kill_when(mut self, mut seen: impl FnMut() -> bool) {
        let (pause, limit) = (Duration::from_millis(5), Duration::from_secs(60));
        poll("the service comes so far", pause, limit, async || {
            let seen = seen();
            assert!(seen || self.0.try_wait().unwrap().is_none(), "the service ended by itself");
            seen.then_some(())
        })
        .await;
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_service_to_be_killed() {
    let Some(dir) = std::env::var_os(SERVICE_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _cluster = runtime.block_on(PrivateCluster::start(Path::new(&dir))).unwrap();
    fs::write(Path::new(&dir).join("service.ready"), "").unwrap();
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn a_first_start_makes_a_cluster_and_the_second_finds_its_data() {
    let scratch = Scratch::new();
    let first = start(&scratch).await;
    remember(first.url(), 7).await;
    first.stop().await.unwrap();
    assert_eq!(postmaster_pid(scratch.path()), None);

    let second = start(&scratch).await;
    assert_eq!(recall(second.url()).await, 7);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_keeps_text_as_utf8_checks_its_pages_and_syncs_its_commits() {
    let scratch = Scratch::new();
    let cluster = start(&scratch).await;
    let client = connect(cluster.url()).await;
    for (setting, value) in [
        ("server_encoding", "UTF8"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", "127.0.0.1"),
    ] {
        let found: String = client.query_one(&format!("show {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(found, value, "{setting}");
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_service_leaves_postgres_running_and_the_next_adopts_it() {
    let scratch = Scratch::with_cluster(&[]).await;
    let ready = scratch.path().join("service.ready");
    Service::spawn(scratch.path()).kill_when(|| ready.exists()).await;
    let before = postmaster_pid(scratch.path()).unwrap();

    let next = start(&scratch).await;
    assert_eq!(postmaster_pid(scratch.path()), Some(before));
    remember(next.url(), 1).await;
    next.stop().await.unwrap();
    assert_eq!(postmaster_pid(scratch.path()), None);
}

#[tokio::test]
async fn a_killed_postgres_recovers_what_was_committed() {
    let scratch = Scratch::with_cluster(&[]).await;
    let first = start(&scratch).await;
    remember(first.url(), 3).await;
    kill(Pid::from_raw(postmaster_pid(scratch.path()).unwrap()), Signal::SIGKILL).unwrap();
    drop(first);

    let second = start(&scratch).await;
    assert_eq!(recall(second.url()).await, 3);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_pid_file_that_names_another_process_does_not_keep_postgres_from_starting() {
    let scratch = Scratch::with_cluster(&[]).await;
    start(&scratch).await.stop().await.unwrap();
    // Of the cluster's own account: Postgres itself takes only such a process for its postmaster.
    let cluster = scratch.path().join("postgres");
    let mut other = Command::new("sleep");
    other.arg("600");
    if geteuid().is_root() {
        let owner = cluster.metadata().unwrap();
        other.gid(owner.gid()).uid(owner.uid());
    }
    let mut other = other.spawn().unwrap();
    let pid_file = cluster.join("postmaster.pid");
    fs::write(&pid_file, format!("{}\n/elsewhere\n1\n5432\n\n127.0.0.1\n  1 1\nready   \n", other.id()))
        .unwrap();

    let started = PrivateCluster::start(scratch.path()).await;
    let left_alone = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(left_alone, "the other process was ended");
    started.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn the_second_service_on_a_data_dir_is_refused_with_the_pid_of_the_first() {
    let scratch = Scratch::with_cluster(&[]).await;
    let first = start(&scratch).await;
    let refusal = PrivateCluster::start(scratch.path()).await.unwrap_err();
    assert!(matches!(&refusal, PrivateError::InUse { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains(&format!("(pid {})", std::process::id())), "{refusal}");
    assert!(refusal.to_string().contains(scratch.path().to_str().unwrap()), "{refusal}");
    connect(first.url()).await.query_one("select 1", &[]).await.unwrap();
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_first_run_that_is_killed_in_initdb_is_done_again() {
    let scratch = Scratch::new();
    let unfinished = || {
        let mut names = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap());
        names
            .find(|entry| entry.file_name().to_string_lossy().starts_with("postgres.new-"))
            .map(|entry| entry.path())
    };
    Service::spawn(scratch.path())
        .kill_when(|| unfinished().is_some_and(|dir| dir.join("PG_VERSION").exists()))
        .await;
    assert!(!scratch.path().join("postgres").exists());
    let leftover = unfinished().unwrap();

    let next = start(&scratch).await;
    remember(next.url(), 5).await;
    next.stop().await.unwrap();
    // An initdb that lost its service may write on for a second or two; the start after that has removed the rest.
    eventually("initdb has ended", async || {
        let path = leftover.to_str().unwrap();
        let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let names_it = |process: PathBuf| {
            fs::read(process.join("cmdline"))
                .is_ok_and(|arguments| String::from_utf8_lossy(&arguments).contains(path))
        };
        (!processes.any(names_it)).then_some(())
    })
    .await;
    start(&scratch).await.stop().await.unwrap();
    assert!(!leftover.exists());
}

#[tokio::test]
async fn a_data_dir_that_the_account_cannot_enter_works_like_any_other() {
    if !geteuid().is_root() {
        // Not `eprintln`, which a passing test keeps to itself.
        let _ = writeln!(std::io::stderr(), "skipped: only root has a second account to keep out");
        return;
    }
    let scratch = Scratch::new();
    let closed = scratch.path().join("closed");
    fs::DirBuilder::new().mode(0o700).create(&closed).unwrap();
    let data_dir = closed.join("data");

    let first = PrivateCluster::start(&data_dir).await.unwrap();
    let client = connect(first.url()).await;
    client.batch_execute("create table memory as select 9 as n; checkpoint").await.unwrap();
    let reloaded: bool = client.query_one("select pg_reload_conf()", &[]).await.unwrap().get(0);
    assert!(reloaded);
    assert_ne!(data_dir.join("postgres").metadata().unwrap().uid(), 0);
    drop(first);
    let adopted = PrivateCluster::start(&data_dir).await.unwrap();
    let sockets: String =
        connect(adopted.url()).await.query_one("show unix_socket_directories", &[]).await.unwrap().get(0);
    assert!(Path::new(&sockets).exists());
    adopted.stop().await.unwrap();
    assert!(!Path::new(&sockets).exists(), "{sockets} is left over");

    // A process that another test forks at this moment holds the lock until it runs its own program.
    let second = eventually("the lock is free", async || PrivateCluster::start(&data_dir).await.ok()).await;
    assert_eq!(recall(second.url()).await, 9);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_data_dir_may_be_long_and_hold_any_character() {
    let scratch = Scratch::new();
    let data_dir = scratch.path().join(format!("it's \"$HOME\", 100% `ü` {}", "long ".repeat(30)));
    let cluster = PrivateCluster::start(&data_dir).await.unwrap();
    remember(cluster.url(), 2).await;
    assert_eq!(recall(&running_url(&data_dir).unwrap()).await, 2);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_printed_url_connects_while_it_runs_and_is_refused_otherwise() {
    let scratch = Scratch::with_cluster(&[]).await;
    assert!(matches!(running_url(scratch.path()), Err(PrivateError::NotRunning { .. })));
    let cluster = start(&scratch).await;
    remember(cluster.url(), 4).await;
    let printed = running_url(scratch.path()).unwrap();
    assert!(printed.contains("@127.0.0.1:"), "not by TCP");
    assert_eq!(recall(&printed).await, 4);
    cluster.stop().await.unwrap();
    assert!(matches!(running_url(scratch.path()), Err(PrivateError::NotRunning { .. })));
}

#[tokio::test]
async fn every_way_in_asks_for_the_password_which_only_the_owner_may_read() {
    let scratch = Scratch::with_cluster(&[]).await;
    let cluster = start(&scratch).await;
    let mode = scratch.path().join("postgres.password").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let password = fs::read_to_string(scratch.path().join("postgres.password")).unwrap();
    assert!(password.trim().len() >= 32);
    assert!(!format!("{cluster:?}").contains(password.trim()));
    for url in [cluster.url().to_owned(), running_url(scratch.path()).unwrap()] {
        let wrong = url.replace(password.trim(), "guess");
        assert_ne!(wrong, url);
        let error = tokio_postgres::connect(&wrong, NoTls).await.err().unwrap();
        assert_eq!(error.code().map(|code| code.code()), Some("28P01"), "{error}");
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_port_is_kept_while_it_is_free_and_changed_when_it_is_not() {
    let port = |url: &str| url.rsplit_once(':').unwrap().1.split('/').next().unwrap().parse::<u16>().unwrap();
    let scratch = Scratch::with_cluster(&[]).await;
    let first = start(&scratch).await;
    let chosen = port(first.url());
    first.stop().await.unwrap();
    // Below the ports that the kernel gives to other tests' sockets, one of which could take it between two starts.
    let kept = (20_000..32_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let settings = scratch.path().join("postgres/tidegate.conf");
    let written = fs::read_to_string(&settings).unwrap();
    let changed = written.replace(&format!("port = {chosen}\n"), &format!("port = {kept}\n"));
    assert_ne!(changed, written);
    fs::write(&settings, changed).unwrap();
    for _ in 0..2 {
        let again = start(&scratch).await;
        assert_eq!(port(again.url()), kept);
        again.stop().await.unwrap();
    }

    let taken = TcpListener::bind(("127.0.0.1", kept)).unwrap();
    let moved = start(&scratch).await;
    assert_ne!(port(moved.url()), kept);
    connect(&running_url(scratch.path()).unwrap()).await;
    moved.stop().await.unwrap();
    drop(taken);
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_with_the_one_it_needs() {
    let scratch = Scratch::with_cluster(&[]).await;
    start(&scratch).await.stop().await.unwrap();
    let cluster = scratch.path().join("postgres");
    let started = fs::read_to_string(cluster.join("postmaster.opts")).unwrap();
    let bin: PathBuf = Path::new(started.split(' ').next().unwrap()).parent().unwrap().into();
    fs::write(cluster.join("PG_VERSION"), "12\n").unwrap();
    let error = PrivateCluster::start(scratch.path()).await.unwrap_err();
    assert!(matches!(&error, PrivateError::OtherMajor { needed: 12, .. }), "{error:?}");
    assert!(error.to_string().contains("install Postgres 12"), "{error}");
    assert!(error.to_string().contains(bin.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_no_cluster_is_left_alone() {
    let scratch = Scratch::new();
    let cluster = scratch.path().join("postgres");
    fs::create_dir(&cluster).unwrap();
    // Empty, it is what a mount point looks like before its first use.
    start(&scratch).await.stop().await.unwrap();
    fs::remove_dir_all(&cluster).unwrap();
    fs::create_dir(&cluster).unwrap();
    std::os::unix::fs::chown(&cluster, Some(owner_of_clusters()), None).unwrap();
    fs::write(cluster.join("thesis.tex"), "precious").unwrap();
    let error = PrivateCluster::start(scratch.path()).await.unwrap_err();
    assert!(matches!(&error, PrivateError::NotACluster { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(cluster.join("thesis.tex")).unwrap(), "precious");
}

fn owner_of_clusters() -> u32 {
    if geteuid().is_root() { 65534 } else { geteuid().as_raw() }
}

#[tokio::test]
async fn a_cluster_whose_password_is_gone_is_not_touched() {
    let scratch = Scratch::with_cluster(&[]).await;
    fs::remove_file(scratch.path().join("postgres.password")).unwrap();
    let error = PrivateCluster::start(scratch.path()).await.unwrap_err();
    assert!(matches!(&error, PrivateError::NoPassword { .. }), "{error:?}");
    assert!(!scratch.path().join("postgres.password").exists());
}

#[tokio::test]
async fn a_start_that_fails_shows_the_end_of_postgres_log() {
    let scratch = Scratch::with_cluster(&[("shared_buffers", "a lot")]).await;
    let error = PrivateCluster::start(scratch.path()).await.unwrap_err().to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\""), "{error}");
    assert!(error.contains("postgres.log"), "{error}");
}

#[tokio::test]
async fn postgres_gets_neither_the_lock_nor_the_service_s_environment_nor_root_s_groups() {
    let scratch = Scratch::with_cluster(&[]).await;
    let cluster = start(&scratch).await;
    let pid = postmaster_pid(scratch.path()).unwrap();
    if cfg!(target_os = "linux") {
        let mut environment = String::new();
        if let Ok(mut file) = fs::File::open(format!("/proc/{pid}/environ")) {
            file.read_to_string(&mut environment).unwrap();
        }
        assert!(!environment.contains("CARGO_PKG_NAME"));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert!(!line("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
        assert!(!line("Groups:").split_whitespace().any(|gid| gid == "0"), "{status}");
    }
    // Without the service the lock is free, though Postgres runs on.
    drop(cluster);
    start(&scratch).await.stop().await.unwrap();
}
