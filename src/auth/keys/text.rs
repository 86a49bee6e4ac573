//! What an API key looks like.
//!
//! ```text
//! tg_ k3v9x2ma 0f3…(34 characters) 1c8…(7 characters)
//!     prefix   170 random bits     CRC-32 of all before it
//! ```
//!
//! `tg_` lets scanners for leaked secrets find it, the prefix is what lists show, and the checksum identifies a mistyped or made
//! up key without a query. It is no secret and proves nothing.
//!
//! A write-only key begins with `tg_w_` instead. It is meant to be published, so scanners may distinguish it from the others. No other
//! key begins like this: `_` is no character of a prefix.

use sha2::{Digest, Sha256};

use crate::auth::random::{self, ALPHABET, NoRandomness, Secret};

const MARK: &str = "tg_";
const WRITE_ONLY_MARK: &str = "tg_w_";
const PREFIX: usize = 8;
const RANDOM: usize = 34;
const CHECKSUM: usize = 7;
/// Characters after the mark.
const REST: usize = PREFIX + RANDOM + CHECKSUM;

/// The SHA-256 of a key, by which it is looked up: it cannot be used as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub(in crate::auth) [u8; 32]);

impl KeyHash {
    /// The hash of a text in the form of a key; `None`: another form.
    pub fn of(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let mark = if is_write_only_key(text) { WRITE_ONLY_MARK } else { MARK };
        if bytes.len() != mark.len() + REST || !text.starts_with(mark) || !text.is_ascii() {
            return None;
        }
        let (front, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        (check(front) == checksum).then(|| Self(Sha256::digest(bytes).into()))
    }
}

/// A new key.
pub(super) struct NewKey {
    pub(super) secret: Secret,
    pub(super) prefix: String,
    pub(super) hash: KeyHash,
}

impl NewKey {
    /// Generates a key, write-only if requested.
    pub(super) fn make(is_write_only: bool) -> Result<Self, NoRandomness> {
        let mark = if is_write_only { WRITE_ONLY_MARK } else { MARK };
        let mut text = format!("{mark}{}", random::text(PREFIX + RANDOM)?);
        let checksum = check(text.as_bytes());
        text.extend(checksum.iter().copied().map(char::from));
        let prefix = text[..mark.len() + PREFIX].to_owned();
        let hash = KeyHash(Sha256::digest(text.as_bytes()).into());
        Ok(Self { secret: Secret::new(text), prefix, hash })
    }
}

/// Whether a token has the mark of a key.
pub fn is_key(token: &str) -> bool {
    token.starts_with(MARK)
}

/// Whether a token has the mark of a write-only key.
pub fn is_write_only_key(token: &str) -> bool {
    token.starts_with(WRITE_ONLY_MARK)
}

fn check(front: &[u8]) -> [u8; CHECKSUM] {
    let sum = crc32fast::hash(front);
    std::array::from_fn(|place| ALPHABET[(sum as usize >> (5 * place)) & 31])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_and_shows_its_prefix() {
        for (is_write_only, mark) in [(false, MARK), (true, WRITE_ONLY_MARK)] {
            let key = NewKey::make(is_write_only).unwrap();
            let text = key.secret.reveal();
            assert_eq!((text.len(), KeyHash::of(text)), (mark.len() + REST, Some(key.hash)));
            assert!(text.starts_with(&key.prefix) && key.prefix.len() == mark.len() + 8 && is_key(text));
            assert_eq!(is_write_only_key(text), is_write_only);
            assert_ne!(NewKey::make(is_write_only).unwrap().hash, key.hash);
            assert!(!format!("{:?}", key.secret).contains(&key.prefix));
        }
    }

    proptest! {
        #[test]
        fn a_key_with_a_character_changed_is_none(place in 0..MARK.len() + REST, is_write_only: bool, with in 33_u8..127) {
            let key = NewKey::make(is_write_only).unwrap();
            let mut bytes = key.secret.reveal().as_bytes().to_vec();
            prop_assume!(bytes[place] != with);
            bytes[place] = with;
            prop_assert_eq!(KeyHash::of(std::str::from_utf8(&bytes).unwrap()), None);
        }

        #[test]
        fn no_text_is_a_key_by_chance(text in ".{0,80}") {
            prop_assert_eq!(KeyHash::of(&text), None);
        }
    }
}
