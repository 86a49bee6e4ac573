//! The addresses that a webhook may connect to.
//!
//! By default only global unicast addresses, by IANA's registries of special-purpose addresses (RFC 6890 and its updates): a client of the
//! service must not reach the network behind it. `WEBHOOK_ALLOW_PRIVATE` adds loopback and private networks, never link-local addresses, which
//! the metadata services of clouds have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks that have no global unicast addresses.
const SPECIAL: [&str; 25] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Protocol assignments; Teredo among them, whose addresses contain others.
    "2001::/23",
    "2001:db8::/32",
    // 6to4, whose addresses contain others.
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    // Everything else is not in 2000::/3.
    "5f00::/16",
    "fc00::/7",
];
/// Those of them that `WEBHOOK_ALLOW_PRIVATE` permits.
const PRIVATE: [&str; 7] =
    ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"];
const GLOBAL_V6: &str = "2000::/3";

static SPECIAL_NETS: LazyLock<Vec<IpNet>> = LazyLock::new(|| nets(&SPECIAL));
static PRIVATE_NETS: LazyLock<Vec<IpNet>> = LazyLock::new(|| nets(&PRIVATE));
static GLOBAL_V6_NETS: LazyLock<Vec<IpNet>> = LazyLock::new(|| nets(&[GLOBAL_V6]));

fn nets(texts: &[&str]) -> Vec<IpNet> {
    // A test parses each of them.
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn contain(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => Ipv4Net::contains(net, &address),
        (IpNet::V6(net), IpAddr::V6(address)) => Ipv6Net::contains(net, &address),
        _ => false,
    })
}

/// The addresses that are permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPolicy {
    /// Global unicast addresses.
    Public,
    /// Loopback and private networks too (`WEBHOOK_ALLOW_PRIVATE`).
    Private,
}

impl AddressPolicy {
    /// Whether a connection to `address` is permitted.
    pub fn permits(self, address: IpAddr) -> bool {
        let address = plain(address);
        if self == Self::Private && contain(&PRIVATE_NETS, address) {
            return true;
        }
        let is_global = match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(_) => contain(&GLOBAL_V6_NETS, address),
        };
        is_global && !contain(&SPECIAL_NETS, address)
    }
}

/// Whether an address is of this machine.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    plain(address).is_loopback()
}

/// An IPv4 address as such, where IPv6 contains it (`::ffff:127.0.0.1`, which connects to it).
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The address that a URL's host is; `None`: it is a name.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_network_is_read() {
        assert_eq!(SPECIAL_NETS.len(), SPECIAL.len());
        assert_eq!(PRIVATE_NETS.len(), PRIVATE.len());
        assert_eq!(GLOBAL_V6_NETS.len(), 1);
    }

    #[test]
    fn special_addresses_are_refused_and_private_ones_are_a_choice() {
        let decided = |text: &str| {
            let address = text.parse().unwrap();
            (AddressPolicy::Public.permits(address), AddressPolicy::Private.permits(address))
        };
        for public in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert_eq!(decided(public), (true, true), "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.255.0.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(decided(private), (false, true), "{private}");
        }
        for never in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "192.0.0.170",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
        ] {
            assert_eq!(decided(never), (false, false), "{never}");
        }
    }

    #[test]
    fn a_host_in_brackets_or_of_numbers_is_an_address() {
        assert_eq!(literal("[::1]"), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(literal("127.0.0.1"), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(literal("::1"), None);
        assert_eq!(literal("example.com"), None);
    }

    proptest! {
        #[test]
        fn what_is_public_is_permitted_by_both(bits: u128, v4: u32) {
            for address in [IpAddr::V6(bits.into()), IpAddr::V4(v4.into())] {
                prop_assert!(!AddressPolicy::Public.permits(address) || AddressPolicy::Private.permits(address));
            }
        }
    }
}
