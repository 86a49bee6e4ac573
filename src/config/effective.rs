//! The settings as they take effect, for `tidegate config check`: each with its value and the place that it came from. Secrets are masked.

use super::setting::Setting;
use super::{ALL_SETTINGS, AuthMode, Config, ConfigError, Kind, Switch, Variables};

/// The place that a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The process's environment.
    Environment,
    /// The file `.env`.
    DotEnv,
    /// The setting's default.
    Default,
    /// Other settings, or the machine: the setting is not set and has no default of its own.
    Derived,
    /// Nowhere: it is not set, and has no value then.
    Unset,
}

impl Origin {
    /// Its name in the list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::DotEnv => ".env",
            Self::Default => "default",
            Self::Derived => "derived",
            Self::Unset => "unset",
        }
    }
}

/// A setting as it takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The variable's name.
    pub name: &'static str,
    /// Its value, empty if it is unset; `***` for a secret.
    pub value: String,
    /// The place that the value came from.
    pub origin: Origin,
}

/// A mask in the place of a secret.
const MASK: &str = "***";

/// The effective settings.
#[derive(Debug)]
pub struct EffectiveSettings {
    /// By concern, each with its title.
    pub concerns: Vec<(&'static str, Vec<EffectiveSetting>)>,
    /// Notes for the operator: lines of `.env` and variables that have no effect.
    pub notes: Vec<String>,
}

/// Checks the variables and returns the settings that they result in.
///
/// # Errors
///
/// [`ConfigError`] for the first variable with a value that it does not take.
pub fn effective(variables: &Variables) -> Result<EffectiveSettings, ConfigError> {
    let config = Config::from_variables(variables)?;
    let concerns = ALL_SETTINGS.iter().map(|(concern, settings)| {
        (*concern, settings.iter().map(|setting| config.effective(setting, variables)).collect())
    });
    Ok(EffectiveSettings { concerns: concerns.collect(), notes: config.notes.clone() })
}

impl Config {
    fn effective(&self, setting: &Setting, variables: &Variables) -> EffectiveSetting {
        let name = setting.name;
        let (value, origin) = match (variables.value(name), setting.default) {
            (Some((value, origin)), _) => (value.to_owned(), origin),
            (None, "") => match self.derived(name) {
                Some(value) => (value, Origin::Derived),
                None => (String::new(), Origin::Unset),
            },
            (None, default) => (default.to_owned(), Origin::Default),
        };
        let is_secret = matches!(setting.kind, Kind::Secret(_)) && origin != Origin::Unset;
        EffectiveSetting { name, value: if is_secret { MASK.to_owned() } else { value }, origin }
    }

    /// The value of a setting without a default, where others decide it.
    fn derived(&self, name: &str) -> Option<String> {
        let switch = |is_on| Switch::name(is_on).to_owned();
        Some(match name {
            "MODULES" => self.modules().names().join(","),
            "MEMORY_BUDGET" => self.memory_budget().to_string(),
            "WRITERS" => self.writers().to_string(),
            "MAX_QUEUE_BYTES" => self.memory().queue.to_string(),
            "SUBSCRIBERS_BYTES" => self.memory().subscribers.to_string(),
            "JOURNAL_KEEP_BYTES" => self.journal.keep_bytes().to_string(),
            "RECORDS_AUTO_CREATE" => switch(self.makes_collections()),
            "REGISTRATION" => switch(self.takes_registrations()),
            "AUTH" => match self.auth_mode() {
                AuthMode::Open => "open".to_owned(),
                AuthMode::Required => "required".to_owned(),
            },
            "RATE_WRITES" => self.rates().writes.to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) -> Vec<EffectiveSetting> {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        effective(&variables).unwrap().concerns.into_iter().flat_map(|(_, settings)| settings).collect()
    }

    fn one(settings: &[EffectiveSetting], name: &str) -> (String, Origin) {
        let setting = settings.iter().find(|setting| setting.name == name).unwrap();
        (setting.value.clone(), setting.origin)
    }

    #[test]
    fn each_setting_is_listed_once_with_its_origin() {
        let settings = check(&[("PORT", "4000"), ("WRITERS", "3")]);
        let count: usize = ALL_SETTINGS.iter().map(|(_, settings)| settings.len()).sum();
        assert_eq!(settings.len(), count);
        assert_eq!(one(&settings, "PORT"), ("4000".into(), Origin::Environment));
        assert_eq!(one(&settings, "WRITERS"), ("3".into(), Origin::Environment));
        assert_eq!(one(&settings, "BATCH_SIZE"), ("1000".into(), Origin::Default));
        assert_eq!(one(&settings, "MAX_QUEUE_BYTES"), ("268435456".into(), Origin::Derived));
        assert_eq!(one(&settings, "AUTH"), ("open".into(), Origin::Derived));
        assert_eq!(one(&settings, "DATABASE_URL"), (String::new(), Origin::Unset));
    }

    #[test]
    fn no_secret_is_shown() {
        let secret = "postgres://user:hidden-word@localhost/events";
        let settings =
            check(&[("DATABASE_URL", secret), ("JWT_SECRET", "hidden-word-of-at-least-32-bytes!")]);
        assert_eq!(one(&settings, "DATABASE_URL"), (MASK.into(), Origin::Environment));
        assert_eq!(one(&settings, "JWT_SECRET"), (MASK.into(), Origin::Environment));
        assert!(settings.iter().all(|setting| !setting.value.contains("hidden-word")));
    }

    #[test]
    fn a_setting_without_default_and_rule_is_unset_or_derived() {
        for setting in check(&[]) {
            let has_value = !setting.value.is_empty();
            assert_eq!(has_value, setting.origin != Origin::Unset, "{}", setting.name);
        }
    }
}
