//! One variable: its name, its default, what it takes and what it does.

use std::net::{IpAddr, Ipv4Addr};

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
    /// An IP address to listen on, or `localhost`.
    Address,
    /// Text, described.
    Text(&'static str),
    /// Text that is never shown, described.
    Secret(&'static str),
}

pub(super) const ADDRESS: Kind = Kind::Address;
pub(super) const SWITCH: Kind = Kind::Switch;

/// A whole number from `min` to `max`.
pub(super) const fn int(min: u64, max: u64, unit: &'static str) -> Kind {
    Kind::Int { min, max, unit }
}

pub(super) const fn one_of(words: &'static [&'static str]) -> Kind {
    Kind::OneOf(words)
}

pub(super) const fn text(takes: &'static str) -> Kind {
    Kind::Text(takes)
}

pub(super) const fn secret(takes: &'static str) -> Kind {
    Kind::Secret(takes)
}

/// Declares every setting once: the structs of the concerns, which envy fills, and `Config`, which holds them; the
/// [`Setting`]s that check values, and print `--help` and `.env.example`.
macro_rules! settings {
    ($(
        $(#[$about:meta])*
        $concern:ident: $Struct:ident, $title:literal {
            $($(#[$attribute:meta])* $vis:vis $field:ident: $type:ty = $default:literal, $kind:expr, $help:literal;)*
        }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Clone, serde::Deserialize)]
            pub struct $Struct {
                $(
                    #[doc = $help]
                    $(#[$attribute])*
                    $vis $field: $type,
                )*
            }

            /// Without values: some are secrets.
            impl std::fmt::Debug for $Struct {
                fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.debug_struct(stringify!($Struct)).finish_non_exhaustive()
                }
            }

            impl $Struct {
                const SETTINGS: &'static [$crate::config::Setting] = &[$($crate::config::Setting {
                    name: {
                        const FIELD: &str = stringify!($field);
                        const NAME: &[u8] = &$crate::config::setting::variable::<{ FIELD.len() }>(FIELD);
                        $crate::config::setting::ascii(NAME)
                    },
                    default: $default,
                    kind: $kind,
                    help: $help,
                }),*];
            }
        )*

        /// All settings of the service.
        #[derive(Debug, Clone)]
        pub struct Config {
            $(
                $(#[$about])*
                pub $concern: $Struct,
            )*
            /// Notes for the operator, to be logged: lines of `.env` and variables that have no effect.
            pub notes: Vec<String>,
        }

        /// The settings of all concerns, in the order in which they are shown.
        pub const ALL_SETTINGS: &[(&str, &[$crate::config::Setting])] = &[$(($title, $Struct::SETTINGS)),*];

        impl Config {
            /// Each value checked by itself.
            pub(super) fn load(
                variables: &$crate::config::Variables,
            ) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self {
                    $($concern: variables.load($Struct::SETTINGS)?,)*
                    notes: variables.notes().to_vec(),
                })
            }
        }
    };
}
pub(super) use settings;

/// The variable of a field, which has the field's name in capitals.
pub(super) const fn variable<const LENGTH: usize>(field: &str) -> [u8; LENGTH] {
    let mut name = [0; LENGTH];
    name.copy_from_slice(field.as_bytes());
    name.make_ascii_uppercase();
    name
}

/// The text of [`variable`].
pub(super) const fn ascii(name: &[u8]) -> &str {
    match std::str::from_utf8(name) {
        Ok(name) => name,
        Err(_) => "",
    }
}

impl Kind {
    /// What the variable takes, in words.
    pub fn takes(self) -> String {
        match self {
            Self::Int { min, max, unit } => format!("a whole number from {min} to {max} ({unit})"),
            Self::Switch => "on or off".into(),
            Self::OneOf(words) => words.join(" or "),
            Self::Address => "an IP address to listen on, or localhost".into(),
            Self::Text(what) | Self::Secret(what) => what.into(),
        }
    }

