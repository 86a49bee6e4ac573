//! What an event is made of: its id, its key, and its tuple as Postgres' binary COPY takes it.
//!
//! No module here knows of queues, files or Postgres' connections, so the other parts of the service use them too.
//!
//! | module | |
//! |---|---|
//! | [`id`] | UUIDv7 with the journal's tag and the sequence |
//! | [`keys`] | hashes of idempotency keys |
//! | [`row`] | the tuple of `requests` |
//! | [`dead_letter`] | the tuple of `dead_letters` |
//! | [`json`], `numeric` | whether a body can be `jsonb` |
//! | [`text`] | byte-order marks and charsets |

pub mod dead_letter;
pub mod id;
pub mod json;
pub mod keys;
mod numeric;
pub mod row;
pub mod text;
