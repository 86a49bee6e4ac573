//! The folder of contents, `DATA_DIR/files`:
//!
//! ```text
//! database      which database's files these are
//! tmp/…         drafts: contents that are still on their way
//! ab/abcd…      contents by their SHA-256, below its first two digits
//! ab/abcd….100x100  their previews, which can be made again
//! ```
//!
//! Every name in it is the service's own: digits of a hash, or of a draft's random id. Each folder is opened relative to its
//! parent (`openat`) without following symbolic links, so a planted link does not lead out of it. All operations block; callers
//! provide the threads.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use uuid::Uuid;

use super::draft::Draft;
use super::{ContentHash, FilesError};

const DRAFTS: &str = "tmp";
const MARKER: &str = "database";
/// Access for the service's own user only.
const FOLDER_MODE: Mode = Mode::S_IRWXU;
const FILE_MODE: Mode = Mode::from_bits_truncate(0o600);
/// The flags for opening a folder.
const FOLDER_FLAGS: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);

/// The folder of contents; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    path: Arc<PathBuf>,
    min_free: u64,
}

impl Contents {
    /// The folder at `path`, which leaves `min_free` bytes of its file system free. It is created when it is needed.
    pub(super) fn new(path: PathBuf, min_free: u64) -> Self {
        Self { path: Arc::new(path), min_free }
    }

    /// The folder itself, which an operator may have replaced by a link.
    fn root(&self) -> io::Result<File> {
        let root = nix::fcntl::open(&*self.path, FOLDER_FLAGS, Mode::empty())?;
        Ok(root.into())
    }

