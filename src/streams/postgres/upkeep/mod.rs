//! Work behind the requests: renewals of TTLs, the end of streams, and the merging of small chunks.

mod merges;
mod renewals;
mod retention;
mod store;
mod sweeps;

pub(super) use merges::MergeTask;
pub(super) use renewals::{RenewalTask, Renewals};
pub(super) use retention::RetentionTask;
pub(super) use store::UpkeepStore;
pub(super) use sweeps::SweepTask;
