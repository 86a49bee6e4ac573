//! Real Postgres for tests: one cluster a test run, a database of its own for each test, and whole servers for the tests that
//! break one.
//!
//! Everything lives under `target/tmp/postgres` and is made by the service's own `db::local`:
//!
//! ```text
//! pristine/      a cluster that initdb made once a build; the others are copies of it
//! shared/        the run's cluster, fast and forgetful
//! scratch/…      a DATA_DIR of one test
//! users.lock     held shared by every test process, whatever runs them: cargo has one, nextest one a test
//! start.lock     held while something common is made
//! guardian.lock  held by the guardian
//! ```
//!
//! The guardian is this test binary once more, in a process group of its own. It waits for `users.lock`, which the kernel
//! gives it when the last test process has ended, by whatever way; then it stops every server and removes the copies. A
//! pause of two seconds bridges the moments in which a runner has no test process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tidegate::config::{Config, Variables};
use tidegate::db::local::{LocalCluster, running_url};
use tidegate::db::{ConnectionUrl, Database, migrate};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const GUARDIAN: &str = "TIDEGATE_TEST_GUARDIAN";
const LINGER: Duration = Duration::from_secs(2);

/// Nothing here has to survive the machine.
const FAST: [(&str, &str); 4] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
];

/// Brings the template that every test database is copied from to the newest schema. Called once a run.
async fn migrate_template(url: &str) {
    let config = Config::from_variables(&Variables::default()).unwrap().database;
    let database = Database::new(&ConnectionUrl::parse(url).unwrap(), &config).unwrap();
    migrate(&database, config.partitioning).await.unwrap();
}

/// The constraint that events with a member `evil` violate.
const NO_EVIL: &str = "alter table requests add constraint no_evil check (payload->>'evil' is null)";

/// A database that nothing else uses. It is dropped with its value.
pub(crate) struct TestDatabase {
    name: String,
    url: String,
}

impl TestDatabase {
    pub(crate) async fn create() -> Self {
        Self::create_with(&format!("template {}", Run::join().await.template)).await
    }

    /// One whose `requests` takes no event with a member `evil`.
    pub(crate) async fn refusing_evil() -> Self {
        let database = Self::create().await;
        database.connect().await.batch_execute(NO_EVIL).await.unwrap();
        database
    }

    /// One that was never migrated.
    pub(crate) async fn create_empty() -> Self {
        Self::create_with("").await
    }

    /// One made with these options of `create database`.
    pub(crate) async fn create_with(options: &str) -> Self {
        let run = Run::join().await;
        let name = format!("test_{}", Uuid::new_v4().simple());
        let admin = connect(&run.admin_url()).await;
        admin.batch_execute(&format!("create database {name} {options}")).await.unwrap();
        Self { url: run.url(&name), name }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(run) = RUN.get() else { return };
        let (url, drop) = (run.admin_url(), format!("drop database if exists {} with (force)", self.name));
        // A runtime cannot be entered from within one, so it gets a thread. Best effort: the guardian removes the rest.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                    tokio::spawn(connection);
                    let _ = client.batch_execute(&drop).await;
                }
            });
            std::io::Result::Ok(())
        });
        let _ = dropped.join();
    }
}

/// A whole server for one test, which may stop it, kill it or change its settings. It ends with its value.
pub(crate) struct PrivateServer {
    // Dropped before the folder, which can only be cleaned up when it is not locked.
    cluster: Option<LocalCluster>,
    scratch: Scratch,
    url: String,
    pid: i32,
}

