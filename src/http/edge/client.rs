//! The address of a request's client.
//!
//! Behind a proxy of `TRUSTED_PROXIES`, `X-Forwarded-For` counts. Each proxy appends the address of its own client, and a client
//! may have sent any entries before these: the header is read from the right, up to the first entry that no trusted proxy
//! wrote.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::HeaderName;
use ipnet::IpNet;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client of a request, and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct ClientAddress {
    /// The peer: the client, or a proxy.
    pub(in crate::http) peer: IpAddr,
    /// The client's address.
    pub(in crate::http) ip: IpAddr,
    /// Whether a trusted proxy reports TLS between the client and itself.
    pub(in crate::http) by_tls: bool,
}

/// The client of a request that came from `peer` with these headers.
pub(in crate::http) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> ClientAddress {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|network| network.contains(ip));
    if !is_trusted(&peer) {
        return ClientAddress { peer, ip: peer, by_tls: false };
    }
    let mut ip = peer;
    let values: Vec<&str> =
        headers.get_all(&X_FORWARDED_FOR).iter().flat_map(|value| value.to_str()).collect();
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        // A trusted proxy writes only addresses.
        let Some(hop) = address(hop.trim()) else { break };
        ip = hop;
        if !is_trusted(&ip) {
            break;
        }
    }
    let proto = headers.get(&X_FORWARDED_PROTO).map(|proto| proto.as_bytes());
    ClientAddress { peer, ip, by_tls: proto == Some(b"https") }
}

/// An address, with or without a port, an IPv6 one with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|text| text.split_once(']')).map_or(text, |(ip, _)| ip);
    let parsed = plain.parse::<IpAddr>().ok();
    parsed
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(peer: &str, forwarded: &[&'static str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(&X_FORWARDED_FOR, hyper::header::HeaderValue::from_static(value));
        }
        client(peer.parse().unwrap(), &headers, &trusted).ip.to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_from_the_right() {
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["unknown, 10.1.1.1"], "10.1.1.1"),
            ("::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("::1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["203.0.113.9, <script>"], "10.0.0.1"),
        ] {
            assert_eq!(ip(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }
}
