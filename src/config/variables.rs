//! Variables as they are found, in the environment and in `.env`, and the structs that they fill.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::setting::{Setting, misspelt, setting};
use super::{ConfigError, Origin, dot_env, memory};

/// Variables by name; an empty value is unset.
#[derive(Clone, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
    /// Names whose values are those of `.env`.
    of_dot_env: BTreeSet<String>,
    notes: Vec<String>,
    memory_limit: Option<u64>,
}

/// Names alone: a value may be a password.
impl std::fmt::Debug for Variables {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.values.keys()).finish()
    }
}

impl Variables {
    /// The process's environment over the file `dot_env`, if there is one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or one of our variables is not UTF-8.
    pub fn from_process(dot_env: &Path) -> Result<Self, ConfigError> {
        let dot_env = dot_env::read(dot_env)?;
        let mut notes = Vec::new();
        if !dot_env.skipped.is_empty() {
            let lines: Vec<String> = dot_env.skipped.iter().map(usize::to_string).collect();
            notes.push(format!(
                ".env: skipped what cannot be read and sets nothing of tidegate's: line {}",
                lines.join(", ")
            ));
        }
        let mut variables: BTreeMap<String, String> = dot_env.variables.into_iter().collect();
        let mut of_dot_env: BTreeSet<String> = variables.keys().cloned().collect();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            match value.into_string() {
                Ok(value) => {
                    of_dot_env.remove(name);
                    variables.insert(name.to_owned(), value);
                }
                Err(value) => {
                    if let Some(setting) = setting(name) {
                        let got = format!("{} bytes that are not UTF-8", value.len());
                        return Err(ConfigError::Value {
                            name: setting.name,
                            got,
                            takes: setting.kind.takes(),
                        });
                    }
                }
            }
        }
        let mut variables: Self = variables.into_iter().collect();
        variables.notes.splice(..0, notes);
        variables.of_dot_env = of_dot_env;
        variables.memory_limit = memory::cgroup_limit();
        Ok(variables)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A variable's own value, and the place that it came from.
    pub(super) fn value(&self, name: &str) -> Option<(&str, Origin)> {
        let origin = if self.of_dot_env.contains(name) { Origin::DotEnv } else { Origin::Environment };
        self.get(name).map(|value| (value, origin))
    }

    /// Whether a variable has a value of its own.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// What an operator should see of the variables, without their values: lines and names that have no effect.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The limit of memory under which the process runs.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    /// Fills a concern's struct from its variables and their defaults.
    pub(super) fn load<T: DeserializeOwned>(&self, settings: &'static [Setting]) -> Result<T, ConfigError> {
        let mut values = Vec::new();
        for setting in settings {
            let value = self.get(setting.name).unwrap_or(setting.default);
            if value.is_empty() {
                continue;
            }
            if !setting.kind.accepts(value) {
                return Err(setting.refuse(value));
            }
            values.push((setting.name.to_owned(), value.to_owned()));
        }
        envy::from_iter(values.iter().cloned()).map_err(|error| {
            // envy's errors do not always name the variable: the one that fails beside the others' defaults is it.
            let culprit = settings.iter().find(|setting| {
                let alone = settings.iter().filter_map(|other| {
                    let value = if other.name == setting.name { self.get(other.name) } else { None };
                    let value = value.filter(|value| !value.is_empty()).unwrap_or(other.default);
                    (!value.is_empty()).then(|| (other.name.to_owned(), value.to_owned()))
                });
                envy::from_iter::<_, T>(alone).is_err()
            });
            match culprit {
                Some(setting) => setting.refuse(self.get(setting.name).unwrap_or_default()),
                None => ConfigError::DotEnv(error.to_string()),
            }
        })
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        let values: BTreeMap<String, String> =
            variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let meant = |name: &String| {
            misspelt(name)
                .map(|meant| format!("{name} is not a setting and has no effect; did you mean {meant}?"))
        };
        let notes = values.keys().filter_map(meant).collect();
        Self { values, of_dot_env: BTreeSet::new(), notes, memory_limit: None }
    }
}
