//! The private Postgres of a first run.

use std::path::Path;

/// Placeholder until the private cluster lands.
#[derive(Debug, thiserror::Error)]
#[error("not built yet")]
pub struct LocalError;

/// The private cluster.
#[derive(Debug)]
pub struct LocalCluster(String);

impl LocalCluster {
    /// Starts it.
    pub async fn start(_data_dir: &Path, _pg_bin: Option<&Path>) -> Result<Self, LocalError> {
        Err(LocalError)
    }
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.0
    }
    /// Stops it.
    pub async fn stop(self) -> Result<(), LocalError> {
        Ok(())
    }
    /// Stops it at once.
    pub fn stop_now(&self) {}
}

/// The URL.
pub fn running_url(_data_dir: &Path) -> Result<String, LocalError> {
    Err(LocalError)
}
