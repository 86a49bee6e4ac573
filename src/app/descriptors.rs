//! File descriptors: the limit of the system, and the reserve that clients cannot use.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Config, Module, PoolUse, limits};
use crate::http::OPERATOR_CONNECTIONS;

/// The listener, the log, signals, the standard library, and the database side's runtime.
const PROCESS: u64 = 48;
/// The poll, event and timer descriptors of a request thread's runtime.
const THREAD: u64 = 4;
/// The journal's segment, spare, lock, folders and notes, and one read for each lane.
const JOURNAL: u64 = 16;
/// Connections to Postgres beside the pool, and to a token issuer.
const OUTBOUND: u64 = 8;
/// Client connections even if the limit is below the reserve.
const LEAST_CONNECTIONS: u64 = 16;

/// Raises the soft limit to the hard one; returns the resulting limit.
pub(super) fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}

/// The maximum of client connections: `MAX_CONNECTIONS`, but no more than `limit` permits beside the reserve for the journal,
/// Postgres, files and operators.
pub(super) fn max_connections(config: &Config, limit: u64) -> usize {
    let reserved = reserved(config);
    let room = limit.saturating_sub(reserved).max(LEAST_CONNECTIONS);
    let wanted = config.server.max_connections;
    let bounded = wanted.min(usize::try_from(room).unwrap_or(usize::MAX));
    if bounded < wanted {
        tracing::warn!(
            max_connections = bounded,
            MAX_CONNECTIONS = wanted,
            descriptors = limit,
            reserved,
            "fewer connections than MAX_CONNECTIONS: raise ulimit -n, or lower MAX_CONNECTIONS"
        );
    }
    bounded
}

fn reserved(config: &Config) -> u64 {
    let threads = config.server.http_threads() as u64 * THREAD;
    let modules = config.modules();
    let uploads = if modules.has(Module::Files) { limits::MAX_UPLOADS } else { 0 };
    // Those of records keep each of their files open until the records are stored.
    let of_records = limits::MAX_RECORD_UPLOADS * limits::MAX_FILES_PER_RECORDS;
    let uploads = if modules.has(Module::PocketBase) { uploads + of_records } else { uploads };
    let imports =
        if modules.has(Module::Imports) { config.quotas().of(PoolUse::IMPORTS).connections } else { 0 };
    let files = (uploads + config.memory().max_downloads() + imports) as u64;
    let lanes = config.writers() as u64;
    let pool = config.database.db_pool_size as u64 + OUTBOUND;
    PROCESS + threads + JOURNAL + lanes + pool + files + OPERATOR_CONNECTIONS as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    #[test]
    fn connections_leave_descriptors_for_the_journal_postgres_and_operators() {
        let config = Config::from_variables(&Variables::default()).unwrap();
        assert_eq!(max_connections(&config, 1 << 20), config.server.max_connections);
        let few = max_connections(&config, 1024) as u64;
        assert!(few + reserved(&config) == 1024 && few > 500, "{few}");
        assert_eq!(max_connections(&config, 20) as u64, LEAST_CONNECTIONS);
    }
}
