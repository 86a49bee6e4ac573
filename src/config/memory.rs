//! Shares of `MEMORY_BUDGET`: one number bounds what clients can make the process hold.
//!
//! What is not counted, code, caches, connections, threads and what the allocator keeps, needs the other half of a container.

use std::path::Path;

use super::{Config, ConfigError, Module, Modules, refuse};

/// The smallest `MEMORY_BUDGET`.
pub(super) const LEAST_BUDGET: u64 = 128 * 1024 * 1024;
/// `MEMORY_BUDGET` where there is no limit to take half of.
pub(super) const DEFAULT_BUDGET: u64 = 1024 * 1024 * 1024;
/// The most that `MAX_QUEUE_BYTES` is unless it is set.
const MOST_QUEUE_BYTES: u64 = 256 * 1024 * 1024;
/// The budget's parts: each share is some of them.
const PARTS: u64 = 32;
const QUEUE_PARTS: u64 = 8;
const SUBSCRIBERS_PARTS: u64 = 4;
/// What a download holds.
const DOWNLOAD_BYTES: u64 = 128 * 1024;
/// Parts of imports in memory at once.
const IMPORT_PARTS: u64 = 8;

/// Bytes that each use may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShares {
    /// Events held: `MAX_QUEUE_BYTES`.
    pub queue: u64,
    /// Events that wait for room in the queue.
    pub waiting: u64,
    /// Bodies of requests.
    pub bodies: u64,
    /// Dead letters that are not stored yet.
    pub dead_letters: u64,
    /// Records that wait for their batch.
    pub records: u64,
    /// Reads and writes of conversations that wait for their batch.
    pub conversations: u64,
    /// Events for subscribers: `SUBSCRIBERS_BYTES`.
    pub subscribers: u64,
    /// Downloads of files.
    pub downloads: u64,
    /// Parts of files that are imported.
    pub imports: u64,
    /// Streams: those in memory, or what is cached of others, and answers that clients have not read yet.
    pub streams: u64,
    /// Large payloads of the stress API.
    pub large_payloads: u64,
    /// One large payload.
    pub large_payload: u64,
}

impl MemoryShares {
    /// Fractions of the budget. Where a queue or subscribers have a size of their own, the others share what that leaves. Those of modules
    /// that are off are 0.
    fn of(budget: u64, modules: Modules, queue: Option<u64>, subscribers: Option<u64>) -> Self {
        let left = budget.saturating_sub(own(queue, subscribers));
        let base = budget.min(left / parts(modules, queue, subscribers) * PARTS);
        let of = |module, bytes| if modules.has(module) { bytes } else { 0 };
        Self {
            queue: queue.unwrap_or((base / 4).min(MOST_QUEUE_BYTES)),
            waiting: base / 16,
            bodies: base / 8,
            dead_letters: base / 16,
            records: of(Module::Records, base / 16),
            conversations: of(Module::Conversations, base / 16),
            subscribers: if modules.has_feed() { subscribers.unwrap_or(base / 8) } else { 0 },
            downloads: if has_downloads(modules) { base / 32 } else { 0 },
            imports: of(Module::Imports, base / 32),
            streams: of(Module::Streams, base / 16),
            large_payloads: of(Module::Stress, base / 8),
            large_payload: of(Module::Stress, base / 16),
        }
    }

    /// Downloads at once.
    pub fn max_downloads(&self) -> usize {
        (self.downloads / DOWNLOAD_BYTES) as usize
    }

    /// Bytes of a file that one transaction imports.
    pub fn import_part(&self) -> u64 {
        self.imports / IMPORT_PARTS
    }
}

/// Whether a module has files to download: those of users, or of records.
fn has_downloads(modules: Modules) -> bool {
    modules.has(Module::Files) || modules.has(Module::PocketBase)
}

/// Bytes of shares that have a size of their own.
fn own(queue: Option<u64>, subscribers: Option<u64>) -> u64 {
    queue.unwrap_or(0).saturating_add(subscribers.unwrap_or(0))
}

/// Parts of the other shares.
fn parts(modules: Modules, queue: Option<u64>, subscribers: Option<u64>) -> u64 {
    let all: u64 = modules.infos().map(|info| info.memory_parts).sum();
    // Those of files of records, where the module files is off.
    let all = if has_downloads(modules) && !modules.has(Module::Files) { all + 1 } else { all };
    let all = if modules.has_feed() { all + SUBSCRIBERS_PARTS } else { all };
    all - queue.map_or(0, |_| QUEUE_PARTS) - subscribers.map_or(0, |_| SUBSCRIBERS_PARTS)
}

impl Config {
    /// `MEMORY_BUDGET`.
    pub fn memory_budget(&self) -> u64 {
        self.server.memory_budget.unwrap_or(DEFAULT_BUDGET)
    }

    /// The shares of `MEMORY_BUDGET`.
    pub fn memory(&self) -> MemoryShares {
        let (queue, subscribers) = (self.ingest.max_queue_bytes, self.own_subscribers_bytes());
        MemoryShares::of(self.memory_budget(), self.modules(), queue, subscribers)
    }

    fn own_subscribers_bytes(&self) -> Option<u64> {
        let bytes = self.subscribers.subscribers_bytes.filter(|_| self.modules().has_feed());
        bytes.map(|bytes| bytes as u64)
    }

