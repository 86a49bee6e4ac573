//! Rate limits, trusted proxies, and the origins of web pages.

use std::net::IpAddr;

use super::{AccessConfig, ConfigError, refuse};
use ipnet::IpNet;

/// Requests a minute, by key, user or address; 0: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// `GET`.
    pub reads: u32,
    /// Everything else but events.
    pub writes: u32,
    /// Events and batches of them.
    pub events: u32,
}

/// Writes a minute of each client where `AUTH` is required.
const WRITES: u32 = 3_000;
/// Log-ins of an address for one log-in to an account.
const LOGINS_OF_ACCOUNT: u32 = 10;

pub(super) const PROXIES_TAKE: &str = "addresses or networks with commas between, such as 10.0.0.0/8,::1";
pub(super) const ORIGINS_TAKE: &str =
    "origins with commas between, such as https://app.example,http://localhost:5173";

impl AccessConfig {
    pub(super) fn rates(&self, is_open: bool) -> Rates {
        let writes = self.rate_writes.unwrap_or(if is_open { 0 } else { WRITES });
        Rates { reads: writes.saturating_mul(2), writes, events: self.rate_events }
    }

    /// Log-ins a minute to one account; 0: unlimited.
    pub fn rate_account_logins(&self) -> u32 {
        match self.rate_logins {
            0 => 0,
            logins => (logins / LOGINS_OF_ACCOUNT).max(1),
        }
    }

    /// Proxies whose word on their clients is taken.
    pub fn trusted_proxies(&self) -> Vec<IpNet> {
        words(self.trusted_proxies.as_deref()).filter_map(network).collect()
    }

    /// Origins whose web pages may call, as browsers write them.
    pub fn cors_origins(&self) -> Vec<String> {
        words(self.cors_origins.as_deref()).map(str::to_owned).collect()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(bad) = words(self.trusted_proxies.as_deref()).find(|word| network(word).is_none()) {
            return Err(refuse("TRUSTED_PROXIES", bad, PROXIES_TAKE));
        }
        if let Some(bad) = words(self.cors_origins.as_deref()).find(|word| !is_origin(word)) {
            return Err(refuse("CORS_ORIGINS", bad, ORIGINS_TAKE));
        }
        Ok(())
    }
}

fn words(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn network(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Whether a word is an origin as browsers write it (RFC 6454, section 6.2): scheme, host and maybe a port, without a path.
pub fn is_origin(word: &str) -> bool {
    let rest = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/?#@*\\".contains(&byte);
        !rest.is_empty() && rest.bytes().all(is_plain) && !rest.bytes().any(|byte| byte.is_ascii_uppercase())
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Rates};

    fn load(variables: &[(&str, &str)]) -> Result<Config, String> {
        crate::config::tests::load(variables).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_checked_word_by_word() {
        let config = load(&[
            ("TRUSTED_PROXIES", "10.0.0.0/8, ::1,127.0.0.1"),
            ("CORS_ORIGINS", "https://app.example,http://localhost:5173"),
        ]);
        let access = config.unwrap().access;
        assert_eq!((access.trusted_proxies().len(), access.cors_origins().len()), (3, 2));
        for (name, bad) in [
            ("TRUSTED_PROXIES", "proxy.example"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("CORS_ORIGINS", "*"),
            ("CORS_ORIGINS", "null"),
            ("CORS_ORIGINS", "app.example"),
            ("CORS_ORIGINS", "https://app.example/"),
            ("CORS_ORIGINS", "https://App.example"),
            ("CORS_ORIGINS", "https://*.example"),
        ] {
            assert!(load(&[(name, bad)]).unwrap_err().starts_with(name), "{bad}");
        }
    }

    #[test]
    fn an_open_service_counts_log_ins_only() {
        assert_eq!(load(&[]).unwrap().rates(), Rates { reads: 0, writes: 0, events: 0 });
        let required = load(&[("AUTH", "required")]).unwrap();
        assert_eq!(required.rates(), Rates { reads: 6_000, writes: 3_000, events: 0 });
        assert_eq!(required.access.rate_account_logins(), 30);
        let required = load(&[("AUTH", "required"), ("RATE_WRITES", "7")]).unwrap();
        assert_eq!(required.rates(), Rates { reads: 14, writes: 7, events: 0 });
    }
}
