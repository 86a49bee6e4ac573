//! What stands in requests and answers: bodies and their encodings, JSON, queries, entity tags, server-sent events, errors.

pub(super) mod body;
pub(super) mod encoding;
pub(super) mod error;
pub(super) mod etag;
pub(super) mod json;
pub(super) mod pages;
pub(super) mod path;
pub(super) mod position;
pub(super) mod query;
pub(super) mod rate_limit;
pub(super) mod sse;
