//! Variables of earlier versions. One that is still set ends the start: passed over, it would silently no longer have its effect.

use super::{ConfigError, Variables};

/// Each with its replacement, or the constant that it has become.
const REMOVED: &[(&str, &str)] = &[
    ("MAX_HEADER_BYTES", "it is 32768"),
    ("MAX_BODY_MEMORY", "use MEMORY_BUDGET"),
    ("HEADER_TIMEOUT_S", "use BODY_TIMEOUT_S"),
    ("PG_BIN", "put its folder on PATH"),
    ("OPERATIONS_CONNECTIONS", "use DB_POOL_SIZE"),
    ("RECORDS_WRITERS", "use DB_POOL_SIZE"),
    ("RECORDS_CONNECTIONS", "use DB_POOL_SIZE"),
    ("CONVERSATIONS_WRITERS", "use DB_POOL_SIZE"),
    ("CONVERSATIONS_CONNECTIONS", "use DB_POOL_SIZE"),
    ("FILES_CONNECTIONS", "use DB_POOL_SIZE"),
    ("IMPORT_WRITERS", "use DB_POOL_SIZE"),
    ("IMPORTS_AT_ONCE", "use DB_POOL_SIZE"),
    ("LARGE_CONNECTIONS", "use DB_POOL_SIZE"),
    ("ERROR_CONNECTIONS", "use DB_POOL_SIZE"),
    ("AUTH_CONNECTIONS", "use DB_POOL_SIZE"),
    ("DB_CONNECT_TIMEOUT_S", "use connect_timeout in DATABASE_URL"),
    ("DB_START_TIMEOUT_S", "use connect_timeout in DATABASE_URL"),
    ("DB_PREPARE", "use pgbouncer=true in DATABASE_URL"),
    ("PARTITION_DAYS_AHEAD", "it is 7"),
    ("MAX_COPY_BYTES", "it is 4194304"),
    ("COPY_TIMEOUT_S", "use STATEMENT_TIMEOUT_MS"),
    ("IMPORT_TIMEOUT_S", "use STATEMENT_TIMEOUT_MS"),
    ("MAX_WAITING_BYTES", "use MEMORY_BUDGET"),
    ("MAX_DEAD_QUEUE_BYTES", "use MEMORY_BUDGET"),
    ("RECORDS_QUEUE_BYTES", "use MEMORY_BUDGET"),
    ("CONVERSATIONS_QUEUE_BYTES", "use MEMORY_BUDGET"),
    ("MAX_DOWNLOADS", "use MEMORY_BUDGET"),
    ("IMPORT_PART_BYTES", "use MEMORY_BUDGET"),
    ("MAX_LARGE_PAYLOAD_BYTES", "use MEMORY_BUDGET"),
    ("MAX_BATCH_BYTES", "it is 33554432"),
    ("MAX_BATCH_EVENTS", "use MAX_QUEUE_SIZE"),
    ("MAX_JSON_DEPTH", "it is 1000"),
    ("ACK_TIMEOUT_MS", "it is 5000; a request asks for less by Prefer: wait"),
    ("JOURNAL_SEGMENT_BYTES", "use JOURNAL_MAX_BYTES"),
    ("MAX_COLLECTIONS", "it is 1000"),
    ("MAX_RECORD_BYTES", "use MAX_EVENT_BYTES"),
    ("MAX_IMPORT_LINE_BYTES", "use MAX_EVENT_BYTES"),
    ("RECORDS_WAIT_MS", "use POOL_WAIT_MS"),
    ("CONVERSATIONS_WAIT_MS", "use POOL_WAIT_MS"),
    ("FILES_WAIT_MS", "use POOL_WAIT_MS"),
    ("AUTH_WAIT_MS", "use POOL_WAIT_MS"),
    ("RECORDS_TIMEOUT_MS", "use STATEMENT_TIMEOUT_MS"),
    ("CONVERSATIONS_TIMEOUT_MS", "use STATEMENT_TIMEOUT_MS"),
    ("FILES_TIMEOUT_MS", "use STATEMENT_TIMEOUT_MS"),
    ("AUTH_TIMEOUT_MS", "use STATEMENT_TIMEOUT_MS"),
    ("MAX_PAGE_BYTES", "it is 8388608"),
    ("MAX_TITLE_BYTES", "it is 1024"),
    ("MAX_METADATA_BYTES", "it is 65536"),
    ("MAX_MESSAGES_PER_APPEND", "it is 100"),
    ("MAX_MESSAGES_BODY_BYTES", "use MAX_MESSAGE_BYTES"),
    ("IDEMPOTENCY_RETENTION_S", "use IDEMPOTENCY_WINDOW_S"),
    ("SEARCH_INTERVAL_MS", "it is 1000"),
    ("FEED_POLL_MS", "it is 50"),
    ("MAX_FOLLOWERS", "use MAX_SUBSCRIBERS"),
    ("MAX_USER_FOLLOWERS", "use MAX_USER_SUBSCRIBERS"),
    ("FOLLOWER_CHANGES", "use SUBSCRIBER_BYTES"),
    ("FOLLOWER_BYTES", "use SUBSCRIBER_BYTES"),
    ("SSE_BUFFER_BYTES", "use SUBSCRIBER_BYTES"),
    ("FOLLOWERS_BYTES", "use SUBSCRIBERS_BYTES"),
    ("FOLLOWER_HEARTBEAT_S", "use SSE_HEARTBEAT_S"),
    ("MAX_FILES_PER_UPLOAD", "it is 20"),
    ("MAX_UPLOADS", "it is 8"),
    ("FILE_MIN_RATE", "it is 65536"),
    ("MAX_IMPORTS", "it is 100"),
    ("IMPORT_MAX_REJECTED", "it is 100000"),
    ("MAX_IMPORT_FOLLOWERS", "use MAX_SUBSCRIBERS"),
    ("MAX_SSE_STREAMS", "use MAX_SUBSCRIBERS"),
    ("STRESS", "use MODULES"),
    ("STRESS_DEFAULT_COLLECTION", "it is stress_test_items"),
    ("STRESS_DEFAULT_DELAY_MS", "it is 500"),
    ("MAX_STRESS_DELAY_MS", "it is 30000"),
    ("MAX_FAULTS", "it is 100"),
    ("MAX_FAULT_DELAY_MS", "it is 60000"),
    ("SSE_MAX_RATE", "it is 10000"),
    ("SSE_DEFAULT_RATE", "it is 10"),
    ("SSE_MAX_MESSAGE_BYTES", "it is 65536"),
    ("SSE_RETRY_MS", "it is 1000"),
    ("LARGE_MIN_RATE", "it is 262144"),
    ("MAX_LARGE_IN_FLIGHT", "it is 4"),
    ("JWT_JWKS_REFRESH_S", "it is 600"),
    ("ACCESS_TOKEN_S", "it is 900"),
    ("MAX_USER_SESSIONS", "it is 50"),
    ("MAX_USER_KEYS", "it is 100"),
    ("KEY_CACHE", "it is 10000"),
    ("PASSWORD_THREADS", "it is 1"),
    ("PASSWORD_QUEUE", "it is 64"),
    ("RATE_ACCOUNT_LOGINS", "use RATE_LOGINS"),
    ("RATE_READS", "use RATE_WRITES"),
    ("MAX_RATE_SUBJECTS", "it is 100000"),
];

/// Refuses the first variable that was removed.
pub(super) fn check(variables: &Variables) -> Result<(), ConfigError> {
    match REMOVED.iter().find(|(name, _)| variables.is_set(name)) {
        Some((name, instead)) => Err(ConfigError::Removed { name, instead }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ALL_SETTINGS, Config};

    #[test]
    fn each_removed_variable_is_refused_in_one_line_with_its_replacement() {
        let settings: Vec<&str> =
            ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings).map(|setting| setting.name).collect();
        for (name, instead) in REMOVED {
            assert!(!settings.contains(name), "{name}");
            let variables = [((*name).to_owned(), "1".to_owned())].into_iter().collect::<Variables>();
            let error = Config::from_variables(&variables).unwrap_err().to_string();
            assert_eq!(error, format!("{name} is gone: {instead}"));
            if let Some(words) = instead.strip_prefix("use ") {
                let setting = words.rsplit(' ').next().unwrap();
                assert!(settings.contains(&setting), "{instead}");
            }
        }
    }
}
