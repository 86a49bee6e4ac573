//! Faults on demand: which request is hit, and by what. Data and decisions only; `http::faults` carries them out.
//!
//! Rules:
//!
//! * There is one fault a path; a new one for the same path replaces it.
//! * A path is exact, or with a trailing `*` a prefix. Of those that match a request's path and method, the longest is
//!   taken, an exact one before a prefix of the same length, and no other is tried.
//! * A strike uses up one of the fault's `count`. A fault with a `probability` only does so when it strikes. The last one
//!   removes the fault.
//! * Chance comes in as an argument, so that each decision can be had again.

mod corruption;
mod fault;
mod members;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

pub use corruption::Corruption;
pub use fault::{Fault, FaultLimits, InjectedEvent};

/// Paths that no fault hits, so that faults can always be taken back.
const OWN_PATHS: &str = "/_test/";

/// Why a fault is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// What was sent is no JSON object.
    #[error("a fault is a JSON object with a path")]
    NotAnObject,
    /// A member that no fault has, or with a value that it does not take.
    #[error("{field} {takes}")]
    Member {
        /// The member, as the client named it.
        field: Cow<'static, str>,
        /// What it takes.
        takes: String,
    },
    /// There are as many as there may be.
    #[error("there are {0} faults already (MAX_FAULTS); clear them, or replace one by its path")]
    TooMany(usize),
}

/// What happens to one request, in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Strike {
    /// How long it waits.
    pub delay: Duration,
    /// Its connection is reset: at once, or where its answer is cut.
    pub drops: bool,
    /// It is answered with this error instead of being served.
    pub error: Option<InjectedError>,
    /// What happens to the body of the answer.
    pub body: BodyFault,
}

/// An error that is answered though nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectedError {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// What `Retry-After` says, in seconds.
    pub retry_after_s: Option<u64>,
}

/// What happens to the body of an answer, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BodyFault {
    /// Goes before the events of a stream of server-sent events.
    pub event: Option<InjectedEvent>,
    /// Seed of the bits that are flipped.
    pub corruption: Option<u64>,
    /// The bytes after which it is cut.
    pub cut_at: Option<u64>,
}

/// The faults that are set.
#[derive(Debug)]
pub struct FaultPlan {
    by_path: BTreeMap<String, Fault>,
    max: usize,
}

impl FaultPlan {
    /// None yet, and at most `max` at once.
    pub fn new(max: usize) -> Self {
        Self { by_path: BTreeMap::new(), max }
    }

    /// Sets a fault; one for the same path is replaced.
    ///
    /// # Errors
    ///
    /// [`FaultError::TooMany`] if it is for another path and there are as many as there may be.
    pub fn set(&mut self, fault: Fault) -> Result<(), FaultError> {
        if self.by_path.len() >= self.max && !self.by_path.contains_key(fault.path()) {
            return Err(FaultError::TooMany(self.max));
        }
        self.by_path.insert(fault.path().to_owned(), fault);
        Ok(())
    }

    /// The faults that are left, by their paths.
    pub fn list(&self) -> impl Iterator<Item = &Fault> {
        self.by_path.values()
    }

    /// Takes all faults away; returns how many there were.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.by_path).len()
    }

    /// What happens to a request of this method and path.
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

    fn plan(faults: &[Value]) -> FaultPlan {
        let mut plan = FaultPlan::new(100);
        for fault in faults {
            plan.set(Fault::parse(fault, &LIMITS).unwrap()).unwrap();
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
        let mut plan = plan(&[json!({"path": "/a", "status": 500, "count": 2}), json!({"path": "/b"})]);
        assert_eq!(status(&mut plan, "GET", "/a"), Some(500));
        assert_eq!(plan.list().map(Fault::remaining).collect::<Vec<_>>(), [1, 1]);
        plan.set(Fault::parse(&json!({"path": "/a", "status": 429}), &LIMITS).unwrap()).unwrap();
        assert_eq!(status(&mut plan, "GET", "/a"), Some(429));
        assert_eq!(status(&mut plan, "GET", "/a"), None);
        assert_eq!((plan.clear(), plan.list().count()), (1, 0));
    }

    #[test]
    fn a_fault_with_a_probability_is_used_up_by_strikes_alone() {
        let mut plan = plan(&[json!({"path": "/a", "count": 10, "probability": 0.25})]);
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
        let fault = |path| Fault::parse(&json!({ "path": path }), &LIMITS).unwrap();
        plan.set(fault("/a")).unwrap();
        assert_eq!(plan.set(fault("/b")), Err(FaultError::TooMany(1)));
        plan.set(fault("/a")).unwrap();
    }
}