    pub(super) fn accepts(self, value: &str) -> bool {
        match self {
            Self::Int { min, max, .. } => value.parse().is_ok_and(|number| (min..=max).contains(&number)),
            Self::Switch => matches!(value, "on" | "off"),
            Self::OneOf(words) => words.contains(&value),
            Self::Address => address(value).is_some(),
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
        let mut takes = self.kind.takes();
        if let Kind::Address = self.kind {
            takes += "; conda and some shells export a HOST of their own: unset it, or set HOST=127.0.0.1";
        }
        ConfigError::Value { name: self.name, got, takes }
    }
}

/// The address that a variable of the kind [`Kind::Address`] names.
pub(super) fn address(value: &str) -> Option<IpAddr> {
    if value.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let bare = value.strip_prefix('[').and_then(|value| value.strip_suffix(']')).unwrap_or(value);
    bare.parse().ok()
}

/// The variable with this name.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings).find(|setting| setting.name == name)
}

/// How alike two names have to be (Jaro-Winkler, 0 to 1): `MAX_CONNECTION` and `MAX_CONNECTIONS`, not `HTTP_PROXY` and
/// `HTTP_THREADS`.
const ALIKE: f64 = 0.9;

/// The setting that a variable was meant to set, if it sets none: one with the same first word and nearly the same name, one with
/// the program's name in front, or one that is a slip away. (Names such as `HOST` and `PORTS` are other programs' too.)
pub(super) fn misspelt(name: &str) -> Option<&'static str> {
    if setting(name).is_some() {
        return None;
    }
    if let Some(meant) = name.strip_prefix("TIDEGATE_").and_then(setting) {
        return Some(meant.name);
    }
    let all = || ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings);
    let likeness = |setting: &'static Setting| {
        let (prefix, _) = name.split_once('_')?;
        let (first, _) = setting.name.split_once('_')?;
        // One that goes on behind a setting's name is a variant for something else, such as DATABASE_URL_TEST.
        let goes_on = name.strip_prefix(setting.name).is_some_and(|rest| rest.starts_with('_'));
        let alike = strsim::jaro_winkler(&name.to_ascii_uppercase(), setting.name);
        (first.eq_ignore_ascii_case(prefix) && !goes_on && alike >= ALIKE).then_some((alike, setting.name))
    };
    let alike = all().filter_map(likeness).max_by(|one, other| one.0.total_cmp(&other.0));
    let slip = || all().map(|setting| setting.name).find(|setting| is_slip(name, setting));
    alike.map(|(_, setting)| setting).or_else(slip)
}

/// Whether `name` is `setting` with a slip of the keyboard: `WRITER`, `DURABILTY`, `AUTHH`. The shorter a name, the more of its
/// neighbours are other programs' names, such as `AUTHN` and `COST`.
fn is_slip(name: &str, setting: &str) -> bool {
    let letters = |name: &str| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.dedup();
        letters
    };
    let is_plural = name.strip_prefix(setting) == Some("S");
    let is_near = match (setting.len(), strsim::osa_distance(name, setting)) {
        // A doubled letter.
        (4..=5, 1) => letters(name) == letters(setting),
        (6..=9, distance) => distance == 1,
        (10.., distance) => distance <= 2,
        _ => false,
    };
    is_near && !is_plural && name.chars().next() == setting.chars().next()
}

