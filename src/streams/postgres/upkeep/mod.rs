//! Work behind the requests: renewals of TTLs, the end of streams, the merging of small chunks, and compaction.

mod compaction;
mod merges;
mod renewals;
mod retention;
mod store;
mod sweeps;

pub(super) use compaction::CompactionTask;
pub(super) use merges::MergeTask;
pub(super) use renewals::{RenewalTask, Renewals};
pub(super) use retention::RetentionTask;
pub(super) use store::UpkeepStore;
pub(super) use sweeps::SweepTask;
