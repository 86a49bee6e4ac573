//! Text that is added to a message while it is being written.
//!
//! A piece says where it begins: at how many characters (Unicode code points) its message has so far. Of two pieces for one
//! place the first wins, so one that is sent again doubles nothing, and whoever sent it learns how far the message is.

use super::ConversationsError;

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// How many characters come before it.
    pub at: i32,
    /// The text.
    pub content: String,
    /// Whether it is the last one.
    pub done: bool,
}

impl Piece {
    /// Where the message ends with it.
    pub fn end(&self) -> i32 {
        let characters = i32::try_from(self.content.chars().count()).unwrap_or(i32::MAX);
        self.at.saturating_add(characters)
    }
}

/// How far a message was when a piece came for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Its characters and bytes; none: it is done.
    pub(super) so_far: Option<(i32, i32)>,
    /// The characters of one that is done.
    pub(super) whole: i32,
    /// Whether the piece was added.
    pub(super) is_added: bool,
}

impl Written {
    /// Whether the piece is part of the message now, and if not, why.
    pub(super) fn outcome(self, piece: &Piece, max_bytes: usize) -> Result<(), ConversationsError> {
        match self.so_far {
            _ if self.is_added => Ok(()),
            None => Err(ConversationsError::Done { length: self.whole }),
            Some((length, _)) if length != piece.at => Err(ConversationsError::OffsetMismatch { length }),
            Some((_, bytes))
                if usize::try_from(bytes).unwrap_or_default() + piece.content.len() > max_bytes =>
            {
                Err(ConversationsError::TooLarge(max_bytes))
            }
            // Nothing was in its way, so the message was deleted at this moment.
            Some(_) => Err(ConversationsError::NotFound("message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_was_not_added_is_told_why() {
        let piece = Piece { at: 3, content: "é\u{1F600}".into(), done: false };
        assert_eq!(piece.end(), 5);
        let told = |so_far, is_added| Written { so_far, whole: 7, is_added }.outcome(&piece, 10);
        assert!(told(Some((3, 3)), true).is_ok());
        assert!(matches!(told(None, false), Err(ConversationsError::Done { length: 7 })));
        assert!(matches!(told(Some((5, 9)), false), Err(ConversationsError::OffsetMismatch { length: 5 })));
        assert!(matches!(told(Some((3, 9)), false), Err(ConversationsError::TooLarge(10))));
        assert!(matches!(told(Some((3, 3)), false), Err(ConversationsError::NotFound(_))));
    }
}
