//! The secret that signs the service's own tokens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::random::{self, NoRandomness, Secret};
use crate::config::{AuthMode, Config};

/// The file for it with a private Postgres, below `DATA_DIR`.
const FILE: &str = "jwt.secret";
/// 5 bits each: 320 in all.
const CHARACTERS: usize = 64;
/// The minimum of `JWT_SECRET`.
const LEAST_BYTES: usize = 32;

/// There is no secret to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// An operator has to set it.
    #[error("it is not set, and has to be where AUTH=required and the database is your own")]
    Needed,
    /// The file cannot be read or created.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No secret can be generated.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// The secret to sign with.
#[derive(Debug)]
pub struct SigningSecret {
    /// The secret; `None`: users log in elsewhere.
    pub secret: Option<Secret>,
    /// Whether it ends with this process, and every token with it.
    pub is_passing: bool,
}

impl SigningSecret {
    fn lasting(secret: Secret) -> Self {
        Self { secret: Some(secret), is_passing: false }
    }
}

/// The configured secret; with a private Postgres the one in `DATA_DIR`, created if missing; a random one for this process
/// where the service is open; `None` where users log in elsewhere.
///
/// # Errors
///
/// [`SecretError`].
pub fn signing_secret(config: &Config) -> Result<SigningSecret, SecretError> {
    if let Some(secret) = &config.auth.jwt_secret {
        return Ok(SigningSecret::lasting(Secret::new(secret.clone())));
    }
    if config.database.database_url.is_none() {
        let path = config.database.data_dir.join(FILE);
        return read_or_make(&config.database.data_dir, &path).map(SigningSecret::lasting);
    }
    match config.auth_mode() {
        AuthMode::Required if config.auth.trusts_an_issuer() => {
            Ok(SigningSecret { secret: None, is_passing: false })
        }
        AuthMode::Required => Err(SecretError::Needed),
        AuthMode::Open => {
            let secret = Some(Secret::new(random::text(CHARACTERS)?));
            Ok(SigningSecret { secret, is_passing: true })
        }
    }
}

fn read_or_make(dir: &Path, path: &Path) -> Result<Secret, SecretError> {
    let failed = |source| SecretError::File { path: path.to_owned(), source };
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(failed),
    }
    let secret = random::text(CHARACTERS)?;
    // Of two processes that start at the same time, the first one to link creates it; it is never there in part.
    let unfinished = dir.join(format!("{FILE}.{}", Uuid::new_v4().simple()));
    let make = || {
        fs::create_dir_all(dir)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        let linked = fs::hard_link(&unfinished, path);
        fs::remove_file(&unfinished)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        File::open(dir)?.sync_all()?;
        read(path)
    };
    make().map_err(failed)
}

fn read(path: &Path) -> io::Result<Secret> {
    let text = fs::read_to_string(path)?;
    let secret = text.trim();
    if secret.len() < LEAST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds less than 32 bytes"));
    }
    Ok(Secret::new(secret.to_owned()))
}
