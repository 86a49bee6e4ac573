//! The members of a JSON object, taken one by one, so that a refusal can name the one that is wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::FaultError;

/// The most characters of an unknown member's name that its refusal repeats.
const MAX_NAME_SHOWN: usize = 64;

/// What is left of an object. A member that is null is not there.
pub(super) struct Members<'a>(BTreeMap<&'a str, &'a Value>);

impl<'a> Members<'a> {
    pub(super) fn of(json: &'a Value) -> Result<Self, FaultError> {
        let object = json.as_object().ok_or(FaultError::NotAnObject)?;
        let members = object.iter().filter(|(_, value)| !value.is_null());
        Ok(Self(members.map(|(name, value)| (name.as_str(), value)).collect()))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'a Value> {
        self.0.remove(name)
    }

    pub(super) fn text(&mut self, name: &'static str, most: usize) -> Result<Option<String>, FaultError> {
        self.read(
            name,
            |value| value.as_str().filter(|text| text.len() <= most).map(str::to_owned),
            || format!("takes text of at most {most} bytes"),
        )
    }

    pub(super) fn integer(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Result<Option<u64>, FaultError> {
        self.read(
            name,
            |value| value.as_u64().filter(|number| bounds.contains(number)),
            || format!("takes a whole number from {} to {}", bounds.start(), bounds.end()),
        )
    }

    /// A share of one.
    pub(super) fn share(&mut self, name: &'static str) -> Result<Option<f64>, FaultError> {
        self.read(
            name,
            |value| value.as_f64().filter(|share| (0.0..=1.0).contains(share)),
            || "takes a number from 0 to 1".into(),
        )
    }

    /// False where it is not there.
    pub(super) fn switch(&mut self, name: &'static str) -> Result<bool, FaultError> {
        Ok(self.read(name, Value::as_bool, || "takes true or false".into())?.unwrap_or(false))
    }

    /// Refuses what was not taken.
    pub(super) fn refuse_others(self) -> Result<(), FaultError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let field: String = name.chars().take(MAX_NAME_SHOWN).collect();
                Err(FaultError::Member { field: Cow::Owned(field), takes: "is no member of a fault".into() })
            }
        }
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
        takes: impl FnOnce() -> String,
    ) -> Result<Option<T>, FaultError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| refuse(name, takes()))
    }
}

pub(super) fn refuse(field: &'static str, takes: String) -> FaultError {
    FaultError::Member { field: Cow::Borrowed(field), takes }
}
