//! The current time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of Unix time.
pub(super) fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
