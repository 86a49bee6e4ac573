//! Checks of settings: codes and messages are PocketBase's, its misspelt one too.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

use super::cron;
use super::model::{
    AppSettings, Audience, Backups, Batches, Logs, Meta, RateRule, RateRules, S3, Smtp, network,
};
use crate::records::schema::{Violation, Violations, is_email, is_url};

/// The longest name, in bytes.
const MAX_NAME: usize = 255;
const AUTH_METHODS: [&str; 2] = ["LOGIN", "PLAIN"];

/// A name of the DNS: labels of letters, digits, `_` and `-` that do not begin with a `-`.
static DNS_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}(\.[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62})*[._]?$").ok()
});
static COLOR: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$").ok());
static LABEL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^([0-9A-Za-z_]+ /[0-9A-Za-z_/-]*|/[0-9A-Za-z_/-]*|([0-9A-Za-z_]+|\*):[0-9A-Za-z_]+|[0-9A-Za-z_]+)$",
    )
    .ok()
});

fn matches(pattern: &LazyLock<Option<Regex>>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// The violations of one section.
#[derive(Default)]
struct Section(Violations);

impl Section {
    /// Refuses an empty text or a zero, if one is needed. Whether there is a value.
    fn required(&mut self, member: &str, is_empty: bool, is_needed: bool) -> bool {
        if is_empty && is_needed {
            self.0.add(member, Violation::required());
        }
        !is_empty
    }

    /// Refuses a value that does not hold; empty texts hold.
    fn holds(&mut self, member: &str, holds: bool, code: &str, message: &str) {
        if !holds {
            self.0.add(member, Violation::new(code, message));
        }
    }

    fn at_least(&mut self, member: &str, value: i64, least: i64) {
        // A zero counts as no value.
        if value != 0 && value < least {
            let message = format!("Must be no less than {least}.");
            self.0.add(
                member,
                Violation::new("min_greater_equal_than_required", message).with("threshold", least),
            );
        }
    }

    fn number(&mut self, member: &str, value: i64, is_needed: bool, least: i64) {
        self.required(member, value == 0, is_needed);
        self.at_least(member, value, least);
    }

    fn name(&mut self, member: &str, value: &str) {
        if self.required(member, value.is_empty(), true) && value.len() > MAX_NAME {
            let violation = Violation::new(
                "length_out_of_range",
                format!("The length must be between 1 and {MAX_NAME}."),
            );
            self.0.add(member, violation.with("max", MAX_NAME).with("min", 1));
        }
    }

    fn url(&mut self, member: &str, value: &str, is_needed: bool) {
        if self.required(member, value.is_empty(), is_needed) {
            self.holds(member, is_url(value), "is_url", "Must be a valid URL.");
        }
    }

    fn host(&mut self, member: &str, value: &str) {
        if !value.is_empty() {
            let is_name = value.len() <= MAX_NAME && matches(&DNS_NAME, value);
            let holds = is_name || value.parse::<IpAddr>().is_ok();
            self.holds(member, holds, "is_host", "Must be a valid IP address or DNS name.");
        }
    }

    fn choice(&mut self, member: &str, value: &str, choices: &[&str]) {
        self.holds(
            member,
            value.is_empty() || choices.contains(&value),
            "in_invalid",
            "Must be a valid value.",
        );
    }

    fn all(&mut self, member: &str, section: Self) {
        self.0.add_all(member, section.0);
    }
}

/// Addresses and networks.
fn addresses(list: &[String]) -> Section {
    let mut section = Section::default();
    for (at, text) in list.iter().enumerate() {
        let member = at.to_string();
        if section.required(&member, text.is_empty(), true) {
            section.holds(
                &member,
                network(text).is_some(),
                "invlaid_ip_or_subnet",
                "Invalid IP or CIDR subnet.",
            );
        }
    }
    section
}

impl AppSettings {
    /// The violations of all members.
    pub(super) fn check(&self) -> Violations {
        let mut all = Section::default();
        all.all("superuserIPs", addresses(&self.superuser_ips));
        all.all("meta", self.meta.check());
        all.all("logs", self.logs.check());
        all.all("smtp", self.smtp.check());
        all.all("s3", self.s3.check());
        all.all("backups", self.backups.check());
        all.all("batch", self.batch.check());
        all.all("rateLimits", self.rate_limits.check());
        all.0
    }
}

impl Meta {
    fn check(&self) -> Section {
        let mut section = Section::default();
        if !matches!(self.accent_color.len(), 0 | 7) {
            let violation = Violation::new("length_invalid", "The length must be exactly 7.");
            section.0.add("accentColor", violation.with("max", 7).with("min", 7));
        }
        let is_color = self.accent_color.is_empty() || matches(&COLOR, &self.accent_color);
        section.holds("accentColor", is_color, "is_hex_color", "Must be a valid hexadecimal color code.");
        section.name("appName", &self.app_name);
        section.url("appURL", &self.app_url, true);
        section.name("senderName", &self.sender_name);
        if section.required("senderAddress", self.sender_address.is_empty(), true) {
            let is_email = is_email(&self.sender_address);
            section.holds("senderAddress", is_email, "is_email", "Must be a valid email address.");
        }
        section
    }
}

impl Logs {
    fn check(&self) -> Section {
        let mut section = Section::default();
        section.at_least("maxDataSize", self.max_data_size, 0);
        section.at_least("maxDays", self.max_days, 0);
        section
    }
}

impl Smtp {
    fn check(&self) -> Section {
        let mut section = Section::default();
        section.required("host", self.host.is_empty(), self.enabled);
        section.host("host", &self.host);
        section.number("port", self.port, self.enabled, 0);
        section.choice("authMethod", &self.auth_method, &AUTH_METHODS);
        section.host("localName", &self.local_name);
        section
    }
}

impl S3 {
    fn check(&self) -> Section {
        let mut section = Section::default();
        section.url("endpoint", &self.endpoint, self.enabled);
        section.required("bucket", self.bucket.is_empty(), self.enabled);
        section.required("region", self.region.is_empty(), self.enabled);
        section.required("accessKey", self.access_key.is_empty(), self.enabled);
        section.required("secret", self.secret.is_empty(), self.enabled);
        section
    }
}

impl Backups {
    fn check(&self) -> Section {
        let mut section = Section::default();
        section.all("s3", self.s3.check());
        if !self.cron.is_empty()
            && let Err(message) = cron::check(&self.cron)
        {
            section.0.add("cron", Violation::new("invalid_cron", message));
        }
        section.number("cronMaxKeep", self.cron_max_keep, !self.cron.is_empty(), 1);
        section
    }
}

impl Batches {
    fn check(&self) -> Section {
        let mut section = Section::default();
        section.number("maxRequests", self.max_requests, self.enabled, 0);
        section.number("timeout", self.timeout, self.enabled, 0);
        section.at_least("maxBodySize", self.max_body_size, 0);
        section
    }
}

impl RateRules {
    fn check(&self) -> Section {
        let mut section = Section::default();
        section.required("rules", self.rules.is_empty(), self.enabled);
        let mut of_rules = Section::default();
        for (at, rule) in self.rules.iter().enumerate() {
            of_rules.all(&at.to_string(), rule.check());
        }
        // As PocketBase does: conflicts are looked for once all rules are good by themselves.
        if of_rules.0.is_empty()
            && let Some(at) = self.conflict()
        {
            let label = &self.rules[at].label;
            let message = format!(
                "Rate limit rule configuration with label {label} already exists or conflicts with another rule."
            );
            let mut of_rule = Section::default();
            of_rule.0.add(
                "label",
                Violation::new("conflicting_rate_limit_rule", message).with("label", label.as_str()),
            );
            of_rules.all(&at.to_string(), of_rule);
        }
        section.all("rules", of_rules);
        section.all("excludedIPs", addresses(&self.excluded_ips));
        section
    }

    /// The first rule that another one before it leaves no request: of the same label, and of the same audience or of all.
    fn conflict(&self) -> Option<usize> {
        let mut known: std::collections::HashMap<&str, Vec<&str>> = std::collections::HashMap::new();
        self.rules.iter().position(|rule| {
            let audiences = known.entry(rule.label.as_str()).or_default();
            let conflicts = audiences
                .iter()
                .any(|other| other.is_empty() || rule.audience.is_empty() || *other == rule.audience);
            audiences.push(&rule.audience);
            conflicts
        })
    }
}

impl RateRule {
    fn check(&self) -> Section {
        let mut section = Section::default();
        if section.required("label", self.label.is_empty(), true) {
            section.holds(
                "label",
                matches(&LABEL, &self.label),
                "match_invalid",
                "Must be in a valid format.",
            );
        }
        section.number("maxRequests", self.max_requests, true, 1);
        section.number("duration", self.duration, true, 1);
        section.choice("audience", &self.audience, &Audience::NAMES);
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_can_be_compiled() {
        assert!(DNS_NAME.is_some() && COLOR.is_some() && LABEL.is_some());
    }
}
