//! How often anybody may ask (429), and what every answer says of it.
//!
//! `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10: the policy's quota and window, what is
//! left of the burst, and in how many seconds all of it is there again.

use std::net::IpAddr;

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::permissions::Needs;
use crate::auth::limits::{Budget, Left, Subject};
use crate::auth::users::Email;
use crate::auth::{Principal, Who};
use crate::config::Config;
use crate::http::wire::error::ApiError;

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The budgets.
#[derive(Debug)]
pub(in crate::http) struct RateBudgets {
    logins: Option<Budget>,
    accounts: Option<Budget>,
    reads: Option<Budget>,
    writes: Option<Budget>,
    events: Option<Budget>,
    write_only: Option<Budget>,
}

/// Requests a minute with a write-only key, of an address: a page sends a beacon now and then, and an office has many.
const WRITE_ONLY_REQUESTS: u32 = 600;

/// What an answer says of the budget that it was taken from.
#[derive(Debug, Clone)]
pub(in crate::http) struct Quota {
    policy: HeaderValue,
    left: HeaderValue,
}

impl Quota {
    /// Writes it into an answer.
    pub(in crate::http) fn write(self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY.clone(), self.policy);
        headers.insert(RATE_LIMIT.clone(), self.left);
    }

    fn new(budget: &Budget, left: &Left) -> Option<Self> {
        let (name, quota) = (budget.name, budget.a_minute);
        // Up, so that who waits for so long is not too early.
        let (requests, wait) = (left.requests, left.wait.as_secs_f64().ceil());
        Some(Self {
            policy: HeaderValue::try_from(format!("\"{name}\";q={quota};w=60")).ok()?,
            left: HeaderValue::try_from(format!("\"{name}\";r={requests};t={wait}")).ok()?,
        })
    }
}

impl RateBudgets {
    /// As the settings have them.
    pub(in crate::http) fn new(config: &Config) -> Self {
        let (access, rates) = (&config.access, config.rates());
        let budget = |name, a_minute| Budget::new(name, a_minute, access.max_rate_subjects);
        Self {
            logins: budget("logins", access.rate_logins),
            accounts: budget("accounts", access.rate_account_logins),
            reads: budget("reads", rates.reads),
            writes: budget("writes", rates.writes),
            events: budget("events", rates.events),
            write_only: budget("write-only", WRITE_ONLY_REQUESTS),
        }
    }

    /// Whether requests with events are counted that come without a write-only key.
    pub(in crate::http) fn count_events(&self) -> bool {
        self.events.is_some()
    }

    /// Takes a request with events out of its sender's budget.
    pub(in crate::http) fn take_events(
        &self,
        principal: &Principal,
        address: IpAddr,
    ) -> Result<Option<Quota>, ApiError> {
        let budget = match principal.who {
            Who::WriteOnlyKey { .. } => &self.write_only,
            _ => &self.events,
        };
        match budget {
            None => Ok(None),
            Some(budget) => take(budget, &Subject::of(principal, address)),
        }
    }

    /// Takes any other request out of its sender's budget; `needs` is what its route needs.
    pub(in crate::http) fn take(
        &self,
        method: &Method,
        needs: Needs,
        principal: &Principal,
        address: IpAddr,
    ) -> Result<Option<Quota>, ApiError> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let budget = match needs {
            Needs::Nothing => &self.logins,
            // Probes of a service that is busy must not make it look broken.
            Needs::GoodIfShown if principal == &Principal::ANONYMOUS && reads => &None,
            _ if reads => &self.reads,
            _ => &self.writes,
        };
        budget.as_ref().map_or(Ok(None), |budget| take(budget, &Subject::of(principal, address)))
    }

    /// Takes a look-up of a key that is not known out of an address's budget for log-ins.
    pub(in crate::http) fn take_look_up(&self, address: IpAddr) -> Result<(), ApiError> {
        let Some(budget) = &self.logins else { return Ok(()) };
        take(budget, &Subject::address(address)).map(|_| ())
    }

    /// Takes a log-in out of an account's budget, whether there is such an account or not.
    pub(in crate::http) fn take_account(&self, email: &Email) -> Result<(), ApiError> {
        let Some(budget) = &self.accounts else { return Ok(()) };
        take(budget, &Subject::Account(email.account())).map(|_| ())
    }
}

fn take(budget: &Budget, subject: &Subject) -> Result<Option<Quota>, ApiError> {
    match budget.take(subject) {
        Ok(left) => Ok(Quota::new(budget, &left)),
        Err(left) => Err(ApiError::too_many(left.wait, Quota::new(budget, &left))),
    }
}
