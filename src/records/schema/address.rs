//! Email addresses and URLs.

use std::sync::LazyLock;

use regex::Regex;

/// The longest URL, in characters.
const MAX_URL: usize = 2_082;

/// Whether a text is an email address: atoms with dots between, and a domain of at least two labels, the last of which begins and ends with a
/// letter. Characters beyond ASCII are letters.
pub fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_atom = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let are_atoms = local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom));
    let labels: Vec<&str> = domain.strip_suffix('.').unwrap_or(domain).split('.').collect();
    let is_ending = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric();
    let is_label = |label: &&str| {
        label.starts_with(is_ending)
            && label.ends_with(is_ending)
            && label.chars().all(|c| is_ending(c) || "-_~".contains(c))
    };
    let is_letter = |c: char| !c.is_ascii() || c.is_ascii_alphabetic();
    let is_top = |label: &&str| label.starts_with(is_letter) && label.ends_with(is_letter);
    are_atoms && labels.len() > 1 && labels.iter().all(is_label) && labels.last().is_some_and(is_top)
}

/// The domain of an email address.
pub(super) fn email_domain(text: &str) -> &str {
    text.rsplit_once('@').map_or("", |(_, domain)| domain)
}

static URL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let letter = r"a-zA-Z0-9\x{a1}-\x{10ffff}";
    let label = format!("[{letter}](?:[{letter}-]*[{letter}])?");
    let top = r"[a-zA-Z\x{a1}-\x{10ffff}](?:[a-zA-Z0-9\x{a1}-\x{10ffff}-]*[a-zA-Z0-9\x{a1}-\x{10ffff}])?";
    let host = format!(r"(?P<host>\d{{1,3}}(?:\.\d{{1,3}}){{3}}|\[[0-9a-fA-F:.]+\]|(?:{label}\.)*{top})");
    Regex::new(&format!(
        r"^(?:(?P<scheme>ftp|tcp|udp|wss?|https?)://)?(?P<user>\S+(?::\S*)?@)?{host}\.?(?::\d{{1,5}})?(?:[/?#]\S*)?$"
    ))
    .ok()
});

/// Whether a text is a URL: with one of a few schemes, or none where the host has a dot or a port.
pub fn is_url(text: &str) -> bool {
    let length = text.chars().count();
    if !(4..=MAX_URL).contains(&length) {
        return false;
    }
    let Some(found) = URL.as_ref().and_then(|url| url.captures(text)) else { return false };
    let has_dot = found.name("host").is_some_and(|host| host.as_str().contains('.'));
    found.name("scheme").is_some() || has_dot || text.contains(':')
}

/// The host of a URL, without its port.
pub(super) fn url_host(text: &str) -> &str {
    let found = URL.as_ref().and_then(|url| url.captures(text));
    found.and_then(|found| found.name("host")).map_or("", |host| host.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_domains_are_found() {
        assert_eq!(email_domain("a@b.co"), "b.co");
        assert_eq!(url_host("https://user:pw@Example.com:80/x?y#z"), "Example.com");
        assert_eq!(url_host("http://[::1]/"), "[::1]");
        assert!(URL.is_some());
    }
}
