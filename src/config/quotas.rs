//! Quotas of the one pool, so that no use of it can starve another.
//!
//! The writers and [`WRITERS_COMPANY`] beside them are kept for events. Of the rest each use has one connection of its own; what is
//! left then is lent on demand, up to that use's quota. A pool too small for that has two groups instead, which share what is
//! left: those that may hold a connection for long, and all others.

use super::{Config, ConfigError, Variables, refuse};

/// Connections of the event path beside its lanes: the dead letters' writer, and one for the checkpoint and the partitions,
/// which are short and wait for each other.
const WRITERS_COMPANY: usize = 2;

/// Uses of the pool beside the events'.
const OTHERS: usize = 10;

/// The smallest pool: one writer with its company, and one connection for each of the two groups.
pub(super) const LEAST_POOL_SIZE: u64 = 5;

/// Writers where `WRITERS` is unset and the pool has a connection for each use.
const WRITERS: usize = 2;

/// The connections that one use may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// At most.
    pub connections: usize,
    /// Whether it may hold one for long.
    pub is_long: bool,
}

/// The most connections that each use may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolQuotas {
    /// What operators ask for: dead letters, reconcile.
    pub operations: Quota,
    /// Commits of created records.
    pub record_commits: Quota,
    /// All else that records need.
    pub records: Quota,
    /// Large payloads.
    pub large: Quota,
    /// Errors on demand, which hold theirs on purpose.
    pub errors: Quota,
    /// Users, sessions and keys.
    pub auth: Quota,
    /// Commits of conversations, messages and pieces.
    pub conversation_commits: Quota,
    /// All else that conversations need.
    pub conversations: Quota,
    /// Files.
    pub files: Quota,
    /// Lines of files on their way into tables.
    pub imports: Quota,
    /// Connections for all of them together.
    pub others: usize,
    /// Whether each has one of its own.
    pub has_own: bool,
}

impl PoolQuotas {
    /// Quotas of a pool of so many connections, as twentieths of it.
    pub(super) fn of(pool: usize, writers: usize) -> Self {
        let connections = |twentieths: usize| (pool * twentieths / 20).max(1);
        let brief = |twentieths| Quota { connections: connections(twentieths), is_long: false };
        let long = |twentieths| Quota { connections: connections(twentieths), is_long: true };
        let others = pool.saturating_sub(writers + WRITERS_COMPANY);
        Self {
            operations: brief(2),
            record_commits: brief(2),
            records: brief(6),
            large: long(3),
            errors: long(1),
            auth: brief(2),
            conversation_commits: brief(2),
            conversations: brief(4),
            files: brief(2),
            imports: long(2),
            others,
            has_own: others >= OTHERS,
        }
    }

    /// Connections that are lent, beyond one for each use.
    pub fn spare(&self) -> usize {
        if self.has_own { self.others - OTHERS } else { 0 }
    }
}

impl Config {
    /// How the pool's connections are shared out.
    pub fn quotas(&self) -> PoolQuotas {
        PoolQuotas::of(self.database.db_pool_size, self.writers())
    }

    /// Connections that `COPY` at once.
    pub fn writers(&self) -> usize {
        let is_small = self.database.db_pool_size < WRITERS + WRITERS_COMPANY + OTHERS;
        self.ingest.writers.unwrap_or(if is_small { 1 } else { WRITERS })
    }

    /// Refuses more writers than the pool has connections for.
    pub(super) fn check_writers(&self, variables: &Variables) -> Result<(), ConfigError> {
        let (writers, pool) = (self.writers(), self.database.db_pool_size);
        let beside = LEAST_POOL_SIZE as usize - 1;
        if writers + beside <= pool {
            return Ok(());
        }
        // The one that was set is the one to mend.
        if variables.is_set("DB_POOL_SIZE") && !variables.is_set("WRITERS") {
            let takes = format!("at least {}, WRITERS ({writers}) and {beside} more", writers + beside);
            return Err(refuse("DB_POOL_SIZE", pool, takes));
        }
        let takes = format!("at most {}, DB_POOL_SIZE ({pool}) less {beside}", pool.saturating_sub(beside));
        Err(refuse("WRITERS", writers, takes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_fractions_of_the_pool() {
        let quotas = PoolQuotas::of(20, 2);
        let sizes =
            [quotas.records, quotas.record_commits, quotas.large, quotas.errors, quotas.conversations];
        assert_eq!(sizes.map(|quota| quota.connections), [6, 2, 3, 1, 4]);
        assert_eq!((quotas.has_own, quotas.spare()), (true, 6));
        let least = PoolQuotas::of(5, 1);
        assert_eq!((least.others, least.has_own, least.spare()), (2, false, 0));
        assert_eq!((least.records.connections, least.errors.connections), (1, 1));
    }
}
