//! The lanes between the queue and Postgres: each takes a batch, lands it, and takes the next.
//!
//! A batch that Postgres refuses for one of its rows is halved until that row stands alone; it becomes a dead letter
//! and its neighbours are stored. Each half is a COPY of its own, since a failed COPY leaves its rows behind as dead
//! tuples.

use std::sync::Arc;

use super::batcher::Batcher;
use super::dead_letters::DeadLetters;
use super::landing::{Lander, Rejected};
use super::queue::Batch;
use super::row::{self, Tuple};
use crate::observe::Metrics;

/// One lane.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Hands out batches.
    pub batcher: Arc<Batcher>,
    /// Stores them.
    pub lander: Lander,
    /// Takes the rows that Postgres refuses.
    pub dead_letters: DeadLetters,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Writer {
    /// Runs until the queue is closed and empty.
    pub async fn run(self) {
        while let Some(flight) = self.batcher.next().await {
            self.store(&flight).await;
        }
    }

    async fn store(&self, batch: &Batch) {
        match self.lander.land(batch.stretches()).await {
            Ok(elapsed) => self.metrics.copy_committed(batch.load().events, elapsed),
            Err(rejected) => {
                // The code alone: a message may quote the row, and stays with the dead letter.
                let code = rejected.error.sql_state().map_or("", |state| state.code());
                tracing::warn!(rows = batch.load().events, code, "a row is refused; looking for it");
                self.bisect(batch, rejected).await;
            }
        }
    }

    async fn bisect(&self, batch: &Batch, rejected: Rejected) {
        let rows: Vec<Tuple<'_>> = batch.stretches().flat_map(row::tuples).collect();
        let mut refused = vec![(&rows[..], rejected)];
        while let Some((rows, rejected)) = refused.pop() {
            if let [bad] = rows {
                self.dead_letters.add_rejected(*bad, &rejected).await;
                self.metrics.dead.inc();
                continue;
            }
            let (left, right) = rows.split_at(rows.len() / 2);
            for half in [left, right] {
                match self.lander.land(half.iter().map(|row| row.bytes())).await {
                    Ok(elapsed) => self.metrics.copy_committed(half.len() as u64, elapsed),
                    Err(rejected) => refused.push((half, rejected)),
                }
            }
        }
    }
}
