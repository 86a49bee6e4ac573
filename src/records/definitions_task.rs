//! The task that keeps what a node knows of collections current: each change of a definition, by any node, is a row of the feed.

use crate::realtime::{self, Realtime, Subscription};
use crate::supervisor::{Next, Step, StepError};

/// The topic of changed definitions (`sql/records/typed/report.sql`). No collection has a `:` in its name.
pub(super) const COLLECTIONS: &str = "collections:changed";

/// Refreshes what is known once it follows its topics, and behind each of their changes.
pub(super) struct DefinitionsTask<R> {
    realtime: Realtime,
    topics: &'static [&'static str],
    refresh: R,
    subscription: Option<Subscription>,
}

impl<R> DefinitionsTask<R> {
    pub(super) fn new(realtime: &Realtime, topics: &'static [&'static str], refresh: R) -> Self {
        Self { realtime: realtime.clone(), topics, refresh, subscription: None }
    }
}

impl<R, F> Step for DefinitionsTask<R>
where
    R: Fn() -> F + Send + 'static,
    F: Future<Output = Result<(), StepError>> + Send,
{
    async fn step(&mut self) -> Result<Next, StepError> {
        let subscription = match &mut self.subscription {
            Some(subscription) => subscription,
            None => {
                let topics = self.topics.iter().map(|topic| (*topic).to_owned()).collect();
                let joining = self.realtime.join(topics, None, None);
                let mut subscription = joining.map_err(|error| StepError::new(error.to_string()))?;
                subscription.joined().await;
                // Changes before that are not delivered.
                (self.refresh)().await?;
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
        if has_changed && let Err(error) = (self.refresh)().await {
            // The next step refreshes again.
            self.subscription = None;
            return Err(error);
        }
        Ok(Next::Interval)
    }

    fn recover(&mut self) {
        self.subscription = None;
    }
}
