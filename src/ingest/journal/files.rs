//! The file layer: everything that the journal asks of an operating system.
//!
//! A trait, because the tests put a disk behind it that loses power, runs full and fails at a chosen call.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

/// A folder's files.
pub trait Files: Debug + Send + Sync {
    /// Creates the folder (0700), if it is not there, and syncs its own entry.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in the folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file that is there.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;
    /// Opens a new, empty file (0600) for writing; one of that name is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file; one that has the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the folder's entries survive a loss of power.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks the file for this process alone until the answer is dropped; `None` if another one holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
    /// Bytes that the folder's file system still takes from this user.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Identity of the file or folder that has this path now.
    fn identity(&self, path: &Path) -> io::Result<FileId>;
}

/// Identity of a file or folder: two paths with the same one lead to the same inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// Held as long as the lock is wanted.
pub type Lock = Box<dyn Any + Send + Sync>;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for, as `read(2)` may.
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; fewer bytes than asked for, as `write(2)` may.
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes an empty file `bytes` of zeros long by taking its blocks without writing them. [`ErrorKind::Unsupported`]
    /// where there is no such call.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Makes what was written survive a loss of power.
    fn fdatasync(&self) -> io::Result<()>;
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Identity of the open file, whatever its path leads to by now.
    fn identity(&self) -> io::Result<FileId>;
    /// Asks that later reads come from the disk. After a failed sync, Linux may keep pages as clean that never reached
    /// it. A hint: no error.
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

/// Reads at `offset` until `bytes` is full or the file ends; how many bytes that were.
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

/// Whether the error means that there is no room, which passes.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether the error is a shortage of descriptors or memory, or a call to be repeated: it passes, and is no sign of a
/// bad disk.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| *shortage as i32 == code))
}

/// Whether the disk cannot read a sector.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EIO as i32)
}

/// Pauses between the repetitions of a read that the disk could not do: a cable, a controller or a remote volume may be
/// back in a moment.
pub(super) const READ_PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(250),
];

/// As [`read_up_to`], and repeated after a pause where the disk cannot read. Each repetition takes a pause off `pauses`,
/// so a file of which many pages are bad does not take for ever.
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

/// Repeats a call that a signal interrupted.
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
/// Folders that are synced stay open: a sync needs no descriptor at a moment when there may be none.
#[derive(Debug, Default)]
pub struct RealFiles {
    dirs: Mutex<HashMap<PathBuf, Arc<fs::File>>>,
}

#[derive(Debug)]
struct RealFile(fs::File);

impl Files for RealFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // One that was removed since has another inode now.
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).remove(dir);
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
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
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
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

/// A segment's bytes in memory, for reading alone.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl File for Bytes {
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
