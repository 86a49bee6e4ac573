//! The members of the settings, and their defaults.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What older clients send for a secret that they were not shown.
const MASK: &str = "******";

/// Settings of the application.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppSettings {
    /// The addresses from which superusers may call; none: all.
    #[serde(rename = "superuserIPs")]
    pub superuser_ips: Vec<String>,
    /// The mail server.
    pub smtp: Smtp,
    /// Backups; without effect.
    pub backups: Backups,
    /// A store of files; without effect.
    pub s3: S3,
    /// The application's name, and the sender of its mails.
    pub meta: Meta,
    /// Limits of requests.
    pub rate_limits: RateRules,
    /// Proxies; without effect, as `TRUSTED_PROXIES` names them.
    pub trusted_proxy: Proxy,
    /// Batches of requests.
    pub batch: Batches,
    /// The log of requests.
    pub logs: Logs,
}

/// A secret; never printed by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The mail server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Smtp {
    /// Whether mails go to it.
    pub enabled: bool,
    /// Its port.
    pub port: i64,
    /// Its name or address.
    pub host: String,
    /// The user; empty: none.
    pub username: String,
    /// The user's password.
    pub password: SecretText,
    /// `PLAIN` or `LOGIN`; empty: `PLAIN`.
    pub auth_method: String,
    /// Whether the connection begins with TLS; else TLS is used if the server offers it.
    pub tls: bool,
    /// The name that the service calls itself; empty: `localhost`.
    pub local_name: String,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            enabled: false,
            port: 587,
            host: "smtp.example.com".into(),
            username: String::new(),
            password: SecretText::default(),
            auth_method: String::new(),
            tls: false,
            local_name: String::new(),
        }
    }
}

/// A store of objects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "their names say it, and nothing reads them")]
pub struct S3 {
    pub enabled: bool,
    pub bucket: String,
    pub region: String,
    pub endpoint: String,
    pub access_key: String,
    pub secret: SecretText,
    pub force_path_style: bool,
}

/// Batches of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Batches {
    /// Whether batches are accepted.
    pub enabled: bool,
    /// Requests of one batch.
    pub max_requests: i64,
    /// Seconds for its transaction.
    pub timeout: i64,
    /// Bytes of its body; 0: as many as the service takes.
    pub max_body_size: i64,
}

impl Default for Batches {
    fn default() -> Self {
        Self { enabled: false, max_requests: 50, timeout: 3, max_body_size: 0 }
    }
}

/// Backups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "their names say it, and nothing reads them")]
pub struct Backups {
    pub cron: String,
    pub cron_max_keep: i64,
    pub s3: S3,
}

impl Default for Backups {
    fn default() -> Self {
        Self { cron: String::new(), cron_max_keep: 3, s3: S3::default() }
    }
}

/// The application, as mails name it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// A color of the admin UI, which is not there.
    pub accent_color: String,
    /// Its name.
    pub app_name: String,
    /// Its address, with which links in mails begin.
    #[serde(rename = "appURL")]
    pub app_url: String,
    /// The name of the sender of mails.
    pub sender_name: String,
    /// The address of the sender of mails.
    pub sender_address: String,
    /// Whether the admin UI, which is not there, lets collections be changed.
    pub hide_controls: bool,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            accent_color: "#1055c9".into(),
            app_name: "Acme".into(),
            app_url: "http://localhost:8090".into(),
            sender_name: "Support".into(),
            sender_address: "support@example.com".into(),
            hide_controls: false,
        }
    }
}

/// The log of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logs {
    /// Without effect: an entry has a few KiB at most.
    pub max_data_size: i64,
    /// Days for which entries are kept; 0: nothing is logged.
    pub max_days: i64,
    /// The lowest level that is logged: 0 for all requests, 8 for errors.
    pub min_level: i64,
    /// Whether entries have the address of the client.
    #[serde(rename = "logIP")]
    pub log_ip: bool,
    /// Whether entries have the id of the record that signed in.
    pub log_auth_id: bool,
}

impl Default for Logs {
    /// As PocketBase's, but for the level: each entry is a row in the user's database, and requests are many.
    fn default() -> Self {
        Self { max_data_size: 0, max_days: 5, min_level: 8, log_ip: true, log_auth_id: false }
    }
}

/// Headers of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "their names say it, and nothing reads them")]
pub struct Proxy {
    pub headers: Vec<String>,
    #[serde(rename = "useLeftmostIP")]
    pub use_leftmost_ip: bool,
}

/// Limits of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RateRules {
    /// Of those that match, the most exact one counts.
    pub rules: Vec<RateRule>,
    /// Addresses without limits.
    #[serde(rename = "excludedIPs")]
    pub excluded_ips: Vec<String>,
    /// Whether requests are limited.
    pub enabled: bool,
}

impl Default for RateRules {
    fn default() -> Self {
        let rule = |label: &str, max_requests, duration| RateRule {
            label: label.into(),
            audience: String::new(),
            duration,
            max_requests,
        };
        Self {
            rules: vec![
                rule("*:auth", 2, 3),
                rule("*:create", 20, 5),
                rule("/api/batch", 3, 1),
                rule("/api/", 300, 10),
            ],
            excluded_ips: Vec::new(),
            enabled: false,
        }
    }
}

