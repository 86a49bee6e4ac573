//! Rate limits: budgets that refill continuously.
//!
//! A third of a minute's budget may be used at once; faster requests are rejected. Each key, user and address has its own
//! budget; an IPv6 address counts as its /64, which is what one customer has. Addresses are counted apart from keys and users,
//! so that a client with many addresses displaces no authenticated one. Beyond a hundred thousand subjects, further subjects share a
//! thousand budgets.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use super::principal::{Identity, Principal};

/// Budgets shared by subjects beyond the maximum: a thousand, as a power of two.
const SHARED: u64 = 1024;
/// The interval between removals of full budgets while there are too many subjects, in requests.
const TIDY: u32 = 1024;
/// The fraction of a minute's budget that may be used at once.
const BURST: u32 = 3;

type Limiter = RateLimiter<u64, DashMapStateStore<u64>, DefaultClock, StateInformationMiddleware>;

/// The unit in which requests are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitSubject {
    /// An API key.
    Key(Uuid),
    /// A write-only key, which many clients share, from one address or network of 64 bits.
    WriteOnlyKey(Uuid, IpAddr),
    /// A user.
    User(Uuid),
    /// The subject of another issuer.
    External(String, String),
    /// The operator's token.
    Operator,
    /// An address, or a network of 64 bits.
    Address(IpAddr),
    /// An email at log-in.
    Account(String),
}

impl LimitSubject {
    /// The subject of a principal; an anonymous one is its address.
    pub fn of(principal: &Principal, address: IpAddr) -> Self {
        match &principal.identity {
            Identity::Anonymous => Self::address(address),
            Identity::Operator => Self::Operator,
            Identity::User { id, .. } => Self::User(*id),
            Identity::External { issuer, subject } => Self::External(issuer.clone(), subject.clone()),
            Identity::Key { id, .. } => Self::Key(*id),
            Identity::WriteOnlyKey { id, .. } => Self::WriteOnlyKey(*id, network(address)),
        }
    }

    /// An address.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(network(address))
    }
}

/// An IPv4 address, or an IPv6 network of 64 bits: a client has a whole one.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// The rest of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Requests that may come at once.
    pub requests: u32,
    /// The time until the budget is full again, or until the next request is accepted.
    pub wait: Duration,
}

/// A budget for each subject.
#[derive(Debug)]
pub struct Budget {
    /// Its name on the wire.
    pub name: &'static str,
    /// Requests a minute.
    pub a_minute: u32,
    burst: u32,
    known: Limiter,
    addresses: Limiter,
    max_subjects: usize,
    hasher: RandomState,
    since_tidied: AtomicU32,
}

impl Budget {
    /// A budget of `a_minute` for each of up to `max_subjects` subjects; `None`: unlimited.
    pub fn new(name: &'static str, a_minute: u32, max_subjects: usize) -> Option<Self> {
        let rate = NonZeroU32::new(a_minute)?;
        let burst = NonZeroU32::new(a_minute.div_ceil(BURST))?;
        let quota = Quota::per_minute(rate).allow_burst(burst);
        let limiter = || RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>();
        Some(Self {
            name,
            a_minute,
            burst: burst.get(),
            known: limiter(),
            addresses: limiter(),
            max_subjects,
            hasher: RandomState::new(),
            since_tidied: AtomicU32::new(0),
        })
    }

    /// Takes one request out of a subject's budget.
    ///
    /// # Errors
    ///
    /// The empty budget, with the time until the next request.
    pub fn take(&self, subject: &LimitSubject) -> Result<Remaining, Remaining> {
        let limiter = match subject {
            LimitSubject::Address(_) | LimitSubject::Account(_) | LimitSubject::WriteOnlyKey(..) => {
                &self.addresses
            }
            _ => &self.known,
        };
        let mut slot = self.hasher.hash_one(subject) | SHARED;
        if limiter.len() >= self.max_subjects {
            if self.since_tidied.fetch_add(1, Ordering::Relaxed).is_multiple_of(TIDY) {
                limiter.retain_recent();
            }
            slot &= SHARED - 1;
        }
        match limiter.check_key(&slot) {
            Ok(state) => {
                let requests = state.remaining_burst_capacity();
                let used = f64::from(self.burst.saturating_sub(requests));
                let wait = Duration::from_secs_f64(used * 60.0 / f64::from(self.a_minute));
                Ok(Remaining { requests, wait })
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                Err(Remaining { requests: 0, wait })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> LimitSubject {
        LimitSubject::address(text.parse().unwrap())
    }

    #[test]
    fn a_third_of_a_minutes_budget_is_there_at_once_and_each_has_his_own() {
        let budget = Budget::new("reads", 60, 100).unwrap();
        for left in (0..20).rev() {
            assert_eq!(budget.take(&address("10.0.0.1")).unwrap().requests, left);
        }
        let refused = budget.take(&address("10.0.0.1")).unwrap_err();
        assert!(refused.wait > Duration::ZERO && refused.wait <= Duration::from_secs(1), "{refused:?}");
        assert!(budget.take(&address("10.0.0.2")).is_ok());
        assert!(budget.take(&LimitSubject::Key(Uuid::nil())).is_ok());
        assert!(Budget::new("reads", 0, 100).is_none());
    }

    #[test]
    fn addresses_of_one_network_of_64_bits_are_one() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
    }

    #[test]
    fn many_addresses_take_bounded_memory_and_push_out_nobody_who_is_known() {
        let budget = Budget::new("reads", 600, 100).unwrap();
        for n in 0..50_000_u32 {
            let _any = budget.take(&LimitSubject::address(IpAddr::from(n.to_be_bytes())));
        }
        assert!(budget.addresses.len() <= 100 + SHARED as usize, "{}", budget.addresses.len());
        assert_eq!(budget.take(&LimitSubject::User(Uuid::nil())).unwrap().requests, 199);
    }
}
