//! Options of auth collections: rules of sign-ins, tokens, mails; and the fields and indexes that their records have for it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::address::is_url;
use super::definition::{Definition, DefinitionError};
use super::field::{Field, Kind};
use super::generate::generate;
use super::index::Index;
use super::mail_template::MailTemplate;
use super::violation::{Violation, Violations};

/// The pattern of secrets that the service makes, of collections and of records.
const SECRET_PATTERN: &str = "[a-zA-Z0-9]{50}";
/// The characters of a collection's secret.
const SECRET_LENGTH: std::ops::RangeInclusive<usize> = 30..=255;
/// The bounds of durations, in seconds: 10 s, and three years.
const DURATION_S: std::ops::RangeInclusive<i64> = 10..=94_670_856;
/// The most digits of a one-time password.
const MAX_OTP_LENGTH: i64 = 64;

/// The field of a record's email.
pub const EMAIL: &str = "email";
/// The field that makes the email visible to all callers who see the record.
pub const EMAIL_VISIBILITY: &str = "emailVisibility";
/// The field of the password's hash.
pub const PASSWORD: &str = "password";
/// The field of a record's part of the key that signs its tokens.
pub const TOKEN_KEY: &str = "tokenKey";
/// Whether the email is proven.
pub const VERIFIED: &str = "verified";

/// Options of an auth collection. As JSON they have the members of PocketBase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthOptions {
    /// The records that may sign in; `None`: none.
    pub auth_rule: Option<String>,
    /// Callers who may set emails, passwords and `verified` of other records; `None`: superusers.
    pub manage_rule: Option<String>,
    /// Mails about sign-ins from new places.
    pub auth_alert: AuthAlert,
    /// Sign-ins by other services.
    pub oauth2: Oauth2Options,
    /// Sign-ins by password.
    pub password_auth: PasswordAuth,
    /// Second factors.
    pub mfa: MfaOptions,
    /// One-time passwords.
    pub otp: OtpOptions,
    /// Tokens of sign-ins.
    pub auth_token: TokenOptions,
    /// Tokens of forgotten passwords.
    pub password_reset_token: TokenOptions,
    /// Tokens of new emails.
    pub email_change_token: TokenOptions,
    /// Tokens of emails that are to be proven.
    pub verification_token: TokenOptions,
    /// Tokens of protected files.
    pub file_token: TokenOptions,
    /// The mail with a verification token.
    pub verification_template: MailTemplate,
    /// The mail with a token of a forgotten password.
    pub reset_password_template: MailTemplate,
    /// The mail with a token of a new email.
    pub confirm_email_change_template: MailTemplate,
}

/// Mails about sign-ins from new places.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthAlert {
    /// Whether they are sent.
    pub enabled: bool,
    /// The mail.
    pub email_template: MailTemplate,
}

/// Sign-ins by other services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Oauth2Options {
    /// Whether they are on.
    pub enabled: bool,
    /// Fields that get values of the other service's user.
    pub mapped_fields: MappedFields,
    /// The services.
    pub providers: Vec<Map<String, Value>>,
}

/// The names of providers: generic ones of OpenID Connect.
pub const PROVIDERS: [&str; 3] = ["oidc", "oidc2", "oidc3"];
const CLIENT_SECRET: &str = "clientSecret";

/// Fields that get values of another service's user; `""`: none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MappedFields {
    /// The field of the user's id.
    pub id: String,
    /// That of the name.
    pub name: String,
    /// That of the user name.
    pub username: String,
    /// That of the picture.
    #[serde(rename = "avatarURL")]
    pub avatar_url: String,
}

/// Sign-ins by password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PasswordAuth {
    /// Whether they are on.
    pub enabled: bool,
    /// The fields that name a record, each with a unique index.
    pub identity_fields: Vec<String>,
}

impl Default for PasswordAuth {
    fn default() -> Self {
        Self { enabled: true, identity_fields: vec![EMAIL.into()] }
    }
}

/// Second factors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MfaOptions {
    /// Whether a sign-in takes two of them.
    pub enabled: bool,
    /// The seconds between the two.
    pub duration: i64,
    /// The records that need two; `""`: all.
    pub rule: String,
}

impl Default for MfaOptions {
    fn default() -> Self {
        Self { enabled: false, duration: 600, rule: String::new() }
    }
}

/// One-time passwords.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtpOptions {
    /// Whether they are on.
    pub enabled: bool,
    /// The seconds for which one is valid.
    pub duration: i64,
    /// Its digits.
    pub length: i64,
    /// The mail with it.
    pub email_template: MailTemplate,
}