    /// Refuses a budget that is smaller than its parts.
    pub(super) fn check_memory(&self) -> Result<(), ConfigError> {
        let budget = self.memory_budget();
        if budget < LEAST_BUDGET {
            let takes = format!("at least {LEAST_BUDGET}; unset it is half the cgroup's limit");
            return Err(refuse("MEMORY_BUDGET", budget, takes));
        }
        let (queue, subscribers) = (self.ingest.max_queue_bytes, self.own_subscribers_bytes());
        let others = LEAST_BUDGET / PARTS * parts(self.modules(), queue, subscribers);
        let least = own(queue, subscribers).saturating_add(others);
        if least > budget {
            let takes = format!(
                "at least {least}: MAX_QUEUE_BYTES and SUBSCRIBERS_BYTES as they are set, and {others} more"
            );
            return Err(refuse("MEMORY_BUDGET", budget, takes));
        }
        Ok(())
    }
}

/// The limit of memory of the process's cgroup, of either version; `None`: there is none.
pub(super) fn cgroup_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&groups, &|path| std::fs::read_to_string(path).ok())
}

/// The least limit of the groups in `/proc/self/cgroup` and of those that hold them. Inside a container the path may be the host's, which
/// is not there: the root of the mount then is the container's own group.
fn limit_of(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut limits: Vec<u64> = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let root = Path::new(root);
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = read(&root.join(folder).join(file)).and_then(|text| text.trim().parse::<u64>().ok());
            limits.extend(limit);
        }
    }
    // Version 1 writes "no limit" as a number of the size of an address space.
    limits.into_iter().min().filter(|limit| *limit < 1 << 62)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load;

    #[test]
    fn the_parts_of_the_budget_are_all_of_it_and_a_smaller_one_is_refused() {
        let sum = |shares: &MemoryShares| {
            let queues =
                shares.queue + shares.waiting + shares.dead_letters + shares.records + shares.conversations;
            let others = shares.downloads + shares.imports + shares.streams + shares.large_payloads;
            queues + shares.bodies + shares.subscribers + others
        };
        for budget in [DEFAULT_BUDGET, LEAST_BUDGET] {
            let shares = load(&[("MEMORY_BUDGET", &budget.to_string())]).unwrap().memory();
            assert_eq!(sum(&shares), budget, "{shares:?}");
        }
        let large = load(&[("MEMORY_BUDGET", "68719476736")]).unwrap().memory();
        assert_eq!((large.queue, large.bodies), (MOST_QUEUE_BYTES, 8 << 30));
        let shares = load(&[]).unwrap().memory();
        assert_eq!((shares.queue, shares.bodies, shares.dead_letters), (256 << 20, 128 << 20, 64 << 20));
        assert_eq!(
            (shares.max_downloads(), shares.import_part(), shares.large_payload),
            (256, 4 << 20, 64 << 20)
        );
        // One of its own leaves less to the others, and never more.
        let half = load(&[("MAX_QUEUE_BYTES", "536870912")]).unwrap().memory();
        assert!(half.bodies < shares.bodies && sum(&half) <= DEFAULT_BUDGET, "{half:?}");
        // Modules that are off have none, and the others no more than their fractions.
        let events = load(&[("MODULES", "events"), ("SUBSCRIBERS_BYTES", "1048576")]).unwrap().memory();
        assert_eq!(sum(&events), DEFAULT_BUDGET / 2, "{events:?}");
        assert_eq!((events.queue, events.bodies, events.subscribers), (shares.queue, shares.bodies, 0));
        let queue = [("MODULES", "events"), ("MAX_QUEUE_BYTES", "1006632960")];
        assert_eq!(load(&queue).unwrap().memory().bodies, 32 << 20);
        let little = load(&[
            ("MAX_QUEUE_BYTES", "1048576"),
            ("MAX_EVENT_BYTES", "1000"),
            ("SUBSCRIBERS_BYTES", "1048576"),
        ]);
        let little = little.unwrap().memory();
        assert_eq!((little.queue, little.subscribers, little.bodies), (1 << 20, 1 << 20, 128 << 20));
        let most = load(&[("MAX_QUEUE_BYTES", "1048576000")]).unwrap_err().to_string();
        assert!(
            most.starts_with("MEMORY_BUDGET: got \"1073741824\", takes at least 1149239296: MAX_QUEUE"),
            "{most}"
        );
        assert!(load(&[("MAX_QUEUE_BYTES", "1048576000"), ("MEMORY_BUDGET", "2147483648")]).is_ok());
        let small = load(&[("MEMORY_BUDGET", "100000000")]).unwrap_err().to_string();
        assert!(
            small.starts_with("MEMORY_BUDGET: got \"100000000\", takes a whole number from 134217728"),
            "{small}"
        );
    }

    #[test]
    fn the_limit_is_the_least_of_the_cgroup_and_those_that_hold_it() {
        let files = |files: &'static [(&str, &str)]| {
            move |path: &Path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            }
        };
        let second = "0::/system.slice/tidegate.service\n";
        let unit = files(&[
            ("/sys/fs/cgroup/system.slice/tidegate.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "536870912\n"),
        ]);
        assert_eq!(limit_of(second, &unit), Some(536_870_912));
        let container = files(&[("/sys/fs/cgroup/memory.max", "268435456\n")]);
        assert_eq!(limit_of("0::/\n", &container), Some(268_435_456));
        let first = "5:cpu,cpuacct:/a\n4:memory:/docker/abc\n";
        let limited = files(&[("/sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n")]);
        assert_eq!(limit_of(first, &limited), Some(268_435_456));
        let free =
            files(&[("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(limit_of(first, &free), None);
        assert_eq!(limit_of("0::/\n", &files(&[("/sys/fs/cgroup/memory.max", "max\n")])), None);
        assert_eq!(limit_of("nonsense", &free), None);
    }
}
