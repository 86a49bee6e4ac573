//! Budgets of requests (429), by caller.

use std::net::IpAddr;

use hyper::Method;

use super::routes::Access;
use crate::auth::limits::{Budget, LimitSubject, Remaining};
use crate::auth::users::Email;
use crate::auth::{Identity, Principal};
use crate::config::Config;
use crate::config::limits;
use crate::http::wire::error::ApiError;
use crate::http::wire::rate_limit::RateLimit;

/// The budgets of a service; `None`: requests are not counted.
#[derive(Debug)]
pub(in crate::http) struct RateBudgets {
    logins: Option<Budget>,
    accounts: Option<Budget>,
    reads: Option<Budget>,
    writes: Option<Budget>,
    events: Option<Budget>,
    write_only: Option<Budget>,
    tickets: Option<Budget>,
}

/// Requests a minute with a write-only key from one address: pages send few beacons, but an office has many pages.
const WRITE_ONLY_REQUESTS: u32 = 600;
/// Requests a minute with tickets from one address. Each asks the database, and many clients may come back from one office at once.
const TICKET_REQUESTS: u32 = 6_000;

impl RateBudgets {
    /// The budgets of the settings.
    pub(in crate::http) fn new(config: &Config) -> Self {
        let (access, rates) = (&config.access, config.rates());
        let budget = |name, a_minute| Budget::new(name, a_minute, limits::MAX_RATE_SUBJECTS);
        Self {
            logins: budget("logins", access.rate_logins),
            accounts: budget("accounts", access.rate_account_logins()),
            reads: budget("reads", rates.reads),
            writes: budget("writes", rates.writes),
            events: budget("events", rates.events),
            write_only: budget("write-only", WRITE_ONLY_REQUESTS),
            tickets: budget("tickets", TICKET_REQUESTS),
        }
    }

    /// Whether requests with events are counted that have no write-only key.
    pub(in crate::http) fn count_events(&self) -> bool {
        self.events.is_some()
    }

    /// The requests with events of a caller a minute; `None`: they are not counted.
    pub(in crate::http) fn events_a_minute(&self) -> Option<u32> {
        self.events.as_ref().map(|budget| budget.a_minute)
    }

    /// Takes a request with events from its caller's budget.
    pub(in crate::http) fn take_events(
        &self,
        principal: &Principal,
        address: IpAddr,
    ) -> Result<Option<RateLimit>, ApiError> {
        let budget = match principal.identity {
            Identity::WriteOnlyKey { .. } => &self.write_only,
            _ => &self.events,
        };
        match budget {
            None => Ok(None),
            Some(budget) => take(budget, &LimitSubject::of(principal, address)),
        }
    }

    /// Takes any other request from its caller's budget; `access` is the access that its route requires.
    pub(in crate::http) fn take(
        &self,
        method: &Method,
        access: Access,
        principal: &Principal,
        address: IpAddr,
    ) -> Result<Option<RateLimit>, ApiError> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let budget = match access {
            Access::Public => &self.logins,
            Access::Fixed => &self.reads,
            // A rejected probe would make a busy service look broken.
            Access::Optional if principal == &Principal::ANONYMOUS && reads => &None,
            _ if reads => &self.reads,
            _ => &self.writes,
        };
        budget.as_ref().map_or(Ok(None), |budget| take(budget, &LimitSubject::of(principal, address)))
    }

    /// Takes a look-up of an unknown key from an address's budget of log-ins.
    pub(in crate::http) fn take_look_up(&self, address: IpAddr) -> Result<(), ApiError> {
        let Some(budget) = &self.logins else { return Ok(()) };
        take(budget, &LimitSubject::address(address)).map(|_| ())
    }

    /// Takes a request with a ticket from an address's budget.
    pub(in crate::http) fn take_ticket(&self, address: IpAddr) -> Result<(), ApiError> {
        let Some(budget) = &self.tickets else { return Ok(()) };
        take(budget, &LimitSubject::address(address)).map(|_| ())
    }

    /// Takes a sign-in from the budget of a record of a collection, even if it does not exist.
    pub(in crate::http) fn take_record(&self, collection: &str, identity: &str) -> Result<(), ApiError> {
        let Some(budget) = &self.accounts else { return Ok(()) };
        let account = format!("{collection}/{}", identity.trim().to_lowercase());
        take(budget, &LimitSubject::Account(account)).map(|_| ())
    }

    /// Takes a log-in from an account's budget, even if the account does not exist.
    pub(in crate::http) fn take_account(&self, email: &Email) -> Result<(), ApiError> {
        let Some(budget) = &self.accounts else { return Ok(()) };
        take(budget, &LimitSubject::Account(email.account())).map(|_| ())
    }
}

fn take(budget: &Budget, subject: &LimitSubject) -> Result<Option<RateLimit>, ApiError> {
    match budget.take(subject) {
        Ok(left) => Ok(rate_limit(budget, &left)),
        Err(left) => Err(ApiError::too_many(left.wait, rate_limit(budget, &left))),
    }
}

fn rate_limit(budget: &Budget, left: &Remaining) -> Option<RateLimit> {
    RateLimit::new(budget.name, budget.a_minute, left.requests, left.wait)
}
