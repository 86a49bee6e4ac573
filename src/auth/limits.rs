//! How often anybody may ask: budgets that fill up again all the time.
//!
//! A budget of so many a minute lets a third of it be used at once, and refuses what comes faster. Each key, each user and
//! each address has its own; an IPv6 address counts as its /64, which is what one customer has. Addresses are counted apart from
//! keys and users, so that whoever has many addresses pushes nobody out who said who he is. Where there are more than
//! `MAX_RATE_SUBJECTS`, those beyond share a thousand budgets.

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

use super::principal::{Principal, Who};

/// Budgets that are shared by those for whom there is no room: a thousand, as a power of two.
const SHARED: u64 = 1024;
/// How often full budgets are forgotten while there is no room, in requests.
const TIDY: u32 = 1024;
/// The share of a minute's budget that may be used at once.
const BURST: u32 = 3;

type Limiter = RateLimiter<u64, DashMapStateStore<u64>, DefaultClock, StateInformationMiddleware>;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Of an API key.
    Key(Uuid),
    /// Of a write-only key, which many share, from one address or network of 64 bits.
    WriteOnlyKey(Uuid, IpAddr),
    /// Of a user.
    User(Uuid),
    /// Of the subject of another issuer.
    External(String, String),
    /// Of whoever has the operator's token.
    Operator,
    /// Of an address, or a network of 64 bits.
    Address(IpAddr),
    /// Of an email that somebody logs in with.
    Account(String),
}

impl Subject {
    /// Whoever asks; nobody in particular is his address.
    pub fn of(principal: &Principal, address: IpAddr) -> Self {
        match &principal.who {
            Who::Anonymous => Self::address(address),
            Who::Operator => Self::Operator,
            Who::User { id, .. } => Self::User(*id),
            Who::External { issuer, subject } => Self::External(issuer.clone(), subject.clone()),
            Who::Key { id, .. } => Self::Key(*id),
            Who::WriteOnlyKey { id, .. } => Self::WriteOnlyKey(*id, network(address)),
        }
    }

    /// An address.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(network(address))
    }
}

/// What one customer has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// What is left of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Requests that may come at once.
    pub requests: u32,
    /// How long until all of it is there again, or until the next request is taken.
    pub wait: Duration,
}

/// One budget of everybody.
#[derive(Debug)]
pub struct Budget {
    /// Its name on the wire.
    pub name: &'static str,
    /// Requests a minute.
    pub a_minute: u32,
    burst: u32,
    known: Limiter,
    addresses: Limiter,
    room: usize,
    hasher: RandomState,
    since_tidied: AtomicU32,
}

impl Budget {
    /// So many `a_minute` for each of up to `room` subjects; none if they are unlimited.
    pub fn new(name: &'static str, a_minute: u32, room: usize) -> Option<Self> {
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
            room,
            hasher: RandomState::new(),
            since_tidied: AtomicU32::new(0),
        })
    }

    /// Takes one request out of a subject's budget.
    ///
    /// # Errors
    ///
    /// What is left, which is nothing, and when it is worth another try.
    pub fn take(&self, subject: &Subject) -> Result<Left, Left> {
        let limiter = match subject {
            Subject::Address(_) | Subject::Account(_) | Subject::WriteOnlyKey(..) => &self.addresses,
            _ => &self.known,
        };
        let mut slot = self.hasher.hash_one(subject) | SHARED;
        if limiter.len() >= self.room {
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
                Ok(Left { requests, wait })
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                Err(Left { requests: 0, wait })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Subject {
        Subject::address(text.parse().unwrap())
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
        assert!(budget.take(&Subject::Key(Uuid::nil())).is_ok());
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
            let _any = budget.take(&Subject::address(IpAddr::from(n.to_be_bytes())));
        }
        assert!(budget.addresses.len() <= 100 + SHARED as usize, "{}", budget.addresses.len());
        assert_eq!(budget.take(&Subject::User(Uuid::nil())).unwrap().requests, 199);
    }
}
