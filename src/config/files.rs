//! Files, and what is imported from them.

use serde::Deserialize;

use super::{Kind, Setting};

/// Files.
#[derive(Debug, Clone, Deserialize)]
pub struct FilesConfig {
    /// Connections.
    pub files_connections: usize,
    /// Milliseconds that a request waits for one.
    pub files_wait_ms: u64,
    /// Milliseconds that a statement may take.
    pub files_timeout_ms: u64,
    /// Bytes of one file.
    pub max_file_bytes: u64,
    /// Files of one upload.
    pub max_files_per_upload: usize,
    /// Bytes that an owner's files may take together; 0: as many as there is room for.
    pub file_quota_bytes: u64,
    /// Uploads under way at once.
    pub max_uploads: usize,
    /// Downloads under way at once.
    pub max_downloads: usize,
    /// Bytes a second that a client sends or reads at least.
    pub file_min_rate: u64,
    /// Seconds between two sweeps of contents that no file has; 0: there is none.
    pub files_sweep_s: u64,
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "FILES_CONNECTIONS",
        default: "2",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for files.",
    },
    Setting {
        name: "FILES_WAIT_MS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "Time that a request waits for a connection of that share; then 503.",
    },
    Setting {
        name: "FILES_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 10, max: 600_000, unit: "milliseconds" },
        help: "Time of one statement on files (statement_timeout); then 504.",
    },
    Setting {
        name: "MAX_FILE_BYTES",
        default: "2147483648",
        kind: Kind::Int { min: 1, max: 1_099_511_627_776, unit: "bytes" },
        help: "Size of one file; a larger one is answered 413.",
    },
    Setting {
        name: "MAX_FILES_PER_UPLOAD",
        default: "20",
        kind: Kind::Int { min: 1, max: 1_000, unit: "files" },
        help: "Files of one upload; more are answered 413.",
    },
    Setting {
        name: "FILE_QUOTA_BYTES",
        default: "10737418240",
        kind: Kind::Int { min: 0, max: 1_099_511_627_776, unit: "bytes; 0: no quota" },
        help: "What a user's files may take together, each at least 4 KiB; beyond it 413.",
    },
    Setting {
        name: "MAX_UPLOADS",
        default: "8",
        kind: Kind::Int { min: 1, max: 1_000, unit: "uploads" },
        help: "Uploads under way at once; beyond it 503.",
    },
    Setting {
        name: "MAX_DOWNLOADS",
        default: "256",
        kind: Kind::Int { min: 1, max: 100_000, unit: "downloads" },
        help: "Downloads under way at once, each with 128 KiB; beyond it 503.",
    },
    Setting {
        name: "FILE_MIN_RATE",
        default: "65536",
        kind: Kind::Int { min: 1, max: 1_073_741_824, unit: "bytes a second" },
        help: "What a client sends or reads of a file at least, beside BODY_TIMEOUT_S; a slower one is cut off.",
    },
    Setting {
        name: "FILES_SWEEP_S",
        default: "600",
        kind: Kind::Int { min: 0, max: 86_400, unit: "seconds; 0: never" },
        help: "Time between two looks for contents in DATA_DIR/files that no file has any more, which are removed.",
    },
];

/// What is imported from files.
#[derive(Debug, Clone, Deserialize)]
pub struct ImportsConfig {
    /// Connections, each with a `COPY` at a time.
    pub import_writers: usize,
    /// Imports at once.
    pub imports_at_once: usize,
    /// Imports that wait.
    pub max_imports: usize,
    /// Bytes of a file that one transaction stores.
    pub import_part_bytes: u64,
    /// Bytes of a line.
    pub max_import_line_bytes: usize,
    /// Lines left out of which it is kept why.
    pub import_max_rejected: u64,
    /// Clients that follow imports.
    pub max_import_followers: usize,
    /// Seconds that a statement may take.
    pub import_timeout_s: u64,
}

pub(super) const IMPORT_SETTINGS: &[Setting] = &[
    Setting {
        name: "IMPORT_WRITERS",
        default: "2",
        kind: Kind::Int { min: 1, max: 64, unit: "connections" },
        help: "Share of the pool in which lines of files are stored, each connection a COPY at a time.",
    },
    Setting {
        name: "IMPORTS_AT_ONCE",
        default: "2",
        kind: Kind::Int { min: 1, max: 64, unit: "files" },
        help: "Files whose lines are stored at once; the others wait.",
    },
    Setting {
        name: "MAX_IMPORTS",
        default: "100",
        kind: Kind::Int { min: 1, max: 100_000, unit: "files" },
        help: "Files that wait for their lines to be stored; beyond it 503.",
    },
    Setting {
        name: "IMPORT_PART_BYTES",
        default: "4194304",
        kind: Kind::Int { min: 4_096, max: 67_108_864, unit: "bytes" },
        help: "What one transaction stores of a file, at most 32768 lines; a few parts are held in memory.",
    },
    Setting {
        name: "MAX_IMPORT_LINE_BYTES",
        default: "1114112",
        kind: Kind::Int { min: 1_024, max: 67_108_864, unit: "bytes" },
        help: "Size of a line; a longer one is left out.",
    },
    Setting {
        name: "IMPORT_MAX_REJECTED",
        default: "100000",
        kind: Kind::Int { min: 0, max: 10_000_000, unit: "lines" },
        help: "Lines of a file that were left out and of which the reasons are kept; all are counted.",
    },
    Setting {
        name: "MAX_IMPORT_FOLLOWERS",
        default: "200",
        kind: Kind::Int { min: 1, max: 10_000, unit: "streams" },
        help: "Clients that follow imports by server-sent events; beyond it 503.",
    },
    Setting {
        name: "IMPORT_TIMEOUT_S",
        default: "60",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time of one statement that stores a part of a file (statement_timeout); then it is tried again.",
    },
];