impl Default for OtpOptions {
    fn default() -> Self {
        Self { enabled: false, duration: 180, length: 8, email_template: MailTemplate::default() }
    }
}

/// Tokens of one type.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenOptions {
    /// The collection's part of the key that signs them; never shown. Another one ends all tokens.
    pub secret: String,
    /// The seconds for which one is valid.
    pub duration: i64,
}

impl std::fmt::Debug for TokenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenOptions").field("duration", &self.duration).finish_non_exhaustive()
    }
}

impl Default for AuthOptions {
    fn default() -> Self {
        let token = |duration| TokenOptions { secret: String::new(), duration };
        Self {
            auth_rule: Some(String::new()),
            manage_rule: None,
            auth_alert: AuthAlert { enabled: true, email_template: MailTemplate::login_alert() },
            oauth2: Oauth2Options::default(),
            password_auth: PasswordAuth::default(),
            mfa: MfaOptions::default(),
            otp: OtpOptions { email_template: MailTemplate::one_time_password(), ..OtpOptions::default() },
            auth_token: token(432_000),
            password_reset_token: token(1_800),
            email_change_token: token(1_800),
            verification_token: token(86_400),
            file_token: token(180),
            verification_template: MailTemplate::verification(),
            reset_password_template: MailTemplate::password_reset(),
            confirm_email_change_template: MailTemplate::email_change(),
        }
    }
}

impl AuthOptions {
    /// The options with the members of a client's definition, and secrets where they have none. Members inside of members that are left out stay.
    ///
    /// # Errors
    ///
    /// [`DefinitionError::Format`], or [`DefinitionError::Violations`] without randomness for a secret.
    pub(super) fn merged(&self, sent: &Value) -> Result<Self, DefinitionError> {
        let mut options = serde_json::to_value(self).map_err(|_| DefinitionError::Format)?;
        if let (Value::Object(known), Value::Object(sent)) = (&mut options, sent) {
            for (name, value) in known {
                match (value, sent.get(name)) {
                    (_, None) => {}
                    // Of the members only rules are texts, and null has a meaning for them.
                    (value @ (Value::Null | Value::String(_)), Some(sent)) => *value = sent.clone(),
                    (value, Some(sent)) => merge(value, sent),
                }
            }
        }
        let mut merged: Self = serde_json::from_value(options).map_err(|_| DefinitionError::Format)?;
        for (_, token) in merged.tokens_mut() {
            if token.secret.is_empty() {
                token.secret = secret()?;
            }
        }
        // A secret that is left out stays.
        for provider in &mut merged.oauth2.providers {
            let known = self.oauth2.providers.iter().find(|known| known.get("name") == provider.get("name"));
            let secret = known.and_then(|known| known.get(CLIENT_SECRET));
            let is_sent =
                provider.get(CLIENT_SECRET).and_then(Value::as_str).is_some_and(|sent| !sent.is_empty());
            if let (Some(secret), false) = (secret, is_sent) {
                provider.insert(CLIENT_SECRET.into(), secret.clone());
            }
        }
        Ok(merged)
    }

