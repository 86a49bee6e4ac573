//! ID tokens of OpenID Connect: what a provider says of a user, where it has no address to ask.

use jsonwebtoken::Validation;
use serde_json::{Map, Value};

use super::clock::now_s;
use super::issuer::IssuerKeys;

/// Seconds by which the provider's clock may differ.
const LEEWAY_S: i64 = 300;
/// A longer token is none.
const MAX_BYTES: usize = 64 * 1024;

/// The claims of a token for `client_id`. Its signature is verified with `keys`, a published set; without them it came from the provider itself,
/// over TLS, which OpenID Connect allows (Core, section 3.1.3.7). `None`: it is not valid.
pub fn id_token_claims(
    token: &str,
    client_id: &str,
    issuers: &[String],
    keys: Option<&[u8]>,
) -> Option<Map<String, Value>> {
    if token.len() > MAX_BYTES {
        return None;
    }
    let claims: Map<String, Value> = match keys {
        Some(set) => {
            let header = jsonwebtoken::decode_header(token).ok()?;
            let keys = IssuerKeys::default();
            if let Some(malformed) = keys.replace(set).ok()?.newly_malformed {
                // At each sign-in, as no keys are kept.
                tracing::debug!(
                    malformed,
                    "keys of an OAuth2 provider cannot be read and are skipped (jwksURL)"
                );
            }
            let mut validation = Validation::new(header.alg);
            // Checked below, with the leeway of all.
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            let verified = |key: &std::sync::Arc<super::issuer::IssuerKey>| {
                Some(jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation).ok()?.claims)
            };
            keys.fitting(header.alg, header.kid.as_deref()).iter().find_map(verified)?
        }
        None => unverified(token)?,
    };
    let number = |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as i64);
    let is_for_us = match claims.get("aud") {
        Some(Value::String(audience)) => audience == client_id,
        Some(Value::Array(all)) => all.iter().any(|audience| audience == client_id),
        _ => false,
    };
    let now = now_s();
    let is_current = number("exp").is_some_and(|exp| exp > now - LEEWAY_S)
        && number("iat").is_none_or(|iat| iat <= now + LEEWAY_S);
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    let is_of_issuer = issuers.is_empty() || issuers.iter().any(|other| other == issuer);
    (is_for_us && is_current && is_of_issuer).then_some(claims)
}

fn unverified(token: &str) -> Option<Map<String, Value>> {
    use base64::Engine;
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let claims =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn token(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.x", part(&json!({"alg": "RS256"})), part(claims))
    }

    #[test]
    fn a_token_is_for_this_client_of_a_known_issuer_and_current() {
        let now = now_s();
        let good = json!({"sub": "1", "aud": ["other", "me"], "iss": "https://id.example", "exp": now + 60, "iat": now});
        let read = |claims: &Value, issuers: &[String]| id_token_claims(&token(claims), "me", issuers, None);
        let known = ["https://id.example".to_owned()];
        assert_eq!(read(&good, &known).unwrap()["sub"], "1");
        assert!(read(&good, &[]).is_some());
        for (member, value) in [
            ("aud", json!("other")),
            ("aud", Value::Null),
            ("iss", json!("https://other.example")),
            ("exp", json!(now - 600)),
            ("exp", Value::Null),
            ("iat", json!(now + 600)),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            assert!(read(&bad, &known).is_none(), "{bad}");
        }
        // With keys the signature counts.
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]});
        assert!(id_token_claims(&token(&good), "me", &[], Some(keys.to_string().as_bytes())).is_none());
        for garbage in ["", "a.b", "a.b.c", "....."] {
            assert!(id_token_claims(garbage, "me", &[], None).is_none(), "{garbage}");
        }
    }
}
