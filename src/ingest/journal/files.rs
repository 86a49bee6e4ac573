//! The file system as the journal uses it: the real one, and in tests one that loses what was not synced.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends; returns how much was read.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// As the system says; some of it may be written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    ///
    /// As the system says; nothing is known of what was written since the last sync then.
    fn sync(&self) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn length(&self) -> io::Result<u64>;
}

/// A lock that is held until it is dropped.
pub trait Lock: Debug + Send + Sync {}

impl Lock for fs::File {}

/// What the journal asks of a file system.
pub trait Files: Debug + Send + Sync {
    /// Makes a folder that only its owner can use, if it is not there.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes an empty file that only its owner can use; one that is there is emptied.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file, to be read and, unless `read_only`, written.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn open(&self, path: &Path, read_only: bool) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The files of a folder.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file for this process alone; `None` if another one has it.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;

    /// Bytes that are free for us.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// The real file system.
#[derive(Debug)]
pub struct SystemFiles;

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Files for SystemFiles {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Arc::new(options.open(path)?))
    }

    fn open(&self, path: &Path, read_only: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(fs::File::options().read(true).write(!read_only).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        // Their types differ from system to system.
        #[allow(clippy::unnecessary_cast, reason = "fsblkcnt_t is 32 bits wide on some systems")]
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }
}
