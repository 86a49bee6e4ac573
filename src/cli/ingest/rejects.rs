//! The file of rejected lines: NDJSON, with the file, the offset, the reason and the line of each.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::lines::Reject;

/// The file, which is made with the first line.
#[derive(Debug)]
pub(super) struct Rejects {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Rejects {
    /// The file as it was at the last checkpoint, when it had `bytes`: lines that were written after it are rejected again. Without a
    /// checkpoint it stays as it is.
    pub(super) fn open(path: &Path, bytes: Option<u64>) -> io::Result<Self> {
        let mut rejects = Self { path: path.to_owned(), file: None, bytes: 0 };
        if path.exists() {
            let file = OpenOptions::new().append(true).open(path)?;
            let length = file.metadata()?.len();
            let bytes = bytes.unwrap_or(length);
            if length > bytes {
                file.set_len(bytes)?;
            }
            rejects.bytes = length.min(bytes);
            rejects.file = Some(file);
        }
        Ok(rejects)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends lines of a file, and syncs them. After an error it may be called again.
    pub(super) fn write(&mut self, source: &Path, rejects: &[Reject]) -> io::Result<()> {
        if rejects.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for reject in rejects {
            let mut line = json!({
                "file": source.display().to_string(), "offset": reject.offset, "code": reject.code,
                "message": reject.message,
            });
            match std::str::from_utf8(&reject.event) {
                Ok(text) => line["line"] = text.into(),
                Err(_) => line["line_base64"] = STANDARD.encode(&reject.event).into(),
            }
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).create(true).open(&self.path)?),
        };
        if file.metadata()?.len() > self.bytes {
            // A part of a line, from before an error.
            file.set_len(self.bytes)?;
        }
        file.write_all(&lines)?;
        file.sync_data()?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}
