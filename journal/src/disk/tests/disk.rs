//! A disk in memory that separates written from synced bytes, loses power, and fails at a chosen call.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::files::{Access, File, FileId, Files, Lock};

const SECTOR: usize = 512;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NoSpace,
    Eio,
    /// No descriptor is left.
    Shortage,
    /// Half of the requested bytes.
    Short,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that are not durable.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Content {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    locked: BTreeSet<PathBuf>,
    calls: u64,
    fail_at: Option<(u64, Fault)>,
    /// The failed calls.
    failed: Vec<&'static str>,
    /// Inodes of extents: their failures poison nothing.
    extents: BTreeSet<usize>,
    dir_is_gone: bool,
    /// Number of next reads that fail.
    bad_reads: u64,
    /// An unreadable page: inode and offset.
    bad_page: Option<(usize, u64)>,
    free: u64,
    /// Number of files whose blocks were reserved.
    reserved: u64,
}

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct DiskFile {
    content: Arc<Mutex<Content>>,
    inode: usize,
}

struct Locked {
    content: Arc<Mutex<Content>>,
    path: PathBuf,
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.content.lock().unwrap().locked.remove(&self.path);
    }
}

fn missing() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Content {
    /// Counts a call, which fails if it is the chosen one.
    fn call(&mut self, name: &'static str) -> io::Result<()> {
        match self.fault(name) {
            None | Some(Fault::Short) => Ok(()),
            Some(Fault::NoSpace) => Err(io::Error::from_raw_os_error(28)),
            Some(Fault::Eio) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Shortage) => Err(io::Error::from_raw_os_error(24)),
        }
    }

    fn fault(&mut self, name: &'static str) -> Option<Fault> {
        let call = self.calls;
        self.calls += 1;
        let fault = self.fail_at.filter(|(at, _)| *at == call).map(|(_, fault)| fault);
        if fault.is_some() {
            self.failed.push(name);
        }
        fault
    }
}

impl Disk {
    pub(super) fn new() -> Arc<Self> {
        let disk = Self::default();
        disk.content().free = 1 << 40;
        Arc::new(disk)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(super) fn set_free(&self, free: u64) {
        self.content().free = free;
    }

    pub(super) fn calls(&self) -> u64 {
        self.content().calls
    }

    pub(super) fn fail_at(&self, call: u64, fault: Fault) {
        self.content().fail_at = Some((call, fault));
    }

    pub(super) fn set_dir_gone(&self, gone: bool) {
        self.content().dir_is_gone = gone;
    }

    /// The next reads fail.
    pub(super) fn fail_reads(&self, reads: u64) {
        self.content().bad_reads = reads;
    }

    /// Makes the page at `offset` of this file unreadable; `None`: all pages are readable.
    pub(super) fn set_bad_page(&self, bad: Option<(&Path, u64)>) {
        let mut content = self.content();
        content.bad_page = bad.map(|(path, offset)| (content.names[path], offset));
    }

    /// Renames a file, or a folder with its files.
    pub(super) fn move_to(&self, from: &Path, to: &Path) {
        let mut content = self.content();
        let names: Vec<PathBuf> =
            content.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for name in names {
            let inode = content.names.remove(&name).unwrap();
            let moved = to.join(name.strip_prefix(from).unwrap());
            let moved = if name == from { to.to_owned() } else { moved };
            content.names.insert(moved, inode);
        }
        content.durable_names = content.names.clone();
    }

    /// The failed calls.
    pub(super) fn failed(&self) -> Vec<&'static str> {
        self.content().failed.clone()
    }

    /// Number of files whose blocks were reserved.
    pub(super) fn reserved(&self) -> u64 {
        self.content().reserved
    }

    /// Bytes of a file, as a process reads them.
    pub(super) fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let content = self.content();
        content.names.get(path).map(|inode| content.inodes[*inode].cached.clone())
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.content().names.keys().cloned().collect()
    }

    /// Creates a file, or replaces its bytes.
    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut content = self.content();
        let inode = Inode { cached: bytes.clone(), durable: bytes, dirty: BTreeSet::new() };
        if let Some(number) = content.names.get(path).copied() {
            content.inodes[number] = inode;
            return;
        }
        let number = content.inodes.len();
        content.inodes.push(inode);
        content.names.insert(path.to_owned(), number);
        content.durable_names.insert(path.to_owned(), number);
    }

    /// Changes one byte.
    pub(super) fn change_byte(&self, path: &Path, at: usize, change: impl Fn(u8) -> u8) {
        let mut content = self.content();
        let inode = content.names[path];
        let inode = &mut content.inodes[inode];
        inode.cached[at] = change(inode.cached[at]);
        inode.durable[at] = inode.cached[at];
    }

    /// Truncates a file.
    pub(super) fn truncate(&self, path: &Path, length: usize) {
        let mut content = self.content();
        let inode = content.names[path];
        content.inodes[inode].cached.truncate(length);
        content.inodes[inode].durable.truncate(length);
    }

    pub(super) fn remove_file(&self, path: &Path) {
        let mut content = self.content();
        content.names.remove(path);
        content.durable_names.remove(path);
    }

    /// A copy of the disk with everything durable.
    pub(super) fn copy(&self) -> Arc<Self> {
        let copy = Self::new();
        let content = self.content();
        for (path, inode) in &content.names {
            copy.put(path, content.inodes[*inode].cached.clone());
        }
        copy
    }

    /// The disk after a loss of power. Each unsynced sector has its old content, its new one, or neither; each unsynced change
    /// of a name happened or not.
    pub(super) fn lose_power(&self, seed: u64) -> Arc<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let content = self.content();
        let mut names = content.durable_names.clone();
        for change in content.changes.iter().filter(|_| rng.bool()) {
            match change {
                Change::Create(path, inode) => drop(names.insert(path.clone(), *inode)),
                Change::Rename(from, to, inode) => {
                    if names.get(from) == Some(inode) {
                        names.remove(from);
                    }
                    names.insert(to.clone(), *inode);
                }
                Change::Remove(path) => drop(names.remove(path)),
            }
        }
        let after = Self::new();
        // Some losses keep everything, or nothing: mixtures alone hardly ever do.
        let (kept, dropped) = [(0.5, 0.9), (1.0, 1.0), (0.0, 1.0), (0.9, 0.95)][rng.usize(..4)];
        for (path, inode) in names {
            let inode = &content.inodes[inode];
            let mut bytes = inode.durable.clone();
            if rng.bool() {
                bytes.resize(inode.cached.len().max(bytes.len()), 0);
            }
            for sector in &inode.dirty {
                let range = (sector * SECTOR).min(bytes.len())..((sector + 1) * SECTOR).min(bytes.len());
                let fate = rng.f64();
                if fate < kept {
                    let written = inode.cached.get(range.clone()).unwrap_or_default();
                    bytes[range.start..range.start + written.len()].copy_from_slice(written);
                } else if fate >= dropped {
                    bytes[range].iter_mut().for_each(|byte| *byte = rng.u8(..));
                }
            }
            after.put(&path, bytes);
        }
        after
    }
}

