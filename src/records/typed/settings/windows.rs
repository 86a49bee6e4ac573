//! Counts of requests by limit and address, in fixed windows, as PocketBase counts them. Each node counts its own.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::RateRule;

/// Addresses and limits that are counted. Beyond, counts of addresses that came once are forgotten first.
const MAX_WINDOWS: usize = 100_000;

/// The requests of one address under one limit.
struct Window {
    begun: Instant,
    taken: i64,
}

/// The windows of all addresses.
pub(in crate::records::typed) struct RateWindows {
    windows: Cache<u64, Arc<Mutex<Window>>>,
    hasher: RandomState,
}

impl std::fmt::Debug for RateWindows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateWindows").field("windows", &self.windows.len()).finish_non_exhaustive()
    }
}

impl Default for RateWindows {
    fn default() -> Self {
        Self { windows: Cache::new(MAX_WINDOWS), hasher: RandomState::new() }
    }
}

impl RateWindows {
    /// Takes a request of an address from a rule's window; `bucket` names what is counted together. Whether there was one left.
    pub(in crate::records::typed) fn take(
        &self,
        rule: &RateRule,
        bucket: &str,
        address: IpAddr,
        now: Instant,
    ) -> bool {
        let key = self.hasher.hash_one((bucket, network(address)));
        let made =
            || Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(Window { begun: now, taken: 0 })));
        let Ok(window) = self.windows.get_or_insert_with(&key, made);
        let mut window = window.lock();
        let length = Duration::from_secs(rule.duration.unsigned_abs());
        if now.saturating_duration_since(window.begun) >= length {
            *window = Window { begun: now, taken: 0 };
        }
        let is_left = window.taken < rule.max_requests;
        window.taken += i64::from(is_left);
        is_left
    }

    /// Begins anew.
    pub(in crate::records::typed) fn clear(&self) {
        self.windows.clear();
    }
}

/// An IPv4 address, or an IPv6 network of 64 bits, which is what one customer has.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_requests_for_each_address_and_begins_anew() {
        let (windows, now) = (RateWindows::default(), Instant::now());
        let rule = RateRule { duration: 3, max_requests: 2, ..RateRule::default() };
        let take = |bucket: &str, address: &str, at_s: u64| {
            windows.take(&rule, bucket, address.parse().unwrap(), now + Duration::from_secs(at_s))
        };
        assert!(take("a", "10.0.0.1", 0) && take("a", "10.0.0.1", 1) && !take("a", "10.0.0.1", 2));
        assert!(take("a", "10.0.0.2", 2) && take("b", "10.0.0.1", 2));
        assert!(take("a", "10.0.0.1", 3) && take("a", "10.0.0.1", 5) && !take("a", "10.0.0.1", 5));
        assert!(take("a", "2001:db8::1", 0) && take("a", "2001:db8::2", 0) && !take("a", "2001:db8::3", 0));
        windows.clear();
        assert!(take("a", "10.0.0.1", 5));
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let (windows, now) = (RateWindows::default(), Instant::now());
        let rule = RateRule { duration: 3, max_requests: 2, ..RateRule::default() };
        for n in 0..150_000_u32 {
            windows.take(&rule, "a", IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(windows.windows.len() <= MAX_WINDOWS, "{}", windows.windows.len());
    }
}