/// A limit of requests from one address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RateRule {
    /// The requests: `posts:create`, `*:create`, a path, a path with its method, or with a `/` at its end all paths below.
    pub label: String,
    /// The callers ([`Audience`]).
    pub audience: String,
    /// Seconds of a window.
    pub duration: i64,
    /// Requests in a window.
    pub max_requests: i64,
}

/// The callers that a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Callers without a valid token.
    Guests,
    /// Callers with one.
    SignedIn,
}

impl Audience {
    pub(super) const NAMES: [&str; 3] = ["", Self::GUESTS, Self::SIGNED_IN];
    const GUESTS: &str = "@guest";
    const SIGNED_IN: &str = "@auth";

    /// Whether a rule for the callers with this name is for these.
    fn is_in(self, name: &str) -> bool {
        match name {
            Self::GUESTS => self == Self::Guests,
            Self::SIGNED_IN => self == Self::SignedIn,
            _ => true,
        }
    }
}

impl AppSettings {
    /// Whether superusers may call from an address.
    pub fn admits_superuser_from(&self, address: IpAddr) -> bool {
        self.superuser_ips.is_empty() || are_in(&self.superuser_ips, address)
    }

    /// The secrets of `known`, where they were not sent.
    pub(super) fn keep_masked(&mut self, known: &Self) {
        let keep = |secret: &mut SecretText, known: &SecretText| {
            if secret.0 == MASK {
                secret.clone_from(known);
            }
        };
        keep(&mut self.smtp.password, &known.smtp.password);
        keep(&mut self.s3.secret, &known.s3.secret);
        keep(&mut self.backups.s3.secret, &known.backups.s3.secret);
    }

    /// Renames a collection in the limits of requests; whether one named it.
    pub(super) fn rename_collection(&mut self, old: &str, new: &str) -> bool {
        let mut has_changed = false;
        for rule in &mut self.rate_limits.rules {
            if let Some((name, action)) = rule.label.split_once(':')
                && name == old
            {
                rule.label = format!("{new}:{action}");
                has_changed = true;
            }
        }
        has_changed
    }
}

impl RateRules {
    /// The rule of a request with these labels, the most exact one first. A label that ends with `/` counts for all that begins so.
    pub fn find(&self, labels: &[String], audience: Audience) -> Option<&RateRule> {
        let rules = || self.rules.iter().filter(|rule| audience.is_in(&rule.audience));
        labels.iter().find_map(|label| {
            let below = format!("{label}/");
            let is_prefix = |rule: &&RateRule| rule.label.ends_with('/') && below.starts_with(&rule.label);
            rules().find(|rule| rule.label == *label).or_else(|| rules().find(is_prefix))
        })
    }

    /// Whether requests from an address are not limited.
    pub fn excludes(&self, address: IpAddr) -> bool {
        are_in(&self.excluded_ips, address)
    }
}

/// Whether addresses and networks contain an address.
fn are_in(list: &[String], address: IpAddr) -> bool {
    list.iter().any(|text| match network(text) {
        Some(network) => network.contains(&address),
        None => false,
    })
}

/// An address, or a network in CIDR notation.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(all: &[(&str, &str)]) -> RateRules {
        let rule = |(label, audience): &(&str, &str)| RateRule {
            label: (*label).into(),
            audience: (*audience).into(),
            duration: 1,
            max_requests: 1,
        };
        RateRules {
            rules: all.iter().map(rule).collect(),
            excluded_ips: vec!["10.0.0.0/8".into()],
            enabled: true,
        }
    }

    fn found<'a>(rules: &'a RateRules, labels: &[&str], audience: Audience) -> Option<&'a str> {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        rules.find(&labels, audience).map(|rule| rule.label.as_str())
    }

    #[test]
    fn the_most_exact_label_counts_and_only_its_audience() {
        let rules = rules(&[
            ("/api/", ""),
            ("*:create", ""),
            ("posts:create", "@guest"),
            ("POST /api/batch", ""),
            ("/api/collections/", "@auth"),
        ]);
        let of_posts = [
            "posts:create",
            "*:create",
            "POST /api/collections/posts/records",
            "/api/collections/posts/records",
        ];
        assert_eq!(found(&rules, &of_posts, Audience::Guests), Some("posts:create"));
        assert_eq!(found(&rules, &of_posts, Audience::SignedIn), Some("*:create"));
        let list =
            ["posts:list", "*:list", "GET /api/collections/posts/records", "/api/collections/posts/records"];
        assert_eq!(found(&rules, &list, Audience::Guests), Some("/api/"));
        assert_eq!(
            found(&rules, &["POST /api/batch", "/api/batch"], Audience::Guests),
            Some("POST /api/batch")
        );
        assert_eq!(found(&rules, &["GET /api/batch", "/api/batch"], Audience::Guests), Some("/api/"));
        assert_eq!(found(&rules, &["GET /other", "/other"], Audience::Guests), None);
        assert!(rules.excludes("10.1.2.3".parse().unwrap()) && !rules.excludes("11.1.2.3".parse().unwrap()));
    }
}
