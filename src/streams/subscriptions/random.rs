//! Random ids and secrets, from the system's source.

use super::error::SubscriptionError;

/// Random bytes of a wake's id.
const ID_BYTES: usize = 12;

/// Random bytes.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N], SubscriptionError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SubscriptionError::NoRandomness)?;
    Ok(bytes)
}

/// An id for a wake.
pub(super) fn wake_id() -> Result<String, SubscriptionError> {
    let bytes: [u8; ID_BYTES] = bytes()?;
    Ok(bytes.iter().fold("w_".to_owned(), |id, byte| format!("{id}{byte:02x}")))
}
