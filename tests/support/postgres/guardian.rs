//! The guardian, which cleans up after the last test. It is a process of this test binary in a process group of its own. It
//! waits for `users.lock`, which it gets when the last test process has ended in any way; then it stops every server and
//! removes the copies. A pause of two seconds bridges the moments in which a runner has no test process.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::server::end_server;

const GUARDIAN: &str = "TIDEGATE_TEST_GUARDIAN";
const LINGER: Duration = Duration::from_secs(2);

/// Joins the run: holds `users.lock` until this process ends, and starts a guardian if there is none.
#[expect(clippy::zombie_processes, reason = "the guardian outlives this process")]
pub(super) fn watch() {
    static USER: std::sync::OnceLock<File> = std::sync::OnceLock::new();
    USER.get_or_init(|| {
        let user = open_lock("users.lock");
        user.lock_shared().unwrap();
        let _making = locked("start.lock");
        let guardian = open_lock("guardian.lock");
        if guardian.try_lock().is_ok() {
            drop(guardian);
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "support::postgres::guardian::guardian"])
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

/// Not a test, but the process that cleans up after the last one; run as a test it does nothing.
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
    // In this order: a process that starts now must find that it needs a guardian of its own.
    drop(guardian);
    drop(users);
}

pub(super) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres");
    fs::create_dir_all(&root).unwrap();
    root
}

fn open_lock(name: &str) -> File {
    let path = root().join(name);
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

pub(super) fn locked(name: &str) -> File {
    let file = open_lock(name);
    file.lock().unwrap();
    file
}
