//! Drafts: contents while they are uploaded; written, hashed, synced, and removed unless they are kept.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use nix::unistd::{UnlinkatFlags, unlinkat};
use sha2::{Digest, Sha256};

use super::ContentHash;
use super::media::LOOKED_AT_BYTES;

/// The bytes after which a draft is synced: a large file that was only synced at its end would delay the journal's syncs on the
/// same disk.
const SYNC_BYTES: u64 = 16 << 20;

/// A content under upload. Dropped, it is removed. It is locked while it is open, so that it does not count as abandoned.
#[derive(Debug)]
pub(super) struct Draft {
    folder: Arc<File>,
    name: String,
    file: File,
    is_there: bool,
    hasher: Sha256,
    size: u64,
    unsynced: u64,
    head: Vec<u8>,
}

impl Draft {
    /// An empty file of this name in a folder, locked.
    pub(super) fn new(folder: Arc<File>, name: String, file: File) -> Self {
        let hasher = Sha256::new();
        Self { folder, name, file, is_there: true, hasher, size: 0, unsynced: 0, head: Vec::new() }
    }

    /// Appends bytes; returns whether enough came for another check of the disk's space.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        let missing = LOOKED_AT_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.size += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced < SYNC_BYTES {
            return Ok(false);
        }
        self.unsynced = 0;
        self.file.sync_data()?;
        Ok(true)
    }

    /// Syncs the content, but not its name. Returns the hash.
    pub(super) fn complete(&mut self) -> io::Result<ContentHash> {
        self.file.sync_all()?;
        Ok(ContentHash::finish(self.hasher.clone()))
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Its first bytes.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(super) fn folder(&self) -> &File {
        &self.folder
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It has its final name, and stays.
    pub(super) fn moved(&mut self) {
        self.is_there = false;
    }

    /// Removes it.
    pub(super) fn discard(&mut self) {
        if std::mem::take(&mut self.is_there)
            && let Err(error) = unlinkat(&*self.folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir)
        {
            tracing::warn!(draft = self.name, error = error.to_string(), "a draft stays for the sweeper");
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.discard();
    }
}
