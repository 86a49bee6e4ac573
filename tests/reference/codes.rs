//! Codes of errors: found in the source, each with its meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use regex::Regex;

use super::{files_below, of_repository};

/// The codes that the source has in another form than [`PATTERNS`] match, with their statuses.
const OTHERS: [(&str, &str); 6] = [
    ("UNAUTHORIZED", "unauthorized"),
    ("FORBIDDEN", "forbidden"),
    ("UNPROCESSABLE_ENTITY", "rejected"),
    ("UNPROCESSABLE_ENTITY", "quarantined"),
    ("UNSUPPORTED_MEDIA_TYPE", "unsupported_media_type"),
    ("ANY", "injected"),
];

/// A code with its status, and the functions that stand for one.
const PATTERNS: [(&str, &str); 5] = [
    (r#"\b(?:StatusCode|S)::(?<status>[A-Z_]+),\s*"(?<code>[A-Za-z_]+)""#, ""),
    (r#"\bunavailable\(\s*"(?<code>[a-z_]+)""#, "SERVICE_UNAVAILABLE"),
    (r#"\bjournal\(\s*"(?<code>[a-z_]+)""#, "SERVICE_UNAVAILABLE"),
    (r#"\bforbidden\(\s*"(?<code>[a-z_]+)""#, "FORBIDDEN"),
    (r#"\bconflict\(\s*"(?<code>[a-z_]+)""#, "CONFLICT"),
];

/// What each code means. A code that has several statuses with different meanings has one text for all.
const MEANINGS: &[(&str, &str)] = &[
    (
        "invalid_request",
        "a malformed parameter, header, member or body; an incomplete body; a bad `content-encoding`; a missing or repeated `Host`",
    ),
    ("unauthorized", "a token is required, or the one that was sent is not valid"),
    ("wrong_credentials", "email and password do not belong together"),
    ("invalid_ticket", "the ticket is used, expired or unknown"),
    ("forbidden", "the caller lacks a scope, or the route is not for such a key"),
    ("private_collection", "the collection has accounts or hidden fields: only PocketBase's API serves it"),
    ("foreign_origin", "a write-only key, sent by a page that is not of its origins"),
    ("foreign_host", "an open service, called by another host name than that of this machine"),
    ("cross_site", "called by a page of another site"),
    ("behind_proxy", "an open service, called through a proxy"),
    ("registration_off", "no registration on this service (`REGISTRATION`)"),
    ("sign_in_off", "no log-in on this service"),
    ("another_caller", "`auth` of a WebSocket with topics named another caller"),
    ("stale_epoch", "streams: a later epoch of the producer is known"),
    ("not_found", "no such path or object, or another user's; a module that is off"),
    ("not_processed", "the file was not imported"),
    ("method_not_allowed", "the path has other methods: see `Allow`"),
    ("request_timeout", "the body took longer than `BODY_TIMEOUT_S`"),
    (
        "conflict",
        "an id, a name, an email or a value of a unique index is taken; a stream or a route of this name has another definition",
    ),
    ("offset_mismatch", "the message does not end at `at`, but at `expected`"),
    ("message_done", "the message is complete; `expected` is its length"),
    ("processed", "the file was imported before"),
    (
        "missing_rights",
        "a route needs rights that the service's role cannot grant: the message has the statements",
    ),
    ("too_many_keys", "the user has as many keys as allowed"),
    ("too_many_collections", "there are as many collections as allowed"),
    ("too_many_faults", "there are as many faults as allowed"),
    ("too_many_tickets", "the caller, or all callers together, have as many unused tickets as allowed"),
    ("content_type_mismatch", "the stream, or the fork's source, has another content type"),
    ("sequence_conflict", "`Stream-Seq` does not grow"),
    ("sequence_gap", "the producer's number is not the next one: `Producer-Expected-Seq`"),
    ("stream_closed", "the stream is closed: `Stream-Next-Offset` is its end"),
    ("gone", "the stream was deleted, and forks keep its bytes"),
    ("not_kept", "the offset is before the kept start: `Stream-First-Offset`"),
    ("precondition_failed", "`If-Match` has none of the object's versions"),
    ("too_large", "over a limit of size; the message names it"),
    ("quota_exceeded", "the user's files would exceed `FILE_QUOTA_BYTES`"),
    (
        "unsupported_media_type",
        "the `Content-Type`, or its charset, is not taken; an imported file has no lines",
    ),
    ("unsupported_content_encoding", "the `Content-Encoding` is not taken"),
    ("type_mismatch", "the file's first bytes are plainly of another type than declared"),
    ("range_not_satisfiable", "the range has no byte of the file"),
    (
        "rejected",
        "`ack=committed`: Postgres refused the event, which is a dead letter now; the message has the SQLSTATE",
    ),
    (
        "dropped_by_trigger",
        "a trigger of the database dropped the row. Of an event: it is a dead letter now. Of any other: nothing was stored",
    ),
    (
        "quarantined",
        "`ack=committed`: the journal could not be read; the event's bytes are in its quarantine",
    ),
    ("check_failed", "a CHECK of the database rejected the value"),
    ("idempotency_conflict", "the key came before, with another body"),
    ("upgrade_required", "the path is that of a WebSocket"),
    ("too_many_requests", "the caller's budget is used up"),
    ("internal", "the service failed; its log has the cause"),
    ("content_missing", "this node does not have the file's content"),
    (
        "outcome_unknown",
        "it may have been stored: 500 of a record or a message; 503 of an event whose sync failed, or of an append whose commit had no answer",
    ),
    (
        "not_implemented",
        "a `transfer-encoding` other than `chunked`; a part of Durable Streams that does not exist here",
    ),
    (
        "overloaded",
        "a queue, the memory for bodies, or a number of connections, streams, uploads or downloads is at its limit",
    ),
    ("pool_exhausted", "no free connection to the database within `POOL_WAIT_MS`"),
    ("database_busy", "conflicting transactions, after several attempts"),
    ("database_away", "Postgres does not answer"),
    ("locked", "a route's target, or `requests`, is locked by another transaction"),
    ("journal_full", "`JOURNAL_MAX_BYTES` of events that Postgres does not have yet"),
    ("disk_low", "the journal's disk has less than `JOURNAL_MIN_FREE` left"),
    ("disk_full", "the disk is full: 503 of the journal's, 507 of the files'"),
    ("journal_shortage", "no descriptors or memory for the journal"),
    ("journal_gone", "the journal's folder was removed or replaced"),
    ("journal_failed", "the journal cannot be written until a restart"),
    ("folder_of_another_database", "the folder of files belongs to another database"),
    ("memory_full", "`STREAMS_STORE=memory` holds as much as it may"),
    ("starting", "the service starts"),
    ("shutting_down", "the service stops"),
    ("statement_timeout", "Postgres took longer than `STATEMENT_TIMEOUT_MS`"),
    ("timeout", "the test bench's own time-out"),
    ("injected", "a fault of the test bench (`FAULTS=on`), with the status that was asked for"),
    ("INVALID_REQUEST", "a malformed member"),
    ("WEBHOOK_URL_REJECTED", "the webhook's URL is not allowed"),
    ("TOKEN_INVALID", "the token of the wake is not valid"),
    ("TOKEN_EXPIRED", "the token of the wake is expired"),
    ("SUBSCRIPTION_NOT_FOUND", "there is no such subscription"),
    ("SUBSCRIPTION_ALREADY_EXISTS", "there is one with another configuration"),
    ("FENCED", "the generation is not the current one"),
    ("ALREADY_CLAIMED", "another worker holds the lease: `current_holder`"),
    ("NO_PENDING_WORK", "no stream has anything new"),
    ("INVALID_OFFSET", "an acknowledged offset is none of the stream, or behind its end"),
];

/// The number of a status, by its name in `http`.
fn number(status: &str) -> &'static str {
    match status {
        "BAD_REQUEST" => "400",
        "UNAUTHORIZED" => "401",
        "FORBIDDEN" => "403",
        "NOT_FOUND" => "404",
        "METHOD_NOT_ALLOWED" => "405",
        "REQUEST_TIMEOUT" => "408",
        "CONFLICT" => "409",
        "GONE" => "410",
        "PRECONDITION_FAILED" => "412",
        "PAYLOAD_TOO_LARGE" => "413",
        "UNSUPPORTED_MEDIA_TYPE" => "415",
        "RANGE_NOT_SATISFIABLE" => "416",
        "UNPROCESSABLE_ENTITY" => "422",
        "UPGRADE_REQUIRED" => "426",
        "TOO_MANY_REQUESTS" => "429",
        "INTERNAL_SERVER_ERROR" => "500",
        "NOT_IMPLEMENTED" => "501",
        "BAD_GATEWAY" => "502",
        "SERVICE_UNAVAILABLE" => "503",
        "GATEWAY_TIMEOUT" => "504",
        "INSUFFICIENT_STORAGE" => "507",
        "ANY" => "any",
        other => panic!("the number of StatusCode::{other}: tests/reference/codes.rs"),
    }
}

/// The code of a file, without its comments and tests.
fn without_comments(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The statuses of each code.
fn found() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for (status, code) in OTHERS {
        found.entry(code.to_owned()).or_default().insert(number(status));
    }
    let patterns = PATTERNS.map(|(pattern, status)| (Regex::new(pattern).unwrap(), status));
    for path in files_below(&of_repository("src"), "rs") {
        // PocketBase's API has its own codes.
        if path.components().any(|part| part.as_os_str() == "pocketbase") {
            continue;
        }
        let source = without_comments(&std::fs::read_to_string(&path).unwrap());
        for (pattern, of_function) in &patterns {
            for matched in pattern.captures_iter(&source) {
                let status = matched.name("status").map_or(*of_function, |status| status.as_str());
                found.entry(matched["code"].to_owned()).or_default().insert(number(status));
            }
        }
    }
    found
}

/// Writes the table. Returns the codes that have no meaning, and the meanings that have no code.
pub(super) fn write(text: &mut String) -> Vec<String> {
    let found = found();
    let mut left: Vec<String> = Vec::new();
    let meaning = |code: &str| MEANINGS.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning);
    text.push_str(
        "\n## Error codes\n\n`code` of `{\"error\": {\"code\", \"message\", \"field\"?, \"expected\"?}}`. [USE.md](USE.md#errors) says which requests are safe to repeat, \
         and has the codes of single events of a [batch](USE.md#batches).\n",
    );
    let of_protocol = |code: &str| code.starts_with(|first: char| first.is_ascii_uppercase());
    for (is_of_protocol, title) in
        [(false, ""), (true, "\nOf subscriptions to streams, by their protocol:\n")]
    {
        write!(text, "{title}\n| code | status | meaning |\n|---|---|---|\n").unwrap();
        for (code, statuses) in found.iter().filter(|(code, _)| of_protocol(code) == is_of_protocol) {
            let statuses: Vec<&str> = statuses.iter().copied().collect();
            let meaning = meaning(code).unwrap_or_else(|| {
                left.push(code.clone());
                ""
            });
            writeln!(text, "| `{code}` | {} | {meaning} |", statuses.join(", ")).unwrap();
        }
    }
    left.extend(MEANINGS.iter().map(|(code, _)| (*code).to_owned()).filter(|code| !found.contains_key(code)));
    left
}
