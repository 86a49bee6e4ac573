//! Faults on demand: the requests that are hit, and the effects. Data and decisions only; `http::faults` applies them.
//!
//! Rules:
//!
//! * Each path has one fault; a new one for the same path replaces it.
//! * A path is exact, or with a trailing `*` a prefix. Of the faults that match a request's path and method the longest
//!   applies, an exact one before a prefix of the same length, and no other.
//! * A strike uses up one of the fault's `count`; a fault with a `probability` is used up only by strikes. The last strike
//!   removes the fault.
//! * The source of randomness is an argument, so that each decision can be repeated.

mod corruption;
mod fault;

use crate::typed::TypeError;
use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

pub use corruption::Corruption;
pub use fault::{Fault, FaultLimits, FaultRequest, InjectedEvent};

/// Paths that no fault hits, so that faults can always be cleared.
const OWN_PATHS: &str = "/_test/";

/// A fault that was not set.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// It is malformed, or has no effect.
    #[error(transparent)]
    Malformed(#[from] TypeError),
    /// There are as many as there may be.
    #[error(transparent)]
    TooMany(#[from] TooManyFaults),
    /// Faults are off.
    #[error("faults are off")]
    Off,
}

/// As many faults are set as may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} faults are set already; clear them, or replace one by its path")]
pub struct TooManyFaults(usize);

/// The effects on one request, in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Strike {
    /// The delay before all else.
    pub delay: Duration,
    /// Its connection is reset: at once, or where its answer is cut.
    pub drops: bool,
    /// The answer instead of the service's own.
    pub error: Option<InjectedError>,
    /// The effects on the body of the answer.
    pub body: BodyFault,
}

/// An injected error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectedError {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

/// The effects on the body of an answer, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BodyFault {
    /// Sent before the events of a stream of server-sent events.
    pub event: Option<InjectedEvent>,
    /// The seed of the flipped bits.
    pub corruption: Option<u64>,
    /// The length at which it is cut.
    pub cut_at: Option<u64>,
}

/// The faults that are set.
#[derive(Debug)]
pub struct FaultPlan {
    by_path: BTreeMap<String, Fault>,
    max: usize,
}

impl FaultPlan {
    /// An empty plan of at most `max` faults.
    pub fn new(max: usize) -> Self {
        Self { by_path: BTreeMap::new(), max }
    }

    /// Sets a fault; one for the same path is replaced.
    ///
    /// # Errors
    ///
    /// [`TooManyFaults`] if it is for another path and as many are set as may be.
    pub fn set(&mut self, fault: Fault) -> Result<(), TooManyFaults> {
        if self.by_path.len() >= self.max && !self.by_path.contains_key(fault.path()) {
            return Err(TooManyFaults(self.max));
        }
        self.by_path.insert(fault.path().to_owned(), fault);
        Ok(())
    }

    /// The current faults, by their paths.
    pub fn list(&self) -> impl Iterator<Item = &Fault> {
        self.by_path.values()
    }

    /// Removes all faults; returns their number.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.by_path).len()
    }

    /// The effects on a request of this method and path.
    pub fn strike(&mut self, method: &str, path: &str, rng: &mut Rng) -> Option<Strike> {
        if path.starts_with(OWN_PATHS) {
            return None;
        }
        let matching = self.by_path.values_mut().filter(|fault| fault.matches(method, path));
        let fault = matching.max_by_key(|fault| fault.precedence())?;
        let strike = fault.strike(rng)?;
        if fault.is_used_up() {
            let path = fault.path().to_owned();
            self.by_path.remove(&path);
        }
        Some(strike)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: FaultLimits = FaultLimits { max_delay: Duration::from_secs(60) };

    fn parse(json: &Value) -> Fault {
        Fault::new(crate::typed::from_slice(json.to_string().as_bytes()).unwrap(), &LIMITS).unwrap()
    }

    fn plan(faults: &[Value]) -> FaultPlan {
        let mut plan = FaultPlan::new(100);
        for fault in faults {
            plan.set(parse(fault)).unwrap();
        }
        plan
    }

    fn status(plan: &mut FaultPlan, method: &str, path: &str) -> Option<u16> {
        plan.strike(method, path, &mut Rng::with_seed(1)).map(|strike| strike.error.unwrap().status)
    }

    #[test]
    fn the_longest_match_strikes_and_an_exact_path_before_a_prefix() {
        let mut plan = plan(&[
            json!({"path": "*", "status": 400, "count": 100}),
            json!({"path": "/api/*", "status": 401, "count": 100}),
            json!({"path": "/api/health*", "status": 402, "count": 100}),
            json!({"path": "/api/health", "status": 403, "count": 100}),
            json!({"path": "/api/health/deep", "method": "delete", "status": 404, "count": 100}),
        ]);
        for (method, path, wanted) in [
            ("GET", "/api/health", 403),
            ("GET", "/api/health/deep", 402),
            ("DELETE", "/api/health/deep", 404),
            ("GET", "/api/other", 401),
            ("GET", "/api", 400),
        ] {
            assert_eq!(status(&mut plan, method, path), Some(wanted), "{method} {path}");
        }
        assert_eq!(status(&mut plan, "GET", "/_test/inject-error"), None);
    }

    #[test]
    fn a_fault_is_gone_after_its_count_and_replaced_by_its_path() {
        let mut plan =
            plan(&[json!({"path": "/a", "status": 500, "count": 2}), json!({"path": "/b", "status": 500})]);
        assert_eq!(status(&mut plan, "GET", "/a"), Some(500));
        assert_eq!(plan.list().map(Fault::remaining).collect::<Vec<_>>(), [1, 1]);
        plan.set(parse(&json!({"path": "/a", "status": 429}))).unwrap();
        assert_eq!(status(&mut plan, "GET", "/a"), Some(429));
        assert_eq!(status(&mut plan, "GET", "/a"), None);
        assert_eq!((plan.clear(), plan.list().count()), (1, 0));
    }

    #[test]
    fn a_fault_with_a_probability_is_used_up_by_strikes_alone() {
        let mut plan = plan(&[json!({"path": "/a", "status": 500, "count": 10, "probability": 0.25})]);
        let mut rng = Rng::with_seed(7);
        let mut tries = 0;
        let mut strikes = 0;
        while plan.list().count() > 0 {
            tries += 1;
            strikes += u32::from(plan.strike("GET", "/a", &mut rng).is_some());
        }
        assert_eq!(strikes, 10);
        assert!((15..120).contains(&tries), "{tries}");
    }

    #[test]
    fn there_are_no_more_than_the_most() {
        let mut plan = FaultPlan::new(1);
        let fault = |path| parse(&json!({"path": path, "status": 500}));
        plan.set(fault("/a")).unwrap();
        assert_eq!(plan.set(fault("/b")), Err(TooManyFaults(1)));
        plan.set(fault("/a")).unwrap();
    }
}
