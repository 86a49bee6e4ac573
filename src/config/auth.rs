//! Access to the service, and the tokens that prove an identity.

use serde::Deserialize;

use super::{AuthConfig, ConfigError};

/// Whether requests need a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// No: all programs that reach the service may use it.
    Open,
    /// Yes.
    Required,
}

/// RFC 7518, section 3.2: a key of HS256 has at least the size of the hash.
const LEAST_SECRET_BYTES: usize = 32;
pub(super) const JWT_SECRET_TAKES: &str = "at least 32 bytes";
pub(super) const STRESS_TOKEN_TAKES: &str = "visible ASCII characters, as a header has them";
pub(super) const JWKS_URL_TAKES: &str =
    "a URL that begins with https://, or with http:// and a loopback address";

impl AuthConfig {
    /// Whether tokens of another issuer are taken.
    pub fn trusts_an_issuer(&self) -> bool {
        self.jwt_public_key_file.is_some() || self.jwt_jwks_url.is_some()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |name, got: &str, takes: &str| {
            Err(ConfigError::Value { name, got: got.into(), takes: takes.into() })
        };
        let hidden = "a value that is not shown";
        if self.jwt_secret.as_ref().is_some_and(|secret| secret.len() < LEAST_SECRET_BYTES) {
            return refuse("JWT_SECRET", hidden, JWT_SECRET_TAKES);
        }
        if self.stress_token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return refuse("STRESS_TOKEN", hidden, STRESS_TOKEN_TAKES);
        }
        if self.jwt_jwks_url.as_ref().is_some_and(|url| !is_safe(url)) {
            return refuse("JWT_JWKS_URL", "another one", JWKS_URL_TAKES);
        }
        if self.jwt_jwks_url.is_some() && self.jwt_public_key_file.is_some() {
            return refuse("JWT_JWKS_URL", "one beside JWT_PUBLIC_KEY_FILE", "a value only without that");
        }
        // Without them a token that an issuer made for another service would be valid here (RFC 8725, sections 3.8 and 3.9).
        for (name, value) in [("JWT_ISSUER", &self.jwt_issuer), ("JWT_AUDIENCE", &self.jwt_audience)] {
            if self.trusts_an_issuer() && value.is_none() {
                return refuse(name, "nothing", "a value where tokens of another issuer are taken");
            }
        }
        Ok(())
    }
}

/// Over a plain connection the keys could be replaced on their way, and any token be made to fit.
fn is_safe(url: &str) -> bool {
    url.starts_with("https://")
        || [
            "http://127.0.0.1:",
            "http://127.0.0.1/",
            "http://[::1]:",
            "http://localhost:",
            "http://localhost/",
        ]
        .iter()
        .any(|loopback| url.starts_with(loopback))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Module;
    use crate::config::tests::load;

    #[test]
    fn secrets_are_checked_and_never_shown() {
        let long = "x".repeat(32);
        let config = load(&[("STRESS_TOKEN", "hunter2"), ("JWT_SECRET", &long)]).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(&long), "{shown}");
        let error = load(&[("JWT_SECRET", &long[1..])]).unwrap_err().to_string();
        assert_eq!(error, "JWT_SECRET: got a value that is not shown, takes at least 32 bytes");
        assert!(load(&[("STRESS_TOKEN", "a b")]).unwrap_err().to_string().starts_with("STRESS_TOKEN: "));
    }

    #[test]
    fn off_loopback_everybody_has_to_show_a_token() {
        assert_eq!(load(&[]).unwrap().auth_mode(), AuthMode::Open);
        assert_eq!(load(&[("AUTH", "required")]).unwrap().auth_mode(), AuthMode::Required);
        for variables in [&[("HOST", "0.0.0.0")][..], &[("HOST", "::"), ("AUTH", "open")]] {
            let error = load(variables).unwrap_err().to_string();
            assert!(error.starts_with("HOST: got ") && error.contains("AUTH=required"), "{error}");
        }
        let everywhere = load(&[("HOST", "0.0.0.0"), ("AUTH", "required")]).unwrap();
        assert!(!everywhere.takes_registrations());
    }

    #[test]
    fn registration_stress_and_new_collections_are_on_by_default_only_where_auth_is_open() {
        let switches = |variables: &[(&str, &str)]| {
            let config = load(variables).unwrap();
            [config.takes_registrations(), config.modules().has(Module::Stress), config.makes_collections()]
        };
        assert_eq!(switches(&[]), [true; 3]);
        assert_eq!(switches(&[("AUTH", "open")]), [true; 3]);
        // Behind a proxy a service in production listens on loopback.
        for host in ["127.0.0.1", "::1", "0.0.0.0"] {
            assert_eq!(switches(&[("HOST", host), ("AUTH", "required")]), [false; 3], "{host}");
        }
        let on = [("REGISTRATION", "on"), ("MODULES", "all"), ("RECORDS_AUTO_CREATE", "on")];
        assert_eq!(switches(&[&on[..], &[("AUTH", "required")]].concat()), [true; 3]);
        let off = [("REGISTRATION", "off"), ("MODULES", "events"), ("RECORDS_AUTO_CREATE", "off")];
        assert_eq!(switches(&off), [false; 3]);
    }

    #[test]
    fn an_issuer_is_trusted_by_name_and_over_a_safe_way_only() {
        for (variables, name) in [
            (&[("JWT_PUBLIC_KEY_FILE", "key.pem")][..], "JWT_ISSUER"),
            (&[("JWT_JWKS_URL", "https://a/jwks"), ("JWT_ISSUER", "https://a")], "JWT_AUDIENCE"),
            (&[("JWT_JWKS_URL", "http://a/jwks")], "JWT_JWKS_URL"),
            (&[("JWT_JWKS_URL", "http://127.0.0.1.evil/jwks")], "JWT_JWKS_URL"),
            (&[("JWT_JWKS_URL", "https://a/"), ("JWT_PUBLIC_KEY_FILE", "key.pem")], "JWT_JWKS_URL"),
        ] {
            assert!(load(variables).unwrap_err().to_string().starts_with(name), "{variables:?}");
        }
    }
}
