//! The database: where it is found, and how it is reached.

pub mod local;
