//! Records, the feed of their changes, and what the stress API has beside them.

use super::RecordsConfig;

impl RecordsConfig {
    /// Bytes of a body that holds a record. `jsonb` writes a space after each comma and each colon, which makes of `[0,0]` half as
    /// much again, and a fetched record comes back with the members that the service made.
    pub fn max_record_body_bytes(&self) -> usize {
        self.max_record_bytes + self.max_record_bytes / 2 + 1024
    }
}
