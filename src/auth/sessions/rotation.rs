//! Refresh tokens, and what becomes of one that is shown (RFC 9700, section 4.14.2).
//!
//! The token that follows is worked out from the one that is shown, so two tabs that show the same one at once get the same
//! answer, and none of them is later taken for a thief. That holds for [`GRACE_S`] seconds; after that a token that was used
//! before was copied, and nobody can tell by whom: the session is over for both.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::auth::random::Secret;

/// Seconds for which a token that was used is honoured once more.
const GRACE_S: f64 = 10.0;
const MARK: &str = "tgr_";

/// A refresh token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RefreshToken {
    pub(super) session: Uuid,
    pub(super) secret: [u8; 32],
}

impl RefreshToken {
    /// What has the form of a token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (session, secret) = text.strip_prefix(MARK)?.split_once('.')?;
        if session.len() != uuid::fmt::Simple::LENGTH {
            return None;
        }
        let session = Uuid::try_parse(session).ok()?;
        Some(Self { session, secret: URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()? })
    }

    /// As a client has it.
    pub(super) fn text(&self) -> Secret {
        let secret = URL_SAFE_NO_PAD.encode(self.secret);
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
    /// Seconds since the previous one was used.
    pub(super) rotated_s_ago: Option<f64>,
    pub(super) is_over: bool,
}

/// What becomes of a refresh token that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is the one that is good: the next one takes its place.
    Rotate,
    /// It was used a moment ago: the same answer once more.
    Repeat,
    /// It was used before, or is none of this session: the session ends.
    Reused,
    /// Its session is over.
    Over,
}

/// Judges a token by its hash, and by that of the one that would follow.
pub(super) fn judge(stored: &Stored, shown: &[u8; 32], next: &[u8; 32]) -> Judgement {
    let is = |hash: &[u8], of: &[u8; 32]| bool::from(hash.ct_eq(of));
    if stored.is_over {
        return Judgement::Over;
    }
    if is(&stored.current, shown) {
        return Judgement::Rotate;
    }
    let was_used_now = stored.previous.as_ref().is_some_and(|previous| is(previous, shown))
        && stored.rotated_s_ago.is_some_and(|seconds| seconds <= GRACE_S);
    match was_used_now {
        true if is(&stored.current, next) => Judgement::Repeat,
        // Nothing is wrong with it, but JWT_SECRET is another one now, so its answer cannot be repeated.
        true => Judgement::Over,
        false => Judgement::Reused,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: [u8; 32] = [1; 32];
    const TWO: [u8; 32] = [2; 32];
    const THREE: [u8; 32] = [3; 32];

    fn stored(rotated_s_ago: f64) -> Stored {
        Stored {
            current: TWO.to_vec(),
            previous: Some(ONE.to_vec()),
            rotated_s_ago: Some(rotated_s_ago),
            is_over: false,
        }
    }

    #[test]
    fn a_token_is_used_once_and_a_moment_later_once_more() {
        assert_eq!(judge(&stored(100.0), &TWO, &THREE), Judgement::Rotate);
        assert_eq!(judge(&stored(9.9), &ONE, &TWO), Judgement::Repeat);
        assert_eq!(judge(&stored(10.1), &ONE, &TWO), Judgement::Reused);
        assert_eq!(judge(&stored(1.0), &THREE, &ONE), Judgement::Reused);
        assert_eq!(judge(&stored(1.0), &ONE, &THREE), Judgement::Over, "JWT_SECRET was changed in between");
        let over = Stored { is_over: true, ..stored(1.0) };
        assert_eq!(judge(&over, &TWO, &THREE), Judgement::Over);
        let first = Stored { previous: None, rotated_s_ago: None, ..stored(0.0) };
        assert_eq!(judge(&first, &ONE, &TWO), Judgement::Reused);
    }

    proptest! {
        #[test]
        fn a_token_reads_back_from_its_text(session: u128, secret: [u8; 32]) {
            let token = RefreshToken { session: Uuid::from_u128(session), secret };
            prop_assert!(RefreshToken::parse(token.text().reveal()) == Some(token));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "(tgr_)?.{0,100}") {
            let _any = RefreshToken::parse(&text);
        }
    }
}
