//! Refresh tokens, and the judgement of one that is shown (RFC 9700, section 4.14.2).
//!
//! The successor of a token is derived from it, so a client that never received its answer, or a second tab, shows the
//! token again and gets the same successor. That holds as long as the successor is unused. A token that is shown after
//! that was copied: the session ends for both holders.
//!
//! A token carries a tag, a MAC of its session and secret. So a token that was issued once is recognised although the
//! database has the hashes of two only, and a made-up token that names a session, which every access token does, ends
//! nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::auth::jwt::Tag;
use crate::auth::random::Secret;

const MARK: &str = "tgr_";
/// Bytes of a token's secret, which its tag follows.
const SECRET_BYTES: usize = 32;

/// A refresh token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RefreshToken {
    pub(super) session: Uuid,
    pub(super) secret: [u8; SECRET_BYTES],
    /// `None`: of a version that issued tokens without one.
    pub(super) tag: Option<Tag>,
}

impl RefreshToken {
    /// A token of this form.
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

    /// As a client has it.
    pub(super) fn text(&self) -> Secret {
        let mut secret = self.secret.to_vec();
        secret.extend(self.tag.iter().flatten());
        let secret = URL_SAFE_NO_PAD.encode(secret);
        Secret::new(format!("{MARK}{}.{secret}", self.session.simple()))
    }

    /// What the database has of it.
    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// What the database has of a session.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) current: Vec<u8>,
    pub(super) previous: Option<Vec<u8>>,
    pub(super) is_over: bool,
}

/// What becomes of a refresh token that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is the one that is good: the next one takes its place.
    Rotate,
    /// Its successor is unused: the same answer once more.
    Repeat,
    /// It was issued in this session, and its successor was used: the session ends.
    Reused,
    /// Its session is over, or it was never issued: nothing changes.
    Invalid,
}

/// Judges a token by its hash and by the hash of its successor; `was_issued`: its tag is right.
pub(super) fn judge(stored: &Stored, shown: &[u8; 32], next: &[u8; 32], was_issued: bool) -> Judgement {
    let is = |hash: &[u8], of: &[u8; 32]| bool::from(hash.ct_eq(of));
    if stored.is_over {
        return Judgement::Invalid;
    }
    if is(&stored.current, shown) {
        return Judgement::Rotate;
    }
    // A successor that is used becomes the previous token, so behind the previous one it is unused.
    if stored.previous.as_ref().is_some_and(|previous| is(previous, shown)) {
        return match is(&stored.current, next) {
            true => Judgement::Repeat,
            // Nothing is wrong with it, but JWT_SECRET is another one now, so its answer cannot be repeated.
            false => Judgement::Invalid,
        };
    }
    if was_issued { Judgement::Reused } else { Judgement::Invalid }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: [u8; 32] = [1; 32];
    const TWO: [u8; 32] = [2; 32];
    const THREE: [u8; 32] = [3; 32];

    fn stored() -> Stored {
        Stored { current: TWO.to_vec(), previous: Some(ONE.to_vec()), is_over: false }
    }

    #[test]
    fn a_token_is_used_once_and_repeated_while_its_successor_is_unused() {
        assert_eq!(judge(&stored(), &TWO, &THREE, true), Judgement::Rotate);
        assert_eq!(judge(&stored(), &ONE, &TWO, true), Judgement::Repeat);
        assert_eq!(judge(&stored(), &THREE, &ONE, true), Judgement::Reused);
        assert_eq!(
            judge(&stored(), &ONE, &THREE, true),
            Judgement::Invalid,
            "JWT_SECRET was changed in between"
        );
        let over = Stored { is_over: true, ..stored() };
        assert_eq!(judge(&over, &TWO, &THREE, true), Judgement::Invalid);
        let first = Stored { previous: None, ..stored() };
        assert_eq!(judge(&first, &ONE, &TWO, true), Judgement::Reused);
    }

    #[test]
    fn only_a_token_that_was_issued_counts_as_reuse() {
        assert_eq!(judge(&stored(), &THREE, &ONE, false), Judgement::Invalid);
        // Good tokens need no tag: those of the version before had none, and JWT_SECRET may have changed.
        assert_eq!(judge(&stored(), &TWO, &THREE, false), Judgement::Rotate);
        assert_eq!(judge(&stored(), &ONE, &TWO, false), Judgement::Repeat);
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
