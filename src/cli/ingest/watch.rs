//! The files at the watched paths, and what has changed there.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use nix::errno::Errno;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::source::{Source, file_id};
use super::state::{FileId, State};
use super::{Failure, Format, IngestArgs};

/// The longest wait for news: some file systems send none, and there may be too many watches.
const POLL: Duration = Duration::from_millis(500);
/// Levels of folders.
const MAX_DEPTH: usize = 16;
/// Files that are open at once. With `--follow` those that have not grown for the longest time are closed for others.
const MAX_SOURCES: usize = 500;
/// Files that the process can open beside them, where it may open few.
const SPARE_FILES: usize = 16;

/// A time of the last change of an inode: seconds of Unix time, and nanoseconds.
type Changed = (i64, i64);

/// Paths, and the files there.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    matching: String,
    /// Files of our own.
    ours: Vec<PathBuf>,
    format: Format,
    follow: bool,
    sources: Vec<Source>,
    /// Files that were read to their ends, without `--follow`.
    done: HashSet<FileId>,
    /// Files that were closed for others, their sizes then, and when that was.
    parked: HashMap<FileId, (u64, Instant)>,
    /// Files and folders that could not be read, and the time of their last change: they are tried again after the next one.
    unreadable: HashSet<(FileId, Changed)>,
    /// Paths without a file that were reported.
    missing: HashSet<PathBuf>,
    news: Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
    has_looked: bool,
    /// Files that may be open at once.
    most_sources: usize,
}

