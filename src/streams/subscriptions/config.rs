//! The configuration of a subscription, as its PUT names it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::StreamPath;
use super::error::SubscriptionError;
use super::pattern::Pattern;

/// Bytes of an id.
pub const MAX_ID_BYTES: usize = 256;
/// Bytes of a description.
pub const MAX_DESCRIPTION_BYTES: usize = 1_024;
/// Explicit streams of one request.
pub const MAX_REQUEST_STREAMS: usize = 1_000;
/// Bounds of a lease, in milliseconds.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
/// The lease of a subscription that names none.
pub const DEFAULT_LEASE_MS: u64 = 30_000;

/// The id of a subscription: a segment of a URL, decoded. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(Arc<str>);

impl SubscriptionId {
    /// Checks an id.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Invalid`].
    pub fn new(id: &str) -> Result<Self, SubscriptionError> {
        let is_id = (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains(char::is_control);
        let takes = "takes 1 to 256 bytes without control characters";
        if is_id { Ok(Self(id.into())) } else { Err(SubscriptionError::invalid("id", takes)) }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// How a subscription wakes its workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// By a POST to this URL.
    Webhook(String),
    /// By a message in its wake stream, for workers that then claim.
    PullWake,
}

/// A subscription, as its PUT names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionConfig {
    /// How it wakes.
    pub delivery: Delivery,
    /// The pattern of its streams.
    pub pattern: Option<Pattern>,
    /// Its explicit streams.
    pub streams: BTreeSet<StreamPath>,
    /// Its wake stream, which it never links. A webhook's has no other effect.
    pub wake_stream: Option<StreamPath>,
    /// The length of a lease.
    pub lease_ms: u64,
    /// A text for people.
    pub description: Option<String>,
}

impl SubscriptionConfig {
    /// Checks what depends on several members.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Invalid`].
    pub fn check(&self) -> Result<(), SubscriptionError> {
        if self.pattern.is_none() && self.streams.is_empty() {
            return Err(SubscriptionError::Invalid {
                field: "pattern",
                message: "at least one of pattern and streams is needed".to_owned(),
            });
        }
        if self.delivery == Delivery::PullWake && self.wake_stream.is_none() {
            return Err(SubscriptionError::invalid("wake_stream", "is missing: type pull-wake needs it"));
        }
        if !LEASE_MS.contains(&self.lease_ms) {
            let takes = "takes a whole number from 1000 to 600000";
            return Err(SubscriptionError::invalid("lease_ttl_ms", takes));
        }
        if self.description.as_ref().is_some_and(|text| text.len() > MAX_DESCRIPTION_BYTES) {
            return Err(SubscriptionError::invalid("description", "takes at most 1024 bytes"));
        }
        self.check_streams(self.streams.iter())
    }

    /// Checks streams that are to be linked.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Invalid`].
    pub fn check_streams<'a>(
        &self,
        streams: impl ExactSizeIterator<Item = &'a StreamPath>,
    ) -> Result<(), SubscriptionError> {
        if streams.len() > MAX_REQUEST_STREAMS {
            return Err(SubscriptionError::invalid("streams", "takes at most 1000 paths"));
        }
        for path in streams {
            if self.wake_stream.as_ref() == Some(path) {
                let takes = "takes no wake stream: each wake would cause the next one";
                return Err(SubscriptionError::invalid("streams", takes));
            }
        }
        Ok(())
    }

    /// Whether its pattern links a stream.
    pub fn matches(&self, path: &StreamPath) -> bool {
        self.wake_stream.as_ref() != Some(path)
            && self.pattern.as_ref().is_some_and(|pattern| pattern.matches(path))
    }

    /// A hash of all of it, by which a second PUT is compared (section 6.2).
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |name: &[u8], value: Option<&str>| {
            let value = value.map(str::as_bytes);
            hash.update(name);
            // A length before each value: no two configurations have the same bytes.
            hash.update(value.map_or(u64::MAX, |value| value.len() as u64).to_be_bytes());
            hash.update(value.unwrap_or_default());
        };
        let url = match &self.delivery {
            Delivery::Webhook(url) => Some(url.as_str()),
            Delivery::PullWake => None,
        };
        part(b"webhook", url);
        part(b"pattern", self.pattern.as_ref().map(Pattern::as_str));
        for path in &self.streams {
            part(b"stream", Some(path.as_str()));
        }
        part(b"wake_stream", self.wake_stream.as_ref().map(StreamPath::as_str));
        part(b"lease", Some(&self.lease_ms.to_string()));
        part(b"description", self.description.as_deref());
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SubscriptionConfig {
        SubscriptionConfig {
            delivery: Delivery::PullWake,
            pattern: Some(Pattern::parse("wake/*").unwrap()),
            streams: ["a", "b"].map(|path| StreamPath::new(path).unwrap()).into(),
            wake_stream: Some(StreamPath::new("wake/pool").unwrap()),
            lease_ms: DEFAULT_LEASE_MS,
            description: None,
        }
    }

    #[test]
    fn a_subscription_never_links_its_own_wake_stream() {
        let mut config = config();
        assert!(config.matches(&StreamPath::new("wake/other").unwrap()));
        assert!(!config.matches(&StreamPath::new("wake/pool").unwrap()));
        config.check().unwrap();
        config.streams.insert(StreamPath::new("wake/pool").unwrap());
        assert!(config.check().unwrap_err().to_string().starts_with("streams takes no wake stream"));
    }

    #[test]
    fn any_difference_changes_the_hash() {
        let base = config();
        let others = [
            SubscriptionConfig { delivery: Delivery::Webhook("https://a.example".into()), ..config() },
            SubscriptionConfig { pattern: None, ..config() },
            SubscriptionConfig { streams: BTreeSet::new(), ..config() },
            SubscriptionConfig { wake_stream: None, ..config() },
            SubscriptionConfig { lease_ms: 1_000, ..config() },
            SubscriptionConfig { description: Some(String::new()), ..config() },
        ];
        let mut hashes: Vec<_> = others.iter().chain([&base]).map(SubscriptionConfig::hash).collect();
        assert_eq!(base.hash(), config().hash());
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), others.len() + 1);
    }

    #[test]
    fn a_configuration_without_streams_or_out_of_bounds_is_refused() {
        let refused = |config: SubscriptionConfig| match config.check() {
            Err(SubscriptionError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(SubscriptionConfig { pattern: None, streams: BTreeSet::new(), ..config() }),
            "pattern"
        );
        assert_eq!(refused(SubscriptionConfig { wake_stream: None, ..config() }), "wake_stream");
        for lease_ms in [0, 999, 600_001, u64::MAX] {
            assert_eq!(refused(SubscriptionConfig { lease_ms, ..config() }), "lease_ttl_ms");
        }
        let long = Some("x".repeat(MAX_DESCRIPTION_BYTES + 1));
        assert_eq!(refused(SubscriptionConfig { description: long, ..config() }), "description");
        let streams = (0..=MAX_REQUEST_STREAMS).map(|n| StreamPath::new(&n.to_string()).unwrap()).collect();
        assert_eq!(refused(SubscriptionConfig { streams, ..config() }), "streams");
        for id in ["", "a\0", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(SubscriptionId::new(id).is_err());
        }
    }
}
