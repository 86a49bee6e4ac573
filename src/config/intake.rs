//! Protocols of other SDKs in which events are accepted (`INTAKE`).

use super::{Config, ConfigError, Module, refuse};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Segment's HTTP tracking API.
    Segment,
    /// PostHog's capture API.
    PostHog,
    /// CloudEvents 1.0, on the event routes.
    CloudEvents,
    /// Logs of OpenTelemetry (OTLP/HTTP).
    Otlp,
}

/// Every protocol, by its name.
const ALL: [(Protocol, &str); 4] = [
    (Protocol::Segment, "segment"),
    (Protocol::PostHog, "posthog"),
    (Protocol::CloudEvents, "cloudevents"),
    (Protocol::Otlp, "otlp"),
];

pub(super) const PROTOCOLS_TAKE: &str = "names with commas between: segment, posthog, cloudevents, otlp";

/// A set of protocols: those that are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// Every protocol.
    pub fn all() -> Self {
        Self(ALL.iter().fold(0, |bits, (protocol, _)| bits | bit(*protocol)))
    }

    /// Whether a protocol is on.
    pub fn has(self, protocol: Protocol) -> bool {
        self.0 & bit(protocol) != 0
    }

    /// The names of those with routes of their own, whose clients read no list of rejected events.
    pub fn adapters(self) -> impl Iterator<Item = &'static str> {
        let adapters = ALL.iter().filter(|(protocol, _)| *protocol != Protocol::CloudEvents);
        adapters.filter(move |(protocol, _)| self.has(*protocol)).map(|(_, name)| *name)
    }

    fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut protocols = Self::default();
        for word in text.split(',').map(str::trim) {
            match ALL.iter().find(|(_, name)| *name == word) {
                Some((protocol, _)) => protocols.0 |= bit(*protocol),
                None => {
                    let takes = format!("{PROTOCOLS_TAKE}; {word:?} is none of them");
                    return Err(refuse("INTAKE", text, takes));
                }
            }
        }
        Ok(protocols)
    }
}

fn bit(protocol: Protocol) -> u8 {
    1 << protocol as u8
}

impl Config {
    /// The protocols that are on; none where the module is off.
    pub fn protocols(&self) -> Protocols {
        match self.modules().has(Module::Intake) {
            true => Protocols::parse(&self.intake.intake).unwrap_or_default(),
            false => Protocols::default(),
        }
    }

    /// Rejects unknown protocols.
    pub(super) fn check_intake(&self) -> Result<(), ConfigError> {
        Protocols::parse(&self.intake.intake).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load;

    #[test]
    fn every_protocol_is_on_unless_intake_or_modules_leave_it_out() {
        let protocols = |set: &[(&str, &str)]| load(set).unwrap().protocols();
        assert_eq!(protocols(&[]), Protocols::all());
        let some = protocols(&[("INTAKE", " otlp,segment")]);
        let on: Vec<&str> = ALL.iter().filter(|(one, _)| some.has(*one)).map(|(_, name)| *name).collect();
        assert_eq!(on, ["segment", "otlp"]);
        assert_eq!(protocols(&[("MODULES", "events"), ("INTAKE", "otlp")]), Protocols::default());
        for bad in ["statsd", "Segment", "otlp,", "all"] {
            let error = load(&[("INTAKE", bad)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("INTAKE: got {bad:?}, takes {PROTOCOLS_TAKE}; ")), "{error}");
        }
    }
}
