//! File system calls of the journal.
//!
//! A trait, since the tests implement it by a disk that loses power, runs full and fails at a chosen call.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;

/// A file system.
pub(crate) trait Files: Debug + Send + Sync {
    /// Creates the folder (0700) unless it exists, and syncs its entry.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the folder's entries.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens an existing file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;
    /// Creates an empty file (0600), or truncates the existing one, for writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file, replacing an existing one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the folder's entries durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks the file for this process until the lock is dropped; `None`: another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
    /// Free bytes of the folder's file system, for this user.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Identity of the file or folder at this path.
    fn identity(&self, path: &Path) -> io::Result<FileId>;
}

/// Identity of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    /// The file system.
    pub(crate) device: u64,
    /// The inode.
    pub(crate) inode: u64,
}

/// A held lock, released when dropped.
pub(crate) type Lock = Box<dyn Any + Send + Sync>;

/// Access to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// An open file.
pub(crate) trait File: Debug + Send + Sync {
    /// Reads at `offset`; may read fewer bytes, as `pread(2)`.
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write fewer bytes, as `pwrite(2)`.
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Extends an empty file to `bytes` of zeros by allocating its blocks without writing them.
    /// [`ErrorKind::Unsupported`] where the file system cannot.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Makes written bytes durable.
    fn fdatasync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Identity of the open file, whatever its path refers to now.
    fn identity(&self) -> io::Result<FileId>;
    /// Requests that later reads come from the disk: after a failed sync, Linux may mark lost pages as clean. A hint,
    /// without an error.
    fn forget_cached(&self);
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.pwrite(bytes, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads at `offset` until `bytes` is full or the file ends. Returns the number of bytes.
pub(super) fn read_up_to(file: &dyn File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.pread(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Creates or replaces a file, durably: readers see the old content or the new one.
pub(super) fn replace_file(files: &dyn Files, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}.new"));
    let file = files.create(&unfinished)?;
    write_all(&*file, bytes, 0)?;
    uninterrupted(|| file.fdatasync())?;
    files.rename(&unfinished, &dir.join(name))?;
    files.sync_dir(dir)
}

/// Whether the file system is full: transient.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether descriptors or memory were short, or the call is to be repeated: transient, and no sign of a bad disk.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| *shortage as i32 == code))
}

/// Whether a sector is unreadable.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EIO as i32)
}

/// Pauses between retries of an unreadable sector: a cable, a controller or a remote volume may recover.
pub(super) const READ_PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(250),
];

/// As [`read_up_to`], with retries of unreadable sectors. Each retry consumes one of `pauses`, which bounds the time for a
/// file with many bad pages.
pub(super) fn read_patiently(
    file: &dyn File,
    bytes: &mut [u8],
    offset: u64,
    pauses: &mut impl Iterator<Item = Duration>,
) -> io::Result<usize> {
    loop {
        match read_up_to(file, bytes, offset) {
            Err(error) if is_unreadable(&error) => match pauses.next() {
                Some(pause) => std::thread::sleep(pause),
                None => return Err(error),
            },
            done => return done,
        }
    }
}

/// Repeats a call while signals interrupt it.
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The operating system's files.
///
/// Synced folders stay open, so that a later sync needs no descriptor.
#[derive(Debug, Default)]
pub(crate) struct RealFiles {
    dirs: Mutex<HashMap<PathBuf, Arc<fs::File>>>,
}

#[derive(Debug)]
struct RealFile(fs::File);

impl Files for RealFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // A removed and recreated folder has another inode.
        self.dirs.lock().remove(dir);
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // The journal's names are UTF-8.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(access == Access::Write).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut dirs = self.dirs.lock();
        let open = match dirs.get(dir) {
            Some(open) => Arc::clone(open),
            None => {
                let open = Arc::new(fs::File::open(dir)?);
                dirs.insert(dir.to_owned(), Arc::clone(&open));
                open
            }
        };
        drop(dirs);
        open.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn identity(&self, path: &Path) -> io::Result<FileId> {
        Ok(FileId::of(&fs::metadata(path)?))
    }
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl File for RealFile {
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        use nix::fcntl::{FallocateFlags, fallocate};
        let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
        // EOPNOTSUPP has `Unsupported` as its kind.
        Ok(fallocate(&self.0, FallocateFlags::empty(), 0, bytes)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn identity(&self) -> io::Result<FileId> {
        Ok(FileId::of(&self.0.metadata()?))
    }

    fn forget_cached(&self) {
        #[cfg(target_os = "linux")]
        {
            use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
            let _hint = posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}

/// A read-only file in memory.
#[derive(Debug)]
pub(super) struct MemoryFile(pub(super) Vec<u8>);

impl File for MemoryFile {
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let read = rest.len().min(bytes.len());
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn pwrite(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn fdatasync(&self) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn identity(&self) -> io::Result<FileId> {
        Err(ErrorKind::Unsupported.into())
    }

    fn forget_cached(&self) {}
}