impl PrivateServer {
    /// Starts a server with further settings, such as `("wal_level", "logical")`. They win over the service's own.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(settings, |_| {}).await
    }

    /// As [`Self::start`], after `prepare` has put files into the cluster's folder.
    pub(crate) async fn start_as(settings: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::with_cluster(settings).await;
        prepare(&scratch.path().join("postgres"));
        let cluster = LocalCluster::start(scratch.path(), None).await.unwrap();
        let url = cluster.url().to_owned();
        let pid = postmaster_pid(scratch.path()).unwrap();
        Self { cluster: Some(cluster), scratch, url, pid }
    }

    /// How to reach the database `tidegate`, by the unix socket. It stays the same unless another process takes the port while
    /// the server is down.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How to reach it by TCP.
    pub(crate) fn tcp_url(&self) -> String {
        running_url(self.scratch.path()).unwrap()
    }

    /// The postmaster.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Ends the server as a crash would: no checkpoint, no goodbye to its clients. Returns when it is gone.
    pub(crate) async fn stop_immediate(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop_now();
            let deadline = Instant::now() + Duration::from_secs(10);
            while postmaster_pid(self.scratch.path()).is_some() {
                assert!(Instant::now() < deadline, "the server did not stop");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Starts the server again after [`Self::stop_immediate`], or after its postmaster was killed.
    pub(crate) async fn start_again(&mut self) {
        // The lock on the folder goes first.
        drop(self.cluster.take());
        let cluster = LocalCluster::start(self.scratch.path(), None).await.unwrap();
        self.url = cluster.url().to_owned();
        self.pid = postmaster_pid(self.scratch.path()).unwrap();
        self.cluster = Some(cluster);
    }
}

/// A `DATA_DIR` for one test. Whatever server runs in it is ended with the value, and the folder removed.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        watch();
        // Short, so that the socket fits in the cluster's folder: a checkout's own path may be long.
        let path = root().join("scratch").join(&Uuid::new_v4().simple().to_string()[..12]);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    /// A folder with a cluster in it that was never started, which is quicker than making one.
    pub(crate) async fn with_cluster(settings: &[(&str, &str)]) -> Self {
        let scratch = Self::new();
        let _making = locked("start.lock");
        copy_pristine(&scratch.path, settings).await;
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_server(&self.path);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The first line of `postmaster.pid`.
pub(crate) fn postmaster_pid(data_dir: &Path) -> Option<i32> {
    fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Connects; the connection ends with the client.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// What the tests of one process know of the run's cluster.
struct Run {
    /// By TCP, to the database `tidegate`.
    service_url: String,
    template: String,
}

static RUN: OnceCell<Run> = OnceCell::const_new();

impl Run {
    async fn join() -> &'static Self {
        RUN.get_or_init(|| async {
            watch();
            let _making = locked("start.lock");
            let shared = root().join("shared");
            let service_url = match running_url(&shared) {
                Ok(url) => url,
                Err(_) => start_shared(&shared).await,
            };
            let run = Self { service_url, template: format!("tidegate_template_{}", build()) };
            run.make_template().await;
            run
        })
        .await
    }

    fn url(&self, database: &str) -> String {
        let (server, _) = self.service_url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// Makes the template under another name first: one whose making was cut short is never copied from.
    async fn make_template(&self) {
        let admin = connect(&self.admin_url()).await;
        let known =
            admin.query_opt("select from pg_database where datname = $1", &[&self.template]).await.unwrap();
        if known.is_some() {
            return;
        }
        let making = format!("making_{}", Uuid::new_v4().simple());
        admin.batch_execute(&format!("create database {making}")).await.unwrap();
        migrate_template(&self.url(&making)).await;
        admin.batch_execute(&format!("alter database {making} rename to {}", self.template)).await.unwrap();
    }
}

/// What tells this build of the tests from others: another may make its clusters otherwise and bring other migrations.
fn build() -> String {
    let made = std::env::current_exe().and_then(fs::metadata).and_then(|exe| exe.modified()).unwrap();
    format!("{:x}", made.duration_since(UNIX_EPOCH).unwrap().as_millis())
}

async fn start_shared(shared: &Path) -> String {
    // What a run without a guardian left is not worth keeping.
    end_server(shared);
    let _ = fs::remove_dir_all(shared);
    fs::create_dir_all(shared).unwrap();
    copy_pristine(shared, &FAST).await;
    // Without a stop: it runs on, and the lock on its folder is free for the guardian.
    drop(LocalCluster::start(shared, None).await.unwrap());
    running_url(shared).unwrap()
}

/// Puts a copy of the pristine cluster in a folder; the caller holds `start.lock`.
async fn copy_pristine(into: &Path, settings: &[(&str, &str)]) {
    let pristine = root().join("pristine");
    if !usable(&pristine) {
        end_server(&pristine);
        let _ = fs::remove_dir_all(&pristine);
        fs::create_dir_all(&pristine).unwrap();
        LocalCluster::start(&pristine, None).await.unwrap().stop().await.unwrap();
        fs::write(pristine.join("complete"), build()).unwrap();
    }
    for name in ["postgres", "postgres.password"] {
        let copied =
            Command::new("cp").args(["-R", "-p"]).arg(pristine.join(name)).arg(into).status().unwrap();
        assert!(copied.success());
    }
    let conf = into.join("postgres/postgresql.conf");
    let mut conf = OpenOptions::new().append(true).open(conf).unwrap();
    for (name, value) in settings {
        writeln!(conf, "{name} = '{value}'").unwrap();
    }
}

/// Whether the pristine cluster was made by this build, and for this user.
fn usable(pristine: &Path) -> bool {
    let mine = pristine.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw());
    mine && fs::read_to_string(pristine.join("complete")).is_ok_and(|made_by| made_by == build())
}

/// Joins the run: holds `users.lock` until this process ends, and sees to it that a guardian waits for that.
#[expect(clippy::zombie_processes, reason = "the guardian outlives this process")]
fn watch() {
    static USER: std::sync::OnceLock<File> = std::sync::OnceLock::new();
    USER.get_or_init(|| {
        let user = open_lock("users.lock");
        user.lock_shared().unwrap();
        let _making = locked("start.lock");
        let guardian = open_lock("guardian.lock");
        if guardian.try_lock().is_ok() {
            drop(guardian);
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "support::postgres::guardian"])
                .env(GUARDIAN, "on")
                // Neither the terminal's Ctrl-C nor a runner that kills a test's group reaches it.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
        }
        user
    });
}

