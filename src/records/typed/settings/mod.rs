//! Settings of the application that typed collections serve, as superusers change them while it runs.
//!
//! They are one row of JSON. Each change merges into it, in a transaction, and every node reads it anew by the feed. The defaults (but for
//! `logs.minLevel`), the checks and the messages are those of PocketBase 0.40.6.

mod check;
mod cron;
mod model;
mod store;
mod windows;

use serde_json::{Map, Value};

pub use model::{
    AppSettings, Audience, Backups, Batches, Logs, Meta, Proxy, RateRule, RateRules, S3, SecretText, Smtp,
};
pub(super) use store::SettingsStore;
pub(super) use windows::RateWindows;

use crate::records::schema::Violations;

/// A change of the settings that is refused.
#[derive(Debug, PartialEq)]
pub enum SettingsError {
    /// A member has another type than it takes.
    Format,
    /// Values are refused, by member.
    Refused(Violations),
}

impl AppSettings {
    /// These settings with the members of `patch`: sections merge, lists are replaced, null changes nothing and empties a list, unknown members
    /// are ignored.
    ///
    /// # Errors
    ///
    /// [`SettingsError`].
    pub fn changed(&self, patch: &Map<String, Value>) -> Result<Self, SettingsError> {
        if patch.values().any(has_zero) {
            return Err(SettingsError::Format);
        }
        let mut members = serde_json::to_value(self).map_err(|_| SettingsError::Format)?;
        for (name, value) in patch {
            if let Some(known) = members.get_mut(name) {
                merge(known, value)?;
            }
        }
        let mut changed: Self = serde_json::from_value(members).map_err(|_| SettingsError::Format)?;
        changed.keep_masked(self);
        changed.check().into_result().map_err(SettingsError::Refused)?;
        Ok(changed)
    }

    /// As clients see them: without secrets.
    pub fn shown(&self) -> Value {
        let mut members = serde_json::to_value(self).unwrap_or_default();
        for (section, secret) in [("/smtp", "password"), ("/s3", "secret"), ("/backups/s3", "secret")] {
            if let Some(section) = members.pointer_mut(section).and_then(Value::as_object_mut) {
                section.remove(secret);
            }
        }
        members
    }
}

fn merge(known: &mut Value, patch: &Value) -> Result<(), SettingsError> {
    match (known, patch) {
        (Value::Object(known), Value::Object(patch)) => {
            for (name, value) in patch {
                if let Some(known) = known.get_mut(name) {
                    merge(known, value)?;
                }
            }
        }
        (Value::Array(known), Value::Null) => known.clear(),
        (_, Value::Null) => {}
        // A section takes its members by their names only.
        (Value::Object(_), _) => return Err(SettingsError::Format),
        (Value::Array(_), Value::Array(patch)) if patch.iter().any(Value::is_array) => {
            return Err(SettingsError::Format);
        }
        (known, patch) => *known = patch.clone(),
    }
    Ok(())
}