impl Watch {
    /// Watches the paths of the command line. The command's own files are never sent.
    pub(super) fn new(args: &IngestArgs) -> Self {
        let IngestArgs { paths, follow, .. } = args;
        let follow = *follow;
        let (tell, news) = sync_channel(1);
        let watcher = follow.then(|| {
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Our own reads are no news. One piece of news is enough.
                if !event.is_ok_and(|event| event.kind.is_access()) {
                    let _is_told = tell.try_send(());
                }
            })
        });
        let mut watcher = watcher.and_then(Result::ok);
        for path in paths {
            let (folder, mode) = match path.is_dir() {
                true => (path.as_path(), RecursiveMode::Recursive),
                false => (folder_of(path), RecursiveMode::NonRecursive),
            };
            // Without it the next poll notices.
            let _is_watched = watcher.as_mut().map(|watcher| watcher.watch(folder, mode));
        }
        let ours = [&args.state, &args.rejects].into_iter().flat_map(|path| {
            ["", ".lock", ".next"].map(|extension| {
                let mut name = path.as_os_str().to_owned();
                name.push(extension);
                PathBuf::from(name)
            })
        });
        Self {
            paths: paths.clone(),
            matching: args.matching.clone(),
            ours: ours.filter_map(|path| std::path::absolute(path).ok()).collect(),
            format: args.format,
            follow,
            sources: Vec::new(),
            done: HashSet::new(),
            parked: HashMap::new(),
            unreadable: HashSet::new(),
            missing: HashSet::new(),
            news,
            _watcher: watcher,
            has_looked: false,
            most_sources: MAX_SOURCES,
        }
    }

    /// The files that are sent.
    pub(super) fn sources(&mut self) -> impl Iterator<Item = &mut Source> {
        self.sources.iter_mut()
    }

    /// Waits for news.
    pub(super) fn wait(&self) {
        let _timed_out = self.news.recv_timeout(POLL);
    }

    /// The number of files and folders that could not be read.
    pub(super) fn troubles(&self) -> usize {
        self.unreadable.len()
    }

    /// Finds new files, and those that were renamed or removed. Returns whether there are new ones.
    pub(super) fn scan(&mut self, state: &State, progress: &ProgressBar) -> Result<bool, Failure> {
        for source in self.sources.iter().filter(|source| source.is_done()) {
            self.done.insert(source.id().clone());
            if source.is_given_up() {
                self.unreadable.extend(source.metadata().ok().map(|metadata| version(&metadata)));
            }
        }
        self.sources.retain(|source| !source.is_done());
        let mut found = Found::default();
        for path in &self.paths {
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => found.collect(path, &self.matching, 0),
                Ok(metadata) if metadata.is_file() => found.files.push(path.clone()),
                Ok(_) => {
                    let path = path.display();
                    return Err(Failure::Run(format!(
                        "{path}: neither a file nor a folder; - is standard input"
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && (self.follow || self.has_looked) => {
                    if self.follow && self.missing.insert(path.clone()) {
                        progress.suspend(|| eprintln!("tidegate: waiting for {}", path.display()));
                    }
                }
                Err(error) => return Err(Failure::Run(format!("{}: {error}", path.display()))),
            }
        }
        for (path, error) in std::mem::take(&mut found.unreadable) {
            let version = path.metadata().ok().map(|metadata| version(&metadata));
            self.report_unreadable(&path, version, &error, progress);
        }
        if !std::mem::replace(&mut self.has_looked, true) {
            let renamed = renamed(&self.paths, state, &found.files);
            found.files.extend(renamed);
        }
        for source in &mut self.sources {
            source.lose_path();
        }
        found.files.sort();
        let mut seen = HashSet::new();
        let mut waiting = Vec::new();
        for path in found.files {
            let is_ours = std::path::absolute(&path).is_ok_and(|path| self.ours.contains(&path));
            // One that has gone meanwhile is found at its next place.
            let Ok(metadata) = path.metadata() else { continue };
            if is_ours || !metadata.is_file() {
                continue;
            }
            let id = file_id(&metadata);
            let parked = self.parked.get(&id).copied();
            if let Some(source) = self.sources.iter_mut().find(|source| *source.id() == id) {
                source.found_at(&path);
            } else if parked.is_none_or(|(length, _)| length != metadata.len())
                && !self.unreadable.contains(&version(&metadata))
                && (self.follow || !self.done.contains(&id))
                && !seen.contains(&id)
            {
                waiting.push((parked.map(|(_, since)| since), path, metadata));
            }
            seen.insert(id);
        }
        self.parked.retain(|id, _| seen.contains(id));
        // New files first, then those that were closed for the longest time.
        waiting.sort_by_key(|(since, _, _)| *since);
        let mut has_new = false;
        for (_, path, metadata) in waiting {
            if !self.has_room() {
                break;
            }
            match Source::open(&path, state, self.format) {
                Ok(source) => {
                    self.parked.remove(source.id());
                    self.sources.push(source);
                    has_new = true;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // The process may open fewer: others make room, and the next look tries again.
                Err(error)
                    if error.raw_os_error() == Some(Errno::EMFILE as i32) && self.sources.len() > 1 =>
                {
                    self.open_fewer(&seen);
                    has_new = true;
                    break;
                }
                Err(error) => self.report_unreadable(&path, Some(version(&metadata)), &error, progress),
            }
        }
        Ok(has_new)
    }

    /// Whether one more file can be opened; closes one that has not grown for the longest time if need be.
    fn has_room(&mut self) -> bool {
        if self.sources.len() < self.most_sources {
            return true;
        }
        // One is enough: there are never more than the most.
        let idle = self.sources.iter().enumerate();
        let idle = idle.filter_map(|(index, source)| Some((source.idle_since()?, index)));
        let Some((_, index)) = idle.min() else { return false };
        let source = self.sources.swap_remove(index);
        self.parked.insert(source.id().clone(), (source.idle_length(), Instant::now()));
        true
    }

    /// Closes the files that were opened last, as connections and the state need some too. The next look finds them again.
    fn open_fewer(&mut self, seen: &HashSet<FileId>) {
        self.most_sources = self.sources.len().saturating_sub(SPARE_FILES).max(1);
        while self.sources.len() > self.most_sources
            && let Some(last) = self.sources.iter().rposition(|source| seen.contains(source.id()))
        {
            self.sources.remove(last);
        }
    }

    fn report_unreadable(
        &mut self,
        path: &Path,
        version: Option<(FileId, Changed)>,
        error: &io::Error,
        progress: &ProgressBar,
    ) {
        if version.is_none_or(|version| self.unreadable.insert(version)) {
            progress.suspend(|| eprintln!("tidegate: {}: {error}", path.display()));
        }
    }
}

fn version(metadata: &Metadata) -> (FileId, Changed) {
    (file_id(metadata), (metadata.ctime(), metadata.ctime_nsec()))
}

/// Finds files that were renamed while the command did not run: they are in the folders where they were. Where a file of the command line was renamed,
/// later ones may have been too, of which nothing is known yet. Those in `found` are not listed again.
fn renamed(paths: &[PathBuf], state: &State, found: &[PathBuf]) -> Vec<PathBuf> {
    let watched: Vec<PathBuf> = paths.iter().filter_map(|path| std::path::absolute(path).ok()).collect();
    let mut folders: HashMap<&Path, HashMap<FileId, PathBuf>> = HashMap::new();
    let mut renamed = HashSet::new();
    for entry in state.entries().filter(|entry| watched.iter().any(|path| entry.path.starts_with(path))) {
        if entry.path.metadata().is_ok_and(|metadata| file_id(&metadata) == entry.id) {
            continue;
        }
        let folder = folder_of(&entry.path);
        let files = folders.entry(folder).or_insert_with(|| {
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
            files.filter_map(|file| Some((file_id(&file.metadata().ok()?), file.path()))).collect()
        });
        let Some(path) = files.get(&entry.id) else { continue };
        renamed.insert(path.clone());
        if watched.contains(&entry.path) {
            let later = files.iter().filter(|(id, path)| {
                state.entry(id).is_none() && id.is_born_since(entry.seen) && is_rotated(path, &entry.path)
            });
            renamed.extend(later.map(|(_, path)| path.clone()));
        }
    }
    renamed.into_iter().filter(|path| !found.contains(path)).collect()
}

/// Whether a file has the name of another with a number or a date behind it, as rotations make them, and is not compressed.
fn is_rotated(path: &Path, original: &Path) -> bool {
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name_of_path = name(path);
    let suffix = name_of_path.strip_prefix(&name(original)).filter(|suffix| !suffix.is_empty());
    suffix.is_some_and(|suffix| suffix.chars().all(|each| each.is_ascii_digit() || "-._T".contains(each)))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is at the watched paths.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    unreadable: Vec<(PathBuf, io::Error)>,
}

impl Found {
    /// Adds the files of a folder and of the folders in it whose names match. Hidden ones are left out, and links to folders, which may
    /// form a ring.
    fn collect(&mut self, folder: &Path, matching: &str, depth: usize) {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.unreadable.push((folder.to_owned(), error)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(kind) = entry.file_type() else { continue };
            if name.starts_with('.') {
                continue;
            }
            if kind.is_dir() && depth < MAX_DEPTH {
                self.collect(&entry.path(), matching, depth + 1);
            } else if !kind.is_dir() && matches(&name, matching) {
                self.files.push(entry.path());
            }
        }
    }
}

/// Whether a name matches a pattern, in which `*` stands for any characters.
fn matches(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    let mut rest = rest;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{is_rotated, matches};

    #[test]
    fn rotations_append_numbers_and_dates() {
        for (name, expected) in [
            ("/l/a.log.1", true),
            ("/l/a.log-20261130", true),
            ("/l/a.log.2026-11-30T12", true),
            ("/l/a.log", false),
            ("/l/a.log.1.gz", false),
            ("/l/a.log.lock", false),
            ("/l/b.log.1", false),
        ] {
            assert_eq!(is_rotated(Path::new(name), Path::new("/l/a.log")), expected, "{name}");
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (name, pattern) in [
            ("a.log", "*"),
            ("a.log", "*.log"),
            ("a.log.1", "a*.log*"),
            ("aXbXc", "a*b*c"),
            ("a", "a"),
            ("", "*"),
        ] {
            assert!(matches(name, pattern), "{name} {pattern}");
        }
        for (name, pattern) in
            [("a.log", "*.gz"), ("b.log", "a*"), ("ab", "a"), ("a", "a*a"), ("ac", "a*b*c")]
        {
            assert!(!matches(name, pattern), "{name} {pattern}");
        }
    }
}
