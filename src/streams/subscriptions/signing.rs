//! The keys that sign webhooks: Ed25519, published as a JSON Web Key Set (RFC 7517, RFC 8037).
//!
//! All nodes share them through the database. A key signs for 90 days. Its successor is published a day before it signs, so that every receiver
//! has fetched it by then, and a key stays published for a day after its last signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey as Ed25519Key};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::time::Micros;

/// Bytes of a private key.
pub const SEED_BYTES: usize = 32;
const DAY_US: i64 = 86_400_000_000;
/// The time for which a key signs.
const SIGNS_US: i64 = 90 * DAY_US;
/// The time for which a key is published before it signs.
const AHEAD_US: i64 = DAY_US;
/// The time for which it is published after it has signed: more than the five minutes in which receivers accept a signature.
const BEHIND_US: i64 = DAY_US;

/// A key that signs webhooks.
#[derive(Clone)]
pub struct SigningKey {
    key: Ed25519Key,
    kid: String,
    signs_from: Micros,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("signs_from", &self.signs_from)
            .finish_non_exhaustive()
    }
}

/// A public key as RFC 8037 writes it.
#[derive(Debug, Clone, Serialize)]
pub struct PublicKey {
    kty: &'static str,
    crv: &'static str,
    kid: String,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    x: String,
}

impl SigningKey {
    /// The key of a seed, which signs from a time on.
    pub fn new(seed: &[u8; SEED_BYTES], signs_from: Micros) -> Self {
        let key = Ed25519Key::from_bytes(seed);
        // The thumbprint of RFC 7638: a key has one id for ever.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, public(&key));
        let kid = format!("ds_{}", URL_SAFE_NO_PAD.encode(Sha256::digest(thumbprint)));
        Self { key, kid, signs_from }
    }

    /// Its id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The value of `Webhook-Signature` for a body that is sent at this time (section 7.1).
    pub fn signature(&self, body: &[u8], now: Micros) -> String {
        let now_s = now.0 / 1_000_000;
        let mut signed = format!("{now_s}.").into_bytes();
        signed.extend_from_slice(body);
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(&signed).to_bytes());
        format!("t={now_s},kid={},ed25519={signature}", self.kid)
    }

    fn public(&self) -> PublicKey {
        PublicKey {
            kty: "OKP",
            crv: "Ed25519",
            kid: self.kid.clone(),
            usage: "sig",
            alg: "EdDSA",
            x: public(&self.key),
        }
    }
}

fn public(key: &Ed25519Key) -> String {
    URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes())
}

/// The keys of a service, by the times from which they sign.
#[derive(Debug, Clone, Default)]
pub struct SigningKeys(Vec<SigningKey>);

/// A set of public keys (RFC 7517).
#[derive(Debug, Clone, Serialize)]
pub struct PublicKeySet {
    keys: Vec<PublicKey>,
}

/// What the rotation of keys asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rotation {
    /// Make a key that signs from this time on.
    pub add: Option<Micros>,
    /// Delete these keys.
    pub delete: Vec<String>,
}

impl SigningKeys {
    /// These keys.
    pub fn new(mut keys: Vec<SigningKey>) -> Self {
        keys.sort_by(|one, other| (one.signs_from, &one.kid).cmp(&(other.signs_from, &other.kid)));
        Self(keys)
    }

    /// The keys but those of these ids.
    pub(super) fn into_kept(self, deleted: &[String]) -> Vec<SigningKey> {
        self.0.into_iter().filter(|key| !deleted.contains(&key.kid)).collect()
    }

    /// The key that signs now; `None`: there is none yet.
    pub fn current(&self, now: Micros) -> Option<&SigningKey> {
        // Where the clock was set back, the oldest key signs.
        self.0.iter().rev().find(|key| key.signs_from <= now).or(self.0.first())
    }

    /// The public keys.
    pub fn public(&self) -> PublicKeySet {
        PublicKeySet { keys: self.0.iter().map(SigningKey::public).collect() }
    }

