//! The task that keeps a node's catalogue and settings current: a change of either, by any node, is a row of the feed.

use crate::realtime::{self, Realtime, Subscription};
use crate::supervisor::{Next, Step, StepError};

use super::TypedRecords;

/// The topic of changed definitions (`sql/records/typed/report.sql`). No collection has a `:` in its name.
const COLLECTIONS: &str = "collections:changed";
/// The topic of changed settings (`sql/records/settings/save.sql`).
const SETTINGS: &str = "settings:changed";

pub(super) struct RefreshTask {
    typed: TypedRecords,
    realtime: Realtime,
    subscription: Option<Subscription>,
}

impl RefreshTask {
    pub(super) fn new(typed: TypedRecords, realtime: Realtime) -> Self {
        Self { typed, realtime, subscription: None }
    }

    async fn refresh(&self) -> Result<(), StepError> {
        let refreshed = async {
            self.typed.refresh().await?;
            self.typed.refresh_settings().await
        };
        refreshed.await.map(drop).map_err(|error| StepError::new(error.to_string()))
    }
}

impl Step for RefreshTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let subscription = match &mut self.subscription {
            Some(subscription) => subscription,
            None => {
                let joining =
                    self.realtime.join(vec![COLLECTIONS.to_owned(), SETTINGS.to_owned()], None, None);
                let mut subscription = joining.map_err(|error| StepError::new(error.to_string()))?;
                subscription.joined().await;
                // Changes before that are not delivered.
                self.refresh().await?;
                self.subscription.insert(subscription)
            }
        };
        subscription.ready().await;
        let has_changed = match subscription.next().await {
            Ok(realtime::Next::Change(_)) => {
                subscription.sent();
                true
            }
            Ok(realtime::Next::Reset) => true,
            Ok(_) => false,
            // It was dropped, and begins anew.
            Err(_end) => {
                self.subscription = None;
                false
            }
        };
        if has_changed && let Err(error) = self.refresh().await {
            // The next step reads the catalogue again.
            self.subscription = None;
            return Err(error);
        }
        Ok(Next::Interval)
    }

    fn recover(&mut self) {
        self.subscription = None;
    }
}
