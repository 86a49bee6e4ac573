//! Text that is appended to a message while it is being written.
//!
//! A chunk names its offset: the number of characters (Unicode code points) that its message has so far. Of two chunks with one offset the
//! first wins, so a repeated chunk is not appended twice, and its sender learns the length of the message.

use super::ConversationsError;

/// A chunk of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageChunk {
    /// Its offset, in characters.
    pub at: i32,
    /// Its text.
    pub content: String,
    /// Whether it is the last one.
    pub done: bool,
}

impl MessageChunk {
    /// The length of the message with it, in characters.
    pub fn end(&self) -> i32 {
        let characters = i32::try_from(self.content.chars().count()).unwrap_or(i32::MAX);
        self.at.saturating_add(characters)
    }
}

/// The state of a message when a chunk came for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AppendOutcome {
    /// Its length in characters and in bytes. `None`: it is complete.
    pub(super) so_far: Option<(i32, i32)>,
    /// The characters of a complete message.
    pub(super) whole: i32,
    /// Whether the chunk was appended.
    pub(super) is_added: bool,
}

impl AppendOutcome {
    /// Succeeds if the chunk was appended, else returns the reason.
    pub(super) fn check(self, chunk: &MessageChunk, max_bytes: usize) -> Result<(), ConversationsError> {
        match self.so_far {
            _ if self.is_added => Ok(()),
            None => Err(ConversationsError::Done { length: self.whole }),
            Some((length, _)) if length != chunk.at => Err(ConversationsError::OffsetMismatch { length }),
            Some((_, bytes))
                if usize::try_from(bytes).unwrap_or_default() + chunk.content.len() > max_bytes =>
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
    fn a_chunk_that_was_not_appended_has_a_reason() {
        let chunk = MessageChunk { at: 3, content: "é\u{1F600}".into(), done: false };
        assert_eq!(chunk.end(), 5);
        let outcome = |so_far, is_added| AppendOutcome { so_far, whole: 7, is_added }.check(&chunk, 10);
        assert!(outcome(Some((3, 3)), true).is_ok());
        assert!(matches!(outcome(None, false), Err(ConversationsError::Done { length: 7 })));
        assert!(matches!(
            outcome(Some((5, 9)), false),
            Err(ConversationsError::OffsetMismatch { length: 5 })
        ));
        assert!(matches!(outcome(Some((3, 9)), false), Err(ConversationsError::TooLarge(10))));
        assert!(matches!(outcome(Some((3, 3)), false), Err(ConversationsError::NotFound(_))));
    }
}
