//! Idempotency keys: of two events with the same key, only the first is stored.

use uuid::Uuid;

pub use tidegate_journal::Key;

/// The source of a key. The same text of two kinds makes two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// `Idempotency-Key`.
    Header,
    /// CloudEvents' `ce-source` and `ce-id`.
    CloudEvent,
    /// The member that `?id_field=` names.
    Field,
    /// Segment's `messageId`.
    Segment,
    /// PostHog's `uuid`.
    PostHog,
    /// A body of OTLP, and a record's place in it.
    Otlp,
}

/// The namespace of each kind (UUIDv5, RFC 9562). It must never change.
fn namespace(kind: KeyKind) -> Uuid {
    Uuid::from_u128(match kind {
        KeyKind::Header => 0x6b1f_3d5e_54a1_4d0e_8f0c_2a9d_71c5_e801,
        KeyKind::CloudEvent => 0x6b1f_3d5e_54a1_4d0e_8f0c_2a9d_71c5_e802,
        KeyKind::Field => 0x6b1f_3d5e_54a1_4d0e_8f0c_2a9d_71c5_e803,
        KeyKind::Segment => 0x6b1f_3d5e_54a1_4d0e_8f0c_2a9d_71c5_e804,
        KeyKind::PostHog => 0x6b1f_3d5e_54a1_4d0e_8f0c_2a9d_71c5_e805,
        KeyKind::Otlp => 0x6b1f_3d5e_54a1_4d0e_8f0c_2a9d_71c5_e806,
    })
}

/// Hashes the parts of a key. Their lengths are hashed too, so that different parts never make the same key.
pub fn hash(kind: KeyKind, parts: &[&[u8]]) -> Key {
    let mut name = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        name.extend_from_slice(&(part.len() as u32).to_be_bytes());
        name.extend_from_slice(part);
    }
    Uuid::new_v5(&namespace(kind), &name).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_kinds_make_different_keys() {
        let key = hash(KeyKind::CloudEvent, &[b"ab", b"c"]);
        assert_ne!(key, hash(KeyKind::CloudEvent, &[b"a", b"bc"]));
        assert_ne!(key, hash(KeyKind::Header, &[b"ab", b"c"]));
        assert_eq!(key, hash(KeyKind::CloudEvent, &[b"ab", b"c"]));
    }
}
