//! The stress API, and faults on demand.

use super::{ConfigError, NAME, StressConfig, Variables, is_name, refuse};

impl StressConfig {
    pub(super) fn check(&mut self, variables: &Variables) -> Result<(), ConfigError> {
        if !variables.is_set("SSE_DEFAULT_RATE") {
            self.sse_default_rate = self.sse_default_rate.min(self.sse_max_rate);
        }
        if self.sse_default_rate > self.sse_max_rate {
            let takes = format!("at most SSE_MAX_RATE, {}", self.sse_max_rate);
            return Err(refuse("SSE_DEFAULT_RATE", self.sse_default_rate, takes));
        }
        if !is_name(&self.stress_default_collection) {
            return Err(refuse("STRESS_DEFAULT_COLLECTION", &self.stress_default_collection, NAME));
        }
        Ok(())
    }
}
