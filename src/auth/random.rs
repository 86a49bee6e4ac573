//! Secrets from the system's source of randomness, as text.

use std::fmt;

/// The system gives no random bytes. Nothing secret can be made then.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// Letters and digits of which no two look alike (Crockford's base 32): 5 bits each.
pub(super) const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// So many random characters of [`ALPHABET`].
pub(super) fn text(characters: usize) -> Result<String, NoRandomness> {
    let mut bytes = vec![0; characters];
    fill(&mut bytes)?;
    // 32 divides 256, so no character is likelier than another.
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// Random bytes.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    getrandom::fill(bytes).map_err(|_| NoRandomness)
}

/// A secret on its way; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// A secret that came from outside.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
