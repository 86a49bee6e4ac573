//! Variables as they are found, in the environment and in `.env`, and the structs that they fill.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::ConfigError;
use super::setting::{Setting, setting};

/// Variables by name; an empty value is unset.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The process's environment over the file `dot_env`, if there is one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or one of our variables is not UTF-8.
    pub fn from_process(dot_env: &Path) -> Result<Self, ConfigError> {
        let mut variables = BTreeMap::new();
        match dotenvy::from_path_iter(dot_env) {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|error| ConfigError::DotEnv(error.to_string()))?;
                    variables.insert(name, value);
                }
            }
            Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ConfigError::DotEnv(error.to_string())),
        }
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            match value.into_string() {
                Ok(value) => {
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
        Ok(variables.into_iter().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
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
        Self(variables.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }
}
