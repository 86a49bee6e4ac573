//! Quotas of the one pool, so that no use of it can starve another.
//!
//! The writers and [`WRITERS_COMPANY`] beside them are kept for events. Of the rest each use has one connection of its own; what is
//! left then is lent on demand, up to that use's quota. A pool too small for that has two groups instead, which share what is
//! left: those that may hold a connection for long, and all others.

use super::{Config, ConfigError, Modules, Variables, refuse};

/// Connections of the event path beside its lanes: the dead letters' writer, and one for the checkpoint and the partitions,
/// which are short and wait for each other.
const WRITERS_COMPANY: usize = 2;

/// The smallest pool: one writer with its company, and one connection for uses that are brief. A module with a use that may hold a
/// connection for long needs one more.
pub(super) const LEAST_POOL_SIZE: u64 = 4;

/// Writers where `WRITERS` is unset and the pool has a connection for each use.
const WRITERS: usize = 2;

/// A use of the pool beside the events'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// The most connections that it may hold, in twentieths of the pool.
    twentieths: usize,
    /// Whether it may hold one for long.
    is_long: bool,
}

impl PoolUse {
    /// Requests of operators: dead letters, reconcile.
    pub const OPERATIONS: Self = Self::brief(2);
    /// Users, sessions and keys.
    pub const ACCOUNTS: Self = Self::brief(2);
    /// Commits of created records.
    pub const RECORD_COMMITS: Self = Self::brief(3);
    /// All else that records need.
    pub const RECORDS: Self = Self::brief(6);
    /// Commits of conversations, messages and pieces.
    pub const CONVERSATION_COMMITS: Self = Self::brief(2);
    /// All else that conversations need.
    pub const CONVERSATIONS: Self = Self::brief(4);
    /// Commits of appends to streams.
    pub const STREAM_COMMITS: Self = Self::brief(3);
    /// All else that streams need.
    pub const STREAMS: Self = Self::brief(4);
    /// Files.
    pub const FILES: Self = Self::brief(2);
    /// Lines of files on their way into tables.
    pub const IMPORTS: Self = Self::long(2);
    /// Large payloads.
    pub const LARGE: Self = Self::long(3);
    /// Errors on demand, which hold theirs on purpose.
    pub const ERRORS: Self = Self::long(1);

    const fn brief(twentieths: usize) -> Self {
        Self { twentieths, is_long: false }
    }

    const fn long(twentieths: usize) -> Self {
        Self { twentieths, is_long: true }
    }
}

/// The connections that one use may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// At most.
    pub connections: usize,
    /// Whether it may hold one for long.
    pub is_long: bool,
}

/// How the pool is shared out among the uses of the modules that are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolQuotas {
    /// Connections of the pool.
    pool: usize,
    /// Uses beside the events'.
    uses: usize,
    /// Whether one of them may hold a connection for long.
    has_long: bool,
    /// Connections for all of them together.
    others: usize,
}

impl PoolQuotas {
    fn new(pool: usize, writers: usize, modules: Modules) -> Self {
        Self {
            pool,
            uses: uses(modules).count(),
            has_long: uses(modules).any(|wanted| wanted.is_long),
            others: pool.saturating_sub(writers + WRITERS_COMPANY),
        }
    }

    /// The most connections that a use may hold at once.
    pub fn of(&self, wanted: PoolUse) -> Quota {
        Quota { connections: (self.pool * wanted.twentieths / 20).max(1), is_long: wanted.is_long }
    }

    /// Whether each use has a connection of its own.
    pub fn has_own(&self) -> bool {
        self.others >= self.uses
    }

    /// Connections that are lent, beyond one for each use.
    pub fn spare(&self) -> usize {
        if self.has_own() { self.others - self.uses } else { 0 }
    }

    /// In a pool without a connection for each use: those that all brief uses share. The long ones share one.
    pub fn brief(&self) -> usize {
        self.others.saturating_sub(usize::from(self.has_long))
    }
}

fn uses(modules: Modules) -> impl Iterator<Item = PoolUse> {
    modules.infos().flat_map(|info| info.uses).copied()
}

impl Config {
    /// How the pool's connections are shared out.
    pub fn quotas(&self) -> PoolQuotas {
        PoolQuotas::new(self.database.db_pool_size, self.writers(), self.modules())
    }

    /// Connections that `COPY` at once.
    pub fn writers(&self) -> usize {
        let others = uses(self.modules()).count();
        let is_small = self.database.db_pool_size < WRITERS + WRITERS_COMPANY + others;
        self.ingest.writers.unwrap_or(if is_small { 1 } else { WRITERS })
    }

    /// Refuses more writers than the pool has connections for.
    pub(super) fn check_writers(&self, variables: &Variables) -> Result<(), ConfigError> {
        let (writers, pool) = (self.writers(), self.database.db_pool_size);
        let has_long = uses(self.modules()).any(|wanted| wanted.is_long);
        let beside = WRITERS_COMPANY + 1 + usize::from(has_long);
        if writers + beside <= pool {
            return Ok(());
        }
        // The one that was set is the one to mend.
        if variables.is_set("DB_POOL_SIZE") && !variables.is_set("WRITERS") {
            let takes =
                format!("at least {}, WRITERS ({writers}) and {beside} more for MODULES", writers + beside);
            return Err(refuse("DB_POOL_SIZE", pool, takes));
        }
        let most = pool.saturating_sub(beside);
        let takes = format!("at most {most}, DB_POOL_SIZE ({pool}) less {beside} for MODULES");
        Err(refuse("WRITERS", writers, takes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(variables: &[(&str, &str)]) -> PoolQuotas {
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_variables(&pairs.collect()).unwrap().quotas()
    }

    #[test]
    fn quotas_are_fractions_of_the_pool() {
        let all = quotas(&[]);
        let uses = [
            PoolUse::RECORDS,
            PoolUse::RECORD_COMMITS,
            PoolUse::LARGE,
            PoolUse::ERRORS,
            PoolUse::CONVERSATIONS,
        ];
        assert_eq!(uses.map(|wanted| all.of(wanted).connections), [6, 3, 3, 1, 4]);
        assert_eq!((all.has_own(), all.spare()), (true, 4));
        let least = quotas(&[("DB_POOL_SIZE", "5")]);
        assert_eq!((least.others, least.has_own(), least.spare(), least.brief()), (2, false, 0, 1));
        assert_eq!(uses.map(|wanted| least.of(wanted).connections), [1; 5]);
    }

    #[test]
    fn modules_that_are_off_leave_their_connections_to_the_others() {
        let events = quotas(&[("MODULES", "events")]);
        assert_eq!((events.uses, events.has_own(), events.spare()), (2, true, 14));
        let least = quotas(&[("MODULES", "events"), ("DB_POOL_SIZE", "4")]);
        assert_eq!((least.others, least.has_own(), least.spare(), least.brief()), (1, false, 0, 1));
        let own = quotas(&[("MODULES", "events"), ("DB_POOL_SIZE", "6")]);
        assert_eq!((own.others, own.has_own(), own.spare()), (2, true, 0));
        let brief = quotas(&[("MODULES", "events,records,conversations,files"), ("DB_POOL_SIZE", "4")]);
        assert_eq!((brief.has_own(), brief.brief()), (false, 1));
    }
}