    fn made_root(&self) -> io::Result<File> {
        match self.root() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&*self.path)?;
                if let Some(parent) = self.path.parent() {
                    File::open(parent)?.sync_all()?;
                }
                self.root()
            }
            opened => opened,
        }
    }

    /// A folder in it.
    fn folder(&self, name: &str) -> io::Result<File> {
        open_folder(&self.root()?, name)
    }

    fn made_folder(&self, name: &str) -> io::Result<File> {
        let root = self.made_root()?;
        match mkdirat(&root, name, FOLDER_MODE) {
            Ok(()) => root.sync_all()?,
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        open_folder(&root, name)
    }

    /// Checks that `more` bytes leave enough space for the journal.
    pub(super) fn check_room(&self, more: u64) -> Result<(), FilesError> {
        let stat = nix::sys::statvfs::fstatvfs(self.made_root()?).map_err(io::Error::from)?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free < more.saturating_add(self.min_free) {
            return Err(FilesError::DiskFull);
        }
        Ok(())
    }

    /// Creates a draft.
    pub(super) fn draft(&self) -> io::Result<Draft> {
        let folder = Arc::new(self.made_folder(DRAFTS)?);
        loop {
            let name = Uuid::new_v4().simple().to_string();
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = File::from(openat(&*folder, name.as_str(), flags, FILE_MODE)?);
            // Before it was locked, a sweeper may have taken it for an abandoned one.
            if is_lockable(&file)? && exists(&folder, &name)? {
                return Ok(Draft::new(folder, name, file));
            }
        }
    }

    /// Moves a complete draft to its content's place, unless the content is there already.
    pub(super) fn place(&self, draft: &mut Draft, hash: &ContentHash) -> io::Result<()> {
        let (folder, name) = (self.made_folder(&hash.folder())?, hash.to_string());
        if is_content(&folder, &name, draft.size())? {
            draft.discard();
        } else {
            renameat(draft.folder(), draft.name(), &folder, name.as_str())?;
            draft.moved();
        }
        // Even if it was there: the other upload may not have synced yet.
        folder.sync_all()
    }

    /// Opens a content of `size` bytes for reading. A link or another non-file of this name does not count as the content; a
    /// file of another size is damaged.
    pub(super) fn open(&self, hash: &ContentHash, size: u64) -> io::Result<File> {
        let folder = self.folder(&hash.folder())?;
        // Never waits for the other end of a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&folder, hash.to_string().as_str(), flags, Mode::empty()) {
            // The error of open(2) for a link that it may not follow.
            Err(Errno::ELOOP) => return Err(ErrorKind::NotFound.into()),
            opened => File::from(opened?),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ErrorKind::NotFound.into());
        }
        if metadata.len() != size {
            return Err(io::Error::new(ErrorKind::InvalidData, "a content is not what was stored"));
        }
        Ok(file)
    }

    /// Removes a content.
    pub(super) fn remove(&self, hash: &ContentHash) -> io::Result<()> {
        let folder = self.folder(&hash.folder())?;
        unlinkat(&folder, hash.to_string().as_str(), UnlinkatFlags::NoRemoveDir)?;
        Ok(())
    }

    /// A preview of a content, as it was kept. `None`: there is none, or it has more than `max` bytes.
    pub(super) fn preview(&self, hash: &ContentHash, kind: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let folder = self.folder(&hash.folder())?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&folder, preview_name(hash, kind).as_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            opened => File::from(opened?),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > max {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Keeps a preview of a content beside it. It is whole or not there, and may be lost.
    pub(super) fn keep_preview(
        &self,
        hash: &ContentHash,
        kind: &str,
        bytes: &[u8],
    ) -> Result<(), FilesError> {
        self.check_room(bytes.len() as u64)?;
        let folder = self.folder(&hash.folder())?;
        let mut draft = self.draft()?;
        draft.write(bytes)?;
        draft.complete()?;
        let name = preview_name(hash, kind);
        renameat(draft.folder(), draft.name(), &folder, name.as_str()).map_err(io::Error::from)?;
        draft.moved();
        Ok(())
    }

    /// Removes the previews of contents that are gone, of those whose hash begins with `first`.
    pub(super) fn sweep_previews(&self, first: u8) -> io::Result<()> {
        let folder = match self.folder(&format!("{first:02x}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            folder => folder?,
        };
        for name in names(&folder)? {
            let Some(hash) = name.split_once('.').and_then(|(hash, _)| ContentHash::parse(hash)) else {
                continue;
            };
            if !exists(&folder, &hash.to_string())? {
                unlinkat(&folder, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
        Ok(())
    }

    /// Whether the folder exists.
    pub(super) fn exists(&self) -> io::Result<bool> {
        match self.root() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The contents whose hash begins with `first`.
    pub(super) fn list(&self, first: u8) -> io::Result<Vec<ContentHash>> {
        let folder = match self.folder(&format!("{first:02x}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            folder => folder?,
        };
        let names = names(&folder)?;
        let hashes = names.iter().filter_map(|name| ContentHash::parse(name));
        Ok(hashes.filter(|hash| hash.0[0] == first).collect())
    }

    /// Removes abandoned drafts: a draft's writer holds a lock, which ends with its process. Returns their number.
    pub(super) fn sweep_drafts(&self) -> io::Result<usize> {
        let folder = match self.folder(DRAFTS) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            folder => folder?,
        };
        let mut removed = 0;
        for name in names(&folder)? {
            let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let Ok(file) = openat(&folder, name.as_str(), flags, Mode::empty()).map(File::from) else {
                continue;
            };
            if is_lockable(&file)? && unlinkat(&folder, name.as_str(), UnlinkatFlags::NoRemoveDir).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether the folder is that of the database with this id. A new folder becomes its own.
    pub(super) fn belongs_to(&self, database: Uuid) -> io::Result<bool> {
        let root = self.made_root()?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&root, MARKER, flags, Mode::empty()) {
            Ok(marker) => {
                let mut text = String::new();
                File::from(marker).take(64).read_to_string(&mut text)?;
                Ok(text.trim() == database.to_string())
            }
            Err(Errno::ENOENT) => {
                // Whole or not there: half an id would be another database's.
                let mut draft = self.draft()?;
                draft.write(format!("{database}\n").as_bytes())?;
                draft.complete()?;
                renameat(draft.folder(), draft.name(), &root, MARKER)?;
                draft.moved();
                root.sync_all()?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn preview_name(hash: &ContentHash, kind: &str) -> String {
    format!("{hash}.{kind}")
}

fn open_folder(root: &File, name: &str) -> io::Result<File> {
    Ok(openat(root, name, FOLDER_FLAGS | OFlag::O_NOFOLLOW, Mode::empty())?.into())
}

fn is_lockable(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn exists(folder: &File, name: &str) -> io::Result<bool> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether there is a file of this name and size; a link does not count, and is replaced.
fn is_content(folder: &File, name: &str, size: u64) -> io::Result<bool> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let is_file = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
            Ok(is_file && u64::try_from(stat.st_size) == Ok(size))
        }
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn names(folder: &File) -> io::Result<Vec<String>> {
    let mut dir = Dir::openat(folder, ".", FOLDER_FLAGS, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        // A name that is not UTF-8 is foreign.
        match entry?.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}
