//! Requests to providers of identities (OAuth 2.0, RFC 6749; OpenID Connect): tokens for codes, and the users of tokens.
//!
//! Superusers of typed collections choose the URLs, who need not be operators: the addresses are limited as those of webhooks are.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value};

use super::AddressPolicy;
use super::webhooks::{ClientError, WebhookClient, WebhookError};

/// For each request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of a provider, with the code that a user brought.
#[derive(Debug, Clone, Copy)]
pub struct CodeExchange<'a> {
    /// Where tokens come from.
    pub token_url: &'a str,
    /// The service's id at the provider.
    pub client_id: &'a str,
    /// The service's secret there.
    pub client_secret: &'a str,
    /// The code.
    pub code: &'a str,
    /// The secret behind the challenge of the sign-in (PKCE, RFC 7636); empty: none.
    pub code_verifier: &'a str,
    /// Where the provider sent the user.
    pub redirect_url: &'a str,
}

/// Tokens of a user.
#[derive(Clone)]
pub struct ProviderTokens {
    /// For requests in the user's name.
    pub access_token: String,
    /// For later access tokens; empty: none.
    pub refresh_token: String,
    /// Seconds for which the access token is valid; 0: unknown.
    pub lifetime_s: i64,
    /// What the provider says of the user, signed; empty: nothing.
    pub id_token: String,
}

impl ProviderTokens {
    fn read(answer: &[u8]) -> Option<Self> {
        let members: Map<String, Value> = serde_json::from_slice(answer).ok()?;
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        // Some providers write it as a text.
        let lifetime_s = match members.get("expires_in") {
            Some(Value::Number(seconds)) => seconds.as_i64(),
            Some(Value::String(seconds)) => seconds.parse().ok(),
            _ => None,
        };
        let tokens = Self {
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            lifetime_s: lifetime_s.unwrap_or_default(),
            id_token: text("id_token"),
        };
        (!tokens.access_token.is_empty()).then_some(tokens)
    }
}

impl std::fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProviderTokens")
    }
}

/// A provider that gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No answer, or one with another status.
    #[error(transparent)]
    Request(#[from] WebhookError),
    /// The answer has no token, or is no object.
    #[error("the answer of the provider cannot be read")]
    Malformed,
}

/// Asks providers; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProviderClient(WebhookClient);

impl ProviderClient {
    /// A client that connects to the permitted addresses.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn new(policy: AddressPolicy) -> Result<Self, ClientError> {
        WebhookClient::new(policy).map(Self)
    }

    /// Exchanges a code for tokens. The service's secret goes as `Authorization`, and to providers that refuse this in the form.
    ///
    /// # Errors
    ///
    /// [`ProviderError`].
    pub async fn exchange(&self, exchange: CodeExchange<'_>) -> Result<ProviderTokens, ProviderError> {
        let answer = match self.ask_for_tokens(exchange, false).await {
            Err(WebhookError::Status(status)) if status.is_client_error() => {
                self.ask_for_tokens(exchange, true).await
            }
            other => other,
        };
        ProviderTokens::read(&answer?).ok_or(ProviderError::Malformed)
    }

    async fn ask_for_tokens(
        &self,
        exchange: CodeExchange<'_>,
        in_form: bool,
    ) -> Result<Vec<u8>, WebhookError> {
        let CodeExchange { token_url, client_id, client_secret, code, code_verifier, redirect_url } =
            exchange;
        let mut form = vec![("grant_type", "authorization_code"), ("code", code)];
        if !redirect_url.is_empty() {
            form.push(("redirect_uri", redirect_url));
        }
        if !code_verifier.is_empty() {
            form.push(("code_verifier", code_verifier));
        }
        if in_form {
            form.extend([("client_id", client_id), ("client_secret", client_secret)]);
        }
        let form: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let build = |client: &reqwest::Client, url: reqwest::Url| {
            let request = client
                .post(url)
                .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
                .header(ACCEPT, HeaderValue::from_static("application/json"));
            let request = match in_form {
                true => request,
                false => request.basic_auth(encoded(client_id), Some(encoded(client_secret))),
            };
            request.body(form.join("&"))
        };
        self.0.ask(token_url, build, TIMEOUT).await
    }

    /// What the provider says of the user of a token.
    ///
    /// # Errors
    ///
    /// [`ProviderError`].
    pub async fn user(&self, url: &str, access_token: &str) -> Result<Map<String, Value>, ProviderError> {
        let build = |client: &reqwest::Client, url: reqwest::Url| {
            client
                .get(url)
                .bearer_auth(access_token)
                .header(ACCEPT, HeaderValue::from_static("application/json"))
        };
        let answer = self.0.ask(url, build, TIMEOUT).await?;
        serde_json::from_slice(&answer).map_err(|_| ProviderError::Malformed)
    }

    /// The keys that a provider publishes (RFC 7517).
    ///
    /// # Errors
    ///
    /// [`ProviderError`].
    pub async fn keys(&self, url: &str) -> Result<Vec<u8>, ProviderError> {
        let build = |client: &reqwest::Client, url: reqwest::Url| {
            client.get(url).header(ACCEPT, HeaderValue::from_static("application/json"))
        };
        Ok(self.0.ask(url, build, TIMEOUT).await?)
    }
}

/// All but letters, digits and the marks of RFC 3986 that mean nothing.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a value of a form or a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}
