//! Refresh tokens and their rotation (RFC 9700, section 4.14.2).
//!
//! The successor of a token is derived from it, so a client that lost the answer, or a second tab, sends the token again and
//! gets the same successor, as long as the successor is unused. A token sent after that was copied: the session ends for both
//! holders.
//!
//! A token has a tag, a MAC of its session and secret. A token that was issued is therefore recognised although the database
//! has two hashes only, and a forged token that names a session, which every access token does, ends nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::auth::jwt::Tag;
use crate::auth::random::Secret;

const MARK: &str = "tgr_";
/// Bytes of a token's secret, before its tag.
const SECRET_BYTES: usize = 32;

/// A refresh token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RefreshToken {
    pub(super) session: Uuid,
    pub(super) secret: [u8; SECRET_BYTES],
    /// `None`: issued by a version without tags.
    pub(super) tag: Option<Tag>,
}

impl RefreshToken {
    /// Parses a token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (session, secret) = text.strip_prefix(MARK)?.split_once('.')?;
        if session.len() != uuid::fmt::Simple::LENGTH {
            return None;
        }
        let session = Uuid::try_parse(session).ok()?;
        let bytes = URL_SAFE_NO_PAD.decode(secret).ok()?;
        let (secret, tag) = bytes.split_at_checked(SECRET_BYTES)?;
        let tag = if tag.is_empty() { None } else { Some(tag.try_into().ok()?) };
        Some(Self { session, secret: secret.try_into().ok()?, tag })
    }

    /// The text for clients.
    pub(super) fn text(&self) -> Secret {
        let mut secret = self.secret.to_vec();
        secret.extend(self.tag.iter().flatten());
        let secret = URL_SAFE_NO_PAD.encode(secret);
        Secret::new(format!("{MARK}{}.{secret}", self.session.simple()))
    }

    /// The hash in the database.
    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// The columns of a session.
#[derive(Debug, Clone)]
pub(super) struct StoredSession {
    pub(super) current: Vec<u8>,
    pub(super) previous: Option<Vec<u8>>,
    pub(super) is_over: bool,
}

/// The verdict on a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RotationVerdict {
    /// Valid: its successor replaces it.
    Rotate,
    /// Its successor is unused: the same answer once more.
    Repeat,
    /// It was issued in this session, and its successor was used: the session ends.
    Reused,
    /// Its session has ended, or it was never issued: nothing changes.
    Invalid,
}

/// The verdict on a token by its hash and the hash of its successor; `was_issued`: its tag is right.
pub(super) fn judge(
    stored: &StoredSession,
    shown: &[u8; 32],
    next: &[u8; 32],
    was_issued: bool,
) -> RotationVerdict {
    let is = |hash: &[u8], of: &[u8; 32]| bool::from(hash.ct_eq(of));
    if stored.is_over {
        return RotationVerdict::Invalid;
    }
    if is(&stored.current, shown) {
        return RotationVerdict::Rotate;
    }
    // A used successor becomes the previous token, so the successor of the previous one is unused.
    if stored.previous.as_ref().is_some_and(|previous| is(previous, shown)) {
        return match is(&stored.current, next) {
            true => RotationVerdict::Repeat,
            // A valid token, but JWT_SECRET has changed, so its answer cannot be repeated.
            false => RotationVerdict::Invalid,
        };
    }
    if was_issued { RotationVerdict::Reused } else { RotationVerdict::Invalid }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: [u8; 32] = [1; 32];
    const TWO: [u8; 32] = [2; 32];
    const THREE: [u8; 32] = [3; 32];

    fn stored() -> StoredSession {
        StoredSession { current: TWO.to_vec(), previous: Some(ONE.to_vec()), is_over: false }
    }

    #[test]
    fn a_token_is_used_once_and_repeated_while_its_successor_is_unused() {
        assert_eq!(judge(&stored(), &TWO, &THREE, true), RotationVerdict::Rotate);
        assert_eq!(judge(&stored(), &ONE, &TWO, true), RotationVerdict::Repeat);
        assert_eq!(judge(&stored(), &THREE, &ONE, true), RotationVerdict::Reused);
        assert_eq!(
            judge(&stored(), &ONE, &THREE, true),
            RotationVerdict::Invalid,
            "JWT_SECRET was changed in between"
        );
        let over = StoredSession { is_over: true, ..stored() };
        assert_eq!(judge(&over, &TWO, &THREE, true), RotationVerdict::Invalid);
        let first = StoredSession { previous: None, ..stored() };
        assert_eq!(judge(&first, &ONE, &TWO, true), RotationVerdict::Reused);
    }

    #[test]
    fn only_a_token_that_was_issued_counts_as_reuse() {
        assert_eq!(judge(&stored(), &THREE, &ONE, false), RotationVerdict::Invalid);
        // Valid tokens need no tag: those of the version before had none, and JWT_SECRET may have changed.
        assert_eq!(judge(&stored(), &TWO, &THREE, false), RotationVerdict::Rotate);
        assert_eq!(judge(&stored(), &ONE, &TWO, false), RotationVerdict::Repeat);
    }

    proptest! {
        #[test]
        fn a_token_reads_back_from_its_text(session: u128, secret: [u8; 32], tag: Option<Tag>) {
            let token = RefreshToken { session: Uuid::from_u128(session), secret, tag };
            prop_assert!(RefreshToken::parse(token.text().reveal()) == Some(token));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "(tgr_)?.{0,100}") {
            let _any = RefreshToken::parse(&text);
        }
    }
}