/// The part of `serve --help` that lists every variable.
pub fn help() -> String {
    use std::fmt::Write;
    let mut text = String::from("Environment (read from .env too):\n");
    for (concern, settings) in ALL_SETTINGS {
        let _infallible = writeln!(text, "\n{concern}:");
        for setting in *settings {
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

/// The text of `.env.example`.
#[cfg(test)]
fn example() -> String {
    let mut text = String::from(
        "# Tidegate's settings, each with its default. Copy this file to .env and take the # away where you want another value.\n\
         # An empty value is unset. A value with spaces, quotes, # or $ stands in single quotes. What is set in the environment wins over this file.\n",
    );
    for (concern, settings) in ALL_SETTINGS {
        text += &format!("\n## {concern}\n");
        for Setting { name, default, kind, help } in *settings {
            let takes = match kind {
                Kind::Int { .. } => kind.takes().replacen('a', "A", 1),
                Kind::Switch | Kind::OneOf(_) => kind.takes(),
                _ => format!("Takes {}", kind.takes()),
            };
            text += &format!("\n# {help}\n# {takes}.\n#{name}={default}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_misspelt_name_is_noticed_and_other_tools_names_are_not() {
        let meant = [
            ("JOURNAL_MAX_BYTE", "JOURNAL_MAX_BYTES"),
            ("JOURNAL_MAX_SIZE", "JOURNAL_MAX_BYTES"),
            ("MAX_CONNECTION", "MAX_CONNECTIONS"),
            ("DB_POOLSIZE", "DB_POOL_SIZE"),
            ("DB_POOL", "DB_POOL_SIZE"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("journal_max_bytes", "JOURNAL_MAX_BYTES"),
            ("TIDEGATE_PORT", "PORT"),
            ("WRITER", "WRITERS"),
            ("AUTHH", "AUTH"),
            ("DURABILTY", "DURABILITY"),
            ("DATABSE_URL", "DATABASE_URL"),
            ("BATCHSIZE", "BATCH_SIZE"),
        ];
        for (name, setting) in meant {
            assert_eq!(misspelt(name), Some(setting), "{name}");
        }
        let others = [
            "HTTP_PROXY",
            "http_proxy",
            "HTTP_HOST",
            "DB_HOST",
            "DB_USER",
            "DB_NAME",
            "DB_PASSWORD",
            "DATABASE_URL_TEST",
            "HOSTNAME",
            "HOSTS",
            "PORTS",
            "COST",
            "POST",
            "AUTHN",
            "AUTHZ",
            "LOGS",
            "LONG",
            "port",
            "MATCH_SIZE",
            "XDG_DATA_DIRS",
            "HOST_IP",
            "PORT_80_TCP",
            "AUTH_SERVICE_HOST",
            "LOG_DIR",
            "LOGNAME",
            "LOG_LEVEL",
            "MAX_REQUESTS",
            "TIDEGATE_NEEDS_POOLER",
            "JWT_PRIVATE_KEY",
            "PG_CONFIG",
            "HOME",
            "_",
            "",
        ];
        for name in others {
            assert_eq!(misspelt(name), None, "{name}");
        }
        for setting in ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings) {
            assert_eq!(misspelt(setting.name), None);
        }
    }

    #[test]
    fn the_example_file_lists_every_setting() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example");
        if std::env::var_os("UPDATE_EXAMPLE").is_some() {
            std::fs::write(file, example()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file).unwrap(), example(), "UPDATE_EXAMPLE=1 writes it anew");
    }

    /// The text of all files below a folder.
    fn texts(folder: &Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() && !path.ends_with("node_modules") => texts(&path, into),
                Some("rs" | "sh") => into.push_str(&std::fs::read_to_string(&path).unwrap()),
                _ => {}
            }
        }
    }

    #[test]
    fn every_setting_is_set_by_a_test() {
        let mut tests = String::new();
        texts(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")), &mut tests);
        for setting in ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings) {
            let name = setting.name;
            let is_set =
                [format!("(\"{name}\", "), format!(" {name}=")].iter().any(|text| tests.contains(text));
            assert!(is_set, "{name}");
        }
    }

    #[test]
    fn an_address_is_an_ip_address_or_localhost() {
        for (text, shown) in
            [("localhost", "127.0.0.1"), ("LocalHost", "127.0.0.1"), ("::", "::"), ("[::1]", "::1")]
        {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), Some(shown));
        }
        for text in ["x86_64-conda-linux-gnu", "localhost:3000", "[]", "[127.0.0.1", "127.1", ""] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
