//! The run's cluster, and the pristine cluster that every server is a copy of.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use nix::unistd::geteuid;
use tidegate::config::{Config, Variables};
use tidegate::db::private::{PrivateCluster, running_url};
use tidegate::db::{ConnectionUrl, Database, migrate};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::connect;
use super::guardian::{locked, root, watch};
use super::server::end_server;

/// Nothing here has to survive a crash of the machine.
const FAST: [(&str, &str); 4] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
];

/// Migrates the template of all test databases. Called once per run.
async fn migrate_template(url: &str) {
    let config = Config::from_variables(&Variables::default()).unwrap();
    let database = Database::new(&ConnectionUrl::parse(url).unwrap(), &config.database).unwrap();
    migrate(&database, config.database.partitioning, config.modules()).await.unwrap();
}

/// The run's cluster, as the tests of one process know it.
pub(super) struct Run {
    /// By TCP, to the database `tidegate`.
    service_url: String,
    pub(super) template: String,
}

pub(super) static RUN: OnceCell<Run> = OnceCell::const_new();

impl Run {
    pub(super) async fn join() -> &'static Self {
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

    pub(super) fn url(&self, database: &str) -> String {
        let (server, _) = self.service_url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    pub(super) fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// Creates the template under another name first, so that an unfinished one is never copied.
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

/// The identity of this build of the tests: another one may create its clusters differently, and have other migrations.
fn build() -> String {
    let made = std::env::current_exe().and_then(fs::metadata).and_then(|exe| exe.modified()).unwrap();
    format!("{:x}", made.duration_since(UNIX_EPOCH).unwrap().as_millis())
}

async fn start_shared(shared: &Path) -> String {
    // A cluster left by a run without a guardian is not reused.
    end_server(shared);
    let _ = fs::remove_dir_all(shared);
    fs::create_dir_all(shared).unwrap();
    copy_pristine(shared, &FAST).await;
    // Without a stop: it runs on, and the lock on its folder is free for the guardian.
    drop(PrivateCluster::start(shared).await.unwrap());
    running_url(shared).unwrap()
}

/// Copies the pristine cluster into a folder; the caller holds `start.lock`.
pub(super) async fn copy_pristine(into: &Path, settings: &[(&str, &str)]) {
    let pristine = root().join("pristine");
    if !usable(&pristine) {
        end_server(&pristine);
        let _ = fs::remove_dir_all(&pristine);
        fs::create_dir_all(&pristine).unwrap();
        PrivateCluster::start(&pristine).await.unwrap().stop().await.unwrap();
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
