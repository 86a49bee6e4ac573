//! What Postgres has of the journal, and what it lacks.
//!
//! | module | |
//! |---|---|
//! | [`receipts`] | the table that records, in each batch's transaction, which sequences are settled |
//! | [`backlog`] | the sequences that are still to be stored, and the requests that wait for them |
//! | [`checkpointer`] | about once a second: which receipts are durable, what may be trimmed, what was lost |
//! | [`ledger`] | each journal's account |

pub mod backlog;
pub mod checkpointer;
pub mod ledger;
pub mod receipts;
