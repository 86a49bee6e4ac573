//! One variable: its name, its default, what it takes and what it does.

use super::{ALL_SETTINGS, ConfigError};

/// One variable.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// What it is when it is not set; empty: unset.
    pub default: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it does.
    pub help: &'static str,
}

/// What a variable takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A whole number within bounds, with its unit.
    Int {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// The unit.
        unit: &'static str,
    },
    /// `on` or `off`.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text, described.
    Text(&'static str),
    /// Text that is never shown, described.
    Secret(&'static str),
}

impl Kind {
    /// What the variable takes, in words.
    pub fn takes(self) -> String {
        match self {
            Self::Int { min, max, unit } => format!("a whole number from {min} to {max} ({unit})"),
            Self::Switch => "on or off".into(),
            Self::OneOf(words) => words.join(" or "),
            Self::Text(what) | Self::Secret(what) => what.into(),
        }
    }

    pub(super) fn accepts(self, value: &str) -> bool {
        match self {
            Self::Int { min, max, .. } => value.parse().is_ok_and(|number| (min..=max).contains(&number)),
            Self::Switch => matches!(value, "on" | "off"),
            Self::OneOf(words) => words.contains(&value),
            Self::Text(_) | Self::Secret(_) => true,
        }
    }
}

impl Setting {
    /// A value that the variable does not take.
    pub(super) fn refuse(&self, value: &str) -> ConfigError {
        let got = match self.kind {
            Kind::Secret(_) => "a value that is not shown".into(),
            _ => format!("{value:?}"),
        };
        ConfigError::Value { name: self.name, got, takes: self.kind.takes() }
    }
}

/// The variable with this name.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings).find(|setting| setting.name == name)
}

/// The part of `serve --help` that lists every variable.
pub fn help() -> String {
    use std::fmt::Write;
    let mut text = String::from("Environment (read from .env too):\n");
    for (concern, settings) in ALL_SETTINGS {
        let _infallible = writeln!(text, "\n{concern}:");
        for setting in settings {
            let default = if setting.default.is_empty() { "unset" } else { setting.default };
            let takes = setting.kind.takes();
            let _infallible = writeln!(
                text,
                "  {:<24} {}\n{:27}[{takes}; default {default}]",
                setting.name, setting.help, ""
            );
        }
    }
    text
}
