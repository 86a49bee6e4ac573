//! The service's program, which knows its own settings: `.env`, `DATABASE_URL`, the private cluster under `DATA_DIR`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The reason why the program did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is none.
    #[error("there is no program `tidegate` beside this one or in PATH")]
    Missing,
    /// It failed; its own error.
    #[error("`tidegate {0}` failed: {1}")]
    Failed(&'static str, String),
}

/// A program of the service.
#[derive(Debug, Clone)]
pub(crate) struct Program(PathBuf);

impl Program {
    /// The given one, else the one beside this program, else the one in `PATH`.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, Error> {
        if let Some(given) = given {
            return if given.is_file() { Ok(Self(given.to_path_buf())) } else { Err(Error::Missing) };
        }
        let beside = std::env::current_exe().ok().map(|own| own.with_file_name("tidegate"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path).map(|folder| folder.join("tidegate"));
        let found = beside.into_iter().chain(in_path).find(|program| program.is_file());
        found.map(Self).ok_or(Error::Missing)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The URL of the database of a service with this environment.
    pub(crate) fn database_url(&self) -> Result<String, Error> {
        Ok(self.ask("url", &["url"])?.trim().to_owned())
    }

    /// The schema of a service with this environment.
    pub(crate) fn schema(&self) -> Result<Option<String>, Error> {
        Ok(schema_of(&self.ask("config check", &["config", "check"])?))
    }

    fn ask(&self, name: &'static str, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.0).args(arguments).output();
        let output = output.map_err(|error| Error::Failed(name, error.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Failed(name, text.trim().trim_start_matches("tidegate: ").to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The value of `DB_SCHEMA` in what `config check` prints. A schema is a plain name, so it is never quoted.
fn schema_of(settings: &str) -> Option<String> {
    let line = settings.lines().find_map(|line| line.strip_prefix("DB_SCHEMA="))?;
    line.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_found_among_the_settings() {
        let text = "# Postgres\n#DATABASE_URL=                           # unset\nDB_SCHEMA=app                            # environment\n";
        assert_eq!(schema_of(text).as_deref(), Some("app"));
        assert_eq!(schema_of("DB_POOL_SIZE=4 # default\n"), None);
    }
}