/// Not a test, but the process that cleans up after the last one; as a test it does nothing.
#[test]
fn guardian() {
    if std::env::var_os(GUARDIAN).is_none() {
        return;
    }
    let (guardian, users) = (open_lock("guardian.lock"), open_lock("users.lock"));
    if guardian.try_lock().is_err() {
        return;
    }
    loop {
        users.lock().unwrap();
        users.unlock().unwrap();
        std::thread::sleep(LINGER);
        if users.try_lock().is_ok() {
            break;
        }
    }
    let scratch =
        fs::read_dir(root().join("scratch")).into_iter().flatten().flatten().map(|entry| entry.path());
    for data_dir in scratch.chain([root().join("shared")]) {
        end_server(&data_dir);
        let _ = fs::remove_dir_all(&data_dir);
    }
    // In this order: a process that comes now must find that it needs a guardian of its own.
    drop(guardian);
    drop(users);
}

/// Ends whatever server runs in a folder, even one that a test has halted.
fn end_server(data_dir: &Path) {
    let Some(pid) = postmaster_pid(data_dir) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    let dir = data_dir.to_path_buf();
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match LocalCluster::start(&dir, None).await {
                Ok(cluster) => drop(cluster.stop().await),
                // What cannot be stopped in order is killed outright; the pid file is of this run's making.
                Err(_) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
            }
        });
        std::io::Result::Ok(())
    });
    let _ = ended.join();
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres");
    fs::create_dir_all(&root).unwrap();
    root
}

fn open_lock(name: &str) -> File {
    let path = root().join(name);
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn locked(name: &str) -> File {
    let file = open_lock(name);
    file.lock().unwrap();
    file
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn two_test_databases_see_nothing_of_each_other() {
        let (one, other) = (TestDatabase::create().await, TestDatabase::create().await);
        assert_ne!(one.name(), other.name());
        one.connect().await.batch_execute("create table t ()").await.unwrap();
        connect(other.url()).await.batch_execute("create table t ()").await.unwrap();
    }

    #[tokio::test]
    async fn a_test_database_is_dropped_with_its_value() {
        let database = TestDatabase::create().await;
        let (name, client) = (database.name().to_owned(), database.connect().await);
        drop(database);
        let admin = connect(&Run::join().await.admin_url()).await;
        let rows = admin.query("select from pg_database where datname = $1", &[&name]).await.unwrap();
        assert_eq!(rows.len(), 0);
        assert!(client.query("select 1", &[]).await.is_err());
    }

    #[tokio::test]
    async fn a_private_server_has_its_settings_and_comes_back_after_a_crash() {
        let mut server = PrivateServer::start(&[("wal_level", "logical"), ("max_connections", "30")]).await;
        let client = connect(server.url()).await;
        let level: String = client.query_one("show wal_level", &[]).await.unwrap().get(0);
        let most: String = client.query_one("show max_connections", &[]).await.unwrap().get(0);
        assert_eq!((level.as_str(), most.as_str()), ("logical", "30"));
        client.batch_execute("create table kept as select 1 as n").await.unwrap();

        let before = server.pid();
        server.stop_immediate().await;
        assert!(client.query("select 1", &[]).await.is_err());
        server.start_again().await;
        assert_ne!(server.pid(), before);
        let n: i32 = connect(server.url()).await.query_one("select n from kept", &[]).await.unwrap().get(0);
        assert_eq!(n, 1);
    }
}