    /// As clients read them: without secrets.
    pub fn shown(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut members)) = serde_json::to_value(self) else { return Map::new() };
        for member in members.values_mut().filter_map(Value::as_object_mut) {
            member.remove("secret");
        }
        let providers = members.get_mut("oauth2").and_then(|oauth2| oauth2.get_mut("providers"));
        for provider in providers.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(provider) = provider.as_object_mut() {
                provider.remove(CLIENT_SECRET);
            }
        }
        members
    }

    /// The rules by their names; the one of second factors is no rule of access.
    pub fn named_rules(&self) -> [(&'static str, Option<&str>); 2] {
        [("authRule", self.auth_rule.as_deref()), ("manageRule", self.manage_rule.as_deref())]
    }

    fn tokens_mut(&mut self) -> [(&'static str, &mut TokenOptions); 5] {
        [
            ("authToken", &mut self.auth_token),
            ("passwordResetToken", &mut self.password_reset_token),
            ("emailChangeToken", &mut self.email_change_token),
            ("verificationToken", &mut self.verification_token),
            ("fileToken", &mut self.file_token),
        ]
    }

    /// Adds the violations of options.
    pub(super) fn check(&self, definition: &Definition, violations: &mut Violations) {
        let mut nested = |member: &str, found: Violations| violations.add_all(member, found);
        for (member, token) in self.clone().tokens_mut() {
            let mut found = Violations::default();
            check_duration(token.duration, &mut found);
            let length = token.secret.chars().count();
            if !SECRET_LENGTH.contains(&length) {
                found.add("secret", Violation::out_of_range(*SECRET_LENGTH.start(), *SECRET_LENGTH.end()));
            }
            nested(member, found);
        }
        let mut of_otp = Violations::default();
        if self.otp.enabled || self.otp.duration != 0 {
            check_duration(self.otp.duration, &mut of_otp);
        }
        if self.otp.enabled || self.otp.length != 0 {
            match self.otp.length {
                0 => of_otp.add("length", Violation::required()),
                length if length < 4 => of_otp.add("length", at_least(4)),
                length if length > MAX_OTP_LENGTH => of_otp.add("length", at_most(MAX_OTP_LENGTH)),
                _ => {}
            }
        }
        nested("otp", of_otp);
        let mut of_mfa = Violations::default();
        let methods = [self.password_auth.enabled, self.otp.enabled, self.oauth2.enabled];
        if self.mfa.enabled && methods.into_iter().filter(|is_on| *is_on).count() < 2 {
            let message = "MFA requires at least 2 auth methods to be enabled.";
            of_mfa.add("enabled", Violation::new("mfa_not_enough_auths", message));
        }
        if self.mfa.enabled {
            check_duration(self.mfa.duration, &mut of_mfa);
        }
        nested("mfa", of_mfa);
        let mut of_passwords = Violations::default();
        if let Some(violation) = self.password_auth.violation(definition) {
            of_passwords.add("identityFields", violation);
        }
        nested("passwordAuth", of_passwords);
        let mut of_providers = Violations::default();
        for (at, provider) in self.oauth2.providers.iter().enumerate() {
            let earlier = self.oauth2.providers.get(..at).unwrap_or_default();
            of_providers.add_all(&at.to_string(), provider_violations(provider, earlier));
        }
        let mut of_oauth2 = Violations::default();
        of_oauth2.add_all("providers", of_providers);
        nested("oauth2", of_oauth2);
    }
}

impl PasswordAuth {
    fn violation(&self, definition: &Definition) -> Option<Violation> {
        if self.identity_fields.is_empty() && self.enabled {
            return Some(Violation::required());
        }
        let indexes = definition.parsed_indexes();
        self.identity_fields.iter().find_map(|name| {
            let is_field = definition.field(name).is_some_and(|field| !field.is_secret());
            let is_unique = || indexes.iter().any(|index| index.is_unique_of(name));
            let (code, message) = match is_field {
                false => ("missing_field", format!("Invalid or missing field {name}.")),
                true if is_unique() => return None,
                true => (
                    "missing_unique_constraint",
                    format!("The field {name} doesn't have a UNIQUE constraint."),
                ),
            };
            Some(Violation::new(code, message).with("fieldName", name.as_str()))
        })
    }
}

impl Index {
    /// Whether it makes the values of one field unique.
    pub fn is_unique_of(&self, field: &str) -> bool {
        self.is_unique && matches!(self.columns.as_slice(), [column] if column.field == field)
    }
}

/// Merges what a client sent into an option: members that are left out or null stay.
fn merge(known: &mut Value, sent: &Value) {
    match (known, sent) {
        (Value::Object(known), Value::Object(sent)) => {
            for (name, value) in known {
                if let Some(sent) = sent.get(name) {
                    merge(value, sent);
                }
            }
        }
        (_, Value::Null) => {}
        (known, sent) => *known = sent.clone(),
    }
}

/// The violations of a provider, behind others.
fn provider_violations(provider: &Map<String, Value>, earlier: &[Map<String, Value>]) -> Violations {
    let text = |name: &str| provider.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut found = Violations::default();
    match text("name") {
        "" => found.add("name", Violation::required()),
        name if !PROVIDERS.contains(&name) => {
            let message = format!("Invalid or missing provider with name {name}.");
            found.add("name", Violation::new("missing_provider", message).with("name", name));
        }
        name if earlier.iter().any(|other| other.get("name").and_then(Value::as_str) == Some(name)) => {
            let message = format!("The provider {name} is already registered.");
            found.add("name", Violation::new("duplicated_provider", message).with("name", name));
        }
        _ => {}
    }
    for member in ["clientId", CLIENT_SECRET] {
        if text(member).is_empty() {
            found.add(member, Violation::required());
        }
    }
    for member in ["authURL", "tokenURL", "userInfoURL"] {
        let url = text(member);
        if !url.is_empty() && !is_url(url) {
            found.add(member, Violation::new("is_url", "Must be a valid URL."));
        }
    }
    found
}

fn check_duration(duration: i64, found: &mut Violations) {
    match duration {
        0 => found.add("duration", Violation::required()),
        duration if duration < *DURATION_S.start() => found.add("duration", at_least(*DURATION_S.start())),
        duration if duration > *DURATION_S.end() => found.add("duration", at_most(*DURATION_S.end())),
        _ => {}
    }
}

fn at_least(least: i64) -> Violation {
    Violation::new("min_greater_equal_than_required", format!("Must be no less than {least}."))
        .with("threshold", least)
}

fn at_most(most: i64) -> Violation {
    Violation::new("max_less_equal_than_required", format!("Must be no greater than {most}."))
        .with("threshold", most)
}

/// A new secret. It is of the system's randomness.
fn secret() -> Result<String, DefinitionError> {
    generate(SECRET_PATTERN).ok_or(DefinitionError::NoRandomness)
}

/// A new token key: every token that was signed with the former one is void.
pub fn token_key() -> Option<String> {
    generate(SECRET_PATTERN)
}

/// The fields that the records of an auth collection have, but for the id.
fn system_fields() -> Vec<Field> {
    let fields = json!([
        {"name": PASSWORD, "type": "password", "min": 8, "hidden": true, "required": true},
        {"name": TOKEN_KEY, "type": "text", "min": 30, "max": 60, "autogeneratePattern": SECRET_PATTERN, "hidden": true, "required": true},
        {"name": EMAIL, "type": "email", "required": true},
        {"name": EMAIL_VISIBILITY, "type": "bool"},
        {"name": VERIFIED, "type": "bool"},
    ]);
    let mut fields: Vec<Field> = serde_json::from_value(fields).unwrap_or_default();
    for field in &mut fields {
        field.system = true;
        field.complete();
    }
    fields
}

/// Adds the fields that an auth collection lacks, and sets what its system fields cannot be without.
pub(super) fn complete_fields(fields: &mut Vec<Field>) {
    for own in system_fields() {
        let Some(field) = fields.iter_mut().find(|field| field.name == own.name) else {
            fields.push(own);
            continue;
        };
        if field.kind.name() != own.kind.name() {
            *field = own;
            continue;
        }
        field.system = true;
        match &field.kind {
            Kind::Password { .. } => (field.hidden, field.required) = (true, true),
            // A token key that can be guessed signs tokens.
            Kind::Text { .. } => *field = own,
            _ => {}
        }
    }
}

/// Adds the unique indexes that an auth collection lacks.
pub(super) fn complete_indexes(definition: &mut Definition, name: &str) {
    let indexes = definition.parsed_indexes();
    let id = &definition.id;
    let lacks = |field: &str| !indexes.iter().any(|index| index.is_unique_of(field));
    let mut added = Vec::new();
    if lacks(TOKEN_KEY) {
        added.push(format!("CREATE UNIQUE INDEX `idx_tokenKey_{id}` ON `{name}` (`tokenKey`)"));
    }
    if lacks(EMAIL) {
        added.push(format!("CREATE UNIQUE INDEX `idx_email_{id}` ON `{name}` (`email`) WHERE `email` != ''"));
    }
    definition.indexes.extend(added);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Name;

    fn refusal(result: Result<(Name, Definition), DefinitionError>) -> Value {
        match result {
            Err(DefinitionError::Violations(violations)) => serde_json::to_value(violations).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn staff(more: &Value) -> Result<(Name, Definition), DefinitionError> {
        let mut body = json!({"name": "staff", "type": "auth", "fields": [{"name": "nick", "type": "text"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        Definition::create(&body)
    }

    #[test]
    fn an_auth_collection_has_the_fields_and_indexes_of_accounts() {
        let (name, made) = staff(
            &json!({"fields": [{"name": "email", "type": "text"}, {"name": "tokenKey", "type": "text"}]}),
        )
        .unwrap();
        let fields = |definition: &Definition| -> Vec<String> {
            definition.fields.iter().map(|field| format!("{} {}", field.name, field.kind.name())).collect()
        };
        let all = [
            "id text",
            "email email",
            "tokenKey text",
            "password password",
            "emailVisibility bool",
            "verified bool",
        ];
        assert_eq!(fields(&made), all);
        assert!(made.fields.iter().all(|field| field.system));
        let hidden: Vec<&str> =
            made.fields.iter().filter(|field| field.hidden).map(|field| &*field.name).collect();
        assert_eq!(hidden, [TOKEN_KEY, PASSWORD]);
        assert_eq!(
            made.indexes,
            [
                format!("CREATE UNIQUE INDEX `idx_tokenKey_{}` ON `staff` (`tokenKey`)", made.id),
                format!(
                    "CREATE UNIQUE INDEX `idx_email_{}` ON `staff` (`email`) WHERE `email` != ''",
                    made.id
                ),
            ]
        );
        // They cannot be dropped, nor shown.
        let shown =
            json!({"fields": [{"name": "password", "type": "password", "hidden": false}], "indexes": []});
        let (_, changed) = made.change(&name, &shown).unwrap();
        assert_eq!(changed.fields.len(), all.len());
        assert!(changed.field(PASSWORD).unwrap().hidden && changed.field(TOKEN_KEY).unwrap().hidden);
        assert_eq!(changed.indexes, made.indexes);
        let (_, renamed) = made.change(&name, &json!({"name": "crew"})).unwrap();
        assert!(renamed.indexes.iter().all(|index| index.contains("`crew`")), "{:?}", renamed.indexes);
    }

    #[test]
    fn options_are_merged_and_secrets_are_never_shown() {
        let (name, made) = staff(&json!({"otp": {"enabled": true}, "authToken": {"duration": 60}})).unwrap();
        let auth = made.auth.as_deref().unwrap();
        assert_eq!((auth.otp.enabled, auth.otp.length, auth.auth_token.duration), (true, 8, 60));
        assert_eq!(auth.auth_token.secret.len(), 50);
        assert_ne!(auth.auth_token.secret, auth.file_token.secret);
        let shown = Value::from(auth.shown());
        assert_eq!((&shown["authToken"], &shown["authRule"]), (&json!({"duration": 60}), &json!("")));
        assert!(!shown.to_string().contains(&auth.auth_token.secret));
        let change =
            json!({"authRule": null, "otp": null, "authToken": {"secret": null}, "mfa": {"duration": 30}});
        let (_, changed) = made.change(&name, &change).unwrap();
        let changed = changed.auth.as_deref().unwrap();
        assert_eq!((&changed.auth_rule, &changed.otp), (&None, &auth.otp));
        assert_eq!((&changed.auth_token, changed.mfa.duration), (&auth.auth_token, 30));
        let stored: Definition = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
        assert_eq!(stored, made);
        for bad in [json!({"otp": 1}), json!({"authToken": {"duration": "x"}}), json!({"authRule": 5})] {
            assert_eq!(made.change(&name, &bad), Err(DefinitionError::Format), "{bad}");
        }
    }

    #[test]
    fn bad_options_are_refused_by_member() {
        for (more, pointer, code) in [
            (
                json!({"passwordAuth": {"identityFields": ["nothing"]}}),
                "/passwordAuth/identityFields",
                "missing_field",
            ),
            (json!({"passwordAuth": {"identityFields": []}}), "/passwordAuth/identityFields", "required"),
            (
                json!({"passwordAuth": {"identityFields": ["password"]}}),
                "/passwordAuth/identityFields",
                "missing_field",
            ),
            (
                json!({"passwordAuth": {"identityFields": ["nick"]}}),
                "/passwordAuth/identityFields",
                "missing_unique_constraint",
            ),
            (json!({"authToken": {"duration": 1}}), "/authToken/duration", "min_greater_equal_than_required"),
            (json!({"authToken": {"duration": 0}}), "/authToken/duration", "required"),
            (json!({"authToken": {"secret": "short"}}), "/authToken/secret", "length_out_of_range"),
            (json!({"mfa": {"enabled": true}}), "/mfa/enabled", "mfa_not_enough_auths"),
            (
                json!({"otp": {"enabled": true, "length": 2}}),
                "/otp/length",
                "min_greater_equal_than_required",
            ),
            (
                json!({"oauth2": {"providers": [{"name": "nothing"}]}}),
                "/oauth2/providers/0/name",
                "missing_provider",
            ),
        ] {
            let data = refusal(staff(&more));
            assert_eq!(
                data.pointer(pointer).unwrap()["code"],
                format!("validation_{code}"),
                "{more}: {data}"
            );
        }
    }
}
