//! The cluster on disk: created once, whole or not at all.
//!
//! `initdb` works in `DATA_DIR/postgres.new-…`, and the folder is renamed to `DATA_DIR/postgres` when it is complete and
//! synced. A run that is killed in between leaves a folder that no later run takes for a cluster; its name is not reused,
//! because the orphaned `initdb` may still be writing there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use postgresql_commands::initdb::InitDbBuilder;
use postgresql_commands::{CommandBuilder, CommandExecutor};
use uuid::Uuid;

use super::account::Account;
use super::binaries::Binaries;
use super::child_path::ChildPath;
use super::error::{PrivateError, printed};
use super::password::Password;
use super::postmaster::{read_inside, replace_inside};

/// The only role, a superuser of its own cluster, and the only database.
pub(super) const ROLE: &str = "tidegate";

const UNFINISHED: &str = "postgres.new-";
const SETTINGS: &str = "tidegate.conf";

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// The major version that wrote the cluster's data; `None`: there is no cluster.
pub(super) fn major(cluster: &Path) -> Result<Option<u32>, PrivateError> {
    match read_inside(cluster, "PG_VERSION") {
        Ok(text) => {
            let major = text.trim().split('.').next().and_then(|major| major.parse().ok());
            major.map(Some).ok_or_else(|| PrivateError::NotACluster { path: cluster.to_path_buf() })
        }
        // A mount point, or a folder that the user prepared.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_empty(cluster) {
            Ok(true) => Ok(None),
            Ok(false) => Err(PrivateError::NotACluster { path: cluster.to_path_buf() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateError::io("read", cluster)(error)),
        },
        Err(error) => Err(PrivateError::io("read", &cluster.join("PG_VERSION"))(error)),
    }
}

/// Whether a folder is empty.
fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

/// Removes the folders of first runs that were killed.
pub(super) fn remove_unfinished(data_dir: &Path) {
    for entry in fs::read_dir(data_dir).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(UNFINISHED.as_bytes()) {
            // An orphaned initdb may still be adding to it; the next start removes the rest.
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::debug!(path = %entry.path().display(), %error, "an unfinished cluster stays for now");
            }
        }
    }
}

/// Creates the cluster in `DATA_DIR/postgres`.
pub(super) fn create(
    data_dir: &Path,
    binaries: &Binaries,
    account: &Account,
    password: &Password,
) -> Result<(), PrivateError> {
    let unfinished = data_dir.join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
    // A character type that knows letters beyond ASCII, where the system has one without a language. Text is still sorted by
    // bytes, which no library update changes.
    let first = if binaries.version.major >= 17 { "builtin" } else { "C.UTF-8" };
    let mut output = String::new();
    for locale in [first, "C"] {
        match initdb(&unfinished, data_dir, binaries, account, password, locale)? {
            Ok(()) => return finish(&unfinished, data_dir),
            Err(printed) => output = printed,
        }
        fs::remove_dir_all(&unfinished).map_err(PrivateError::io("clear", &unfinished))?;
    }
    Err(PrivateError::Initdb { cluster: path(data_dir), output })
}

/// One attempt; the inner error is initdb's output.
fn initdb(
    dir: &Path,
    data_dir: &Path,
    binaries: &Binaries,
    account: &Account,
    password: &Password,
    locale: &str,
) -> Result<Result<(), String>, PrivateError> {
    let make = || DirBuilder::new().mode(0o700).create(dir).and_then(|()| account.own(dir));
    make().map_err(PrivateError::io("create", dir))?;
    let path = ChildPath::to(dir, account)?;
    let builder = InitDbBuilder::new()
        .program_dir(&binaries.dir)
        .pgdata(path.path())
        .username(ROLE)
        .pwfile("/dev/stdin")
        .auth("scram-sha-256")
        .encoding("UTF8")
        .locale("C")
        .data_checksums();
    let builder = match locale {
        "builtin" => builder.locale_provider("builtin").builtin_locale("C.UTF-8"),
        other => builder.lc_ctype(other),
    };
    let mut command = builder.build();
    account.adopt(&mut command);
    command.stdin(password.open_for(account, data_dir)?);
    if let Err(error) = command.execute() {
        return Ok(Err(printed(&error)));
    }
    include_settings(dir).map_err(PrivateError::io("write", &dir.join("postgresql.conf")))?;
    Ok(Ok(()))
}

/// Appends a line to `postgresql.conf` that includes the service's own file.
fn include_settings(dir: &Path) -> io::Result<()> {
    let mut conf = OpenOptions::new()
        .append(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(dir.join("postgresql.conf"))?;
    write!(
        conf,
        "\n# Tidegate rewrites {SETTINGS} at each start. Settings of your own go below this line and win over it.\n\
         include_if_exists = '{SETTINGS}'\n"
    )?;
    conf.sync_all()
}

fn finish(unfinished: &Path, data_dir: &Path) -> Result<(), PrivateError> {
    let cluster = path(data_dir);
    fs::rename(unfinished, &cluster).map_err(PrivateError::io("put the new cluster in", &cluster))?;
    File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(PrivateError::io("sync", data_dir))
}

/// The port of the last start.
pub(super) fn last_port(cluster: &Path) -> Option<u16> {
    let text = read_inside(cluster, SETTINGS).ok()?;
    text.lines().find_map(|line| line.strip_prefix("port = ")).and_then(|port| port.trim().parse().ok())
}

/// Writes the settings for the next start. Durability keeps Postgres' defaults: everything on.
pub(super) fn write_settings(
    cluster: &Path,
    account: &Account,
    port: u16,
    socket_folder: &Path,
) -> Result<(), PrivateError> {
    let text = format!(
        "# Written by Tidegate at each start. Settings of your own belong in postgresql.conf, below the line that\n\
         # includes this file.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '{}'\n\
         unix_socket_permissions = 0700\n\
         max_connections = 200\n\
         shared_buffers = 128MB\n\
         # Fewer checkpoints under a steady load of COPY.\n\
         max_wal_size = 2GB\n",
        socket_folder.display()
    );
    replace_inside(cluster, SETTINGS, &text, account)
        .map_err(PrivateError::io("write", &cluster.join(SETTINGS)))
}