    /// The next steps of the rotation.
    pub fn rotation(&self, now: Micros) -> Rotation {
        let Some(newest) = self.0.last() else {
            return Rotation { add: Some(now), delete: Vec::new() };
        };
        let successor_signs_from = Micros(newest.signs_from.0.saturating_add(SIGNS_US));
        let earliest = Micros(now.0.saturating_add(AHEAD_US));
        let add = (successor_signs_from <= earliest).then_some(earliest);
        // A key has signed until its successor did.
        let is_over = |pair: &&[SigningKey]| pair[1].signs_from.0.saturating_add(BEHIND_US) <= now.0;
        let delete = self.0.windows(2).filter(is_over).map(|pair| pair[0].kid.clone()).collect();
        Rotation { add, delete }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Verifier, VerifyingKey};
    use serde_json::Value;

    use super::*;

    const START: Micros = Micros(1_700_000_000_000_000);

    #[test]
    fn a_signature_is_verified_by_the_published_key() {
        let keys = SigningKeys::new(vec![SigningKey::new(&[9; SEED_BYTES], START)]);
        let body = br#"{"wake_id":"w_1"}"#;
        let signature = keys.current(START).unwrap().signature(body, START);
        let set: Value = serde_json::to_value(keys.public()).unwrap();
        let key = &set["keys"][0];
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
            (&"OKP".into(), &"Ed25519".into(), &"EdDSA".into(), &"sig".into())
        );
        let parts: Vec<&str> = signature.split(',').map(|part| part.split_once('=').unwrap().1).collect();
        assert_eq!((parts[0], parts[1]), ("1700000000", key["kid"].as_str().unwrap()));
        let public = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
        let public = VerifyingKey::from_bytes(&public.try_into().unwrap()).unwrap();
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
        let signed = [b"1700000000.".as_slice(), body].concat();
        public.verify(&signed, &signature).unwrap();
        assert!(public.verify(&[&signed[..], b" "].concat(), &signature).is_err());
        let debug = format!("{keys:?}");
        assert!(!debug.contains("[9") && !debug.contains("key:"), "{debug}");
    }

    /// The key of RFC 8037's appendix A, whose thumbprint appendix A.3 has.
    #[test]
    fn a_keys_id_is_its_thumbprint() {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let key = SigningKey::new(&seed.try_into().unwrap(), START);
        assert_eq!(key.kid(), "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_is_published_a_day_before_it_signs_and_a_day_after() {
        let mut keys = SigningKeys::default();
        let mut now = START;
        let mut signing: Option<(String, Micros)> = None;
        for seed in 0..4_000_u32 {
            let rotation = keys.rotation(now);
            let mut kept: Vec<SigningKey> =
                keys.0.iter().filter(|key| !rotation.delete.contains(&key.kid)).cloned().collect();
            if let Some(signs_from) = rotation.add {
                assert!(seed == 0 || signs_from.0 - now.0 >= AHEAD_US);
                let mut bytes = [0; SEED_BYTES];
                bytes[..4].copy_from_slice(&seed.to_be_bytes());
                kept.push(SigningKey::new(&bytes, signs_from));
            }
            let published: Vec<String> = keys.0.iter().map(|key| key.kid.clone()).collect();
            keys = SigningKeys::new(kept);
            assert_eq!(keys.rotation(now).add, None, "one successor");
            assert!(keys.0.len() <= 3);
            let current = keys.current(now).unwrap().kid.clone();
            match &mut signing {
                Some((kid, since)) if *kid == current => assert!(now.0 - since.0 <= SIGNS_US + DAY_US),
                Some(last) => {
                    assert!(published.contains(&current), "it was published before");
                    assert!(keys.0.iter().any(|key| key.kid == last.0), "its predecessor still is");
                    *last = (current, now);
                }
                None => signing = Some((current, now)),
            }
            now.0 += 6 * 3_600_000_000;
        }
        // A service that stood still for a year goes on with the key that it has, until its successor was published for a day.
        now.0 += 365 * DAY_US;
        let add = keys.rotation(now).add.unwrap();
        let successor = SigningKey::new(&[1; SEED_BYTES], add);
        let keys = SigningKeys::new(keys.0.into_iter().chain([successor.clone()]).collect());
        assert_ne!(keys.current(now).unwrap().kid, successor.kid);
        assert_eq!(keys.current(Micros(now.0 + DAY_US)).unwrap().kid, successor.kid);
    }
}
