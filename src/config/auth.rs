//! Who may use the service, and how anybody proves who he is.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, Kind, Setting, Switch};

/// Whether anybody has to say who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Nobody has to: whoever reaches the service may use it.
    Open,
    /// Everybody has to.
    Required,
}

/// Who may use the service, and how anybody proves who he is.
#[derive(Clone, Deserialize)]
pub struct AuthConfig {
    /// Whether anybody has to say who he is; see [`super::Config::auth_mode`].
    pub(super) auth: Option<AuthMode>,
    /// A token that is good for ever and for everything.
    pub stress_token: Option<String>,
    /// The secret of HS256 tokens.
    pub jwt_secret: Option<String>,
    /// A file with the public key of an issuer of tokens.
    pub jwt_public_key_file: Option<PathBuf>,
    /// Where an issuer publishes its public keys.
    pub jwt_jwks_url: Option<String>,
    /// Seconds between two looks there.
    pub jwt_jwks_refresh_s: u64,
    /// The issuer of tokens.
    pub jwt_issuer: Option<String>,
    /// Whom tokens are meant for.
    pub jwt_audience: Option<String>,
    /// The claim with what an issuer's subject may do.
    pub jwt_permissions_claim: String,
    /// Whether anybody may register; see [`super::Config::takes_registrations`].
    pub(super) registration: Option<Switch>,
    /// Seconds that an access token is good.
    pub access_token_s: u64,
    /// Seconds that a session lasts that is not used.
    pub refresh_token_s: u64,
    /// Sessions of a user.
    pub max_user_sessions: i64,
    /// Keys of a user.
    pub max_user_keys: i64,
    /// Keys that a node knows without asking.
    pub key_cache: usize,
    /// Passwords that are checked at once.
    pub password_threads: usize,
    /// Passwords that wait to be checked.
    pub password_queue: usize,
    /// Connections.
    pub auth_connections: usize,
    /// Milliseconds that a request waits for one.
    pub auth_wait_ms: u64,
    /// Milliseconds that a statement may take.
    pub auth_timeout_ms: u64,
}

/// Secrets are not shown, only whether they are there.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("auth", &self.auth)
            .field("stress_token", &self.stress_token.is_some())
            .field("jwt_secret", &self.jwt_secret.is_some())
            .finish_non_exhaustive()
    }
}