impl Files for Disk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.content().call("create_dir")
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut content = self.content();
        content.call("list")?;
        let children = content.names.keys().filter_map(|path| path.strip_prefix(dir).ok());
        let names: BTreeSet<String> =
            children.filter_map(|path| Some(path.iter().next()?.to_str()?.to_owned())).collect();
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn File>> {
        let mut content = self.content();
        content.call("open")?;
        let inode = *content.names.get(path).ok_or_else(missing)?;
        Ok(Arc::new(DiskFile { content: Arc::clone(&self.content), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut content = self.content();
        content.call("create")?;
        let inode = content.inodes.len();
        content.inodes.push(Inode::default());
        content.names.insert(path.to_owned(), inode);
        if path.extension().is_some_and(|end| end == "extent") {
            content.extents.insert(inode);
        }
        content.changes.push(Change::Create(path.to_owned(), inode));
        Ok(Arc::new(DiskFile { content: Arc::clone(&self.content), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut content = self.content();
        content.call("rename")?;
        let inode = content.names.remove(from).ok_or_else(missing)?;
        content.names.insert(to.to_owned(), inode);
        content.changes.push(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut content = self.content();
        content.call("remove")?;
        content.names.remove(path).ok_or_else(missing)?;
        content.changes.push(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut content = self.content();
        content.call("sync_dir")?;
        content.durable_names = content.names.clone();
        content.changes.clear();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let mut content = self.content();
        content.call("lock")?;
        if !content.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Locked { content: Arc::clone(&self.content), path: path.to_owned() })))
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let mut content = self.content();
        content.call("free_space")?;
        Ok(content.free)
    }

    /// Never fails: its calls depend on the clock, and follow failures.
    fn identity(&self, path: &Path) -> io::Result<FileId> {
        let content = self.content();
        if let Some(inode) = content.names.get(path) {
            return Ok(FileId { device: 0, inode: *inode as u64 });
        }
        match path == Path::new(super::DIR) && !content.dir_is_gone {
            true => Ok(FileId { device: 1, inode: 0 }),
            false => Err(missing()),
        }
    }
}

impl File for DiskFile {
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut content = self.content.lock().unwrap();
        if content.bad_reads > 0 {
            content.bad_reads -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let range = offset..offset + bytes.len() as u64;
        if content.bad_page.is_some_and(|(inode, at)| inode == self.inode && range.contains(&at)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let short = match content.fault("pread") {
            Some(Fault::Eio) => return Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Shortage) => return Err(io::Error::from_raw_os_error(24)),
            Some(Fault::Short) => bytes.len().div_ceil(2),
            _ => bytes.len(),
        };
        let rest = content.inodes[self.inode].cached.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(short);
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut content = self.content.lock().unwrap();
        let is_extent = content.extents.contains(&self.inode);
        let fault = content.fault(if is_extent { "pwrite of an extent" } else { "pwrite" });
        // A failing write leaves some bytes behind.
        let written = if fault.is_some() { bytes.len().div_ceil(2) } else { bytes.len() };
        let inode = &mut content.inodes[self.inode];
        let (start, end) = (offset as usize, offset as usize + written);
        if inode.cached.len() < end {
            inode.cached.resize(end, 0);
        }
        inode.cached[start..end].copy_from_slice(&bytes[..written]);
        inode.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        match fault {
            Some(Fault::NoSpace) => Err(io::Error::from_raw_os_error(28)),
            Some(Fault::Eio) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Shortage) => Err(io::Error::from_raw_os_error(24)),
            _ => Ok(written),
        }
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        content.call("reserve")?;
        content.reserved += 1;
        let inode = &mut content.inodes[self.inode];
        inode.cached.resize(bytes as usize, 0);
        inode.dirty.extend(0..bytes.div_ceil(SECTOR as u64) as usize);
        Ok(())
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        content.call("fdatasync")?;
        let inode = &mut content.inodes[self.inode];
        inode.durable.clone_from(&inode.cached);
        inode.dirty.clear();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let mut content = self.content.lock().unwrap();
        content.call("length")?;
        Ok(content.inodes[self.inode].cached.len() as u64)
    }

    fn identity(&self) -> io::Result<FileId> {
        Ok(FileId { device: 0, inode: self.inode as u64 })
    }

    fn forget_cached(&self) {}
}
