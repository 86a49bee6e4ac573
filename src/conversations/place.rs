//! A place in an order of conversations or of messages: an opaque token that a page ends with.
//!
//! It is a time and an id in base64 (RFC 4648, section 5), behind a byte that says which order it belongs to. A client may
//! make one up; it can only ever name a place.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::model::Micros;

/// A place in an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The time.
    pub at: Micros,
    /// The id, where times are the same.
    pub id: Uuid,
}

/// Which order a place belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Conversations, by their last activity.
    Conversations,
    /// Messages of a conversation.
    Messages,
}

impl Order {
    fn byte(self) -> u8 {
        match self {
            Self::Conversations => b'c',
            Self::Messages => b'm',
        }
    }
}

impl Place {
    /// Before everything.
    pub const START: Self = Self { at: Micros::EARLIEST, id: Uuid::nil() };
    /// Behind everything.
    pub const END: Self = Self { at: Micros::LATEST, id: Uuid::max() };

    pub(super) fn parse(token: &str, order: Order) -> Option<Self> {
        // Longer than any token: nothing is decoded of it.
        if token.len() > 64 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (kind, rest) = bytes.split_first()?;
        let (at, id) = rest.split_first_chunk::<8>()?;
        let at = Micros(i64::from_be_bytes(*at));
        let id = Uuid::from_slice(id).ok()?;
        (*kind == order.byte() && (Micros::EARLIEST..=Micros::LATEST).contains(&at))
            .then_some(Self { at, id })
    }

    pub(super) fn token(self, order: Order) -> String {
        let mut bytes = vec![order.byte()];
        bytes.extend_from_slice(&self.at.0.to_be_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_written_and_by_its_own_order_only(us in 0..Micros::LATEST.0, id: u128) {
            let place = Place { at: Micros(us), id: Uuid::from_u128(id) };
            let token = place.token(Order::Messages);
            prop_assert_eq!(Place::parse(&token, Order::Messages), Some(place));
            prop_assert_eq!(Place::parse(&token, Order::Conversations), None);
        }

        #[test]
        fn no_token_makes_reading_panic(token in ".{0,100}", bytes: Vec<u8>) {
            let _ = Place::parse(&token, Order::Messages);
            let _ = Place::parse(&URL_SAFE_NO_PAD.encode(bytes), Order::Messages);
        }
    }
}