/// Whether a text has a zero character, which Postgres cannot store.
fn has_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_zero),
        Value::Object(members) => members.values().any(has_zero),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(patch: &Value) -> Result<AppSettings, SettingsError> {
        AppSettings::default().changed(patch.as_object().unwrap())
    }

    /// The violations of a change, as they go to a client.
    fn refused(patch: &Value) -> Value {
        match changed(patch) {
            Err(SettingsError::Refused(violations)) => serde_json::to_value(violations).unwrap(),
            other => panic!("{patch}: {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_those_of_a_fresh_pocketbase_but_for_the_level_of_logs() {
        let expected = json!({
            "superuserIPs": [],
            "smtp": {"enabled": false, "port": 587, "host": "smtp.example.com", "username": "", "authMethod": "", "tls": false, "localName": ""},
            "backups": {"cron": "", "cronMaxKeep": 3, "s3": {"enabled": false, "bucket": "", "region": "", "endpoint": "", "accessKey": "", "forcePathStyle": false}},
            "s3": {"enabled": false, "bucket": "", "region": "", "endpoint": "", "accessKey": "", "forcePathStyle": false},
            "meta": {"accentColor": "#1055c9", "appName": "Acme", "appURL": "http://localhost:8090", "senderName": "Support", "senderAddress": "support@example.com", "hideControls": false},
            "rateLimits": {"rules": [
                {"label": "*:auth", "audience": "", "duration": 3, "maxRequests": 2},
                {"label": "*:create", "audience": "", "duration": 5, "maxRequests": 20},
                {"label": "/api/batch", "audience": "", "duration": 1, "maxRequests": 3},
                {"label": "/api/", "audience": "", "duration": 10, "maxRequests": 300},
            ], "excludedIPs": [], "enabled": false},
            "trustedProxy": {"headers": [], "useLeftmostIP": false},
            "batch": {"enabled": false, "maxRequests": 50, "timeout": 3, "maxBodySize": 0},
            "logs": {"maxDataSize": 0, "maxDays": 5, "minLevel": 8, "logIP": true, "logAuthId": false},
        });
        assert_eq!(AppSettings::default().shown(), expected);
    }

    #[test]
    fn sections_merge_and_lists_are_replaced() {
        let patch = json!({"nope": 1, "meta": {"nope": 2, "appName": "x"}, "batch": null, "rateLimits": {"rules": null}, "superuserIPs": ["10.0.0.0/8"]});
        let one = changed(&patch).unwrap();
        assert_eq!((one.meta.app_name.as_str(), one.meta.sender_name.as_str()), ("x", "Support"));
        assert_eq!((one.batch.max_requests, one.rate_limits.rules.len()), (50, 0));
        let two = one.changed(json!({"superuserIPs": ["::1"]}).as_object().unwrap()).unwrap();
        assert_eq!((two.superuser_ips.len(), two.meta.app_name.as_str()), (1, "x"));
        for patch in [
            json!({"batch": 5}),
            json!({"batch": {"maxRequests": "x"}}),
            json!({"batch": {"maxRequests": 1.5}}),
            json!({"smtp": {"enabled": "true"}}),
            json!({"meta": {"appName": 5}}),
            json!({"meta": {"appName": "a\0b"}}),
            json!({"meta": ["#123456", "a", "b", "c", "d", false]}),
            json!({"rateLimits": {"rules": [["/x", "", 1, 1]]}}),
        ] {
            assert_eq!(changed(&patch), Err(SettingsError::Format), "{patch}");
        }
    }

    #[test]
    fn a_secret_is_kept_unless_it_is_sent_and_never_shown() {
        let patch = json!({"smtp": {"password": "hunter2"}, "s3": {"secret": "s"}, "backups": {"s3": {"secret": "t"}}});
        let one = changed(&patch).unwrap();
        assert!(!format!("{one:?} {}", one.shown()).contains("hunter2"));
        for kept in [json!({"smtp": {"username": "u"}}), one.shown(), json!({"smtp": {"password": "******"}})]
        {
            let two = one.changed(kept.as_object().unwrap()).unwrap();
            assert_eq!(two.smtp.password.reveal(), "hunter2", "{kept}");
            assert_eq!(two.backups.s3.secret.reveal(), "t");
        }
        let two = one.changed(json!({"smtp": {"password": ""}}).as_object().unwrap()).unwrap();
        assert_eq!(two.smtp.password.reveal(), "");
    }

    /// Each answer is that of PocketBase 0.40.6 to the same change.
    #[test]
    fn values_are_refused_as_pocketbase_refuses_them() {
        let blank = json!({"code": "validation_required", "message": "Cannot be blank."});
        let least = |threshold: i64| json!({"code": "validation_min_greater_equal_than_required", "message": format!("Must be no less than {threshold}."), "params": {"threshold": threshold}});
        let choice = json!({"code": "validation_in_invalid", "message": "Must be a valid value."});
        let host =
            json!({"code": "validation_is_host", "message": "Must be a valid IP address or DNS name."});
        let address =
            json!({"code": "validation_invlaid_ip_or_subnet", "message": "Invalid IP or CIDR subnet."});
        let url = json!({"code": "validation_is_url", "message": "Must be a valid URL."});
        let email = json!({"code": "validation_is_email", "message": "Must be a valid email address."});
        let length = json!({"code": "validation_length_invalid", "message": "The length must be exactly 7.", "params": {"max": 7, "min": 7}});
        let color =
            json!({"code": "validation_is_hex_color", "message": "Must be a valid hexadecimal color code."});
        let cron = json!({"code": "validation_invalid_cron", "message": "Invalid cron expression - must be a valid macro or to have exactly 5 space separated segments."});
        let s3 =
            json!({"accessKey": blank, "bucket": blank, "endpoint": url, "region": blank, "secret": blank});
        let format = json!({"code": "validation_match_invalid", "message": "Must be in a valid format."});
        let conflict = json!({"code": "validation_conflicting_rate_limit_rule", "message": "Rate limit rule configuration with label /x already exists or conflicts with another rule.", "params": {"label": "/x"}});
        let (all, signed_in) = (
            json!({"label": "/x", "duration": 1, "maxRequests": 1}),
            json!({"label": "/x", "audience": "@auth", "duration": 1, "maxRequests": 1}),
        );
        for (patch, expected) in [
            (
                json!({"meta": {"appName": "", "appURL": "x", "senderName": "", "senderAddress": "nope", "accentColor": "red"}}),
                json!({"meta": {"accentColor": length, "appName": blank, "appURL": url, "senderAddress": email, "senderName": blank}}),
            ),
            (
                json!({"meta": {"accentColor": "#GGGGGG", "appURL": ""}}),
                json!({"meta": {"accentColor": color, "appURL": blank}}),
            ),
            (
                json!({"smtp": {"enabled": true, "host": "", "port": -1, "authMethod": "x", "localName": "a b"}}),
                json!({"smtp": {"authMethod": choice, "host": blank, "localName": host, "port": least(0)}}),
            ),
            (
                json!({"smtp": {"enabled": true, "host": "ab c", "port": 70000}}),
                json!({"smtp": {"host": host}}),
            ),
            (
                json!({"batch": {"enabled": true, "maxRequests": 0, "timeout": 0, "maxBodySize": -1}}),
                json!({"batch": {"maxBodySize": least(0), "maxRequests": blank, "timeout": blank}}),
            ),
            (
                json!({"rateLimits": {"enabled": true, "rules": [{"label": "", "audience": "x", "duration": 0, "maxRequests": 0}]}}),
                json!({"rateLimits": {"rules": {"0": {"audience": choice, "duration": blank, "label": blank, "maxRequests": blank}}}}),
            ),
            (
                json!({"rateLimits": {"rules": [{"label": "a b", "duration": -1, "maxRequests": -1}]}}),
                json!({"rateLimits": {"rules": {"0": {"duration": least(1), "label": format, "maxRequests": least(1)}}}}),
            ),
            (json!({"rateLimits": {"enabled": true, "rules": []}}), json!({"rateLimits": {"rules": blank}})),
            (
                json!({"rateLimits": {"rules": [signed_in, all]}}),
                json!({"rateLimits": {"rules": {"1": {"label": conflict}}}}),
            ),
            (
                json!({"rateLimits": {"excludedIPs": ["nope", "1.2.3.0/24", "::1"]}}),
                json!({"rateLimits": {"excludedIPs": {"0": address}}}),
            ),
            (
                json!({"superuserIPs": ["127.0.0.1", "", "x"]}),
                json!({"superuserIPs": {"1": blank, "2": address}}),
            ),
            (
                json!({"logs": {"maxDays": -1, "minLevel": -100, "maxDataSize": -5}}),
                json!({"logs": {"maxDataSize": least(0), "maxDays": least(0)}}),
            ),
            (json!({"s3": {"enabled": true, "endpoint": "x"}}), json!({"s3": s3})),
            (
                json!({"backups": {"cron": "bad", "cronMaxKeep": 0}}),
                json!({"backups": {"cron": cron, "cronMaxKeep": blank}}),
            ),
        ] {
            assert_eq!(refused(&patch), expected, "{patch}");
        }
        for patch in [
            json!({"meta": {"appURL": "localhost:8090/x/", "appName": "aé<b>", "accentColor": ""}}),
            json!({"smtp": {"authMethod": "LOGIN", "localName": "1.2.3.4", "port": 70000}}),
            json!({"rateLimits": {"rules": [{"label": "/x", "duration": 1, "maxRequests": 1}, {"label": "/x/", "duration": 1, "maxRequests": 1}]}}),
            json!({"trustedProxy": {"headers": ["X-Forwarded-For", ""]}}),
            json!({"backups": {"cron": "@daily"}}),
            json!({"backups": {"cron": "*/5 1-4,7 * * 1-5/2"}}),
        ] {
            assert!(changed(&patch).is_ok(), "{patch}");
        }
    }
}