/// RFC 7518, section 3.2: a key of HS256 has at least the size of the hash.
const LEAST_SECRET_BYTES: usize = 32;
const JWT_SECRET_TAKES: &str = "at least 32 bytes";
const STRESS_TOKEN_TAKES: &str = "visible ASCII characters, as a header has them";
const JWKS_URL_TAKES: &str = "a URL that begins with https://, or with http:// and a loopback address";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "AUTH",
        default: "",
        kind: Kind::OneOf(&["open", "required"]),
        help: "Whether everybody has to show a token. Unset: open, which HOST off loopback does not allow.",
    },
    Setting {
        name: "STRESS_TOKEN",
        default: "",
        kind: Kind::Secret(STRESS_TOKEN_TAKES),
        help: "A bearer token that is good for ever and for everything. Unset: there is none.",
    },
    Setting {
        name: "JWT_SECRET",
        default: "",
        kind: Kind::Secret(JWT_SECRET_TAKES),
        help: "The secret with which tokens are signed (JWT, HS256). Unset: made in DATA_DIR for a private Postgres; else random with AUTH=open, and needed with AUTH=required.",
    },
    Setting {
        name: "JWT_PUBLIC_KEY_FILE",
        default: "",
        kind: Kind::Text("a file with a public key in PEM: RSA, P-256 or Ed25519"),
        help: "Takes tokens of another issuer too (RS256, ES256, EdDSA) that this key verifies; JWT_ISSUER and JWT_AUDIENCE must be set.",
    },
    Setting {
        name: "JWT_JWKS_URL",
        default: "",
        kind: Kind::Text(JWKS_URL_TAKES),
        help: "The same with the keys that an issuer publishes here (RFC 7517).",
    },
    Setting {
        name: "JWT_JWKS_REFRESH_S",
        default: "600",
        kind: Kind::Int { min: 1, max: 86_400, unit: "seconds" },
        help: "Time between two looks there. A token that no key fits makes it look at once, twice a minute at most.",
    },
    Setting {
        name: "JWT_ISSUER",
        default: "",
        kind: Kind::Text("a text, compared as it is"),
        help: "What iss must say. Unset: tokens of our own say tidegate.",
    },
    Setting {
        name: "JWT_AUDIENCE",
        default: "",
        kind: Kind::Text("a text, compared as it is"),
        help: "What aud must hold. Unset: tokens of our own say tidegate.",
    },
    Setting {
        name: "JWT_PERMISSIONS_CLAIM",
        default: "permissions",
        kind: Kind::Text("the name of a claim"),
        help: "The claim that says what the subject of a token may do: an array of words, or words with spaces between.",
    },
    Setting {
        name: "REGISTRATION",
        default: "",
        kind: Kind::Switch,
        help: "Whether anybody may register as a user. Unset: on with AUTH=open, off with AUTH=required.",
    },
    Setting {
        name: "ACCESS_TOKEN_S",
        default: "900",
        kind: Kind::Int { min: 10, max: 86_400, unit: "seconds" },
        help: "Time for which an access token is good.",
    },
    Setting {
        name: "REFRESH_TOKEN_S",
        default: "2592000",
        kind: Kind::Int { min: 60, max: 31_536_000, unit: "seconds" },
        help: "Time after which a session ends that is not used.",
    },
    Setting {
        name: "MAX_USER_SESSIONS",
        default: "50",
        kind: Kind::Int { min: 1, max: 10_000, unit: "sessions" },
        help: "Sessions of a user; a further one ends the one that was used least recently.",
    },
    Setting {
        name: "MAX_USER_KEYS",
        default: "100",
        kind: Kind::Int { min: 1, max: 100_000, unit: "keys" },
        help: "Keys of a user that are good; a further one is answered 409.",
    },
    Setting {
        name: "KEY_CACHE",
        default: "10000",
        kind: Kind::Int { min: 16, max: 10_000_000, unit: "keys" },
        help: "Keys that are known without asking Postgres, and as many that are known to be nobody's.",
    },
    Setting {
        name: "PASSWORD_THREADS",
        default: "1",
        kind: Kind::Int { min: 1, max: 64, unit: "threads" },
        help: "Passwords that are checked at once; each takes a core for about 50 ms, and 19 MiB.",
    },
    Setting {
        name: "PASSWORD_QUEUE",
        default: "64",
        kind: Kind::Int { min: 0, max: 100_000, unit: "passwords" },
        help: "Passwords that wait to be checked; beyond it 503.",
    },
    Setting {
        name: "AUTH_CONNECTIONS",
        default: "2",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for users, sessions and keys.",
    },
    Setting {
        name: "AUTH_WAIT_MS",
        default: "2000",
        kind: Kind::Int { min: 1, max: 60_000, unit: "milliseconds" },
        help: "Time that a request waits for a connection of that share; then 503.",
    },
    Setting {
        name: "AUTH_TIMEOUT_MS",
        default: "5000",
        kind: Kind::Int { min: 10, max: 600_000, unit: "milliseconds" },
        help: "Time of one statement on users, sessions and keys (statement_timeout); then 504.",
    },
];

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
        // Without them a token that an issuer made for somebody else would be good here (RFC 8725, sections 3.8 and 3.9).
        for (name, value) in [("JWT_ISSUER", &self.jwt_issuer), ("JWT_AUDIENCE", &self.jwt_audience)] {
            if self.trusts_an_issuer() && value.is_none() {
                return refuse(name, "nothing", "a value where tokens of another issuer are taken");
            }
        }
        Ok(())
    }
}

/// Keys that anybody on the way could replace would let anybody in.
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
    use crate::config::{Config, Variables};

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_variables(&pairs.collect::<Variables>())
    }

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
            [config.takes_registrations(), config.serves_stress(), config.makes_collections()]
        };
        assert_eq!(switches(&[]), [true; 3]);
        assert_eq!(switches(&[("AUTH", "open")]), [true; 3]);
        // Behind a proxy a service in production listens on loopback.
        for host in ["127.0.0.1", "::1", "0.0.0.0"] {
            assert_eq!(switches(&[("HOST", host), ("AUTH", "required")]), [false; 3], "{host}");
        }
        let on = [("REGISTRATION", "on"), ("STRESS", "on"), ("RECORDS_AUTO_CREATE", "on")];
        assert_eq!(switches(&[&on[..], &[("AUTH", "required")]].concat()), [true; 3]);
        assert_eq!(switches(&on.map(|(name, _)| (name, "off"))), [false; 3]);
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
