//! Postgres' programs on this machine.
//!
//! A folder qualifies if it has all three required programs and its `postgres` prints its version *for the account that will
//! run it*. An entry of `PATH` is often a link into the real folder, which alone has the rest: links are resolved first. A new
//! cluster gets the newest version found; existing data needs the major version that wrote it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use postgresql_commands::pg_config::PgConfigBuilder;
use postgresql_commands::postgres::PostgresBuilder;
use postgresql_commands::{CommandBuilder, CommandExecutor};

use super::account::Account;

/// The oldest major version for a new cluster.
const MIN_MAJOR: u32 = 14;
const NEEDED: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// Folders of well-known packages; `*` matches any text within one component.
const WELL_KNOWN: [&str; 10] = [
    "/usr/lib/postgresql/*/bin", // Debian, Ubuntu
    "/usr/pgsql-*/bin",          // Red Hat, from postgresql.org
    "/usr/bin",                  // Fedora, Arch, where PATH was cut short
    "/usr/libexec/postgresql*",  // Alpine
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin", // Homebrew on Intel
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",     // built from source
    "/usr/lib/postgresql*/bin", // Gentoo, SUSE
];

/// A folder with a working Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) version: Version,
}

/// Major and minor, as `postgres --version` prints them; betas have no minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    minor: u32,
}

/// The result of a search.
pub(super) enum Search {
    Found(Binaries),
    /// None qualifies; these were found.
    Unfit(Vec<Binaries>),
}

/// Finds programs for a cluster of `major`, or the newest without a cluster. `downloaded` are folders of earlier downloads.
pub(super) fn find(account: &Account, major: Option<u32>, fetched: &[PathBuf]) -> Search {
    let mut here: Vec<Binaries> =
        candidates(account, fetched).into_iter().filter_map(|dir| inspect(&dir, account).ok()).collect();
    here.sort_by(|a, b| (a.version, &a.dir).cmp(&(b.version, &b.dir)));
    let fits = |found: &&Binaries| match major {
        Some(major) => found.version.major == major,
        None => found.version.major >= MIN_MAJOR,
    };
    match here.iter().rfind(fits) {
        Some(found) => Search::Found(found.clone()),
        None => Search::Unfit(here),
    }
}

/// The programs found, as a list for messages.
pub(super) fn describe(found: &[Binaries]) -> String {
    if found.is_empty() {
        return "no Postgres".to_owned();
    }
    let each = |found: &Binaries| format!("{} ({})", found.version.major, found.dir.display());
    format!("only {}", found.iter().map(each).collect::<Vec<_>>().join(", "))
}

/// The version in `dir`, or the name of the first program that is missing or does not run.
pub(super) fn inspect(dir: &Path, account: &Account) -> Result<Binaries, String> {
    if let Some(missing) = NEEDED.iter().find(|name| !dir.join(name).is_file()) {
        return Err((*missing).to_owned());
    }
    let mut command = PostgresBuilder::new().program_dir(dir).version().build();
    account.adopt(&mut command);
    let version = command.execute().ok().and_then(|(stdout, _)| parse_version(&stdout));
    version.map(|version| Binaries { dir: dir.to_path_buf(), version }).ok_or_else(|| NEEDED[0].to_owned())
}

fn candidates(account: &Account, fetched: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut consider = |dir: PathBuf| {
        // The program's own link is resolved, not its folder's: /usr/local/bin/postgres may point anywhere.
        if let Ok(program) = dir.join(NEEDED[0]).canonicalize()
            && let Some(real) = program.parent()
        {
            found.insert(real.to_path_buf());
        }
    };
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).for_each(&mut consider);
    pg_config_bindir(account).into_iter().for_each(&mut consider);
    WELL_KNOWN.iter().flat_map(|pattern| expand(pattern)).for_each(&mut consider);
    fetched.iter().flat_map(|dir| folders_in(dir)).map(|dir| dir.join("bin")).for_each(&mut consider);
    found
}

fn pg_config_bindir(account: &Account) -> Option<PathBuf> {
    let mut command: Command = PgConfigBuilder::new().bindir().build();
    account.adopt(&mut command);
    let (stdout, _) = command.execute().ok()?;
    Some(PathBuf::from(stdout.trim()))
}

/// The folders that match a pattern.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        paths = match part.split_once('*') {
            None => paths.into_iter().map(|path| path.join(part)).collect(),
            Some((head, tail)) => paths
                .iter()
                .flat_map(|path| folders_in(path))
                .filter(|path| path.file_name().is_some_and(|name| fits(name, head, tail)))
                .collect(),
        };
    }
    paths
}

fn fits(name: &OsStr, head: &str, tail: &str) -> bool {
    name.to_str().and_then(|name| name.strip_prefix(head)).is_some_and(|rest| rest.ends_with(tail))
}

fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Parses `postgres (PostgreSQL) 15.18 (Debian …)`, `… 18beta1`, `… 9.6.24`.
fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    let minor = if number.contains('.') { parts.next()?.parse().ok()? } else { 0 };
    Some(Version { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_version_that_postgres_prints_is_read() {
        let version = |text| parse_version(text).map(|v| (v.major, v.minor));
        assert_eq!(version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some((15, 18)));
        assert_eq!(version("postgres (PostgreSQL) 18beta1"), Some((18, 0)));
        assert_eq!(version("postgres (PostgreSQL) 9.6.24"), Some((9, 6)));
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn a_pattern_names_the_folders_that_are_there() {
        let dir = std::env::temp_dir().join(format!("tidegate-expand-{}", std::process::id()));
        for name in ["pgsql-16/bin", "pgsql-17/bin", "other/bin"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let mut found = expand(&format!("{}/pgsql-*/bin", dir.display()));
        found.sort();
        assert_eq!(found, [dir.join("pgsql-16/bin"), dir.join("pgsql-17/bin")]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
